"""Observers are told of each step, in order, and never cost a job."""

from __future__ import annotations

from structlog.testing import capture_logs

from worker_core._runtime.observers import notifier
from worker_core.job import Job, JobEvent, JobStep

JOB = Job(
    id="1",
    queue="q",
    name="n",
    type="chat",
    attempt=1,
    max_attempts=1,
    priority=0,
    created_ms=0,
)


def event(step: JobStep = JobStep.CLAIMED) -> JobEvent:
    return JobEvent(step=step, job=JOB)


class Watcher:
    def __init__(self, log: list[str], name: str, *, faulty: bool = False) -> None:
        self.log = log
        self.name = name
        self.faulty = faulty

    def observe(self, event: JobEvent) -> None:
        self.log.append(f"{self.name} {event.step.value}")
        if self.faulty:
            raise RuntimeError("an observer with a fault")


def test_without_observers_there_is_nobody_to_tell() -> None:
    assert notifier([]) is None


def test_all_are_told_in_order() -> None:
    log: list[str] = []
    notify = notifier([(name, Watcher(log, name).observe) for name in ("b", "a", "c")])
    assert notify is not None
    notify(event(JobStep.STARTED))
    assert log == ["b started", "a started", "c started"]


def test_one_that_raises_is_logged_by_name_and_asked_no_more() -> None:
    log: list[str] = []
    faulty = Watcher(log, "bad", faulty=True)
    notify = notifier([("bad", faulty.observe), ("good", Watcher(log, "good").observe)])
    assert notify is not None
    with capture_logs() as logs:
        notify(event())
        notify(event(JobStep.ENDED))
    assert log == ["bad claimed", "good claimed", "good ended"]
    assert [(entry["plugin"], entry["log_level"]) for entry in logs] == [("bad", "error")]
