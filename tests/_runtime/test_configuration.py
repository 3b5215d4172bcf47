"""From sources to settings: the order of the sources, and every fault at once, each with its source."""

from __future__ import annotations

import os
import socket
from datetime import timedelta
from typing import Any

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests._runtime.layers import configure, faults_of, shown
from worker_core._runtime.sources import Layers
from worker_core.config import EnvUnit, setting
from worker_core.errors import ConfigError
from worker_core.job import RateLimit
from worker_core.testing.workers import plugin_under_test

NO_ENGINE = {"worker": {"engine": "none"}}


@attrs.frozen
class Item:
    name: str
    count: int = 1


@attrs.frozen(kw_only=True)
class KindsSettings:
    """One setting of each kind."""

    text: str = setting("default", env="KIND_TEXT")
    number: int = setting(1, env="KIND_NUMBER")
    ratio: float = setting(0.5, env="KIND_RATIO")
    on: bool = setting(default=False, env="KIND_ON")
    wait: timedelta = setting(timedelta(seconds=1), env="KIND_WAIT", env_unit=EnvUnit.MILLISECONDS)
    rest: timedelta = setting(timedelta(seconds=1), env="KIND_REST", env_unit=EnvUnit.SECONDS)
    plain: timedelta = setting(timedelta(seconds=1), env="KIND_PLAIN")
    names: tuple[str, ...] = setting((), env="KIND_NAMES")
    maybe: tuple[str, ...] | None = setting(None, env="KIND_MAYBE")
    secret: str | None = setting(None, env="KIND_SECRET", secret=True)
    items: tuple[Item, ...] = setting(())
    by_name: dict[str, Item] = setting(factory=dict)
    either: Item | str | None = setting(None)


class KindsPlugin:
    Settings = KindsSettings

    def __init__(self, settings: KindsSettings) -> None:
        self.settings = settings


KINDS = plugin_under_test("kinds", KindsPlugin)


def kinds(file: dict[str, Any] | None = None, **sources: Any) -> dict[str, tuple[object, str]]:
    """Return the effective settings of the plugin above."""
    whole = {**NO_ENGINE, "plugins": {"kinds": file or {}}}
    found = shown(configure(whole, extra=[KINDS], **sources))
    prefix = "plugins.kinds."
    return {
        path.removeprefix(prefix): value for path, value in found.items() if path.startswith(prefix)
    }


def kinds_faults(file: dict[str, Any] | None = None, **sources: Any) -> dict[str, str]:
    whole = {**NO_ENGINE, "plugins": {"kinds": file or {}}}
    faults = faults_of(whole, extra=[KINDS], **sources)
    return {path.removeprefix("plugins.kinds."): fault.message for path, fault in faults.items()}


# --- The order of the sources ---

CASES: dict[str, tuple[str, list[tuple[object, str, object]]]] = {
    # setting: (variable, [(in the file, in variables, as a value), ...]), three values each
    "text": ("KIND_TEXT", [("a", "a", "a"), ("b", "b", "b"), ("c", "c", "c")]),
    "number": ("KIND_NUMBER", [(2, "2", 2), (3, "3", 3), (4, " 4 ", 4)]),
    "ratio": ("KIND_RATIO", [(1.5, "1.5", 1.5), (2, "2", 2.0), (3.5, "3.5", 3.5)]),
    "on": ("KIND_ON", [(True, "true", True), (True, "YES", True), (True, "1", True)]),
    "wait": (
        "KIND_WAIT",
        [
            ("2s", "2000", timedelta(seconds=2)),
            ("3s", "3s", timedelta(seconds=3)),
            ("4s", "4000.0", timedelta(seconds=4)),
        ],
    ),
    "rest": (
        "KIND_REST",
        [
            ("2s", "2", timedelta(seconds=2)),
            ("3s", "3000ms", timedelta(seconds=3)),
            ("4s", "4", timedelta(seconds=4)),
        ],
    ),
    "plain": (
        "KIND_PLAIN",
        [
            ("2s", "2s", timedelta(seconds=2)),
            ("3s", "3s", timedelta(seconds=3)),
            ("4m", "4m", timedelta(minutes=4)),
        ],
    ),
    "names": (
        "KIND_NAMES",
        [(["a"], "a", ("a",)), (["b", "c"], "b, c", ("b", "c")), (["d"], " d,,", ("d",))],
    ),
    "maybe": (
        "KIND_MAYBE",
        [(["a"], "a", ("a",)), (["b"], "b", ("b",)), (["c", "d"], "c,d", ("c", "d"))],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_defaults_give_way_to_the_file_to_dotenv_to_the_environment_to_flags(name: str) -> None:
    variable, [first, second, third] = CASES[name]
    default = attrs.fields_dict(KindsSettings)[name].default
    file = {name: first[0]}
    dotenv, environ = {variable: second[1]}, {variable: third[1]}
    flags = {f"plugins.kinds.{name}": first[0]}
    assert kinds()[name] == (default, "default")
    assert kinds(file)[name] == (first[2], "worker.toml")
    assert kinds(file, dotenv=dotenv)[name] == (second[2], f".env {variable}")
    assert kinds(file, dotenv=dotenv, environ=environ)[name] == (
        third[2],
        f"environment {variable}",
    )
    assert kinds(file, dotenv=dotenv, environ=environ, flags=flags)[name] == (first[2], "flag")


def test_a_value_set_to_the_default_has_the_source_that_says_so() -> None:
    assert kinds({"number": 1})["number"] == (1, "worker.toml")


@pytest.mark.parametrize("text", ["false", "0", "No", "off"])
def test_a_truth_value_may_be_set_to_false(text: str) -> None:
    assert kinds({"on": True}, environ={"KIND_ON": text})["on"] == (False, "environment KIND_ON")


def test_an_empty_variable_is_not_set() -> None:
    assert kinds({"text": "file"}, environ={"KIND_TEXT": ""})["text"] == ("file", "worker.toml")


def test_one_source_overrides_one_setting_and_leaves_the_others() -> None:
    found = kinds({"text": "file", "number": 5}, environ={"KIND_TEXT": "env"})
    assert found["text"] == ("env", "environment KIND_TEXT")
    assert found["number"] == (5, "worker.toml")


def test_the_core_is_laid_over_in_the_same_way() -> None:
    file = {"worker": {"engine": "none", "concurrency": 2}, "redis": {"url": "redis://file"}}
    environ = {"WORKER_CONCURRENCY": "3", "WORKER_ID": "me"}
    configuration = configure(file, environ=environ, flags={"redis.url": "redis://flag"})
    core = configuration.core
    assert (core.worker.concurrency, core.worker.id) == (3, "me")
    assert core.redis.url == "redis://flag"
    assert core.worker.engine is None
    assert shown(configuration)["redis.url"] == ("redis://flag", "flag")


# --- Faults ---


@pytest.mark.parametrize(
    ("file", "path", "message"),
    [
        ({"numbr": 2}, "numbr", "unknown key; did you mean 'number'?"),
        ({"xyzzy": 2}, "xyzzy", "unknown key; known are: text, number, ratio, on, wait, rest, "),
        ({"number": "2"}, "number", "expected a whole number, found text"),
        ({"number": True}, "number", "expected a whole number, found true or false"),
        ({"number": 2.5}, "number", "expected a whole number, found a number"),
        ({"ratio": "x"}, "ratio", "expected a number, found text"),
        ({"on": 1}, "on", "expected true or false, found a number"),
        ({"text": 1}, "text", "expected text, found a number"),
        ({"names": "a"}, "names", "expected a list, found text"),
        ({"names": ["a", 1]}, "names[1]", "expected text, found a number"),
        ({"wait": 300}, "wait", "expected a duration such as '300s', found a number"),
        ({"wait": "300"}, "wait", "expected a duration such as '300s', '5m' or '250ms', found '300'"),
        ({"items": [{"name": "a"}, {}]}, "items[1].name", "missing"),
        ({"items": [{"name": "a", "cuont": 1}]}, "items[0].cuont", "unknown key; did you mean 'count'?"),
        ({"items": [{"name": "a", "count": "x"}]}, "items[0].count", "expected a whole number, found text"),
        ({"items": {"name": "a"}}, "items", "expected a list, found an object"),
        ({"by_name": {"x": {"nmae": "a", "name": "a"}}}, "by_name.x.nmae", "unknown key; did you mean 'name'?"),
        ({"by_name": {"x": {}}}, "by_name.x.name", "missing"),
        ({"either": {"name": "a", "cout": 2}}, "either.cout", "unknown key; did you mean 'count'?"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_a_fault_in_the_file_is_named_by_its_path(
    file: dict[str, Any], path: str, message: str
) -> None:
    ((found_path, found),) = kinds_faults(file).items()
    assert found_path == path
    assert found.startswith(message)


@pytest.mark.parametrize(
    ("variable", "text", "name", "message"),
    [
        ("KIND_NUMBER", "x", "number", "expected a whole number, found 'x'"),
        ("KIND_NUMBER", "2.0", "number", "expected a whole number, found '2.0'"),
        ("KIND_RATIO", "half", "ratio", "expected a number, found 'half'"),
        ("KIND_ON", "maybe", "on", "expected true or false, found 'maybe'"),
        ("KIND_WAIT", "soon", "wait", "expected a duration such as"),
        ("KIND_WAIT", "nan", "wait", "expected a duration such as"),
        ("KIND_WAIT", "inf", "wait", "a duration too long to be meant"),
        ("KIND_WAIT", "1e300", "wait", "a duration too long to be meant"),
        ("KIND_PLAIN", "300", "plain", "expected a duration such as"),
    ],
)
def test_a_fault_in_a_variable_names_the_variable(
    variable: str, text: str, name: str, message: str
) -> None:
    for source, sources in ((".env", {"dotenv": {variable: text}}), ("environment", {"environ": {variable: text}})):  # fmt: skip
        faults = faults_of({**NO_ENGINE, "plugins": {"kinds": {}}}, extra=[KINDS], **sources)
        (fault,) = faults.values()
        assert fault.path == f"plugins.kinds.{name}"
        assert fault.message.startswith(message)
        assert fault.source == f"{source} {variable}"


def test_a_bad_variable_is_a_fault_also_where_a_flag_overrides_it() -> None:
    flags = {"plugins.kinds.number": 2}
    assert "number" in kinds_faults(environ={"KIND_NUMBER": "x"}, flags=flags)


def test_all_faults_are_told_at_once_each_with_its_source() -> None:
    faults = faults_of(
        {
            "wroker": {},
            "worker": {"engine": "none", "plugins": ["no-such"], "concurrency": "x", "grase": "1s"},
            "redis": {"url": "http://localhost", "reply_timeout": "0s"},
            "queue": {"prefix": ""},
            "log": {"level": "loud"},
            "plugins": {"kinds": {"number": "x", "items": [{"name": 1}]}},
        },
        environ={"KIND_RATIO": "x"},
        dotenv={"KIND_ON": "x"},
        extra=[KINDS],
    )
    assert {path: fault.source for path, fault in faults.items()} == {
        "wroker": "worker.toml",
        "worker.plugins": "worker.toml",
        "worker.concurrency": "worker.toml",
        "worker.grase": "worker.toml",
        "redis.url": "worker.toml",
        "redis.reply_timeout": "worker.toml",
        "queue.prefix": "worker.toml",
        "log.level": "worker.toml",
        "plugins.kinds.number": "worker.toml",
        "plugins.kinds.items[0].name": "worker.toml",
        "plugins.kinds.ratio": "environment KIND_RATIO",
        "plugins.kinds.on": ".env KIND_ON",
    }
    assert faults["wroker"].message == "unknown table; did you mean 'worker'?"
    assert faults["worker.grase"].message == "unknown key; did you mean 'grace'?"
    assert "'no-such': not installed" in faults["worker.plugins"].message


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("localhost:6379", "scheme none is not known"),
        ("http://localhost", "scheme 'http' is not known"),
        ("redis://localhost:port", "the port is not a number"),
        ("redis://localhost/zero", "the database must be a number"),
    ],
)
def test_a_bad_redis_url_is_a_fault_with_its_source(url: str, said: str) -> None:
    for sources, source in (
        ({"file": {**NO_ENGINE, "redis": {"url": url}}}, "worker.toml"),
        ({"file": NO_ENGINE, "environ": {"REDIS_URL": url}}, "environment REDIS_URL"),
        ({"file": NO_ENGINE, "flags": {"redis.url": url}}, "flag"),
    ):
        fault = faults_of(sources.pop("file"), **sources)["redis.url"]
        assert said in fault.message
        assert fault.source == source


def test_a_prefix_that_a_cluster_would_spread_is_a_fault_and_says_what_to_write() -> None:
    redis = {"url": "redis+cluster://a,b"}
    fault = faults_of({**NO_ENGINE, "redis": redis, "queue": {"prefix": "jobs"}})["queue.prefix"]
    assert "write '{jobs}'" in fault.message
    assert fault.source == "worker.toml"
    tagged = configure({**NO_ENGINE, "redis": redis, "queue": {"prefix": "{jobs}"}})
    assert tagged.core.queue.prefix == "{jobs}"


def test_no_fault_of_a_url_tells_its_password() -> None:
    with pytest.raises(ConfigError) as caught:
        configure({**NO_ENGINE, "redis": {"url": "redis://me:hunter2@localhost:port/x?a=b"}})
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("duration", "renew"),
    [("10s", "10s"), ("10s", "20s"), ("30s", "29s"), ("30s", "20001ms")],
)
def test_locks_that_may_run_out_before_they_are_renewed_are_refused(
    duration: str, renew: str
) -> None:
    file = {**NO_ENGINE, "queue": {"lock_duration": duration, "lock_renew_time": renew}}
    fault = faults_of(file)["queue.lock_renew_time"]
    assert fault.message.startswith("must be at most two thirds of lock_duration")
    assert fault.source == "worker.toml"


def test_locks_may_be_renewed_after_two_thirds_of_their_time() -> None:
    configure({**NO_ENGINE, "queue": {"lock_duration": "30s", "lock_renew_time": "20s"}})


@pytest.mark.parametrize("text", ["", "two words", "büro-1", "line\n", "a\tb", "\x7f"])
@pytest.mark.parametrize(("table", "key"), [("worker", "id"), ("queue", "prefix")])
def test_what_cannot_be_part_of_a_connections_name_is_refused(
    table: str, key: str, text: str
) -> None:
    file = {"worker": {"engine": "none"}, "queue": {}}
    file[table] = {**file[table], key: text}
    fault = faults_of(file)[f"{table}.{key}"]
    assert fault.message.startswith("must be printable ASCII characters without spaces")


def test_a_host_whose_name_is_not_ascii_has_a_worker_id(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "Jürgens Rechner")
    assert configure(NO_ENGINE).core.worker.id == f"J-rgens-Rechner-{os.getpid()}"


def test_an_impossible_combination_made_with_a_default_is_refused_too() -> None:
    fault = faults_of({**NO_ENGINE, "queue": {"lock_duration": "15s"}})["queue.lock_renew_time"]
    assert fault.source == "default"


@pytest.mark.parametrize(
    "file",
    [
        {"worker": {"grace": "0s"}},
        {"worker": {"concurrency": 0}},
        {"worker": {"id": ""}},
        {"worker": {"max_wait": "0ms"}},
        {"results": {"inline_limit": 0}},
        {"queue": {"keep_completed": -1}},
        {"log": {"format": "xml"}},
    ],
)
def test_values_out_of_bounds_are_refused(file: dict[str, dict[str, object]]) -> None:
    ((table, values),) = file.items()
    (name,) = values
    whole = {**file, "worker": {"engine": "none", **file.get("worker", {})}}
    assert list(faults_of(whole)) == [f"{table}.{name}"]


@pytest.mark.parametrize("value", [[], "text", 3])
def test_what_stands_in_the_place_of_a_table_is_refused(value: object) -> None:
    assert (
        faults_of(
            {
                "worker": value,
            }
        )["worker"].message
        == "expected a table"
    )
    found = faults_of({**NO_ENGINE, "plugins": {"kinds": value}}, extra=[KINDS])
    assert found["plugins.kinds"].message == "expected a table"


def test_an_engine_that_is_not_installed_is_a_fault_of_that_setting() -> None:
    fault = faults_of({"worker": {"engine": "nosuch"}})["worker.engine"]
    assert "plugin 'nosuch': not installed" in fault.message
    assert fault.source == "worker.toml"
    assert faults_of(flags={"worker.engine": "nosuch"})["worker.engine"].source == "flag"


def test_the_faults_of_plugins_are_told_where_the_core_has_faults_too() -> None:
    faults = faults_of(
        {
            "worker": {"engine": "none", "plugins": ["chat"], "concurrency": "x"},
            "plugins": {"chat": {"timeout": 5}},
        }
    )
    assert set(faults) == {"worker.concurrency", "plugins.chat.timeout"}


def test_a_plugins_own_check_may_name_combinations() -> None:
    @attrs.frozen
    class Settings:
        low: int = 1
        high: int = 2

        def check(self) -> Any:
            if self.low > self.high:
                yield "low", "must not be over high"

    plugin = plugin_under_test("pair", type("P", (), {"Settings": Settings}))
    file = {**NO_ENGINE, "plugins": {"pair": {"low": 3}}}
    assert faults_of(file, extra=[plugin])["plugins.pair.low"].message == "must not be over high"


def test_a_plugins_check_that_raises_is_a_fault_that_names_the_plugin() -> None:
    @attrs.frozen
    class Settings:
        def check(self) -> Any:
            raise ZeroDivisionError

    plugin = plugin_under_test("odd", type("P", (), {"Settings": Settings}))
    fault = faults_of(NO_ENGINE, extra=[plugin])["plugins.odd"]
    assert "ZeroDivisionError" in fault.message


def test_a_plugin_without_settings_refuses_keys() -> None:
    plugin = plugin_under_test("bare", type("P", (), {}))
    assert configure(NO_ENGINE, extra=[plugin]).compose()
    file = {**NO_ENGINE, "plugins": {"bare": {"x": 1}}}
    assert faults_of(file, extra=[plugin])["plugins.bare.x"].message == "unknown key"


# --- Notices ---


def test_the_table_of_a_plugin_that_is_not_enabled_is_kept_unread_with_a_notice() -> None:
    notices = configure({**NO_ENGINE, "plugins": {"chat": {"timeout": 5, "x": 1}}}).notices
    assert notices == ("[plugins.chat] is not read: the plugin is not enabled",)


def test_a_known_variable_whose_plugin_is_off_gives_a_notice() -> None:
    configuration = configure(
        NO_ENGINE, environ={"OLLAMA_BASE_URL": "x"}, dotenv={"WORKER_TIMEOUT": "5"}
    )
    assert set(configuration.notices) == {
        "OLLAMA_BASE_URL (environment) sets nothing: enable plugin ollama",
        "WORKER_TIMEOUT (.env) sets nothing: enable plugin chat or embeddings",
    }


def test_what_is_read_gives_no_notice_and_strangers_neither() -> None:
    file = {"worker": {"plugins": ["chat"]}, "plugins": {"ollama": {}}}
    environ = {
        "OLLAMA_TIMEOUT": "1000",
        "WORKER_TIMEOUT": "1000",
        "HOME": "/root",
        "WORKER_ID": "x",
    }
    assert configure(file, environ=environ).notices == ()


# --- Secrets ---


def test_secrets_are_masked_and_what_is_not_set_is_not() -> None:
    assert kinds({"secret": "hunter2"})["secret"] == ("********", "worker.toml")
    assert kinds()["secret"] == (None, "default")
    assert "hunter2" not in repr(KindsSettings(secret="hunter2"))


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://me:hunter2@host:6379/1", "redis://me:********@host:6379/1"),
        ("redis://:hunter2@host", "redis://:********@host"),
        ("redis://me:hun@ter2@host", "redis://me:********@host"),
        ("redis://me@host", "redis://me@host"),
        ("redis://host", "redis://host"),
        ("unix:///run/redis.sock", "unix:///run/redis.sock"),
    ],
)
def test_the_password_in_a_url_is_masked(url: str, expected: str) -> None:
    configuration = configure({**NO_ENGINE, "redis": {"url": url, "password": "hunter2"}})
    assert shown(configuration)["redis.url"][0] == expected
    assert configuration.core.redis.url == url
    assert "hunter2" not in repr(configuration.shown)


# --- Reading the sources ---


def test_a_file_that_is_not_toml_is_a_fault_with_its_place(tmp_path: Any) -> None:
    file = tmp_path / "worker.toml"
    file.write_text("[worker\n")
    _, (fault,) = Layers.read(file, flags={}, environ={}, dotenv_path=tmp_path / ".env")
    assert fault.message.startswith("not TOML: ")
    assert "line 1" in fault.message
    assert fault.source == str(file)


@pytest.mark.parametrize("content", [None, b"\xff\xfe"])
def test_a_file_that_cannot_be_read_is_a_fault(tmp_path: Any, content: bytes | None) -> None:
    file = tmp_path / "worker.toml"
    if content is not None:
        file.write_bytes(content)
    _, (fault,) = Layers.read(file, flags={}, environ={}, dotenv_path=tmp_path / ".env")
    assert fault.message.startswith("cannot be read: ")


def test_a_dotenv_that_cannot_be_read_is_a_fault(tmp_path: Any) -> None:
    dotenv = tmp_path / ".env"
    dotenv.write_bytes(b"WORKER_ID=\xff\xfe\n")
    _, (fault,) = Layers.read(None, flags={}, environ={}, dotenv_path=dotenv)
    assert fault.message.startswith("cannot be read: ")
    assert fault.source == str(dotenv)


def test_dotenv_is_read_from_the_working_directory(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".env").write_text("# a comment\nWORKER_ID='me'\nEMPTY\n")
    monkeypatch.chdir(tmp_path)
    layers, faults = Layers.read(None, flags={}, environ={})
    assert (layers.dotenv, faults) == ({"WORKER_ID": "me"}, [])


toml_values = st.recursive(
    st.booleans() | st.integers() | st.floats() | st.text(max_size=6),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["name", "count", "x"]), inner, max_size=3)
    ),
    max_leaves=8,
)
setting_names = st.sampled_from([field.name for field in attrs.fields(KindsSettings)])
variables = st.sampled_from(
    ["KIND_TEXT", "KIND_NUMBER", "KIND_RATIO", "KIND_ON", "KIND_WAIT", "KIND_PLAIN", "KIND_NAMES"]
)


@settings(deadline=None)
@given(
    st.dictionaries(setting_names | st.text(max_size=4), toml_values, max_size=5),
    st.dictionaries(variables, st.text(max_size=8), max_size=4),
)
def test_any_sources_are_taken_or_refused_with_faults(
    file: dict[str, Any], environ: dict[str, str]
) -> None:
    whole = {**NO_ENGINE, "plugins": {"kinds": file}}
    try:
        configuration = configure(whole, environ=environ, extra=[KINDS])
    except ConfigError as error:
        faults = error.faults
    else:
        attrs.validate(configuration.plugins[0][1])  # type: ignore[arg-type]
        return
    assert all(fault.path.startswith("plugins.kinds") and fault.source for fault in faults)


def chat_queue(limit: object) -> dict[str, Any]:
    queues = [{"name": "llm-chat", "limit": limit}]
    return {"worker": {"plugins": ["chat"]}, "plugins": {"chat": {"queues": queues}}}


def test_a_queue_may_have_a_limit() -> None:
    found = shown(configure(chat_queue({"max": 10, "duration": "1s"})))
    [spec], _ = found["plugins.chat.queues"]
    assert spec.limit == RateLimit(max=10, duration=timedelta(seconds=1))


@pytest.mark.parametrize(
    ("limit", "path", "said"),
    [
        ({"max": 10}, "duration", "missing"),
        ({"duration": "1s"}, "max", "missing"),
        ({"max": 0, "duration": "1s"}, "max", "must be >= 1"),
        ({"max": 1, "duration": "0s"}, "duration", "from a millisecond"),
        ({"max": 1, "duration": 1000}, "duration", "expected a duration"),
        ({"max": 1, "duration": "1s", "per": "job"}, "per", "unknown key"),
    ],
)
def test_half_a_limit_is_refused_at_start(limit: object, path: str, said: str) -> None:
    """BullMQ's script would fail on it after it has taken a job."""
    [fault] = faults_of(chat_queue(limit)).values()
    assert fault.path == f"plugins.chat.queues[0].limit.{path}"
    assert said in fault.message
