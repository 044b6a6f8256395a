"""What a measurement gives: frozen values that print as tables, are kept as JSON, and can be held against each other."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, Literal, TypeAlias

from hyperpy._bench_floor import BenchError
from hyperpy._words import nearest
from hyperpy.stats import table

__all__ = ["MIN_ROUNDS", "Comparison", "Pair", "Report", "Row", "Samples", "Verdict", "verdict"]

Verdict: TypeAlias = Literal["faster", "slower", ""]
"""What is said of one measurement beside another: "" where their ranges overlap, or where there are too few rounds."""

MIN_ROUNDS = 7
_FORM = 1


def verdict(mine: Sequence[float], other: Sequence[float]) -> Verdict:
    """Say "faster" or "slower" only where every round of one is beyond every round of the other; else "".

    Arguments:
        mine: one figure a round, nanoseconds or ratios; fewer than seven rounds give no verdict.
        other: those that it is held against.

    Example:
        >>> verdict([3, 3, 4, 3, 3, 4, 3], [5, 6, 5, 5, 5, 6, 5])
        'faster'
        >>> verdict([3, 3, 4, 3, 3, 4, 5], [5, 6, 5, 5, 5, 6, 5])
        ''
    """
    if min(len(mine), len(other)) < MIN_ROUNDS:
        return ""
    if max(mine) < min(other):
        return "faster"
    return "slower" if min(mine) > max(other) else ""


@dataclass(frozen=True, slots=True)
class Samples:
    """Nanoseconds of single operations, by round.

    Example:
        >>> samples = Samples(((10.0, 12.0, 11.0), (13.0, 11.0, 12.0)))
        >>> samples.medians, samples.p50, samples.worst
        ((11.0, 12.0), 11.5, 13.0)
    """

    rounds: tuple[tuple[float, ...], ...]

    def __post_init__(self) -> None:
        if not self.rounds or not all(self.rounds):
            raise ValueError("no samples in a round\n\nhint: measure at least one operation in each round")

    @property
    def medians(self) -> tuple[float, ...]:
        """The median of each round: what verdicts are about."""
        return tuple(median(samples) for samples in self.rounds)

    @property
    def p50(self) -> float:
        """The median of all samples."""
        return self.quantile(0.5)

    @property
    def p99(self) -> float:
        """What 99 of 100 samples do not exceed; of fewer than a hundred, nearly the worst."""
        return self.quantile(0.99)

    @property
    def worst(self) -> float:
        """The longest one."""
        return max(max(samples) for samples in self.rounds)

    def quantile(self, part: float) -> float:
        """The value below which `part` of the samples lie, from 0 to 1, between two samples in proportion."""
        if not 0 <= part <= 1:
            raise ValueError(
                f"not a part of the samples: {part}\n\nhint: from 0 to 1: 0.99 for the 99th percentile"
            )
        ordered = sorted(sample for samples in self.rounds for sample in samples)
        place = part * (len(ordered) - 1)
        low, high = ordered[math.floor(place)], ordered[math.ceil(place)]
        return low + (high - low) * (place - math.floor(place))


@dataclass(frozen=True, slots=True)
class Row:
    """One thing measured, by hyperpy and by C in turn.

    Attributes:
        name: as given to `hyperpy bench`.
        title: what is done, in words.
        hyperpy, floor: the samples; None where there are none.
        why: why hyperpy has none; why_floor: why C has none.
        per_operation: exits of hyperpy's guest that each operation took, and accesses that each rung of the dispatch ladder
            answered, by the names of `Stats.hits`; empty where it is no guest's operation.
    """

    name: str
    title: str
    hyperpy: Samples | None = None
    floor: Samples | None = None
    why: str = ""
    why_floor: str = ""
    per_operation: dict[str, float] = field(default_factory=dict)

    @property
    def ratio(self) -> float | None:
        """The median time beside C's: 1.03 is 3 % more; None where one side is missing."""
        return None if self.hyperpy is None or self.floor is None else self.hyperpy.p50 / self.floor.p50

    @property
    def ratios(self) -> tuple[float, ...]:
        """The same for each round."""
        if self.hyperpy is None or self.floor is None:
            return ()
        return tuple(a / b for a, b in zip(self.hyperpy.medians, self.floor.medians, strict=False))

    @property
    def verdict(self) -> Verdict:
        """Hyperpy beside C."""
        if self.hyperpy is None or self.floor is None:
            return ""
        return verdict(self.hyperpy.medians, self.floor.medians)

    @property
    def rung(self) -> str:
        """Who answered most accesses, as `Stats` names it; "" where none was made."""
        rungs = {name: hits for name, hits in self.per_operation.items() if name != "exits"}
        best = max(rungs, key=rungs.__getitem__, default="")
        return best if best and rungs[best] > 0.5 else ""

    def _cells(self) -> list[str]:
        cells = [self.name]
        for samples in (self.hyperpy, self.floor):
            figures = [samples.p50, samples.p99, samples.worst] if samples else []
            cells += [_us(figure) for figure in figures] or [""] * 3
        exits = self.per_operation.get("exits")
        cells += ["" if self.ratio is None else f"{self.ratio:.2f}", self.verdict]
        return [*cells, "" if exits is None else f"{exits:.2f}", self.rung]

    def __str__(self) -> str:
        return _rows_table([self])


@dataclass(frozen=True, slots=True)
class Report:
    """What was measured in one run, and where.

    Attributes:
        rows: the measurements.
        host: facts by name: flavour (of the KVM), kernel, processor, cpus, python, hyperpy, when, load (of the last minute,
            before and after).
    """

    rows: tuple[Row, ...]
    host: dict[str, str]

    @property
    def heading(self) -> str:
        """The machine in a line or two, the flavour of its KVM first."""
        host = self.host
        lines = [
            f"KVM {host.get('flavour', 'unknown')}, Linux {host.get('kernel', '?')}, {host.get('processor', '?')}",
            f"hyperpy {host.get('hyperpy', '?')}, Python {host.get('python', '?')}, "
            f"load {host.get('load', '?')} on {host.get('cpus', '?')} cpus, {host.get('when', '?')}",
        ]
        return "\n".join(lines)

    @property
    def notes(self) -> tuple[str, ...]:
        """Why figures are missing: a line for each."""
        sides = [
            (row.name, who, why)
            for row in self.rows
            for who, why in (("hyperpy", row.why), ("C", row.why_floor))
        ]
        return tuple(f"{name}: no {who}: {why}" for name, who, why in sides if why)

    def __getitem__(self, name: str) -> Row:
        for row in self.rows:
            if row.name == name:
                return row
        raise KeyError(
            f"not measured: {name}\n\nhint: {nearest(name, [row.name for row in self.rows]) or 'see report.rows'}"
        )

    def __str__(self) -> str:
        notes = "".join(f"\n{note}" for note in self.notes)
        return f"{self.heading}\n\n{_rows_table(self.rows)}" + (f"\n{notes}" if notes else "")

    def to_dict(self) -> dict[str, Any]:
        """All of it, with every sample, as plain values for JSON."""
        return {"form": _FORM, **asdict(self)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Report:
        """The report that `to_dict` gave.

        Raises:
            ValueError: it is none, or of a later version.
        """
        try:
            if values["form"] != _FORM:
                raise ValueError(
                    f"report is of another version: {values['form']}\n\nhint: measure again with this hyperpy"
                )
            return cls(tuple(_row(row) for row in values["rows"]), dict(values["host"]))
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f"not a report of `hyperpy bench`: {error}\n\nhint: make one with --json"
            ) from None

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write all samples to a file, as JSON."""
        Path(path).write_text(json.dumps(self.to_dict(), default=str) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Report:
        """Read what `save` wrote.

        Raises:
            OSError: the file cannot be read.
            ValueError: it holds no report.
        """
        try:
            values = json.loads(Path(path).read_text(encoding="utf-8"))
        except UnicodeDecodeError as error:
            raise ValueError(
                f"not a report of `hyperpy bench`: {error}\n\nhint: make one with --json"
            ) from None
        except json.JSONDecodeError as error:
            raise ValueError(
                f"not JSON: {error}\n\nhint: make a report with `hyperpy bench --json FILE`"
            ) from None
        return cls.from_dict(values)


@dataclass(frozen=True, slots=True)
class Pair:
    """One thing as two reports have it.

    `verdict` is about the times; `verdict_of_c` about the ratio to C, which a faster or busier machine leaves as it is.
    """

    name: str
    before: Row
    after: Row

    @property
    def change(self) -> float | None:
        """The second median beside the first: 0.9 is 10 % less time."""
        if self.before.hyperpy is None or self.after.hyperpy is None:
            return None
        return self.after.hyperpy.p50 / self.before.hyperpy.p50

    @property
    def verdict(self) -> Verdict:
        """The second's times beside the first's."""
        if self.before.hyperpy is None or self.after.hyperpy is None:
            return ""
        return verdict(self.after.hyperpy.medians, self.before.hyperpy.medians)

    @property
    def verdict_of_c(self) -> Verdict:
        """The second's ratios to C beside the first's."""
        return verdict(self.after.ratios, self.before.ratios)

    def _cells(self) -> list[str]:
        sides = [row.hyperpy for row in (self.before, self.after)]
        times = ["" if samples is None else _us(samples.p50) for samples in sides]
        ratios = ["" if row.ratio is None else f"{row.ratio:.2f}" for row in (self.before, self.after)]
        change = "" if self.change is None else f"{self.change:.2f}"
        return [self.name, *times, change, self.verdict, *ratios, self.verdict_of_c]


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two reports side by side: what both have measured, and the names of what only one has."""

    before: Report
    after: Report

    @property
    def pairs(self) -> tuple[Pair, ...]:
        """What both have measured."""
        seconds = {row.name: row for row in self.after.rows}
        return tuple(
            Pair(row.name, row, seconds[row.name]) for row in self.before.rows if row.name in seconds
        )

    @property
    def only(self) -> tuple[str, ...]:
        """The names of what only one has."""
        names = [{row.name for row in report.rows} for report in (self.before, self.after)]
        return tuple(sorted(names[0] ^ names[1]))

    def __str__(self) -> str:
        head = ["µs, median", "A", "B", "B / A", "verdict", "A of C", "B of C", "verdict of C"]
        text = f"A: {self.before.heading}\n\nB: {self.after.heading}\n\n"
        text += table(head, [pair._cells() for pair in self.pairs])
        return text + (f"\n\nin one of the two only: {', '.join(self.only)}" if self.only else "")


_HEAD = ["µs", "p50", "p99", "worst", "C p50", "p99", "worst", "of C", "verdict", "exits", "answered by"]


def _rows_table(rows: Sequence[Row]) -> str:
    return table(_HEAD, [row._cells() for row in rows])


def _us(ns: float) -> str:
    us = ns / 1000
    return f"{us:.2f}" if us < 10 else f"{us:.1f}" if us < 1000 else f"{us:.0f}"


def _row(values: Mapping[str, Any]) -> Row:
    given = dict(values)
    for side in ("hyperpy", "floor"):
        if given[side] is not None:
            rounds = given[side]["rounds"]
            given[side] = Samples(tuple(tuple(float(sample) for sample in samples) for samples in rounds))
    return Row(**given)


def unknown(name: str, known: Sequence[str]) -> BenchError:
    """The error for a name that nothing measured has."""
    beginnings = {"-".join(one.split("-")[:n]) for one in known for n in (1, 2)}
    hint = nearest(name, [*known, *sorted(beginnings)]) or "`hyperpy bench --list` names them"
    return BenchError(f"nothing to measure by this name: {name}", hint=hint)
