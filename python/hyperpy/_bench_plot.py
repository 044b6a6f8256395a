"""Plots of a measurement as SVG: what each line took on a logarithmic axis, and beside it a ratio with its spread.

What is drawn comes as `Line`s, which know neither reports nor comparisons; colours are classes of the page's style
(`_bench_page`). All text is put in by `text`, which escapes it: names may come from a file.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

from hyperpy._bench_values import Samples

__all__ = ["Line", "plot", "time_text"]

# Widths in the drawing's units, which are CSS pixels where the page has the room.
_WIDTH, _NAMES, _NOTES = 1040, 176, 132
_TIMES = (_NAMES + 8, 626)
_RATIOS = (676, _WIDTH - _NOTES - 12)
_ROW, _HEAD, _FOOT = 36, 40, 6
_BAR, _CHARACTER = 8, 7.2  # height of a bar; width of a letter of the names
# Worst cases further out than so many times the longest p99 would squeeze all else: an arrow points to them.
_FAR = 4
# What lies beyond is drawn at an axis's end.
_LEAST_NS, _MOST_RATIO = 1e-3, 1e9
# Ticks of ratios by their right to a place, and how far apart labels of an axis are at least.
_RATIO_TICKS = (1, 2, 0.5, 5, 0.2, 10, 1.5, 1.2, 0.8, 1.1, 0.9, 3, 20, 50, 100, 1000, 1.05, 0.95, 1.02, 0.98)
_APART_TIMES, _APART_RATIOS = 52, 34


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a plot.

    Attributes:
        name: at its left; title: shown where the pointer rests.
        bars: classes and samples, one above the other.
        ratio: least, middle, most; None for none.
        sure: whether the ratio says something: a full mark, else a hollow one.
        kind: class of the mark: faster, slower, or undecided.
        target: the most that the ratio shall be.
        notes: at its right: text and class, up to two.
    """

    name: str
    title: str
    bars: tuple[tuple[str, Samples | None], ...]
    ratio: tuple[float, float, float] | None = None
    kind: str = "undecided"
    target: float | None = None
    notes: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class _Axis:
    """A logarithmic axis: values from `low` to `high` lie from `left` to `right`."""

    low: float
    high: float
    left: float
    right: float

    def at(self, value: float) -> float:
        part = math.log(max(value, self.low) / self.low) / math.log(self.high / self.low)
        return self.left + min(part, 1.0) * (self.right - self.left)

    def ticks(self, wanted: Iterable[float], apart: float) -> list[float]:
        """Those of `wanted` that are on the axis, the first ones first, as long as their labels have room."""
        taken: list[float] = []
        for value in wanted:
            is_here = self.low * 0.999 <= value <= self.high * 1.001
            if is_here and all(abs(self.at(value) - self.at(other)) >= apart for other in taken):
                taken.append(value)
        return taken


def plot(lines: Sequence[Line], times: str, ratios: str) -> str:
    """Draw lines below one another; `times` and `ratios` are what the two panels show."""
    bottom = _HEAD + _ROW * len(lines)
    axis = _time_axis(lines)
    parts = []
    if axis is not None:
        parts.append(_grid(axis, _time_ticks(axis), bottom, times, time_text))
    ratio_axis = _ratio_axis(lines)
    if ratio_axis is not None:
        ticks = ratio_axis.ticks(_RATIO_TICKS, _APART_RATIOS)
        parts.append(_grid(ratio_axis, ticks, bottom, ratios, lambda value: f"{value:g}"))
        parts.append(_vertical(ratio_axis.at(1), _HEAD - 4, bottom, "one"))
    parts += [_line(line, _HEAD + _ROW * row, axis, ratio_axis) for row, line in enumerate(lines)]
    height = bottom + _FOOT
    label = f"{times}; {ratios}" if ratio_axis is not None else times
    return (
        f'<svg viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="{escape(label)}">'
        + "".join(parts)
        + "</svg>"
    )


def time_text(ns: float) -> str:
    """A round number of nanoseconds, short."""
    for unit, size in (("s", 1e9), ("ms", 1e6), ("µs", 1e3)):
        if ns >= size:
            return f"{ns / size:g} {unit}"
    return f"{ns:g} ns"


# -- axes ------------------------------------------------------------------------------------------------------------


def _time_axis(lines: Sequence[Line]) -> _Axis | None:
    shown = [samples for line in lines for _, samples in line.bars if samples is not None]
    least = [value for samples in shown if (value := samples.quantile(0)) > _LEAST_NS]
    most = [value for samples in shown if (value := samples.p99) > _LEAST_NS]
    if not least or not most:
        return None
    far = min(max(samples.worst for samples in shown), max(most) * _FAR)
    return _Axis(min(least) / 1.12, far * 1.12, *_TIMES)


def _time_ticks(axis: _Axis) -> list[float]:
    tens = range(math.floor(math.log10(axis.low)), math.ceil(math.log10(axis.high)) + 1)
    return axis.ticks([step * 10.0**ten for step in (1, 3, 2, 5) for ten in tens], _APART_TIMES)


def _ratio_axis(lines: Sequence[Line]) -> _Axis | None:
    shown = [value for line in lines if line.ratio is not None for value in line.ratio]
    shown = [value for value in shown if 1 / _MOST_RATIO < value < _MOST_RATIO]
    if not shown:
        return None
    shown += [line.target for line in lines if line.target and line.target < _MOST_RATIO]
    return _Axis(min(*shown, 0.95) / 1.02, max(*shown, 1.06) * 1.02, *_RATIOS)


def _grid(axis: _Axis, ticks: list[float], bottom: float, title: str, label: object) -> str:
    write = label if callable(label) else str
    parts = [_text(axis.left, 12, title, "panel")]
    for tick in ticks:
        x = axis.at(tick)
        parts.append(_vertical(x, _HEAD - 4, bottom, "grid"))
        parts.append(_text(x, _HEAD - 10, write(tick), "tick", "middle"))
    return "".join(parts)


# -- a line ----------------------------------------------------------------------------------------------------------


def _line(line: Line, top: float, times: _Axis | None, ratios: _Axis | None) -> str:
    middle = top + _ROW / 2
    parts = [
        f"<g><title>{escape(f'{line.name}: {line.title}')}</title>",
        f'<line x1="0" x2="{_WIDTH}" y1="{top:g}" y2="{top:g}" class="rule"/>',
        _name(line.name, middle + 4),
    ]
    first = middle - (len(line.bars) * (_BAR + 4) - 4) / 2
    for number, (kind, samples) in enumerate(line.bars):
        if samples is not None and times is not None:
            parts.append(_bar(samples, first + number * (_BAR + 4), times, kind))
    if line.ratio is not None and ratios is not None:
        parts.append(_ratio(line, middle, ratios))
    start = middle + 4 - 7.5 * (len(line.notes) - 1)
    for number, (note, kind) in enumerate(line.notes):
        parts.append(_text(_WIDTH - _NOTES, start + 15 * number, note, f"note {kind}"))
    return "".join([*parts, "</g>"])


def _name(name: str, y: float) -> str:
    """A long one is squeezed into its column."""
    squeezed = (
        f' textLength="{_NAMES}" lengthAdjust="spacingAndGlyphs"' if len(name) * _CHARACTER > _NAMES else ""
    )
    return f'<text x="0" y="{y:g}" class="name"{squeezed}>{escape(name)}</text>'


def _bar(samples: Samples, y: float, axis: _Axis, kind: str) -> str:
    """From the least to p99 a bar, up to the worst a thin line, and the median across."""
    least, p50, p99, worst = (
        axis.at(value) for value in (samples.quantile(0), samples.p50, samples.p99, samples.worst)
    )
    middle = y + _BAR / 2
    end = f"M{worst:.1f} {middle - 3:g}v6"
    if samples.worst > axis.high:
        end = f"M{worst - 4:.1f} {middle - 3:g}l4 3l-4 3"
    return (
        f'<g class="{kind}"><line x1="{p99:.1f}" x2="{worst:.1f}" y1="{middle:g}" y2="{middle:g}" class="tail"/>'
        f'<path d="{end}" class="tail"/>'
        f'<rect x="{least:.1f}" y="{y:g}" width="{max(p99 - least, 1.5):.1f}" height="{_BAR}" class="range"/>'
        f'<rect x="{p50 - 1.5:.1f}" y="{y - 1.5:g}" width="3" height="{_BAR + 3}" class="median"/></g>'
    )


def _ratio(line: Line, y: float, axis: _Axis) -> str:
    assert line.ratio is not None  # the caller has looked
    low, middle, high = map(axis.at, line.ratio)
    parts = [f'<g class="{line.kind}">']
    if line.target is not None:
        at = axis.at(line.target)
        parts.append(f'<path d="M{at - 4:.1f} {y - 15:g}h8l-4 6z" class="target"/>')
        parts.append(_vertical(at, y - 10, y + 13, "target"))
    parts.append(f'<line x1="{low:.1f}" x2="{high:.1f}" y1="{y:g}" y2="{y:g}" class="spread"/>')
    parts.append(f'<circle cx="{middle:.1f}" cy="{y:g}" r="4.5" class="mark"/></g>')
    return "".join(parts)


def _vertical(x: float, top: float, bottom: float, kind: str) -> str:
    return f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{top:g}" y2="{bottom:g}" class="{kind}"/>'


def _text(x: float, y: float, text: str, kind: str, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:g}" class="{kind}" text-anchor="{anchor}">{escape(text)}</text>'
