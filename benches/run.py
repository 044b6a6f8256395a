"""All figures in one table: builds the bench program, measures, and prints each figure beside its target.

`python benches/run.py [--json FILE]` measures on this host; with `--lab` also the boot in the lab, which takes some
minutes and wants an otherwise idle machine. Targets are about medians. Where the rounds lie on both sides of a target,
the verdict says so: run it again on a quieter machine. Status 1 when a target is missed.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import instructions

ROOT = Path(__file__).resolve().parent.parent
ROUNDS = 9
DISPATCH_EXITS = 2_000_000
KVM_EXITS = 50_000
TRACED_EXITS = 1_000
LAB_TIMEOUT_S = 1800


@dataclass(frozen=True)
class Figure:
    """Samples of one figure, and the bound that their median must keep."""

    name: str
    unit: str
    samples: list[float]
    bound: float
    at_least: bool = False

    @property
    def median(self) -> float:
        """What the target is about."""
        return statistics.median(self.samples)

    @property
    def met(self) -> bool:
        """Whether the median keeps the bound."""
        return self._keeps(self.median)

    @property
    def verdict(self) -> str:
        """In words."""
        mixed = len({self._keeps(sample) for sample in self.samples}) > 1
        return ("met" if self.met else "missed") + (", rounds on both sides" if mixed else "")

    def _keeps(self, value: float) -> bool:
        return value >= self.bound if self.at_least else value <= self.bound

    def row(self) -> list[str]:
        """The cells of its line."""
        numbers = [f"{value:.4g}" for value in (self.median, min(self.samples), max(self.samples))]
        target = f"{'>=' if self.at_least else '<='} {self.bound:g} {self.unit}".rstrip()
        return [self.name, target, *numbers, str(len(self.samples)), self.verdict]


HEAD = ["figure", "target", "median", "min", "max", "rounds", "verdict"]


def main() -> int:
    """Measure what is asked for; 1 if a target is missed."""
    parser = argparse.ArgumentParser(description="Measure hyperpy, and compare with the targets.")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write all samples to FILE")
    parser.add_argument("--lab", action="store_true", help="also boot a kernel in the lab, against QEMU")
    arguments = parser.parse_args()
    before = os.getloadavg()
    figures = list(_host_figures(instructions.build()))
    if arguments.lab:
        figures += _lab_figures()
    _print_table([HEAD, *(figure.row() for figure in figures)])
    print(f"load before: {before[0]:.2f}, after: {os.getloadavg()[0]:.2f}")
    if arguments.json:
        rows = [{**asdict(figure), "median": figure.median, "met": figure.met} for figure in figures]
        arguments.json.write_text(json.dumps({"load": before, "figures": rows}, indent=1) + "\n")
    return 0 if all(figure.met for figure in figures) else 1


def _host_figures(program: Path) -> Iterator[Figure]:
    for line in _lines([str(program), "dispatch", str(ROUNDS), str(DISPATCH_EXITS)]):
        case = f"{line['regions']} region{'s' * (line['regions'] > 1)}, {line['order'].lower()}"
        yield Figure(f"dispatch, {case}", "ns", line["ns"], 40 if line["regions"] == 1 else 60)
        yield Figure(f"allocations per run, {case}", "", [line["allocations"]], 0)
    for case, counted in instructions.count(program).items():
        yield Figure(f"instructions per exit, {case}", "", [counted], instructions.bounds()[case])
    for line in _lines([str(program), "exits", str(ROUNDS), str(KVM_EXITS)]):
        pairs = zip(line["floor_ns"], line["hyperpy_ns"], strict=True)
        percent = [100 * floor / ours for floor, ours in pairs]
        yield Figure(f"exits/s, {line['guest']}, of the floor", "%", percent, 97, at_least=True)
    yield Figure("vcpu ioctls per exit", "", [_ioctls_per_exit(program)], 1)
    started = {line["figure"]: line["ms"] for line in _lines([sys.executable, "benches/python/start.py"])}
    yield Figure("process start to first exit", "ms", started["first run"], 150)
    yield Figure("import over a bare interpreter", "ms", started["import"], 50)


def _ioctls_per_exit(program: Path) -> float:
    """Count by strace, from the first entry to the last, whatever the descriptor; by returns from KVM_RUN."""
    with tempfile.NamedTemporaryFile("r") as log:
        command = ["strace", "-f", "-e", "trace=ioctl", "-e", "signal=none", "-o", log.name]
        said = _output([*command, str(program), "drive", str(TRACED_EXITS)])
        calls = [line for line in log.read().splitlines() if " ioctl(" in line]
    entries = [index for index, line in enumerate(calls) if ", KVM_RUN, " in line]
    exits = int(said.split()[0])
    return (entries[-1] - entries[0] + 1) / exits


def _lab_figures() -> list[Figure]:
    command = [sys.executable, "-m", "hyperpy", "lab", "--timeout", str(LAB_TIMEOUT_S), "--"]
    lines = _lines([*command, sys.executable, str(ROOT / "benches/python/lab_boot.py")])
    rounds = [line["seconds"] for line in lines if not line["warm_up"]]

    def ratios(cache: str) -> list[float]:
        return [(s[f"hyperpy {cache}"] - s["hyperpy bare"]) / (s["qemu"] - s["qemu bare"]) for s in rounds]

    return [
        Figure("lab boot, cold cache, of QEMU's time", "", ratios("cold"), 0.75),
        Figure("lab boot, warm cache, of QEMU's time", "", ratios("warm"), 0.5),
    ]


def _lines(command: Sequence[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in _output(command).splitlines()]


def _output(command: Sequence[str]) -> str:
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)} ended with status {done.returncode}: {done.stdout}")
    return done.stdout


def _print_table(rows: Sequence[Sequence[str]]) -> None:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


if __name__ == "__main__":
    sys.exit(main())
