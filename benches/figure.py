"""A figure, its target and its verdict; and the programs that measure, run one after the other."""

import json
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent


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


def lines(command: Sequence[str]) -> list[dict[str, Any]]:
    """Run a program that prints one JSON object a line."""
    return [json.loads(line) for line in output(command).splitlines()]


def output(command: Sequence[str]) -> str:
    """Run a program that must succeed, and return what it printed."""
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)} ended with status {done.returncode}: {done.stdout}")
    return done.stdout


def print_table(figures: Sequence[Figure]) -> None:
    """Print each figure beside its target."""
    rows = [HEAD, *(figure.row() for figure in figures)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
