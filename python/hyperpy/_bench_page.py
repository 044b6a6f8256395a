"""Reports and comparisons as a page: one file that loads nothing and runs no script, with plots and tables by group.

Plots are drawn by `_bench_plot`, the style is `_bench_page.css`. Reports may come from a file that somebody else has written:
every text goes through `escape`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from itertools import groupby
from pathlib import Path
from typing import TypeAlias

from hyperpy._bench_comparison import Comparison, Pair
from hyperpy._bench_plot import Line, plot
from hyperpy._bench_values import MIN_ROUNDS, Report, Row, Samples, microseconds

__all__ = ["of_comparison", "of_report"]

_FACTS = (
    ("flavour", "KVM"),
    ("processor", "processor"),
    ("kernel", "Linux"),
    ("cpus", "processors"),
    ("hyperpy", "hyperpy"),
    ("load", "load, a minute's mean"),
    ("python", "Python"),
    ("when", "measured"),
)
_TIMES = "time: bar from least to p99, median across, line to the worst, arrow if further"
_UNDECIDED = "undecided"


def of_report(report: Report) -> str:
    """The page of one run."""
    host = report.host
    body = [
        f"<h1>hyperpy bench: {escape(_machine(host))}</h1>",
        _facts([host]),
        _counts(report.rows),
        _key("hyperpy", "C", has_target=any(row.bound for row in report.rows)),
        "<p class=soft>Both sides take turns in the same run; C is the least that a program does with the same guest. "
        f"Hyperpy is called faster or slower only where the medians of all rounds, {MIN_ROUNDS} or more, lie beyond all of "
        "C's; else it is undecided.</p>",
    ]
    for group, rows in _grouped(report.rows).items():
        has_c = any(row.floor for row in rows)
        lines = [_line(row, has_c) for row in rows]
        body += [_title(group), _wide(plot(lines, _TIMES, "of C's time, by round"))]
        body.append(_wide(_table(rows, has_c)))
    body.append(_list("What is missing, and why", report.notes))
    return _page(f"hyperpy bench: {_machine(host)}", body)


def of_comparison(comparison: Comparison) -> str:
    """The page of two runs."""
    before, after = comparison.before, comparison.after
    head = f"hyperpy bench: {_machine(before.host)}, compared"
    body = [
        f"<h1>{escape(head)}</h1>",
        _facts([before.host, after.host]),
        _key("B, after", "A, before", has_target=False),
        "<p class=soft>B is called faster or slower than A only where the medians of all its rounds lie beyond all of A's: "
        "where the spread of B / A does not reach 1. The ratio to C tells a slower hyperpy from a slower machine.</p>",
    ]
    for group, pairs in _grouped(comparison.pairs).items():
        lines = [_line_of_pair(pair) for pair in pairs]
        body += [_title(group), _wide(plot(lines, _TIMES, "B / A, from the least to the most"))]
        body.append(_wide(_table_of_pairs(pairs)))
    body.append(_list("In one of the two only", comparison.only))
    return _page(head, body)


# -- the parts of a page ---------------------------------------------------------------------------------------------


def _page(title: str, body: Iterable[str]) -> str:
    style = Path(__file__).with_name("_bench_page.css").read_text(encoding="utf-8")
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>\n{style}</style>\n</head>\n<body>\n"
        + "\n".join(filter(None, body))
        + "\n</body>\n</html>\n"
    )


def _machine(host: Mapping[str, str]) -> str:
    return f"KVM {host.get('flavour', 'unknown')}, Linux {host.get('kernel', 'unknown')}"


def _facts(hosts: Sequence[Mapping[str, str]]) -> str:
    """A machine's facts, or those of two in columns."""
    rows = [f"<dt></dt>{''.join(f'<dd><b>{name}</b></dd>' for name in 'AB')}"] if len(hosts) > 1 else []
    for key, name in _FACTS:
        values = "".join(f"<dd>{escape(host.get(key, 'unknown'))}</dd>" for host in hosts)
        rows.append(f"<dt>{name}</dt>{values}")
    return f'<dl class="facts{" two" if len(hosts) > 1 else ""}">{"".join(rows)}</dl>'


def _counts(rows: Sequence[Row]) -> str:
    """How many rows came out how."""
    words = [_word(row) for row in rows]
    kept = [_kept(row) for row in rows]
    told = [
        (words.count("faster"), "faster", "faster than C"),
        (words.count(_UNDECIDED), _UNDECIDED, "undecided"),
        (words.count("slower"), "slower", "slower than C"),
        (words.count(""), "none", "with one side only"),
        (kept.count("met"), "met", "targets met"),
        (kept.count(_UNDECIDED), _UNDECIDED, "targets undecided"),
        (kept.count("missed"), "missed", "targets missed"),
    ]
    items = "".join(f'<li class="{kind}"><b>{count}</b> {what}</li>' for count, kind, what in told if count)
    return f'<ul class="counts">{items}</ul>'


def _key(ours: str, floor: str, *, has_target: bool) -> str:
    """What the marks of the plots mean: drawings with words beside them, in as many lines as they need."""

    def drawn(marks: str, width: int, name: str) -> str:
        size = f'viewBox="0 0 {width} 24" width="{width}" height="24"'
        return f'<span><svg {size} aria-hidden="true">{marks}</svg> {name}</span>'

    def bar(kind: str, name: str) -> str:
        marks = (
            f'<g class="{kind}"><rect x="0" y="8" width="34" height="8" class="range"/>'
            '<rect x="12" y="6.5" width="3" height="11" class="median"/></g>'
        )
        return drawn(marks, 34, name)

    def mark(kind: str) -> str:
        marks = (
            f'<g class="{kind}"><line x1="0" x2="30" y1="12" y2="12" class="spread"/>'
            '<circle cx="15" cy="12" r="4.5" class="mark"/></g>'
        )
        return drawn(marks, 30, kind)

    items = [bar("ours", ours), bar("floor", floor), *map(mark, ("faster", "slower", _UNDECIDED))]
    if has_target:
        marks = '<path d="M1 6h8l-4 6z" class="target"/><line x1="5" x2="5" y1="10" y2="20" class="target"/>'
        items.append(drawn(marks, 10, "target: the most that it shall be"))
    return f'<div class="key">{"".join(items)}</div>'


def _title(group: str) -> str:
    return f"<h2>{escape(group or 'measured')}</h2>"


def _wide(content: str) -> str:
    return f'<div class="wide">{content}</div>'


def _list(title: str, items: Sequence[str]) -> str:
    if not items:
        return ""
    return f'<h2>{title}</h2><ul class="notes">{"".join(f"<li>{escape(item)}</li>" for item in items)}</ul>'


def _grouped(rows: Iterable[Row] | Iterable[Pair]) -> dict[str, list]:  # type: ignore[type-arg] # of what is given
    groups: dict[str, list] = {}  # type: ignore[type-arg]
    for row in rows:
        group = row.after.group if isinstance(row, Pair) else row.group
        groups.setdefault(group, []).append(row)
    return groups


# -- tables ----------------------------------------------------------------------------------------------------------

# A column: its head, its class, and the group of columns that it belongs to.
_Column: TypeAlias = tuple[str, str, str]
_WHAT: _Column = ("", "what", "")


def _figures_of(group: str) -> list[_Column]:
    return [(name, "", group) for name in ("p50", "p99", "worst")]


def _framed(columns: Sequence[_Column], names: Mapping[str, str], rows: str) -> str:
    """A table whose columns are as wide as those of other groups, headed by groups of columns and then by columns."""
    widths = "".join(f'<col class="{kind}">' for _, kind, _ in columns)
    groups = "".join(
        f'<th class="group {group}" colspan={len(list(same))}>{names.get(group, "")}</th>'
        for group, same in groupby(columns, key=lambda column: column[2])
    )
    heads = "".join(f'<th class="{kind}">{head}</th>' for head, kind, _ in columns)
    head = f"<thead><tr>{groups}</tr><tr>{heads}</tr></thead>"
    return f"<table><colgroup>{widths}</colgroup>{head}<tbody>{rows}</tbody></table>"


def _what(row: Row) -> str:
    return f"<td class=what><b>{escape(row.name)}</b><span>{escape(row.title)}</span></td>"


def _figures(samples: Samples | None) -> list[str]:
    figures = (samples.p50, samples.p99, samples.worst) if samples is not None else ()
    return [f"<td>{microseconds(figure)}</td>" for figure in figures] or ["<td></td>"] * 3


def _number(value: float | None) -> str:
    return "<td></td>" if value is None else f"<td>{value:.2f}</td>"


def _worded(word: str, kind: str = "") -> str:
    return f'<td class="word {kind or word}">{escape(word)}</td>'


# -- one run ---------------------------------------------------------------------------------------------------------


def _word(row: Row) -> str:
    """The verdict, "undecided" where both sides are there and none is given, else ""."""
    return row.verdict or (_UNDECIDED if row.ratio is not None else "")


def _kept(row: Row) -> str:
    """Whether the target is kept, "undecided" also where there are too few rounds, "" where there is nothing to tell."""
    is_measured = row.hyperpy is not None and (row.target is None or row.ratio is not None)
    return row.kept or (_UNDECIDED if row.bound and is_measured else "")


def _line(row: Row, has_c: bool) -> Line:
    spread = row.ratio is not None and bool(row.ratios)
    notes = []
    if row.ratio is not None:
        notes.append((f"{row.ratio:.2f} {_word(row)}", _word(row)))
    elif row.hyperpy is None:
        notes.append(("not measured" if row.floor is None else "C alone", "none"))
    if row.bound and _kept(row):
        notes.append((f"{row.bound} {_kept(row)}", _kept(row)))
    return Line(
        row.name,
        row.title,
        (("ours", row.hyperpy), ("floor", row.floor)) if has_c else (("ours", row.hyperpy),),
        (min(row.ratios), row.ratio, max(row.ratios)) if spread and row.ratio is not None else None,
        _word(row) or "none",
        row.target if row.ratio is not None else None,
        tuple(notes),
    )


def _table(rows: Sequence[Row], has_c: bool) -> str:
    has_exits = any(row.per_operation for row in rows)
    has_target = any(row.bound for row in rows)
    columns = [_WHAT, *_figures_of("ours")]
    columns += (
        [*_figures_of("floor"), ("of C", "", ""), ("verdict", "word", "")]
        if has_c
        else [("a second", "more", "")]
    )
    columns += [("target", "word target", "")] if has_target else []
    columns += [("exits", "", ""), ("answered by", "word by", "")] if has_exits else []
    cells = "".join(_cells(row, has_c, has_target, has_exits) for row in rows)
    return _framed(columns, {"ours": "hyperpy, µs", "floor": "C, µs"}, cells)


def _cells(row: Row, has_c: bool, has_target: bool, has_exits: bool) -> str:
    cells = [_what(row), *_figures(row.hyperpy)]
    if has_c:
        cells += _figures(row.floor)
        cells += [_number(row.ratio), _worded(_word(row))]
    else:
        cells.append("<td></td>" if row.per_second is None else f"<td>{row.per_second:,.0f}</td>")
    if has_target:
        cells.append(_worded(f"{row.bound} {_kept(row)}".strip(), _kept(row)))
    if has_exits:
        cells += [_number(row.per_operation.get("exits")), _worded(row.rung, "soft")]
    return f"<tr>{''.join(cells)}</tr>"


# -- two runs --------------------------------------------------------------------------------------------------------


def _word_of_pair(pair: Pair) -> str:
    return pair.verdict or (_UNDECIDED if pair.change is not None else "")


def _word_of_c(pair: Pair) -> str:
    both = pair.before.ratio is not None and pair.after.ratio is not None
    return pair.verdict_of_c or (_UNDECIDED if both else "")


def _line_of_pair(pair: Pair) -> Line:
    notes = []
    if pair.change is not None:
        notes.append((f"{pair.change:.2f} {_word_of_pair(pair)}", _word_of_pair(pair)))
    if _word_of_c(pair):
        ratios = f"of C {pair.before.ratio:.2f} → {pair.after.ratio:.2f}"
        notes.append((ratios, _word_of_c(pair)))
    return Line(
        pair.name,
        pair.after.title,
        (("floor", pair.before.hyperpy), ("ours", pair.after.hyperpy)),
        pair.spread,
        _word_of_pair(pair) or "none",
        notes=tuple(notes),
    )


def _table_of_pairs(pairs: Sequence[Pair]) -> str:
    columns = [_WHAT, *_figures_of("floor"), *_figures_of("ours"), ("B / A", "", ""), ("verdict", "word", "")]
    columns += [("A", "", "ratio"), ("B", "", "ratio"), ("verdict", "word", "ratio")]
    rows = ""
    for pair in pairs:
        cells = [_what(pair.after), *_figures(pair.before.hyperpy), *_figures(pair.after.hyperpy)]
        cells += [_number(pair.change), _worded(_word_of_pair(pair))]
        cells += [_number(pair.before.ratio), _number(pair.after.ratio), _worded(_word_of_c(pair))]
        rows += f"<tr>{''.join(cells)}</tr>"
    return _framed(columns, {"floor": "A, µs", "ours": "B, µs", "ratio": "of C's time"}, rows)
