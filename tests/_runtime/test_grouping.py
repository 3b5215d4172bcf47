"""Pieces of an answer: few entries, nothing lost, nothing in another order, no half characters."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker_core._runtime.grouping import Group, Grouping
from worker_core.engine import ChatChunk

FIRST_HALF, SECOND_HALF = "\ud83d", "\ude00"


def test_the_first_piece_goes_at_once_and_the_others_together() -> None:
    grouping = Grouping()
    assert grouping.add(ChatChunk("a"), 10.0)
    assert grouping.take(10.0) == Group("a")
    assert not grouping.add(ChatChunk("b"), 10.01)
    assert not grouping.add(ChatChunk("", "hm"), 10.02)
    assert not grouping.add(ChatChunk("c", tool_calls=({"n": 1},)), 10.03)
    assert grouping.due_at == 10.05
    assert grouping.take(10.05) == Group("bc", "hm", ({"n": 1},))
    assert grouping.take(10.06) is None


def test_a_piece_after_a_pause_goes_at_once() -> None:
    grouping = Grouping()
    grouping.add(ChatChunk("a"), 0.0)
    grouping.take(0.0)
    assert grouping.add(ChatChunk("b"), 0.05)


def test_sixty_four_pieces_do_not_wait() -> None:
    grouping = Grouping()
    grouping.add(ChatChunk("a"), 0.0)
    grouping.take(0.0)
    assert [grouping.add(ChatChunk("b"), 0.001) for _ in range(64)] == [False] * 63 + [True]


def test_what_is_no_text_is_refused_when_it_comes() -> None:
    grouping = Grouping()
    with pytest.raises(TypeError):
        grouping.add(ChatChunk(5), 0.0)  # type: ignore[arg-type]  # a plugin's mistake


def test_half_a_character_waits_for_the_other_half() -> None:
    grouping = Grouping()
    grouping.add(ChatChunk("a" + FIRST_HALF), 0.0)
    assert grouping.take(0.0) == Group("a")
    grouping.add(ChatChunk(SECOND_HALF + "b"), 1.0)
    assert grouping.take(1.0) == Group(FIRST_HALF + SECOND_HALF + "b")


def test_half_a_character_alone_takes_nobodys_turn() -> None:
    grouping = Grouping()
    grouping.add(ChatChunk(FIRST_HALF), 0.0)
    assert grouping.take(0.0) is None
    assert grouping.add(ChatChunk(SECOND_HALF), 0.0)
    assert grouping.take(0.0) == Group(FIRST_HALF + SECOND_HALF)


def test_half_a_character_at_the_end_is_sent_as_it_is() -> None:
    grouping = Grouping()
    grouping.add(ChatChunk("a", FIRST_HALF), 0.0)
    assert grouping.take(0.0) == Group("a")
    assert grouping.take(0.0, last=True) == Group("", FIRST_HALF)


TEXT = st.text(st.sampled_from(["a", "é", "😀", FIRST_HALF, SECOND_HALF]), max_size=3)
PIECES = st.builds(ChatChunk, TEXT, TEXT, st.lists(st.integers(), max_size=1).map(tuple))
# A piece and the time after the one before it; whether the pump looks when it is due.
ARRIVALS = st.lists(st.tuples(PIECES, st.integers(0, 9).map(lambda n: n / 128)), max_size=200)


@given(ARRIVALS)
def test_nothing_is_lost_and_no_two_entries_are_too_close(
    arrivals: list[tuple[ChatChunk, float]],
) -> None:
    grouping, sent, now = Grouping(), [], 0.0
    waits = False
    since = 0
    for piece, pause in arrivals:
        if waits and grouping.due_at <= now + pause and (group := grouping.take(grouping.due_at)):
            sent.append((grouping.due_at - 0.05, since, group))
            since, waits = 0, False
        now += pause
        if not (piece.content or piece.thinking or piece.tool_calls):
            continue
        since += 1
        waits = True
        if grouping.add(piece, now) and (group := grouping.take(now)):
            sent.append((now, since, group))
            since, waits = 0, False
    for (before, _, _), (after, pieces, _) in itertools.pairwise(sent):
        assert after - before >= 0.05 - 1e-9 or pieces >= 64
    groups = [group for _, _, group in sent]
    if last := grouping.take(now, last=True):
        groups.append(last)
    pieces = [piece for piece, _ in arrivals]
    for kind in ("content", "thinking"):
        whole = "".join(getattr(piece, kind) for piece in pieces)
        assert "".join(getattr(group, kind) for group in groups) == whole
        mended = [_mended(getattr(group, kind)) for group in groups]
        assert "".join(mended) == _mended(whole)
    calls = [call for piece in pieces for call in piece.tool_calls]
    assert [call for group in groups for call in group.tool_calls] == calls


def _mended(text: str) -> str:
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
