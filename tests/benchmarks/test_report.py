"""The tables and the page."""

from __future__ import annotations

from benchmarks.bench_queue.goals import judge
from benchmarks.bench_queue.peers import Peer
from benchmarks.bench_queue.report import disturbance, section, tables
from benchmarks.bench_queue.samples import Figure, Sample, Samples

SAMPLES = Samples(
    [
        Sample(Figure.JOBS_PER_SECOND, Peer.OURS, 50, 0, 12_000.4),
        Sample(Figure.JOBS_PER_SECOND, Peer.OURS, 50, 1, 10_000.0),
        Sample(Figure.JOBS_PER_SECOND, Peer.NODE, 50, 0, 10_000.0),
        Sample(Figure.JOBS_PER_SECOND, Peer.NODE, 50, 1, 10_000.0),
        Sample(Figure.OTHERS_CPU, Peer.NODE, 50, 0, 3.0),
        Sample(Figure.OTHERS_CPU, Peer.OURS, 50, 1, 31.0),
    ]
)


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_a_row_for_each_worker_with_medians_and_the_ratios_to_it() -> None:
    lines = tables(SAMPLES).splitlines()
    head, _, ours, node = map(cells, lines[2:])
    speed, ratio = head.index("jobs/s"), head.index("ours / theirs, jobs/s")
    assert (ours[1], ours[speed], ours[ratio]) == ("worker-core", "11000", "")
    assert (node[1], node[speed], node[ratio]) == ("Node BullMQ", "10000", "1.10 (1.00 - 1.20)")


def test_the_columns_stand_under_each_other() -> None:
    assert len({len(line) for line in tables(SAMPLES).splitlines()[2:]}) == 1


def test_there_is_no_table_of_what_was_not_measured() -> None:
    assert "Memory" not in tables(SAMPLES)


def test_the_worst_backlog_tells_how_busy_the_machine_was() -> None:
    assert disturbance(SAMPLES) == 31.0
    assert disturbance(Samples()) == 0.0


def test_the_section_holds_the_machine_the_picture_the_tables_and_every_goal() -> None:
    page = section(
        SAMPLES, judge(SAMPLES), day="2030-01-02", machine={"CPU": "a fast one, 2 cores"}
    )
    assert "on 2030-01-02" in page
    assert "- CPU: a fast one, 2 cores" in page
    assert "(queue.svg)" in page
    assert tables(SAMPLES) in page
    for judgement in judge(SAMPLES):
        assert f"- {judgement}\n" in page
