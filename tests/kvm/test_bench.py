"""`hyperpy bench` on this KVM: every row is measured with few rounds, and makes the exits that it says it makes."""

from __future__ import annotations

import os

import pytest

from hyperpy import bench
from hyperpy._bench_cases import CASES

ROUNDS, COUNT = 2, 20
# Exits of each operation, and who answers them.
EXITS = {"clock": (0, "")} | {
    f"{access}-{how}": (1, rung)
    for access in ("pio-out", "pio-in", "mmio-write", "mmio-read")
    for how, rung in (("rust", "rust"), ("python", "python"), ("ones", "unclaimed"), ("exit", "unclaimed"))
}


@pytest.mark.parametrize("name", EXITS)
def test_row_makes_the_exits_that_it_is_about_on_both_sides(name: str) -> None:
    row = bench.run(name, rounds=ROUNDS, count=COUNT)[name]
    assert (row.why, row.why_floor) == ("", "")
    assert row.hyperpy is not None
    assert row.floor is not None
    for samples in (row.hyperpy, row.floor):
        assert [len(each) for each in samples.rounds] == [COUNT] * ROUNDS
        assert min(map(min, samples.rounds)) > 0
    exits, rung = EXITS[name]
    assert row.rung == rung
    if rung:
        assert row.per_operation[rung] == 1.0
    # The loop's tick is an exit too, 20 a second.
    assert exits <= row.per_operation["exits"] < exits + 0.5


@pytest.mark.parametrize("name", EXITS)
def test_floor_makes_as_many_exits(name: str) -> None:
    opened = CASES[name].floor
    assert not isinstance(opened, str)
    with opened() as side:
        side.batch(COUNT)
        assert side.per_operation() == {"exits": EXITS[name][0]}


def test_run_leaves_the_thread_where_it_was_and_reports_progress() -> None:
    before, said = os.sched_getaffinity(0), []
    bench.run("clock", "pio-in-rust", rounds=1, count=2, progress=lambda *told: said.append(told))
    assert os.sched_getaffinity(0) == before
    assert said == [("clock", 0, 2), ("pio-in-rust", 1, 2)]
