"""The queue in front of the socket."""

from __future__ import annotations

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker_core.errors import RedisUnavailable
from worker_core.redis import LinkOptions
from worker_core.redis.outbox import Call, Outbox


def call(data: bytes) -> Call:
    return Call(data, None)


steps = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.integers(0, 30)),
        st.tuples(st.just("take"), st.integers(1, 60)),
        st.tuples(st.just("withdraw"), st.integers(0, 20)),
        st.tuples(st.just("put back"), st.integers(0, 5)),
    )
)


@given(steps)
async def test_it_keeps_order_size_and_nothing_withdrawn(steps: list[tuple[str, int]]) -> None:
    outbox = Outbox(LinkOptions(max_queued_calls=1000))
    model: list[Call] = []
    taken: list[Call] = []
    for step, number in steps:
        match step:
            case "put":
                model.append(call(b"x" * number))
                outbox.put(model[-1])
            case "take":
                batch = outbox.take(number)
                assert batch == model[: len(batch)]
                assert batch or not model
                # No more than the size asked for, but for the call that passes it.
                assert sum(len(call.data) for call in batch[:-1]) < max(number, 1) or (
                    sum(len(call.data) for call in batch) <= number
                )
                del model[: len(batch)]
                taken = batch
            case "withdraw":
                everything = [*model, *taken]
                if number < len(everything):
                    outbox.withdraw(everything[number])
                    model = [call for call in model if call is not everything[number]]
            case "put back":
                back, taken = taken[:number], []
                outbox.put_back(back)
                model[:0] = [call for call in back if not call.abandoned]
            case _:
                raise AssertionError(step)
        assert len(outbox) == len(model)
    assert outbox.drain() == model
    # All of the bytes are accounted for: a full allowance is there again.
    bounded = attrs.evolve(LinkOptions(), max_queued_bytes=1)
    outbox._options = bounded
    outbox.put(call(b"x"))
    with pytest.raises(RedisUnavailable, match="1 bytes wait"):
        outbox.put(call(b"x"))
