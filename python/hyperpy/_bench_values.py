"""What a measurement gives: frozen values that print as tables and as a page, and are kept as JSON.

Two of them side by side are in `_bench_comparison`, the page in `_bench_page`.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from hyperpy._bench_floor import BenchError
from hyperpy._words import nearest
from hyperpy.stats import table

if TYPE_CHECKING:
    from hyperpy._bench_comparison import Comparison

__all__ = [
    "MIN_ROUNDS",
    "Kept",
    "Report",
    "Row",
    "Samples",
    "Verdict",
    "microseconds",
    "narrow_table",
    "verdict",
]

Verdict: TypeAlias = Literal["faster", "slower", ""]
"""What is said of one measurement beside another: "" where their ranges overlap, or where there are too few rounds."""

Kept: TypeAlias = Literal["met", "missed", "undecided", ""]
"""Whether a target is kept: "undecided" where rounds lie on both sides of it, "" without one or with too few rounds."""

MIN_ROUNDS = 7
_FORM = 1
_MOST_NS = 1e15  # more than a week
_MOST_BYTES = 256 << 20  # of a file: ten times what all rows take


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
        if not all(0 <= sample < _MOST_NS for samples in self.rounds for sample in samples):
            raise ValueError("sample is not a time\n\nhint: nanoseconds, from 0")

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
        group: what it is shown with.
        target: what hyperpy's time shall be of C's at most, such as 1.04; None for no such target.
        target_ns: how many nanoseconds it shall be at most.
    """

    name: str
    title: str
    hyperpy: Samples | None = None
    floor: Samples | None = None
    why: str = ""
    why_floor: str = ""
    per_operation: dict[str, float] = field(default_factory=dict)
    group: str = ""
    target: float | None = None
    target_ns: float | None = None

    @property
    def ratio(self) -> float | None:
        """The median time beside C's: 1.03 is 3 % more; None where one side is missing."""
        if self.hyperpy is None or self.floor is None or not self.floor.p50:
            return None
        return self.hyperpy.p50 / self.floor.p50

    @property
    def ratios(self) -> tuple[float, ...]:
        """The same for each round."""
        if self.hyperpy is None or self.floor is None or not all(self.floor.medians):
            return ()
        return tuple(a / b for a, b in zip(self.hyperpy.medians, self.floor.medians, strict=False))

    @property
    def verdict(self) -> Verdict:
        """Hyperpy beside C."""
        if self.hyperpy is None or self.floor is None:
            return ""
        return verdict(self.hyperpy.medians, self.floor.medians)

    @property
    def kept(self) -> Kept:
        """Whether every round keeps to the target, or none."""
        if self.target is not None:
            figures, most = self.ratios, self.target
        elif self.target_ns is not None and self.hyperpy is not None:
            figures, most = self.hyperpy.medians, self.target_ns
        else:
            return ""
        if len(figures) < MIN_ROUNDS:
            return ""
        if max(figures) <= most:
            return "met"
        return "missed" if min(figures) > most else "undecided"

    @property
    def per_second(self) -> float | None:
        """How many a second, one after the other, at the median; None without samples of hyperpy's."""
        return None if self.hyperpy is None or not self.hyperpy.p50 else 1e9 / self.hyperpy.p50

    @property
    def bound(self) -> str:
        """The target in words: "" without one."""
        if self.target is not None:
            return f"\N{LESS-THAN OR EQUAL TO} {self.target:.2f}"
        return (
            "" if self.target_ns is None else f"\N{LESS-THAN OR EQUAL TO} {microseconds(self.target_ns)} µs"
        )

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
            cells += [microseconds(figure) for figure in figures] or [""] * 3
        is_alone = self.floor is None and not self.why_floor and self.per_second is not None
        cells.append(f"{self.per_second:.0f}" if is_alone else "")
        cells += ["" if self.ratio is None else f"{self.ratio:.2f}", self.verdict]
        exits = self.per_operation.get("exits")
        return [
            *cells,
            f"{self.bound} {self.kept}".rstrip(),
            "" if exits is None else f"{exits:.2f}",
            self.rung,
        ]

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
            f"not measured: {name}; hint: {nearest(name, [row.name for row in self.rows]) or 'see report.rows'}"
        )

    def __str__(self) -> str:
        notes = "".join(f"\n{note}" for note in self.notes)
        return f"{self.heading}\n\n{_rows_table(self.rows)}" + (f"\n{notes}" if notes else "")

    def compare(self, after: Report) -> Comparison:
        """Hold a later report against this one."""
        from hyperpy._bench_comparison import Comparison  # noqa: PLC0415 - it imports this

        return Comparison(self, after)

    def html(self) -> str:
        """The report as a page: one file without scripts, that loads nothing, with plots of times and of ratios to C."""
        from hyperpy._bench_page import of_report  # noqa: PLC0415 - it imports this

        return of_report(self)

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
            return cls(
                tuple(_row(row) for row in values["rows"]),
                {str(name): str(fact) for name, fact in values["host"].items()},
            )
        except (KeyError, TypeError, AttributeError, OverflowError, ValueError) as error:
            if "hint: " in str(error):
                raise
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
        with Path(path).open("rb") as file:
            content = file.read(_MOST_BYTES + 1)
        if len(content) > _MOST_BYTES:
            raise ValueError("not a report of `hyperpy bench`: it never ends\n\nhint: make one with --json")
        try:
            values = json.loads(content.decode())
        except UnicodeDecodeError as error:
            raise ValueError(
                f"not a report of `hyperpy bench`: {error}\n\nhint: make one with --json"
            ) from None
        except (
            ValueError,
            RecursionError,
        ) as error:  # too long a number and too deep a nest are neither decoded
            raise ValueError(
                f"not JSON: {error}\n\nhint: make a report with `hyperpy bench --json FILE`"
            ) from None
        return cls.from_dict(values)


_HEAD = [
    *("µs", "p50", "p99", "worst", "C p50", "p99", "worst", "a second", "of C", "verdict", "target"),
    *("exits", "answered by"),
]


def _rows_table(rows: Sequence[Row]) -> str:
    return narrow_table(_HEAD, [row._cells() for row in rows])


def narrow_table(head: Sequence[str], rows: Sequence[list[str]]) -> str:
    """A table without the columns in which no row has anything."""
    used = [not rows or any(cells) for cells in zip(*rows, strict=True)] or [True] * len(head)
    return table(
        [name for name, is_used in zip(head, used, strict=True) if is_used],
        [[cell for cell, is_used in zip(cells, used, strict=True) if is_used] for cells in rows],
    )


def microseconds(ns: float) -> str:
    """Nanoseconds as microseconds, to the nanosecond where there are few of them."""
    us = ns / 1000
    if us < 1:
        return f"{us:.3f}"
    return f"{us:.2f}" if us < 10 else f"{us:.1f}" if us < 1000 else f"{us:.0f}"


def _row(values: Mapping[str, Any]) -> Row:
    """A row of a file, whoever has written it."""
    given = dict(values)
    for side in ("hyperpy", "floor"):
        if given[side] is not None:
            rounds = given[side]["rounds"]
            given[side] = Samples(tuple(tuple(float(sample) for sample in samples) for samples in rounds))
    for name in ("name", "title", "why", "why_floor", "group"):
        given[name] = str(given.get(name, ""))
    for name in ("target", "target_ns"):
        if given.get(name) is not None:
            given[name] = float(given[name])
            if not 0 < given[name] < math.inf:
                raise ValueError(f"target is out of range: {given[name]}\n\nhint: a number above 0")
    given["per_operation"] = {str(rung): float(count) for rung, count in given["per_operation"].items()}
    return Row(**given)


def unknown(name: str, known: Sequence[str]) -> BenchError:
    """The error for a name that nothing measured has."""
    beginnings = {"-".join(one.split("-")[:n]) for one in known for n in (1, 2)}
    hint = nearest(name, [*known, *sorted(beginnings)]) or "`hyperpy bench --list` names them"
    return BenchError(f"nothing to measure by this name: {name}", hint=hint)
