"""URLs, taken apart."""

from __future__ import annotations

import re

import pytest

from worker_core.errors import ConfigError
from worker_core.redis import Address, ClusterNodes, Endpoint, Login, Sentinels, TLSFiles


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://", Endpoint()),
        ("redis://example.org", Endpoint(host="example.org")),
        ("valkey://h:7000/2", Endpoint(host="h", port=7000, db=2)),
        ("redis://h/?db=3", Endpoint(host="h", db=3)),
        ("redis://:pw@h:1", Endpoint(host="h", port=1, password="pw")),
        ("redis://u:p%40s%2Fs%3A@h", Endpoint(host="h", username="u", password="p@s/s:")),
        ("redis://u@h", Endpoint(host="h", username="u")),
        ("redis://[::1]:6380/1", Endpoint(host="::1", port=6380, db=1)),
        ("unix:///run/valkey.sock", Endpoint(path="/run/valkey.sock")),
        ("valkey+unix:///a%20b?db=4", Endpoint(path="/a b", db=4)),
        ("redis+unix://u:p@/s", Endpoint(path="/s", username="u", password="p")),
        ("rediss://h", Endpoint(host="h", tls=TLSFiles())),
        ("valkeys://:pw@h:1/2", Endpoint(host="h", port=1, password="pw", db=2, tls=TLSFiles())),
        (
            "redis+sentinel://a/mymaster",
            Endpoint(guides=Sentinels(addresses=(Address("a", 26379),), service="mymaster")),
        ),
        (
            "rediss+sentinel://u:p%2C@a:1,[::1],b:2/my.ma-ster/3",
            Endpoint(
                guides=Sentinels(
                    addresses=(Address("a", 1), Address("::1", 26379), Address("b", 2)),
                    service="my.ma-ster",
                ),
                username="u",
                password="p,",
                db=3,
                tls=TLSFiles(),
            ),
        ),
        (
            "valkey+cluster://:p@a,[::1]:7/?db=1",
            Endpoint(
                guides=ClusterNodes(addresses=(Address("a", 6379), Address("::1", 7))),
                password="p",
                db=1,
            ),
        ),
        (
            "VALKEYS+CLUSTER://a:1",
            Endpoint(guides=ClusterNodes(addresses=(Address("a", 1),)), tls=TLSFiles()),
        ),
    ],
)
def test_a_url_is_taken_apart(url: str, expected: Endpoint) -> None:
    assert Endpoint.from_url(url) == expected


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("", "scheme none is not known: expected redis://"),
        ("localhost:6379", "scheme none is not known"),
        ("redis:h:6379", "scheme none is not known"),
        ("http://h", "scheme 'http' is not known"),
        ("redis+sentinel://h", "the path must begin with the name that the Sentinels watch over"),
        ("redis+sentinel://h/a b", "the path must begin with the name"),
        ("redis+sentinel://h/m/x", "the database must be a number from 0"),
        ("redis+sentinel:///m", "a host is missing"),
        ("redis+sentinel://a,/m", "a host is missing"),
        ("redis+sentinel://a,b:x/m", "port is not a number from 1 to 65535"),
        ("redis+cluster://", "a host is missing"),
        ("redis+cluster://a,b:0", "port is not a number from 1 to 65535"),
        ("redis+cluster://a,[::1", "not a URL"),
        ("redis+cluster://a,b/x", "the database must be a number from 0"),
        ("redis+proxy://h", "scheme 'redis+proxy' is not known"),
        ("redis://h:0", "port is not a number from 1 to 65535"),
        ("redis://h:70000", "port is not a number from 1 to 65535"),
        ("redis://h:x", "port is not a number from 1 to 65535"),
        ("redis://h/x", "the database must be a number from 0"),
        ("redis://h/-1", "must be a number from 0"),
        ("redis://h?db=1.5", "must be a number from 0"),
        ("redis://h?dbs=1", "the only option known behind the ? is db"),
        ("redis://h#1", "nothing may follow a #"),
        ("unix://run/s", "three slashes"),
        ("unix://", "three slashes"),
        ("redis://[::1", "not a URL"),
    ],
)
def test_a_wrong_url_says_what_to_do(url: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Endpoint.from_url(url, name="REDIS_URL")
    assert message in str(caught.value)
    assert all(fault.path == "REDIS_URL" for fault in caught.value.faults)


def test_all_faults_are_told_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        Endpoint.from_url("redis://h/y?z=1#2")
    assert len(caught.value.faults) == 3


def test_nothing_behind_a_wrong_port_is_judged() -> None:
    with pytest.raises(ConfigError) as caught:
        Endpoint.from_url("redis://h:x/y?z=1")
    assert len(caught.value.faults) == 1


@pytest.mark.parametrize(
    "url",
    [
        "redis://u:secret@h:x",
        "rediss://u:secret@h:x",
        "redis+sentinel://:secret/secret@host:26379/mymaster",
        "redis+sentinel://:12/secret@host:26379/mymaster",
        "redis+sentinel://:12?secret@host:26379/mymaster",
        "redis+sentinel://u:12#secret@host:26379,b/mymaster",
        "redis+sentinel://a,b:secret/secret@host/mymaster",
        "redis+cluster://:secret,x/secret@a,b",
        "redis+cluster://:12/secret@a,b",
        "http://:secret@h",
        "secret:x@redis://h",
        "redis://:secret/secret@host/0",
        "redis://:secret?secret@host/0",
        "redis://:secret?db=secret@host",
        "redis://:secret#secret@host",
        "redis://:secret[secret@host",
        "redis://:[secret]@host",
        "redis://:secret\u2100@host",  # what it is normalized to holds a slash
        # What stands before the special character may be a port.
        "redis://:12/secret@host:6379/0",
        "redis://:12?secret@host:6379/0",
        "redis://:12?secret=secret@host:6379/0",
        "redis://:12#secret@host:6379/0",
        "unix://:12?secret@/run/s",
        "unix://u:secret/secret@/run/s",
    ],
)
def test_no_message_tells_any_part_of_a_password(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Endpoint.from_url(url)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("mark", "/?#[")
def test_a_special_character_in_a_password_is_told_how_to_be_given(mark: str) -> None:
    for before in ("secret", "12"):
        with pytest.raises(ConfigError) as caught:
            Endpoint.from_url(f"redis://:{before}{mark}word@host:6379/0")
        assert "percent-encoded" in str(caught.value)
        assert "REDIS_PASSWORD" in str(caught.value)


def test_a_given_password_replaces_the_url_s() -> None:
    assert Endpoint.from_url("redis://:old@h", password="new").password == "new"
    assert Endpoint.from_url("redis://:old@h").password == "old"


def test_neither_text_form_tells_the_password() -> None:
    endpoint = Endpoint.from_url("redis://ada:secret@[::1]:7/1")
    assert str(endpoint) == "redis://ada@[::1]:7/1"
    assert "secret" not in repr(endpoint)
    assert str(Endpoint(path="/s", password="secret")) == "unix:///s?db=0"


@pytest.mark.parametrize(
    "endpoint",
    [
        Endpoint(host="h", port=7, db=1),
        Endpoint(path="/s", username="u", db=2),
        Endpoint(host="::1", tls=TLSFiles()),
        Endpoint(
            guides=Sentinels(addresses=(Address("a", 1), Address("::1", 2)), service="m"),
            username="u",
            db=3,
        ),
        Endpoint(guides=ClusterNodes(addresses=(Address("a", 1), Address("b", 2))), tls=TLSFiles()),
    ],
)
def test_the_text_form_is_a_url(endpoint: Endpoint) -> None:
    assert Endpoint.from_url(str(endpoint)) == endpoint


def test_files_for_tls_and_a_login_for_sentinels_are_given_apart() -> None:
    files, login = TLSFiles(ca="ca.pem"), Login(username="u", password="p")
    endpoint = Endpoint.from_url("rediss+sentinel://h/m", tls=files, sentinel=login)
    assert endpoint.tls is files
    assert isinstance(endpoint.guides, Sentinels)
    assert endpoint.guides.login is login
    assert "'p'" not in repr(endpoint)


@pytest.mark.parametrize(
    ("url", "instead"),
    [
        ("redis://h", "rediss://"),
        ("valkey+sentinel://h/m", "valkeys+sentinel://"),
        ("unix:///s", "rediss://"),
    ],
)
def test_files_for_tls_are_refused_where_nothing_would_be_encrypted(url: str, instead: str) -> None:
    with pytest.raises(ConfigError, match=f"begin it with {re.escape(instead)}"):
        Endpoint.from_url(url, tls=TLSFiles(ca="ca.pem"))


def test_what_the_guides_lead_to_is_introduced_to_in_the_same_way() -> None:
    endpoint = Endpoint.from_url("rediss+cluster://u:p@a:1/2")
    found = endpoint.at(Address("b", 7))
    assert found == Endpoint.from_url("rediss://u:p@b:7/2")
