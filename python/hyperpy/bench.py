"""What every kind of exit and every verb costs on this machine, beside the least that a C program can do.

`run` measures what `hyperpy bench` does; `device` and `measure` measure a device and a guest of your own. What they return is
frozen, prints as a table, and is kept as JSON; `html()` makes a page of it:

    >>> from hyperpy import bench
    >>> report = bench.run("pio-in-rust", rounds=2, count=20)
    >>> report["pio-in-rust"].per_operation["rust"]
    1.0
    >>> report.html().startswith("<!DOCTYPE html>")
    True

Hyperpy's side and C's take turns, in rounds. The C floor is compiled by the system's compiler when it is first wanted; without
one its columns are empty and the report says so. A verdict is given only where the ranges of the rounds do not overlap, and from
seven rounds on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Literal

from hyperpy._bench_case import Case
from hyperpy._bench_cases import CASES
from hyperpy._bench_comparison import Comparison, Pair
from hyperpy._bench_floor import BenchError
from hyperpy._bench_own import cases_of_device, rows_of_guest
from hyperpy._bench_rounds import ROUNDS, Progress, check, ended, host, measured
from hyperpy._bench_values import MIN_ROUNDS, Kept, Report, Row, Samples, Verdict, unknown, verdict
from hyperpy.errors import KvmUnavailable
from hyperpy.machine import Machine
from hyperpy.testing import Access

__all__ = [
    "MIN_ROUNDS",
    "ROUNDS",
    "BenchError",
    "Comparison",
    "Kept",
    "Pair",
    "Report",
    "Row",
    "Samples",
    "Verdict",
    "compare",
    "device",
    "measure",
    "names",
    "run",
    "verdict",
]


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

    Example:
        >>> report = run("clock", "pio-in-rust", rounds=2, count=20)
        >>> [row.name for row in report.rows], report["clock"].verdict
        (['clock', 'pio-in-rust'], '')
    """
    check(rounds, count)
    cases, facts = _chosen(wanted), host()
    if facts["flavour"] == "none":
        raise KvmUnavailable("no usable /dev/kvm to measure", hint="`hyperpy doctor` says what is missing")
    return measured(cases, facts, rounds, count, progress)


def device(
    device: object,
    *,
    accesses: Mapping[str, Access] | Iterable[Access | tuple[int, int] | tuple[int, int, int]] | None = None,
    bus: Literal["mmio", "pio"] = "mmio",
    size: int | str | None = None,
    irq: bool = False,
    rounds: int = ROUNDS,
    count: int | None = None,
    progress: Progress | None = None,
) -> Report:
    """Measure accesses to a device of yours: by a guest under KVM beside C, and alone, without an exit.

    The accesses are made, thousands of times: what the device's methods do is done. Each has two rows, one by a guest and one
    whose name ends with "-alone": the same access from a `DeviceBench`. Without KVM, or without a C compiler, rows say so.

    Arguments:
        device: any device, not attached anywhere.
        accesses: what to measure, as `hyperpy.testing.Access` or tuples: (offset, size) reads, (offset, size, value) writes;
            or a mapping of names to them. None: every declared register is read and written, the first one of an
            array, those with `when=` left out; a device that declares none is read and written at offset 0.
        bus: where it is attached.
        size: length of its range in bytes, or "4K", if it does not know its own.
        irq: whether it is given an interrupt line under KVM. The guest takes no interrupts.
        rounds: as for `run`.
        count: as for `run`, of each row.
        progress: as for `run`.

    Raises:
        TypeError: the object is no device, or its size is not known.
        ValueError: an access is not in the device's range, or no guest makes it.
        Exception: what the device raises.

    Example:
        >>> from hyperpy import Device, Register
        >>> class Scratch(Device):
        ...     kept = Register(0x0)
        >>> report = device(Scratch(), rounds=2, count=20)
        >>> [row.name for row in report.rows]
        ['kept-read', 'kept-write', 'kept-read-alone', 'kept-write-alone']
        >>> report["kept-read-alone"].per_second > 1e6
        True
    """
    check(rounds, count)
    return measured(cases_of_device(device, accesses, bus, size, irq), host(), rounds, count, progress)


def measure(
    guest: Machine | Callable[[], Machine], *, name: str = "guest", rounds: int = ROUNDS, seconds: float = 0.1
) -> Report:
    """Measure the exits of a guest of yours: time and processor time of each, and how many a second.

    It is run for `seconds` in each round, on from every exit that nobody answers. A sample is the mean of a round: the time from one
    exit to the next, in which the guest runs too. The loop's own tick is an exit, 20 a second.

    Arguments:
        guest: a machine that is loaded, which is left as it is after the last round; or a function that makes one, whose machines
            are closed: a guest that ends within a round is then made anew for the next one.
        name: what the row is called; there is a second one with "-cpu" behind it.
        rounds: how many figures there are; fewer than seven give no verdict in a comparison.
        seconds: how long a round is, above 0.

    Raises:
        BenchError: the guest ended, or made no exit, so that there is nothing to tell.
        Exception: what `Machine.run` raises.

    Example:
        >>> from hyperpy import DebugExit, Flat, Machine
        >>> def polling() -> Machine:
        ...     m = Machine(memory="1M")
        ...     m.attach(DebugExit(), pio=0xF4)
        ...     m.load(Flat(bytes.fromhex("e4f4 ebfc"), mode="real"))  # again: in al, 0xf4; jmp again
        ...     return m
        >>> report = measure(polling, rounds=2, seconds=0.01)
        >>> report["guest"].rung, report["guest"].per_second > 1000
        ('rust', True)
    """
    check(rounds)
    if not seconds > 0:
        raise ValueError(f"length of a round is out of range: {seconds}\n\nhint: seconds, above 0")
    facts = host()
    rows = rows_of_guest(guest, name, rounds, seconds)
    return Report(tuple(rows), ended(facts))


def compare(before: Report, after: Report) -> Comparison:
    """Hold two reports against each other; see `Report.load`.

    Example:
        >>> old = run("pio-in-rust", rounds=2, count=20)
        >>> [pair.name for pair in compare(old, old).pairs]
        ['pio-in-rust']
    """
    return Comparison(before, after)


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
