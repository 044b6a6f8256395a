"""What every kind of exit and every verb costs on this machine, beside the least that a C program can do.

`run` measures what `hyperpy bench` does; `measure` and `device` measure a guest's operation, a function and a device of your
own. All of them do hyperpy's side and C's in turn, in rounds, and return frozen values that print as tables:

    >>> from hyperpy import bench
    >>> report = bench.run("pio-in-rust", rounds=2, count=20)
    >>> report["pio-in-rust"].per_operation["rust"]
    1.0

The C floor is compiled by the system's compiler when it is first wanted; without one its columns are empty and the report says
so. A verdict is given only where the ranges of the rounds do not overlap, and from seven rounds on.
"""

from __future__ import annotations

import contextlib
import os
import platform
import time
from collections.abc import Callable, Iterator
from statistics import median

from hyperpy._bench_cases import CASES, Case
from hyperpy._bench_floor import BenchError
from hyperpy._bench_guests import MOST, Side
from hyperpy._bench_values import (
    MIN_ROUNDS,
    Comparison,
    Pair,
    Report,
    Row,
    Samples,
    Verdict,
    unknown,
    verdict,
)
from hyperpy.doctor import flavour
from hyperpy.errors import KvmError, KvmUnavailable

__all__ = [
    "MIN_ROUNDS",
    "ROUNDS",
    "BenchError",
    "Comparison",
    "Pair",
    "Report",
    "Row",
    "Samples",
    "Verdict",
    "compare",
    "names",
    "run",
    "verdict",
]

ROUNDS = 9
# A round of one side takes about this long, so that both sides meet the same disturbances; at least and at most so many.
_ROUND_NS = 20e6
_LEAST = 12
_WARM_UP = 8

Progress = Callable[[str, int, int], object]


def names() -> dict[str, str]:
    """What can be measured by name, and what each is.

    Example:
        >>> names()["pio-in-rust"]
        'read of a port, answered by a device in Rust'
    """
    return {case.name: case.title for case in CASES.values()}


def run(
    *wanted: str, rounds: int = ROUNDS, count: int | None = None, progress: Progress | None = None
) -> Report:
    """Measure what is named, or everything.

    Arguments:
        wanted: names as `names()` has them, or beginnings of names: "pio" is every row of ports.
        rounds: how often both sides take their turns; fewer than seven give no verdict.
        count: operations of each side in a round; None: as many as take about 20 ms, 12 to 1000.
        progress: called before each row with its name, its number from 0, and how many there are.

    What this KVM lacks is a row that says so.

    Raises:
        BenchError: there is nothing by that name.
        KvmUnavailable: /dev/kvm cannot be used.
    """
    _check(rounds, count)
    cases = _chosen(wanted)
    host, rows = _host(), []
    for number, case in enumerate(cases):
        if progress is not None:
            progress(case.name, number, len(cases))
        rows.append(_row(case, rounds, count))
    host["load"] += f" to {os.getloadavg()[0]:.2f}"
    return Report(tuple(rows), host)


def compare(before: Report, after: Report) -> Comparison:
    """Hold two reports against each other; see `Report.load`.

    Example:
        >>> old = run("pio-in-rust", rounds=2, count=20)
        >>> [pair.name for pair in compare(old, old).pairs]
        ['pio-in-rust']
    """
    return Comparison(before, after)


def _check(rounds: int, count: int | None) -> None:
    if rounds < 1:
        raise ValueError(
            f"number of rounds is out of range: {rounds}\n\nhint: {MIN_ROUNDS} or more give verdicts"
        )
    if count is not None and not 1 < count <= MOST:
        raise ValueError(
            f"number of operations is out of range: {count}\n\nhint: from 2 to {MOST} in a round"
        )


def _chosen(wanted: tuple[str, ...]) -> list[Case]:
    chosen: dict[str, Case] = {}
    for name in wanted:
        found = (
            {name: CASES[name]}
            if name in CASES
            else {n: c for n, c in CASES.items() if n.startswith(f"{name}-")}
        )
        if not found:
            raise unknown(name, list(CASES))
        chosen |= found
    return list(chosen.values() if wanted else CASES.values())


def _host() -> dict[str, str]:
    kind = flavour()
    if kind == "none":
        raise KvmUnavailable("no usable /dev/kvm to measure", hint="`hyperpy doctor` says what is missing")
    return {
        "flavour": kind,
        "kernel": platform.release(),
        "processor": _processor(),
        "cpus": str(len(os.sched_getaffinity(0))),
        "python": platform.python_version(),
        "hyperpy": __import__("hyperpy").__version__,
        "when": time.strftime("%Y-%m-%d %H:%M"),
        "load": f"{os.getloadavg()[0]:.2f}",
    }


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as lines:
            return next(
                (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown"
            )
    except OSError:
        return "unknown"


# -- measuring -------------------------------------------------------------------------------------------------------


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
