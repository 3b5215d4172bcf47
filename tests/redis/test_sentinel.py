"""The search for the primary."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker_core.errors import RedisUnavailable, ReplyError
from worker_core.redis import Address, Endpoint, Login
from worker_core.redis.sentinel import PrimarySearcher, refuse_replica

A, B = Address("a", 26379), Address("b", 1)


def searcher(url: str = "redis+sentinel://u:p@a,b:1/m/2") -> PrimarySearcher:
    endpoint = Endpoint.from_url(url, sentinel=Login(username="s", password="t"))
    return PrimarySearcher(endpoint, endpoint.guides)


def asked(question) -> Address:
    assert question.args == ("SENTINEL", "GET-MASTER-ADDR-BY-NAME", "m")
    assert (question.to.username, question.to.password, question.to.db) == ("s", "t", 0)
    return question.to.address


def test_the_first_that_knows_is_believed() -> None:
    search = searcher().search()
    assert asked(next(search)) == A
    with pytest.raises(StopIteration) as stopped:
        search.send([b"10.0.0.9", b"6380"])
    assert stopped.value.value == Endpoint.from_url("redis://u:p@10.0.0.9:6380/2")


def test_whoever_does_not_help_is_passed_over_and_named_where_nobody_does() -> None:
    search = searcher().search()
    next(search)
    assert asked(search.throw(RedisUnavailable("refused"))) == B
    with pytest.raises(RedisUnavailable) as caught:
        search.send(None)
    assert "'m' is: a:26379: refused; b:1 does not watch over 'm'" in str(caught.value)


def test_credentials_are_told_from_those_of_the_servers() -> None:
    search = searcher("redis+sentinel://a/m").search()
    next(search)
    error = RedisUnavailable("no")
    error.__cause__ = ReplyError("NOAUTH Authentication required.")
    with pytest.raises(RedisUnavailable, match=r"check redis\.sentinel_username"):
        search.throw(error)


def test_each_search_begins_with_the_next_sentinel() -> None:
    sentinels = searcher()
    for address in (A, B, A):
        assert asked(next(sentinels.search())) == address
        assert sentinels.news().to.address == address


def test_with_tls_sentinels_are_asked_by_it() -> None:
    search = searcher("rediss+sentinel://a/m").search()
    assert next(search).to.tls is not None


@given(
    st.recursive(
        st.none() | st.integers() | st.binary(),
        lambda inner: st.lists(inner, max_size=3),
        max_leaves=6,
    )
)
def test_no_reply_whatever_makes_the_search_fail_otherwise(reply) -> None:
    search = searcher("redis+sentinel://a/m").search()
    next(search)
    with pytest.raises((StopIteration, RedisUnavailable)):
        search.send(reply)


def test_a_replica_is_refused() -> None:
    with pytest.raises(RedisUnavailable, match="read-only replica"):
        refuse_replica([b"slave", b"h", 1, b"connected", 5])
    refuse_replica([b"master", 5, []])
