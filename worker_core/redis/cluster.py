"""Cluster: which node owns the keys of a prefix, and what a node says when it does not.

All keys of a worker begin with one prefix. With a hash tag in it (`{bull}`) they all are in one
slot, and a worker needs the one node that owns it.
"""

from __future__ import annotations

import binascii
from typing import TYPE_CHECKING

import hiredis

from worker_core.errors import ConfigError, Fault, RedisError, RedisUnavailable, ReplyError
from worker_core.redis.endpoint import Address
from worker_core.redis.resp import new_parser
from worker_core.redis.searching import Question, Turns

if TYPE_CHECKING:
    from collections.abc import Iterator

    from worker_core.redis.endpoint import ClusterNodes, Endpoint
    from worker_core.redis.resp import Reply
    from worker_core.redis.searching import Search

__all__ = [
    "REDIRECTIONS",
    "OwnerSearcher",
    "WrongServer",
    "key_slot",
    "parser_for",
    "prefix_slot",
    "probe_keys",
    "read_probe",
]

_SLOTS = 16384

REDIRECTIONS = frozenset({"MOVED", "ASK"})
"""Error codes by which a node names another one."""


class WrongServer(RedisUnavailable):
    """A server that answers, and that no waiting makes the right one: the settings must change."""


def hash_tag(key: bytes) -> bytes | None:
    """Return the part of a key that decides its slot, where it is marked."""
    _, opened, rest = key.partition(b"{")
    tag, closed, _ = rest.partition(b"}")
    return tag if opened and closed and tag else None


def key_slot(key: bytes) -> int:
    """Return the slot of a key."""
    tag = hash_tag(key)
    return binascii.crc_hqx(key if tag is None else tag, 0) % _SLOTS


def prefix_slot(prefix: str) -> int | None:
    """Return the one slot of all keys that begin with a prefix; `None`: they are in many."""
    return None if hash_tag(prefix.encode()) is None else key_slot(prefix.encode())


def _tagged(prefix: str) -> str:
    return "{%s}" % (prefix.strip("{}") or "bull")


def need_tag(prefix: str) -> str:
    """Say what to write in place of a prefix without a hash tag."""
    return (
        f"a Cluster spreads the keys of {prefix!r} over its nodes, since the prefix has no hash"
        f" tag: write {_tagged(prefix)!r}, here and as the prefix of every Queue, QueueEvents and"
        " Worker in Node"
    )


def slot_or_refuse(prefix: str | None, *, name: str) -> int:
    """Return the slot of a prefix; raises `ConfigError` where it has no hash tag."""
    if prefix is None:
        raise ConfigError([Fault(name, "a Cluster needs a prefix with a hash tag")])
    slot = prefix_slot(prefix)
    if slot is None:
        raise ConfigError([Fault(name, need_tag(prefix))])
    return slot


class OwnerSearcher:
    """Asks the nodes in turn which of them owns a slot, and remembers all that were named."""

    def __init__(self, endpoint: Endpoint, nodes: ClusterNodes, slot: int) -> None:
        self._endpoint = endpoint
        self._slot = slot
        self._turns = Turns(nodes.addresses)

    def search(self) -> Search:
        """Find the owner."""
        failures: list[str] = []
        for address in self._turns.next():
            node = self._endpoint.at(address)
            try:
                reply = yield Question(node, ("CLUSTER", "SLOTS"))
            except RedisError as error:
                failures.append(f"{address}: {error}")
                continue
            ranges = list(_read_slots(reply, asked=address))
            owners = [nodes[0] for slots, nodes in ranges if self._slot in slots]
            if owners:
                self._turns.learn([one for _, nodes in ranges for one in nodes])
                return self._endpoint.at(owners[0])
            failures.append(f"{address} knows no node that owns slot {self._slot}")
        raise RedisUnavailable(
            f"no node tells who owns slot {self._slot}, which is that of the queues' prefix:"
            f" {'; '.join(failures)}"
        )

    def news(self) -> None:
        """Return nothing: a node that was replaced answers MOVED."""


def _read_slots(reply: Reply, *, asked: Address) -> Iterator[tuple[range, list[Address]]]:
    """Yield each range of slots with its nodes, the owner first."""
    for item in reply if isinstance(reply, list) else ():
        match item:
            case [int(first), int(last), *nodes]:
                addresses = [found for node in nodes if (found := _read_node(node, asked))]
                # An owner that cannot be addressed must not be taken for its replica.
                if addresses and _read_node(nodes[0], asked) is not None:
                    yield range(first, last + 1), addresses
            case _:
                continue


def _read_node(node: Reply, asked: Address) -> Address | None:
    match node:
        # A node that does not know its own address means that by which it was asked.
        case [None | b"", int(port), *_]:
            return Address(asked.host, port)
        # Host names are preferred, and this node has none.
        case [b"?", int(), *_]:
            return None
        case [bytes(host), int(port), *_]:
            return Address(host.decode("utf-8", "replace"), port)
        case _:
            return None


def parser_for(slot: int | None) -> hiredis.Reader:
    """A parser of one connection's replies; a redirection is one only where it is about our slot.

    A redirected call is kept and sent to the slot's new owner. One about a key of another slot
    (a plugin's own) would come back for ever: its caller is told.
    """

    def reply_error(text: str) -> ReplyError:
        code, _, rest = text.partition(" ")
        if code in REDIRECTIONS and (slot is None or rest.partition(" ")[0] != str(slot)):
            return ReplyError(
                f"CROSSSLOT the key is not in the slot of the queues' prefix, and another node of"
                f" the Cluster has it ({text})"
            )
        return ReplyError(text)

    return new_parser(reply_error)


def probe_keys(prefix: str) -> tuple[str, str, str]:
    """Return a call that only a server refuses which could not serve the keys of a prefix.

    Asked in place of the server's mode: some that are not Clusters call themselves one, and serve
    any keys.
    """
    # CRC16 gives two keys that differ in their last byte different slots, unless they have a tag.
    return ("EXISTS", f"{prefix}:1", f"{prefix}:2")


def read_probe(error: ReplyError, prefix: str, *, guided: bool) -> None:
    """Raise what the refusal of a probe means, where it means something."""
    match error.code:
        case "CROSSSLOT":
            hint = "" if guided else ", and begin the URL with redis+cluster"
            raise WrongServer(f"{need_tag(prefix)}{hint}") from error
        case "MOVED" | "ASK" if not guided:
            raise WrongServer(
                "the server is one node of a Cluster, and not the one that owns the queues'"
                f" prefix ({error}): begin the URL with redis+cluster"
            ) from error
        case "NOPERM":
            return
        case _:
            raise error
