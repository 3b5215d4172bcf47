"""A completion that is packed once is the call itself, whatever differs from job to job."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from worker_core._bullmq import calls
from worker_core._bullmq.calls import ClaimOptions, Finish
from worker_core._bullmq.job import JobOptions, KeepJobs, StoredJob
from worker_core._bullmq.keys import QueueKeys
from worker_core._bullmq.packed import pack_completion

names = st.text(st.characters(exclude_characters=":", exclude_categories=["Cs"]), min_size=1)
texts = st.text(st.characters(exclude_categories=["Cs"]))


@given(
    prefix=texts,
    name=names,
    token=texts,
    attempts=st.integers(0, 10),
    keep=st.none() | st.builds(KeepJobs, count=st.integers(-1, 9)),
    job_ids=st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1), min_size=1),
    value=st.binary(),
    at_ms=st.integers(0, 2**53),
    fetch_next=st.booleans(),
)
def test_it_is_packed_as_the_call_is(
    prefix: str,
    name: str,
    token: str,
    attempts: int,
    keep: KeepJobs | None,
    job_ids: list[str],
    value: bytes,
    at_ms: int,
    *,
    fetch_next: bool,
) -> None:
    keys, options = QueueKeys(prefix, name), JobOptions(attempts=attempts, remove_on_complete=keep)
    claim = ClaimOptions(worker="w", lock_ms=30_000)
    packed = pack_completion(keys, token, options, claim, fetch_next=fetch_next)
    for job_id in job_ids:
        call = calls.finish(
            keys,
            StoredJob(id=job_id, options=options),
            token,
            Finish(completed=True, value=value, at_ms=at_ms),
            claim,
            fetch_next=fetch_next,
        )
        expected = call.script.bind(call.keys).pack(call.args)
        assert packed.of(job_id.encode(), at_ms, value) == expected
    assert packed.script is call.script


def test_what_is_constant_in_a_call_does_not_depend_on_the_job() -> None:
    keys, claim = QueueKeys("bull", "mail"), ClaimOptions(worker="w", lock_ms=30_000)

    def finish(job_id: str, *, completed: bool) -> calls.ScriptCall:
        ending = Finish(completed=completed, value=b"x", at_ms=1)
        return calls.finish(keys, StoredJob(id=job_id), "t", ending, claim, fetch_next=True)

    made = [finish("1", completed=True), finish("2", completed=False)]
    assert len({call.keys[: call.constant] for call in made}) == 1
    claims = [calls.claim(keys, token, claim) for token in ("t:1", "t:2")]
    assert len({call.keys[: call.constant] for call in claims}) == 1
