"""The order of a run: peers take turns, and whoever went first goes last the next time."""

from __future__ import annotations

from itertools import groupby

from benchmarks.bench_queue.measures import Throughput
from benchmarks.bench_queue.peers import Peer
from benchmarks.bench_queue.plan import FULL, QUICK, Part, turns

PEERS = tuple(Peer)


def test_within_each_round_and_case_everybody_has_a_turn() -> None:
    planned = list(turns(FULL, peers=PEERS, slots=(1, 50), parts=tuple(Part)))
    for _, group in groupby(planned, key=lambda t: (type(t.measure), t.round, t.measure.case)):
        assert sorted(turn.peer.value for turn in group) == ["node", "ours", "python"]


def test_the_order_is_turned_round_each_time() -> None:
    planned = turns(FULL, peers=PEERS, slots=(50,), parts=(Part.THROUGHPUT,))
    orders = [[turn.peer for turn in group] for _, group in groupby(planned, key=lambda t: t.round)]
    assert orders == [list(PEERS[:: 1 if n % 2 == 0 else -1]) for n in range(FULL.rounds)]


def test_ours_and_nodes_backlogs_are_the_same() -> None:
    planned = turns(QUICK, peers=PEERS, slots=(1, 10), parts=(Part.THROUGHPUT,))
    backlogs = {(t.peer, t.measure.case): t.measure for t in planned}
    for slots in (1, 10):
        assert backlogs[Peer.OURS, slots] == backlogs[Peer.NODE, slots]
        slower = backlogs[Peer.PYTHON, slots]
        assert isinstance(slower, Throughput)
        assert slower.slots == slots


def test_only_what_was_asked_for_is_measured() -> None:
    planned = list(turns(QUICK, peers=(Peer.NODE,), slots=(10,), parts=(Part.THROUGHPUT,)))
    assert [(turn.peer, turn.measure.case) for turn in planned] == [(Peer.NODE, 10)] * QUICK.rounds
