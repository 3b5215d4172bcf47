"""The measurements themselves, small, of our own worker: that they work, not how fast it is."""

from __future__ import annotations

import pytest

from benchmarks.bench_queue.backlog import Backlog
from benchmarks.bench_queue.commands import counting
from benchmarks.bench_queue.measures import AT_REST, Idle, Memory, Pickup, Throughput
from benchmarks.bench_queue.peers import Peer, PeerFailed, running
from benchmarks.bench_queue.samples import Figure
from worker_core.embedded import EmbeddedValkey


def test_a_backlog_costs_one_command_a_job() -> None:
    figures = Throughput(slots=4, jobs=400, warm_up=200).measure(Peer.OURS)
    assert figures[Figure.JOBS_PER_SECOND] > 0
    # Some may come on top where it gets idle; the twenty inside each script must not.
    assert 1.0 <= figures[Figure.COMMANDS] < 1.5
    assert 0 < figures[Figure.LUA_US] < 1e6 / figures[Figure.JOBS_PER_SECOND]


def test_a_pick_up_takes_some_milliseconds() -> None:
    figures = Pickup(slots=2, jobs=10, warm_up=10).measure(Peer.OURS)
    assert 0 < figures[Figure.PICKUP_P50_MS] <= figures[Figure.PICKUP_P99_MS] < 5000


@pytest.mark.parametrize("waiting", [AT_REST, 3])
def test_memory_is_that_of_a_whole_worker(waiting: int) -> None:
    figures = Memory(slots=4, waiting=waiting).measure(Peer.OURS)
    assert 10 < figures[Figure.USS_MB] <= figures[Figure.RSS_MB] < 1000


def test_an_idle_worker_is_left_alone() -> None:
    figures = Idle(slots=2, seconds=0.5).measure(Peer.OURS)
    assert figures[Figure.IDLE_SCRIPTS] < 50
    assert figures[Figure.IDLE_CPU] < 100


def test_a_job_that_never_completes_ends_the_run_with_what_the_worker_wrote() -> None:
    with EmbeddedValkey() as server:
        backlog = Backlog(server.url, server.pid)
        with running(Peer.OURS, slots=1, url=server.url) as worker:
            backlog.wait_idle(worker)
            backlog.add(wait_ms="soon")
            with pytest.raises(PeerFailed, match="completed 0 of 1 jobs") as failure:
                backlog.wait_done(worker, within=1.0)
        backlog.close()
    assert "ready" in str(failure.value)


def test_what_is_put_aside_is_seen_by_nobody_until_it_is_released() -> None:
    with EmbeddedValkey() as server:
        backlog = Backlog(server.url, server.pid)
        client = backlog.client
        backlog.put_aside(5)
        assert (client.llen("bull:noop:wait"), client.zcard("bull:noop:marker")) == (0, 0)
        backlog.release()
        assert client.lrange("bull:noop:wait", 0, -1) == [b"5", b"4", b"3", b"2", b"1"]
        assert client.zrange("bull:noop:marker", 0, -1, withscores=True) == [(b"0", 0.0)]
        backlog.close()


def test_neither_the_observers_commands_nor_those_in_scripts_are_counted() -> None:
    with EmbeddedValkey() as server:
        observer, worker = Backlog(server.url, server.pid), Backlog(server.url, server.pid)
        with counting(observer.client, server.url) as counted:
            observer.put_aside(20)
            for _ in range(3):
                worker.add()
        observer.close()
        worker.close()
    assert counted.commands == 3
