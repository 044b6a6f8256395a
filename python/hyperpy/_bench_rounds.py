"""Measuring: rounds in which the sides of a row take turns, and what is told of the machine that they were measured on."""

from __future__ import annotations

import contextlib
import os
import platform
import time
from collections.abc import Callable, Iterator
from statistics import median

from hyperpy._bench_case import Case
from hyperpy._bench_floor import BenchError
from hyperpy._bench_guests import MOST, Side
from hyperpy._bench_values import MIN_ROUNDS, Report, Row, Samples
from hyperpy.doctor import flavour
from hyperpy.errors import KvmError, KvmUnavailable

__all__ = ["ROUNDS", "Progress", "check", "ended", "host", "measured"]

ROUNDS = 9
# A round of one side takes about this long, so that both sides meet the same disturbances; at least and at most so many.
_ROUND_NS = 20e6
_LEAST = 12
_WARM_UP = 8

Progress = Callable[[str, int, int], object]


def measured(
    cases: list[Case], facts: dict[str, str], rounds: int, count: int | None, progress: Progress | None
) -> Report:
    """Measure rows, one after the other, on the machine that `host` has told of."""
    rows = []
    for number, case in enumerate(cases):
        if progress is not None:
            progress(case.name, number, len(cases))
        rows.append(_row(case, rounds, count))
    return Report(tuple(rows), ended(facts))


def check(rounds: int, count: int | None = None) -> None:
    """Refuse numbers of rounds and operations that cannot be."""
    if rounds < 1:
        raise ValueError(
            f"number of rounds is out of range: {rounds}\n\nhint: {MIN_ROUNDS} or more give verdicts"
        )
    if count is not None and not 1 < count <= MOST:
        raise ValueError(
            f"number of operations is out of range: {count}\n\nhint: from 2 to {MOST} in a round"
        )


def host() -> dict[str, str]:
    """What is told of the machine, before anything is measured."""
    return {
        "flavour": flavour(),
        "kernel": platform.release(),
        "processor": _processor(),
        "cpus": str(len(os.sched_getaffinity(0))),
        "python": platform.python_version(),
        "hyperpy": __import__("hyperpy").__version__,
        "when": time.strftime("%Y-%m-%d %H:%M"),
        "load": f"{os.getloadavg()[0]:.2f}",
    }


def ended(facts: dict[str, str]) -> dict[str, str]:
    """The same, with the load once everything is measured."""
    return {**facts, "load": f"{facts['load']} to {os.getloadavg()[0]:.2f}"}


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as lines:
            return next(
                (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown"
            )
    except OSError:
        return "unknown"


def _row(case: Case, rounds: int, count: int | None) -> Row:
    with contextlib.ExitStack() as stack:
        if case.alone:
            stack.enter_context(_on_one_processor())
        hyperpy, why = _opened(stack, case.hyperpy)
        floor, why_floor = _opened(stack, case.floor)
        sides = [side for side in (hyperpy, floor) if side is not None]
        samples = dict(zip(map(id, sides), _rounds(sides, rounds, count, case.most), strict=True))
        return Row(
            case.name,
            case.title,
            samples.get(id(hyperpy)),
            samples.get(id(floor)),
            why,
            why_floor,
            {} if hyperpy is None else hyperpy.per_operation(),
            case.group,
            case.target,
            case.target_ns,
        )


def _opened(stack: contextlib.ExitStack, side: Callable[[], Side] | str) -> tuple[Side | None, str]:
    """The side, warm, or None and why there is none."""
    if isinstance(side, str):
        return None, side
    try:
        opened = stack.enter_context(side())
        opened.batch(_WARM_UP)
    except (BenchError, KvmError, KvmUnavailable) as error:
        hint = getattr(error, "hint", None)
        return None, error.message + (f" ({hint})" if hint else "")
    return opened, ""


def _rounds(sides: list[Side], rounds: int, count: int | None, most: int) -> list[Samples]:
    """Rounds in which each side has two turns, so ordered that what one leaves behind meets the other as often."""
    if not sides:
        return []
    if count is None:
        dearest = max(median(side.batch(_WARM_UP)) for side in sides)
        count = max(_LEAST, min(int(_ROUND_NS / max(dearest, 1.0)), most))
    count = min(count, most)
    found: list[list[tuple[float, ...]]] = [[] for _ in sides]
    for number in range(rounds):
        order = list(range(len(sides)))
        if number % 2:
            order.reverse()
        turns: list[list[float]] = [[] for _ in sides]
        for turn, part in ((order, count - count // 2), (order[::-1], count // 2)):
            for side in turn:
                turns[side] += sides[side].batch(part)
        for side, samples in enumerate(turns):
            found[side].append(tuple(samples))
    return [Samples(tuple(each)) for each in found]


@contextlib.contextmanager
def _on_one_processor() -> Iterator[None]:
    """Keep this thread on one processor, so that both sides have the same; put back what was before."""
    before = os.sched_getaffinity(0)
    with contextlib.suppress(OSError):
        os.sched_setaffinity(0, {_current(before)})
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            os.sched_setaffinity(0, before)


def _current(allowed: set[int]) -> int:
    """The processor that this thread is on: field 39 of its stat (proc(5))."""
    try:
        with open("/proc/thread-self/stat", encoding="utf-8", errors="replace") as file:
            processor = int(file.read().rpartition(")")[2].split()[36])
    except (OSError, ValueError, IndexError):
        return min(allowed)
    return processor if processor in allowed else min(allowed)
