"""`hyperpy bench` on this KVM: every row is measured with few rounds, and makes the exits that it says it makes."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from hyperpy import _bench_floor, _bench_verbs, bench
from hyperpy._bench_cases import CASES
from hyperpy._bench_guests import FloorGuest, Guest, Loop
from hyperpy.doctor import flavour

ROUNDS, COUNT = 2, 20
STRING = 32
IS_INTERPRETED = flavour() == "page-table"
# Of each operation: exits, and how many accesses which rung answers.
EXITS: dict[str, tuple[float, str, float]] = (
    {
        f"{access}-{how}": (1, rung, 1)
        for access in ("pio-out", "pio-in", "mmio-write", "mmio-read")
        for how, rung in (
            ("rust", "rust"),
            ("register", "register"),
            ("hook", "python"),
            ("python", "python"),
            ("ones", "unclaimed"),
            ("exit", "unclaimed"),
        )
    }
    # What the kernel answers by itself leaves nothing to count.
    | {f"{access}-kernel": (0, "", 0) for access in ("pio-out", "pio-in", "mmio-write", "mmio-read")}
    # KVM's emulator gives an input's bytes in one exit, and takes an output's one by one.
    | {f"string-out-{rung}": (STRING, rung, STRING) for rung in ("rust", "register", "python")}
    | {f"string-in-{rung}": (1, rung, STRING) for rung in ("rust", "register", "python")}
    | {
        "clock": (0, "", 0),
        "pio-out-ring": (0, "kernel", 1),
        "mmio-write-ring": (0, "kernel", 1),
        "pio-out-doorbell": (0, "", 0),
        "mmio-write-doorbell": (0, "", 0),
        "hlt": (1, "", 0),
        "cpuid": (0, "", 0),
        "msr-read-kernel": (0, "", 0),
        "msr-read-python": (1, "python", 1),
        "msr-write-python": (1, "python", 1),
        "msr-read-exit": (1, "unclaimed", 1),
        "msr-write-exit": (1, "unclaimed", 1),
        "irq-inject": (1, "python", 1),
        "self-ipi": (0, "", 0),
    }
    | ({} if IS_INTERPRETED else {"hypercall-kernel": (0, "", 0), "hypercall-exit": (1, "", 0)})
)
CALLS = tuple(f"python-call-{how}" for how in ("read", "write", "on-read", "on-write"))
VERBS = ("irq-wake", "irqfd-wake", "kick", "create-close", "create-close-irqchip", "map-change", *CALLS)
ONLY_HYPERPY = ("attach-detach",)


def test_every_row_is_tested() -> None:
    calls = {"hypercall-kernel", "hypercall-exit"}
    assert {*EXITS, *VERBS, *ONLY_HYPERPY, *calls} == CASES.keys()


def test_every_row_has_a_group_and_those_of_a_group_follow_one_another() -> None:
    groups = [case.group for case in CASES.values()]
    assert all(groups)
    assert [group for group, _ in itertools.groupby(groups)] == list(dict.fromkeys(groups))


@pytest.mark.parametrize("name", EXITS)
def test_row_makes_the_exits_that_it_is_about_on_both_sides(name: str) -> None:
    row = bench.run(name, rounds=ROUNDS, count=COUNT)[name]
    assert (row.why, row.why_floor) == ("", "")
    assert row.hyperpy is not None
    assert row.floor is not None
    for samples in (row.hyperpy, row.floor):
        assert [len(each) for each in samples.rounds] == [COUNT] * ROUNDS
        assert min(map(min, samples.rounds)) > 0
    exits, rung, hits = EXITS[name]
    assert row.rung == rung
    if rung:
        assert row.per_operation[rung] == hits
    # The loop's tick is an exit too, 20 a second.
    assert exits <= row.per_operation["exits"] < exits + 0.5


@pytest.mark.parametrize("name", EXITS)
def test_floor_makes_as_many_exits(name: str) -> None:
    opened = CASES[name].floor
    assert not isinstance(opened, str)
    with opened() as side:
        side.batch(COUNT)
        assert side.per_operation() == {"exits": EXITS[name][0]}


@pytest.mark.parametrize("name", VERBS)
def test_verb_is_timed_on_both_sides(name: str) -> None:
    row = bench.run(name, rounds=ROUNDS, count=4)[name]
    assert (row.why, row.why_floor) == ("", "")
    assert row.hyperpy is not None
    assert row.floor is not None
    for samples in (row.hyperpy, row.floor):
        assert [len(each) for each in samples.rounds] == [4] * ROUNDS
        assert min(map(min, samples.rounds)) > 0


@pytest.mark.parametrize("name", ONLY_HYPERPY)
def test_row_that_c_lacks_says_so(name: str) -> None:
    row = bench.run(name, rounds=ROUNDS, count=4)[name]
    assert (row.why, row.floor, row.why_floor) == ("", None, "nothing in C is like it")
    assert row.hyperpy is not None


@pytest.mark.skipif(not IS_INTERPRETED, reason="this KVM ends hypercalls: the rows are tested as others are")
def test_what_a_kvm_lacks_is_a_row_that_says_so() -> None:
    report = bench.run("hypercall", rounds=ROUNDS, count=4)
    assert [row.name for row in report.rows] == ["hypercall-kernel", "hypercall-exit"]
    assert all(row.why == row.why_floor != "" for row in report.rows)
    assert "hypercall-exit: no hyperpy: this KVM interprets" in str(report)


def test_run_leaves_the_thread_where_it_was_and_reports_progress() -> None:
    before, said = os.sched_getaffinity(0), []
    bench.run("clock", "pio-in-rust", rounds=1, count=2, progress=lambda *told: said.append(told))
    assert os.sched_getaffinity(0) == before
    assert said == [("clock", 0, 2), ("pio-in-rust", 1, 2)]


def test_run_gives_descriptors_back() -> None:
    bench.run("pio-in-rust", "kick", rounds=1, count=2)
    before = os.listdir("/proc/self/fd")
    bench.run("pio-in-rust", "irq", "kick", "create", "map-change", rounds=1, count=2)
    assert len(os.listdir("/proc/self/fd")) == len(before)


def test_guest_that_does_not_end_its_batch_is_an_error_on_both_sides(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = Loop(bytes.fromhex("fb ebfe"))  # sti; again: jmp again
    monkeypatch.setattr("hyperpy._bench_guests._PATIENCE_S", 0.2)
    with Guest(loop) as side, pytest.raises(bench.BenchError, match="ended before its batch did"):
        side.batch(2)
    with FloorGuest(loop) as side, pytest.raises(bench.BenchError, match="does not end its batch"):
        side.batch(2)


def test_guest_that_ends_otherwise_is_an_error_on_both_sides() -> None:
    loop = Loop(b"\x0f\x0b")  # ud2, without a handler
    for side in (Guest(loop), FloorGuest(loop)):
        with side, pytest.raises(bench.BenchError):
            side.batch(2)


def test_floor_calls_a_method_as_often_as_it_says_with_small_numbers() -> None:
    asked: list[tuple[int, ...]] = []

    def answer(*numbers: int) -> int:
        asked.append(numbers)
        return 2**64 - 1

    times = _bench_floor.calls(answer, 2, has_answer=True, calls=5, count=3)
    assert len(times) == 3
    assert min(times) > 0
    assert asked == [(0, 1)] * 15


def test_floor_of_a_method_that_raises_raises_it() -> None:
    def broken() -> None:
        raise ZeroDivisionError("broken")

    with pytest.raises(ZeroDivisionError, match="broken"):
        _bench_floor.calls(broken, 0, has_answer=False, calls=5, count=3)
    assert _bench_floor.calls(int, 0, has_answer=True, calls=1, count=1)[0] > 0  # and the next one works


def test_floor_without_a_compiler_is_a_column_that_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    _bench_floor.library.cache_clear()
    monkeypatch.setenv("CC", "no-such-compiler")
    row = bench.run("pio-in-rust", rounds=1, count=2)["pio-in-rust"]
    monkeypatch.undo()
    _bench_floor.library.cache_clear()
    assert row.hyperpy is not None
    assert row.floor is None
    assert row.why_floor.startswith("no C compiler for the floor: no-such-compiler (install one")


def test_floor_that_does_not_compile_says_why_and_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HYPERPY_CACHE", str(tmp_path))
    monkeypatch.setattr(_bench_floor, "FLAGS", (*_bench_floor.FLAGS, "-include", "no-such-header.h"))
    _bench_floor.library.cache_clear()
    with pytest.raises(bench.BenchError, match=r"cannot be compiled: .*no-such-header\.h"):
        _bench_floor.library()
    monkeypatch.undo()
    _bench_floor.library.cache_clear()
    assert list((tmp_path / "floor").iterdir()) == []


def test_interrupt_ends_the_command_with_its_status() -> None:
    command = [sys.executable, "-m", "hyperpy", "bench", "--rounds", "100000"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert process.stderr.readline() == f"measuring 1 of {len(CASES)}: {next(iter(CASES))}\n"
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (130, "", "")


# -- interrupts ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["irq-wake", "irqfd-wake"])
def test_first_interrupt_of_a_sleeping_guest_comes_after_it_is_ready(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Long before it takes interrupts; a guest that were not waited for would lose the first one, and the side its patience.
    late = bytes.fromhex("b900000200 ffc9 75fc")  # mov ecx, 0x20000; 1: dec ecx; jnz 1b
    monkeypatch.setattr(_bench_verbs.woken, "code", late + _bench_verbs.woken.code)
    monkeypatch.setattr(_bench_verbs, "_GAP_S", 0.0)
    case = CASES[name]
    for opened in (case.hyperpy, case.floor):
        if isinstance(opened, str):
            continue
        with opened() as side:
            assert len(side.batch(1)) == 1
