"""The ledger: what became of every job, from the queue's own keys and events and the engine's own
log. The workers are not asked."""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING, Any

import attrs

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import redis

    from tests.chaos.strikes import Strike

__all__ = ["Ledger", "label_of", "prompt_of", "take_ledger"]

_LISTS = ("wait", "active", "paused")
_SETS = ("completed", "failed", "delayed", "prioritized", "waiting-children")
_FINAL = frozenset({"completed", "failed"})


def prompt_of(number: int) -> str:
    """What job `number` asks; the fake engine answers the same words."""
    return f"job {number} asks for six words"


def label_of(number: int) -> str:
    """The name of an option that the job carries: the engine's log shows those, and no contents."""
    return f"job-{number}"


@attrs.frozen(kw_only=True)
class Ledger:
    """Counts and job ids; `problems` is empty when every promise was kept."""

    jobs: int
    completed: int
    failed: int
    lost: Sequence[str]
    """In no list and no set, or without their hash."""
    recorded_twice: Sequence[str]
    """In two final sets, or with more than one final event."""
    unannounced: Sequence[str]
    """In a final set without its event: whoever listens waits for ever."""
    stuck: Sequence[str]
    """Not in a final set after everything settled."""
    wrong: Sequence[str]
    """Completed with another answer than their own."""
    strikes: Sequence[Strike]
    server_restarts: int
    stalls: int
    """How often the stalled check put a job back."""
    engine_calls: int
    engine_calls_again: int
    """Calls beyond the first of a job: what the kills cost."""
    seconds: float

    def kills(self, phase: str) -> int:
        """How many kills are proved to have hit a job in this phase."""
        return sum(bool(strike.hits.get(phase)) for strike in self.strikes)

    def jobs_hit(self, phase: str) -> int:
        """How many jobs they hit there."""
        return sum(len(strike.hits.get(phase, ())) for strike in self.strikes)

    @property
    def problems(self) -> dict[str, object]:
        """What must not be, with the jobs' ids."""
        found = {
            "lost": self.lost,
            "recorded twice": self.recorded_twice,
            "unannounced": self.unannounced,
            "stuck": self.stuck,
            "wrong answers": self.wrong,
        }
        return {name: ids for name, ids in found.items() if ids}

    def table(self) -> str:
        """For people."""
        rows: list[tuple[str, object]] = [
            ("jobs", self.jobs),
            ("completed", self.completed),
            ("failed", self.failed),
            ("lost", len(self.lost)),
            ("recorded twice", len(self.recorded_twice)),
            ("final without its event", len(self.unannounced)),
            ("stuck", len(self.stuck)),
            ("wrong answers", len(self.wrong)),
            ("workers killed -9", len(self.strikes)),
            *(
                (f"  kills that hit {phase}", f"{self.kills(phase)} ({self.jobs_hit(phase)} jobs)")
                for phase in ("claim", "run", "finish")
            ),
            ("Valkey killed and restarted", self.server_restarts),
            ("put back by the stalled check", self.stalls),
            ("engine calls", self.engine_calls),
            ("  whose job ran again", self.engine_calls_again),
            ("wall time", f"{self.seconds:.1f} s"),
        ]
        width = max(len(name) for name, _ in rows)
        return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)


def take_ledger(
    client: redis.Redis,
    queue: str,
    jobs: Mapping[str, int],
    *,
    engine_log: Iterable[Mapping[str, Any]],
    strikes: Sequence[Strike] = (),
    server_restarts: int = 0,
    seconds: float = 0.0,
) -> Ledger:
    """Read the queue when nobody writes to it any more. `jobs` are ids with their numbers."""
    base = f"bull:{queue}"
    places = _places(client, base)
    events = _events(client, base)
    added = {job_id for kind, job_id in events if kind == "added"}
    assert added >= jobs.keys(), "the event stream was trimmed: it proves nothing"
    finals = Counter(job_id for kind, job_id in events if kind in _FINAL)
    calls = Counter(label for request in engine_log for label in request["options"])
    there = {job_id for job_id in jobs if client.exists(f"{base}:{job_id}")}
    final = {job_id for job_id in jobs if places.get(job_id, set()) & _FINAL}
    return Ledger(
        jobs=len(jobs),
        completed=sum("completed" in where for where in places.values()),
        failed=sum("failed" in where for where in places.values()),
        lost=[job_id for job_id in jobs if not places.get(job_id) or job_id not in there],
        recorded_twice=[j for j in jobs if finals[j] > 1 or len(places.get(j, ())) > 1],
        unannounced=[job_id for job_id in final if not finals[job_id]],
        stuck=[job_id for job_id in jobs if places.get(job_id) and job_id not in final],
        wrong=[
            job_id
            for job_id, number in jobs.items()
            if "completed" in places.get(job_id, ())
            and _answer(client, base, job_id) != prompt_of(number)
        ],
        strikes=strikes,
        server_restarts=server_restarts,
        stalls=sum(kind == "stalled" for kind, _ in events),
        engine_calls=calls.total(),
        engine_calls_again=calls.total() - len(calls),
        seconds=seconds,
    )


def _places(client: redis.Redis, base: str) -> dict[str, set[str]]:
    """Where every job stands; one that stands twice in a list, too, stands in two places."""
    places: dict[str, set[str]] = {}
    for name in _LISTS:
        for position, raw in enumerate(client.lrange(f"{base}:{name}", 0, -1)):
            where = places.setdefault(raw.decode(), set())
            where.add(f"{name}[{position}]" if name in where else name)
    for name in _SETS:
        for raw in client.zrange(f"{base}:{name}", 0, -1):
            places.setdefault(raw.decode(), set()).add(name)
    return places


def _events(client: redis.Redis, base: str) -> list[tuple[str, str]]:
    entries = client.xrange(f"{base}:events")
    return [(f.get(b"event", b"").decode(), f.get(b"jobId", b"").decode()) for _, f in entries]


def _answer(client: redis.Redis, base: str, job_id: str) -> object:
    value = client.hget(f"{base}:{job_id}", "returnvalue")
    return json.loads(value or b"null")["answer"]["message"]["content"] if value else None
