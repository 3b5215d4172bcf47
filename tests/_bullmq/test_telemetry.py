"""A job's telemetry is carried, whatever stands there."""

from __future__ import annotations

import pytest

from worker_core._bullmq.telemetry import Telemetry, read_telemetry


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b"", Telemetry()),
        (b'{"attempts":3}', Telemetry()),
        (b'{"tm":"{\\"traceparent\\":\\"00\\"}"}', Telemetry('{"traceparent":"00"}')),
        (b'{"tm":"a","omc":true}', Telemetry("a", ends_here=True)),
        (b'{"omc":true}', Telemetry(ends_here=True)),
        (b'{"tm":5,"omc":"yes"}', Telemetry()),
        (b'{"tm":', Telemetry()),
        (b'["tm"]', Telemetry()),
    ],
)
def test_telemetry_is_read(raw: bytes, expected: Telemetry) -> None:
    assert read_telemetry(raw) == expected


def test_it_is_passed_on_unless_it_ends_here() -> None:
    assert Telemetry("a").passed_on == "a"
    assert Telemetry("a", ends_here=True).passed_on is None
