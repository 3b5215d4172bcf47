"""Taking jobs: who took them, in which order, and with how few commands."""

from __future__ import annotations

import anyio

from tests.conformance.reference import peer, symptom
from tests.conformance.support import (
    BASE,
    calls_of,
    count_in,
    is_blocked,
    put_together,
    times_of,
)
from tests.integration.support import PROBE, Ledger, probe, running
from worker_core.testing.polling import eventually_async
from worker_core.testing.proxy import open_chaos_proxy

ONE_SLOT = {"worker": {"concurrency": 1}}


@peer("sets processedBy")
async def test_a_job_says_which_worker_ran_it(valkey, node):
    events = await node.listen(PROBE)
    async with running(valkey.url, probe(), {"worker": {"id": "gpu-7"}}):
        job_id = await node.add_one(PROBE)
        await events.wait_for("completed", job_id)
    assert (await node.job(PROBE, job_id))["processedBy"] == "gpu-7"


@peer("workers are listed with their names")
async def test_node_lists_each_worker_once_for_each_of_its_queues(valkey, node):
    def names(found):
        return sorted(one["rawname"].rpartition(":w:")[2] for one in found)

    both = probe(queues=("one", "two"))
    async with (
        running(valkey.url, both, {"worker": {"id": "first", "concurrency": 20}}),
        running(valkey.url, probe(queues=("two",)), {"worker": {"id": "second"}}),
    ):

        async def listed():
            one, two = [names(await node.call(q, "getWorkers")) for q in ("one", "two")]
            return (one, two) == (["first"], ["first", "second"])

        await eventually_async(listed)
        # The name is given again on each new connection.
        for one in valkey.client.client_list():
            if ":w:" in one["name"]:
                valkey.client.client_kill_filter(_id=one["id"])
        await eventually_async(listed)


@peer("recovers from a block that never settles")
async def test_a_block_whose_answer_never_comes_is_given_up(valkey, node):
    """The server has answered, the answer is lost, and the connection looks alive."""
    events = await node.listen(PROBE)
    async with open_chaos_proxy("127.0.0.1", valkey.server.port) as proxy:
        url = f"redis://127.0.0.1:{proxy.port}"
        async with running(url, probe(), {"queue": {"drain_delay": "200ms"}}):
            await eventually_async(lambda: is_blocked(valkey.client))
            connections = proxy.connections
            proxy.blackhole()
            job_id = await node.add_one(PROBE)
            # After the block's own time and a second more its connection is given up.
            await eventually_async(lambda: proxy.connections < connections, within=4)
            proxy.restore()
            await events.wait_for("completed", job_id)


@peer("a standard job is not held back by a delayed one")
async def test_a_job_beside_a_delayed_one_begins_at_once(valkey, node):
    events = await node.listen(PROBE)
    async with running(valkey.url, probe(), ONE_SLOT):
        drained = await node.add_one(PROBE)
        await events.wait_for("completed", drained)
        standard, delayed = await node.add(
            PROBE, {"data": {"seconds": 0.3}}, {"data": {}, "opts": {"delay": 1500}}
        )
        await events.wait_for("completed", delayed)
    added, began, _ = times_of(valkey.client, standard)
    assert began - added < 500
    added, began, _ = times_of(valkey.client, delayed)
    assert 1500 <= began - added < 2000


@peer("priority order")
async def test_priorities_are_kept_and_within_one_the_order_of_arrival(valkey, node):
    """Also when the counter that orders jobs within a priority passes 32 bits."""
    jobs = [{"data": {"n": 1 + n % 3}, "opts": {"priority": 1 + n % 3}} for n in range(18)]
    ids = await node.add(PROBE, *jobs)
    valkey.client.incrby(f"{BASE}:pc", 2**31)
    ids += await node.add(PROBE, *jobs)
    ledger = Ledger()
    async with running(valkey.url, probe(ledger), ONE_SLOT):
        await eventually_async(lambda: count_in(valkey.client, "completed") == len(ids))
    by_priority = [ids[n] for priority in range(3) for n in range(priority, len(ids), 3)]
    assert ledger.began == by_priority


@symptom("priority ignored or starved")
async def test_our_order_under_a_mixed_load_is_that_of_a_node_worker(valkey, node):
    """Jobs without a priority come first, then those with one, the lowest number before others."""
    loads = [0, 3, 1, 0, 2, 0, 1, 3, 0, 2]
    jobs = [{"data": {}, "opts": {"priority": p} if p else {}} for p in loads]
    for queue in ("ours", "theirs"):
        await node.call(queue, "pause")
        await node.add(queue, *jobs)
    ledger = Ledger()
    async with running(valkey.url, probe(ledger, queues=("ours",)), ONE_SLOT):
        await node.work("theirs", concurrency=1)
        for queue in ("ours", "theirs"):
            await node.call(queue, "resume")
            await eventually_async(
                lambda queue=queue: count_in(valkey.client, "completed", queue) == len(jobs)
            )
    assert ledger.began == node.ran
    assert [loads[int(job_id) - 1] for job_id in ledger.began] == sorted(loads)


@symptom("priority ignored or starved")
async def test_a_job_of_priority_1_is_taken_as_soon_as_a_steady_load_leaves_a_gap(valkey, node):
    """The slot never rests: each finish brings a job along, and has to see both kinds."""
    ledger = Ledger()
    async with running(valkey.url, probe(ledger), ONE_SLOT):
        for n in range(12):
            if n == 5:
                urgent = await node.add_one(PROBE, {"seconds": 0.05}, priority=1)
            job_id = await node.add_one(PROBE, {"seconds": 0.05})
            await eventually_async(lambda job_id=job_id: job_id in ledger.ended)
        await eventually_async(lambda: urgent in ledger.ended)
    assert ledger.began.index(urgent) <= 6


@peer("moveToActive calls = concurrency + 1 when idle")
async def test_a_backlog_is_claimed_once_for_each_slot(valkey):
    """What a slot runs after its first job comes along with a finish, and does not ask for itself."""
    client, slots, jobs = valkey.client, 13, 57
    settings = {"worker": {"concurrency": slots}, "queue": {"stalled_interval": "1h"}}
    async with running(valkey.url, probe(), settings):
        await eventually_async(lambda: is_blocked(client))
        before = [calls_of(client, command) for command in ("evalsha", "bzpopmin")]
        put_together(client, jobs, {"seconds": 0.1})
        await eventually_async(lambda: count_in(client, "completed") == jobs)
        await eventually_async(lambda: is_blocked(client))
        after = [calls_of(client, command) for command in ("evalsha", "bzpopmin")]
    scripts, blocks = (b - a for a, b in zip(before, after, strict=True))
    # Each job is finished by one script. When all have ended, one claim finds nothing, and one
    # more the marker that a claim leaves; BullMQ's own test stops counting before that one.
    assert scripts - jobs <= slots + 2
    assert blocks <= 2


@peer("moveToActive calls = concurrency + 1 when idle")
async def test_a_backlog_smaller_than_the_slots_is_claimed_once_for_each_job(valkey):
    client, jobs = valkey.client, 50
    put_together(client, jobs, {"seconds": 0.5})
    before = calls_of(client, "evalsha")
    settings = {"worker": {"concurrency": 100}, "queue": {"stalled_interval": "1h"}}
    async with running(valkey.url, probe(), settings):
        await eventually_async(lambda: count_in(client, "completed") == jobs)
        await eventually_async(lambda: is_blocked(client))
        scripts = calls_of(client, "evalsha") - before
    at_start = 2  # the stalled check, and a look at who is to be cancelled
    # One more claim finds nothing, and one follows the marker that it left.
    assert scripts - jobs - at_start <= jobs + 2


@symptom("idle busy spin")
async def test_idle_slots_ask_for_nothing(valkey):
    """One claim for each block that ran out, however many slots there are, and no short blocks."""
    client, blocks = valkey.client, 3
    settings = {
        "worker": {"concurrency": 200},
        "queue": {"drain_delay": "1s", "stalled_interval": "1h"},
    }
    async with running(valkey.url, probe(), settings):
        await eventually_async(lambda: is_blocked(client))
        scripts, blocked = calls_of(client, "evalsha"), calls_of(client, "bzpopmin")
        since = anyio.current_time()
        await eventually_async(lambda: calls_of(client, "bzpopmin") >= blocked + blocks)
        assert anyio.current_time() - since > blocks - 1
        assert calls_of(client, "evalsha") - scripts <= blocks
