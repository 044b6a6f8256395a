"""Two reports side by side: what became faster or slower, on the same machine or beside C."""

from __future__ import annotations

from dataclasses import dataclass

from hyperpy._bench_values import Report, Row, Verdict, microseconds, narrow_table, verdict

__all__ = ["Comparison", "Pair"]


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
        if self.before.hyperpy is None or self.after.hyperpy is None or not self.before.hyperpy.p50:
            return None
        return self.after.hyperpy.p50 / self.before.hyperpy.p50

    @property
    def spread(self) -> tuple[float, float, float] | None:
        """The least that `change` is between any two rounds, itself, and the most: 1 lies outside where there is a verdict."""
        change = self.change
        if change is None or self.before.hyperpy is None or self.after.hyperpy is None:
            return None
        before, after = self.before.hyperpy.medians, self.after.hyperpy.medians
        return (min(after) / max(before), change, max(after) / min(before)) if min(before) > 0 else None

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
        times = ["" if samples is None else microseconds(samples.p50) for samples in sides]
        ratios = ["" if row.ratio is None else f"{row.ratio:.2f}" for row in (self.before, self.after)]
        change = "" if self.change is None else f"{self.change:.2f}"
        return [self.name, *times, change, self.verdict, *ratios, self.verdict_of_c]


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two reports side by side: what both have measured, and the names of what only one has."""

    before: Report
    after: Report

    def __post_init__(self) -> None:
        for one in (self.before, self.after):
            given: object = one
            if not isinstance(given, Report):
                raise TypeError(
                    f"not a report: {given!r:.60}\n\nhint: bench.run() gives one, and bench.Report.load(FILE)"
                )

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
        text += narrow_table(head, [pair._cells() for pair in self.pairs])
        return text + (f"\n\nin one of the two only: {', '.join(self.only)}" if self.only else "")

    def html(self) -> str:
        """The comparison as a page, as `Report.html`."""
        from hyperpy._bench_page import of_comparison  # noqa: PLC0415 - it imports this

        return of_comparison(self)
