"""How soon the planted bugs are found (examples/planted, docs/reference/planted-bugs.md): by chance, and by the fuzzer.

Prints one JSON object a line, for each bug, seed and way, as soon as it is known; then a table on standard error. Seconds are
processor time, on one core. `python benches/python/planted.py --how uniform --seeds 1` looks only at what chance finds.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from examples.planted import PLANTED, Planted, uniform

SECONDS = 60.0
SEEDS = 10
AT_ONCE = 50  # executions between two looks at what was found


def find(planted: Planted, seed: int, seconds: float) -> uniform.Found | None:
    """Look for a bug with the fuzzer; the one place that knows how it is called."""
    from hyperpy.fuzz import DeviceFuzzer  # noqa: PLC0415 - what chance finds is measured without it

    fuzzer = DeviceFuzzer(planted.device, seed=seed, double_fetch=planted.is_double_fetch)
    for invariant in planted.invariants:
        fuzzer.invariant(invariant)
    began = time.process_time()
    while time.process_time() - began < seconds:
        report = fuzzer.run(executions=AT_ONCE)
        if report.crashes:
            took = time.process_time() - began
            return uniform.Found(report.crashes[0].kind, took, report.executions, report.operations)
    return None


WAYS: dict[str, Callable[[Planted, int, float], uniform.Found | None]] = {
    "uniform": uniform.find,
    "fuzzer": find,
}


def has_fuzzer() -> bool:
    """Whether this hyperpy has one."""
    try:
        from hyperpy.fuzz import DeviceFuzzer  # noqa: F401, PLC0415
    except ImportError:
        return False
    return True


def main() -> None:
    """Look, and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="these bugs; all, if it is left out")
    parser.add_argument(
        "--how", choices=WAYS, action="append", help="one way; all that there are, if it is left out"
    )
    parser.add_argument("--seeds", type=int, default=SEEDS, help=f"how many, from 1 on: {SEEDS}")
    parser.add_argument("--seconds", type=float, default=SECONDS, help=f"for each bug and seed: {SECONDS:g}")
    given = parser.parse_args()
    ways = given.how or ["uniform", *["fuzzer"] * has_fuzzer()]
    table: dict[str, list[str]] = {}
    for planted in PLANTED:
        if given.names and planted.name not in given.names:
            continue
        for how in ways:
            found = [_told(planted, how, seed, given.seconds) for seed in range(1, given.seeds + 1)]
            table.setdefault(planted.name, []).append(_summary(found, given.seconds))
    print(f"{'bug':<12}" + "".join(f"{how:>28}" for how in ways), file=sys.stderr)
    for name, cells in table.items():
        print(f"{name:<12}" + "".join(f"{cell:>28}" for cell in cells), file=sys.stderr)


def _told(planted: Planted, how: str, seed: int, seconds: float) -> uniform.Found | None:
    found = WAYS[how](planted, seed, seconds)
    about = {"bug": planted.name, "kind": planted.kind, "how": how, "seed": seed, "limit": seconds}
    print(json.dumps({**about, **(found._asdict() if found else {"shows": None})}), flush=True)
    return found


def _summary(found: list[uniform.Found | None], seconds: float) -> str:
    """How many seeds found it, and the median; one that did not counts as more than the limit."""
    times = [each.seconds if each else float("inf") for each in found]
    median = statistics.median(times)
    shown = f"{median:.3f} s" if median < float("inf") else f"> {seconds:g} s"
    return f"{sum(each is not None for each in found)} of {len(found)}, {shown}"


if __name__ == "__main__":
    main()
