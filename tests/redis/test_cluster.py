"""Slots, and the search for the node that owns one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.crc import key_slot as witness_slot

from worker_core.errors import ConfigError, RedisUnavailable, ReplyError
from worker_core.redis import Address, ClusterNodes, Endpoint, WrongServer, connector_to
from worker_core.redis.cluster import (
    OwnerSearcher,
    key_slot,
    need_tag,
    parser_for,
    prefix_slot,
    probe_keys,
    read_probe,
)

A, B, C = (Address(name, 7000) for name in "abc")


@pytest.mark.parametrize(
    ("key", "slot"),
    [(b"123456789", 0x31C3), (b"foo", 12182), (b"{foo}bar", 12182), (b"x{foo}{bar}", 12182)],
)
def test_the_slots_of_the_specification(key: bytes, slot: int) -> None:
    assert key_slot(key) == slot


@given(st.binary() | st.text(alphabet="{}ab").map(str.encode))
def test_every_key_has_the_slot_that_redis_py_gives_it(key: bytes) -> None:
    assert key_slot(key) == witness_slot(key)


@given(prefix=st.text(alphabet="{}:ab"), rest=st.text(alphabet="{}:ab"))
def test_a_prefix_with_a_hash_tag_decides_the_slot_of_all_its_keys(prefix: str, rest: str) -> None:
    slot = prefix_slot(prefix)
    assert slot is None or witness_slot(f"{prefix}:{rest}".encode()) == slot


@given(st.text(alphabet="{}:ab"))
def test_a_prefix_without_one_has_probes_in_two_slots(prefix: str) -> None:
    _, *keys = probe_keys(prefix)
    slots = {witness_slot(key.encode()) for key in keys}
    assert len(slots) == (2 if prefix_slot(prefix) is None else 1)


@pytest.mark.parametrize(
    ("prefix", "instead"), [("bull", "{bull}"), ("{}", "{bull}"), ("a:b", "{a:b}"), ("{x", "{x}")]
)
def test_what_to_write_instead(prefix: str, instead: str) -> None:
    assert f"write {instead!r}" in need_tag(prefix)
    assert prefix_slot(instead) is not None


@pytest.mark.parametrize("prefix", ["bull", None])
def test_a_cluster_is_refused_without_a_hash_tag(prefix: str | None) -> None:
    with pytest.raises(ConfigError, match="prefix"):
        connector_to(Endpoint.from_url("redis+cluster://a"), prefix=prefix)


# The search


def searcher(*addresses: Address, slot: int = 5) -> OwnerSearcher:
    nodes = ClusterNodes(addresses=addresses)
    return OwnerSearcher(Endpoint(guides=nodes, password="p"), nodes, slot)


def node(address: Address) -> list[object]:
    return [address.host.encode(), address.port, b"id", []]


def asked(question) -> Address:
    assert question.args == ("CLUSTER", "SLOTS")
    assert question.to.password == "p"
    assert question.to.guides is None
    return question.to.address


def result(search, reply) -> Address:
    with pytest.raises(StopIteration) as stopped:
        search.send(reply)
    return stopped.value.value.address


def test_the_owner_is_the_first_node_of_the_range() -> None:
    search = searcher(A).search()
    assert asked(next(search)) == A
    assert result(search, [[0, 4, node(A)], [5, 9, node(C), node(B)]]) == C


def test_whoever_does_not_help_is_passed_over_and_named_where_nobody_does() -> None:
    search = searcher(A, B, C).search()
    assert asked(next(search)) == A
    assert asked(search.throw(RedisUnavailable("refused"))) == B
    assert asked(search.send([[0, 4, node(B)]])) == C
    with pytest.raises(RedisUnavailable) as caught:
        search.send([])
    assert "a:7000: refused; b:7000 knows no node that owns slot 5" in str(caught.value)


def test_each_search_begins_with_the_next_node_and_knows_those_that_were_named() -> None:
    nodes = searcher(A)
    search = nodes.search()
    next(search)
    assert result(search, [[0, 9, node(B), node(C)]]) == B
    assert asked(next(nodes.search())) == B
    assert asked(next(nodes.search())) == C
    assert asked(next(nodes.search())) == A


@pytest.mark.parametrize("host", [b"", None])
def test_a_node_that_does_not_know_its_address_is_where_it_was_asked(host: bytes | None) -> None:
    search = searcher(A).search()
    next(search)
    assert result(search, [[0, 9, [host, 7009, b"id", []]]]) == Address("a", 7009)


def test_an_owner_without_a_host_name_is_not_taken_for_its_replica() -> None:
    search = searcher(A).search()
    next(search)
    with pytest.raises(RedisUnavailable, match="knows no node"):
        search.send([[0, 9, [b"?", 7000, b"id", []], node(B)]])


@given(
    st.recursive(
        st.none() | st.integers() | st.binary(),
        lambda inner: st.lists(inner, max_size=4),
        max_leaves=20,
    )
)
def test_no_reply_whatever_makes_the_search_fail_otherwise(reply) -> None:
    search = searcher(A).search()
    next(search)
    with pytest.raises((StopIteration, RedisUnavailable)):
        search.send(reply)


# Refusals


@pytest.mark.parametrize("code", ["MOVED", "ASK"])
def test_a_redirection_is_one_where_it_is_about_our_slot(code: str) -> None:
    parser = parser_for(866)
    parser.feed(f"-{code} 866 h:1\r\n-{code} 86 h:1\r\n".encode())
    ours, other = parser.gets(), parser.gets()
    assert ours.code == code
    assert other.code == "CROSSSLOT"
    assert f"{code} 86 h:1" in str(other)


def test_without_a_slot_of_our_own_none_is() -> None:
    parser = parser_for(None)
    parser.feed(b"-MOVED 866 h:1\r\n-ERR no\r\n")
    assert parser.gets().code == "CROSSSLOT"
    assert parser.gets().code == "ERR"


def test_what_the_refusal_of_a_probe_means() -> None:
    with pytest.raises(WrongServer, match=r"write '\{b\}'.*begin the URL with redis\+cluster"):
        read_probe(ReplyError("CROSSSLOT Keys"), "b", guided=False)
    with pytest.raises(WrongServer, match=r"begin the URL with redis\+cluster"):
        read_probe(ReplyError("MOVED 1 h:1"), "{b}", guided=False)
    with pytest.raises(ReplyError, match="MOVED"):  # the guides will know better
        read_probe(ReplyError("MOVED 1 h:1"), "{b}", guided=True)
    read_probe(ReplyError("NOPERM no"), "b", guided=False)
