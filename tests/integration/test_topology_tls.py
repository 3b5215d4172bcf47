"""TLS, from the worker's link to the command line; and what is said when it cannot be."""

from __future__ import annotations

from datetime import timedelta

import anyio
import anyio.to_thread
import pytest
import trustme
from click.testing import CliRunner
from cryptography.hazmat.primitives import serialization as s

from tests.integration.link_support import linked, until
from tests.integration.support import PROBE, probe, running
from tests.integration.topology_support import server_context, tls_proxy
from worker_core.cli import main
from worker_core.client import SyncClient, open_client
from worker_core.errors import ConfigError, RedisError, RedisUnavailable
from worker_core.redis import Endpoint, TLSFiles, connector_to
from worker_core.testing.workers import build_worker

SECOND = timedelta(seconds=1)


@pytest.fixture(scope="module")
def authority():
    return trustme.CA()


@pytest.fixture(scope="module")
def stranger():
    """An authority that nobody has reason to trust."""
    return trustme.CA()


@pytest.fixture
def pem(tmp_path):
    """Write an authority or a certificate to a file."""

    def write(source, name="ca.pem"):
        path = tmp_path / name
        blob = source.cert_pem if isinstance(source, trustme.CA) else source
        blob.write_to_path(str(path))
        return str(path)

    return write


@pytest.fixture
def files(authority, pem):
    return TLSFiles(ca=pem(authority))


def secured(port, files=None, *, host="localhost"):
    return Endpoint.from_url(f"rediss://{host}:{port}", tls=files)


async def test_calls_of_any_size_go_both_ways_at_once(valkey, authority, files):
    big = "x" * 3_000_000

    async def echo(link, value):
        assert await link.call("ECHO", value) == value.encode()

    async with (
        tls_proxy(valkey.url, server_context(authority, "localhost")) as port,
        linked(secured(port, files)) as link,
        anyio.create_task_group() as tasks,
    ):
        for number in range(200):
            tasks.start_soon(echo, link, f"{number}")
            if number % 50 == 0:
                tasks.start_soon(echo, link, big + str(number))


async def test_the_link_comes_back_after_its_connection_was_lost(valkey, authority, files):
    async with (
        tls_proxy(valkey.url, server_context(authority, "localhost")) as port,
        linked(secured(port, files)) as link,
    ):
        await link.call("PING")
        async with linked(Endpoint.from_url(valkey.url)) as plain:
            await plain.call("CLIENT", "KILL", "TYPE", "NORMAL", "SKIPME", "YES")
        await link.call("PING")
        assert link.reconnects == 1


async def test_a_job_from_either_client_through_tls_to_a_worker(valkey, authority, files):
    async with tls_proxy(valkey.url, server_context(authority, "localhost")) as port:
        endpoint = secured(port, files)
        settings = {"redis": {"tls_ca": files.ca}}

        def ask_synchronously():
            with SyncClient(endpoint) as client:
                ref = client.submit(PROBE, {"text": "two"}, queue=PROBE)
                return client.result(ref, timeout=10 * SECOND)

        async with (
            running(f"valkeys://localhost:{port}", probe(), settings),
            open_client(endpoint) as client,
        ):
            ref = await client.submit(PROBE, {"text": "one"}, queue=PROBE)
            assert (await client.result(ref, timeout=10 * SECOND)).answer == "one"
            answered = await anyio.to_thread.run_sync(ask_synchronously)
            assert answered.answer == "two"


async def test_the_command_line_reads_the_same_settings(valkey, authority, files, tmp_path):
    config = tmp_path / "worker.toml"
    async with tls_proxy(valkey.url, server_context(authority, "localhost")) as port:
        config.write_text(f'[redis]\nurl = "rediss://localhost:{port}"\ntls_ca = "{files.ca}"\n')
        arguments = ["queue", "stats", PROBE, "--json", "--config", str(config)]
        done = await anyio.to_thread.run_sync(lambda: CliRunner().invoke(main, arguments))
        assert done.exit_code == 0, done.output
        assert '"queues"' in done.stdout


async def test_a_certificate_of_our_own_for_a_server_that_wants_one(
    valkey, authority, stranger, pem, files
):
    ours = stranger.issue_cert("worker")
    cert, key = pem(ours.cert_chain_pems[0], "cert.pem"), pem(ours.private_key_pem, "key.pem")
    both = pem(ours.private_key_and_cert_chain_pem, "both.pem")
    context = server_context(authority, "localhost", clients=stranger)
    async with tls_proxy(valkey.url, context) as port:
        for given in (
            TLSFiles(ca=files.ca, cert=cert, key=key),
            TLSFiles(ca=files.ca, cert=both),
        ):
            async with linked(secured(port, given)) as link:
                assert await link.call("PING") == b"PONG"
            await enter_synchronously(secured(port, given))
        for ask in (refusal, refusal_of_client):
            said = await ask(secured(port, files))
            assert "set redis.tls_cert and redis.tls_key" in said


async def enter_synchronously(endpoint):
    def enter():
        with SyncClient(endpoint, patience=SECOND, poll=SECOND):
            pass

    await anyio.to_thread.run_sync(enter)


async def refusal(endpoint):
    """What a link says that cannot get in."""
    states = []
    async with linked(endpoint, on_state=states.append) as link:
        await until(lambda: states)
        assert not link.is_connected
    return states[0].reason


async def refusal_of_client(endpoint):
    """What the synchronous client says."""
    with pytest.raises(RedisError) as caught:
        await enter_synchronously(endpoint)
    return str(caught.value)


ASK = pytest.mark.parametrize("ask", [refusal, refusal_of_client], ids=["link", "sync"])


@ASK
async def test_a_certificate_that_nobody_trusted_has_signed(ask, valkey, stranger, files):
    async with tls_proxy(valkey.url, server_context(stranger, "localhost")) as port:
        said = await ask(secured(port, files))
    assert "certificate is not trusted" in said
    assert "name the authority that signed it in redis.tls_ca" in said


@ASK
async def test_without_a_file_the_system_s_authorities_are_trusted(
    ask, valkey, authority, files, monkeypatch
):
    async with tls_proxy(valkey.url, server_context(authority, "localhost")) as port:
        assert "certificate is not trusted" in await ask(secured(port))
        # OpenSSL's own way to say where the system's are.
        monkeypatch.setenv("SSL_CERT_FILE", files.ca)
        async with linked(secured(port)) as link:
            assert await link.call("PING") == b"PONG"
        await enter_synchronously(secured(port))


@ASK
async def test_with_a_file_the_system_s_authorities_are_not_trusted(
    ask, valkey, stranger, files, pem, monkeypatch
):
    monkeypatch.setenv("SSL_CERT_FILE", pem(stranger, "system.pem"))
    async with tls_proxy(valkey.url, server_context(stranger, "localhost")) as port:
        assert "certificate is not trusted" in await ask(secured(port, files))


@ASK
@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
async def test_a_certificate_of_another_host(ask, host, valkey, authority, files):
    async with tls_proxy(valkey.url, server_context(authority, "redis.example.org")) as port:
        said = await ask(secured(port, files, host=host))
    assert f"certificate is not valid for '{host}'" in said
    assert "use a name that the server's certificate has" in said


async def test_an_address_in_place_of_a_name_where_the_certificate_has_it(valkey, authority, files):
    async with (
        tls_proxy(valkey.url, server_context(authority, "127.0.0.1")) as port,
        linked(secured(port, files, host="127.0.0.1")) as link,
    ):
        assert await link.call("PING") == b"PONG"


@ASK
async def test_a_plain_server_behind_a_url_with_tls(ask, valkey, files):
    said = await ask(secured(Endpoint.from_url(valkey.url).port, files))
    assert "does not speak TLS" in said
    assert "begin the URL with redis" in said


@ASK
async def test_a_server_with_tls_behind_a_plain_url(ask, valkey, authority):
    async with tls_proxy(valkey.url, server_context(authority, "localhost")) as port:
        said = await ask(Endpoint(host="localhost", port=port))
    assert "if the server speaks TLS, begin the URL with rediss" in said


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tls_ca": "/nonexistent"}, "redis.tls_ca: '/nonexistent' cannot be used: No such file"),
        ({"tls_ca": __file__}, f"redis.tls_ca: {__file__!r} cannot be used: "),
        ({"tls_cert": "/nonexistent"}, "redis.tls_cert: '/nonexistent' cannot be used: No such"),
        ({"tls_key": "x"}, "redis.tls_key: is of no use without tls_cert"),
        (
            {"url": "redis://localhost", "tls_ca": "x"},
            "redis.tls_ca: is for a URL with TLS: begin url with rediss",
        ),
    ],
)
def test_files_that_cannot_be_used_stop_the_start(settings, message):
    tables = {"redis": {"url": "rediss://localhost", **settings}, "worker": {"engine": "none"}}
    with pytest.raises(ConfigError) as caught:
        build_worker(tables, [probe()])
    assert message in str(caught.value)


def test_an_encrypted_key_is_refused_and_no_passphrase_asked_for(authority, pem, tmp_path):
    ours = authority.issue_cert("worker")
    key = s.load_pem_private_key(ours.private_key_pem.bytes(), None)
    locked = s.BestAvailableEncryption(b"sesame")
    path = tmp_path / "locked.pem"
    path.write_bytes(key.private_bytes(s.Encoding.PEM, s.PrivateFormat.PKCS8, locked))
    given = TLSFiles(cert=pem(ours.cert_chain_pems[0], "cert.pem"), key=str(path))
    with pytest.raises(ConfigError, match="the key is encrypted: give one without a passphrase"):
        connector_to(secured(1, given))


async def test_files_are_read_anew_at_each_connect(valkey, authority, stranger, pem, files):
    async with (
        tls_proxy(valkey.url, server_context(stranger, "localhost")) as port,
        linked(secured(port, files)) as link,
    ):
        with pytest.raises(RedisUnavailable, match="not trusted"):
            await link.wait_connected(within=0.5)
        pem(stranger)  # in place of the other
        await link.wait_connected(within=5)
