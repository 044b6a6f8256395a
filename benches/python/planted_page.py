"""What the bench of the planted bugs found, as a page of the documentation with a plot, and as plain text; and which targets hold.

`planted` measures; here nothing is. The page is docs/reference/planted-times.md, the plot docs/_static/planted-times.svg, both of benches/planted.json.
"""

from __future__ import annotations

import json
import math
import statistics
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / "benches/planted.json"
PAGE, PLOT = ROOT / "docs/reference/planted-times.md", ROOT / "docs/_static/planted-times.svg"

SEEDS = 10
DEEP, DEEP_BUGS = 3, 15
BY_CHANCE = 8
VENOM, VENOM_SECONDS = "floppy", 10.0
HEAD = ("bug", "class", "needs", "by chance", "found", "min", "median", "max")

Bug = dict[str, Any]


def targets(data: dict[str, Any]) -> list[tuple[str, bool | None]]:
    """Each target, and whether it holds; None: too little is measured to say."""
    limit, bugs = data["limit"], data["bugs"]
    looked = {name: bug for name, bug in bugs.items() if bug["fuzzer"]}
    late = [name for name, bug in looked.items() if _median(bug["fuzzer"]) >= limit]
    tried = {name: bug for name, bug in bugs.items() if bug["uniform"]}
    lucky = [name for name, bug in tried.items() if _median(bug["uniform"]) < limit]
    venom = bugs[VENOM]["fuzzer"]
    deep = sum(bug["of"] == "device" and bug["needs"] >= DEEP for bug in bugs.values())
    return [
        (
            f"every bug is found within {limit:g} s, by the median of {SEEDS} seeds: {len(looked) - len(late)} of "
            + _of(looked, bugs)
            + f"; not {', '.join(late)}" * bool(late),
            False
            if any(_is_whole(bugs[name]["fuzzer"]) for name in late)
            else _known(not late, all(_is_whole(bug["fuzzer"]) for bug in bugs.values())),
        ),
        (
            f"{VENOM}, which is VENOM, within {VENOM_SECONDS:g} s: {times(venom)}",
            _known(bool(venom) and _median(venom) < VENOM_SECONDS, _is_whole(venom)),
        ),
        (f"at least {DEEP_BUGS} devices need {DEEP} operations: {deep} do", deep >= DEEP_BUGS),
        (
            f"chance finds at most {BY_CHANCE} within {limit:g} s: {len(lucky)} of {_of(tried, bugs)}"
            + f" ({', '.join(lucky)})" * bool(lucky),
            _known(len(lucky) <= BY_CHANCE, len(tried) == len(bugs) or len(lucky) > BY_CHANCE),
        ),
    ]


def _known(holds: bool, is_measured: bool) -> bool | None:
    return holds if is_measured else None


def _is_whole(told: Sequence[Bug]) -> bool:
    """Whether all seeds were tried, or so many in vain that the others do not matter."""
    return len(told) >= SEEDS or 2 * sum(each["seconds"] is None for each in told) >= SEEDS


def _of(some: dict[str, Bug], bugs: dict[str, Bug]) -> str:
    return str(len(bugs)) if len(some) == len(bugs) else f"{len(some)} that were looked for, of {len(bugs)}"


def times(told: Sequence[Bug]) -> str:
    """How many seeds found it, and the median."""
    found = sum(each["seconds"] is not None for each in told)
    return f"{found} of {len(told)}, {_shown(_median(told))}" if told else "not looked for"


def plain_table(data: dict[str, Any]) -> list[str]:
    """A line for each bug that was looked for."""
    rows = [HEAD, *(_row(name, bug) for name, bug in data["bugs"].items() if bug["fuzzer"] or bug["uniform"])]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEAD))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]


def write(data: dict[str, Any]) -> None:
    """Write the page and the plot."""
    PAGE.write_text(page(data))
    PLOT.write_text(plot(data))


def page(data: dict[str, Any]) -> str:
    """The page, as Markdown."""
    seeds = max((len(bug["fuzzer"]) for bug in data["bugs"].values()), default=0)
    rows = [HEAD, ["---"] * len(HEAD), *(_row(name, bug) for name, bug in data["bugs"].items())]
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    held = "\n".join(
        f"- {text}: {'not all is measured' if holds is None else 'holds' if holds else 'does not hold'}"
        for text, holds in targets(data)
    )
    return f"""# How soon the planted bugs are found

[The planted bugs](planted-bugs.md), each looked for with up to {seeds} seeds for up to {data["limit"]:g} seconds of processor time: by `DeviceFuzzer` and
`GuestFuzzer`, and by uniformly random inputs with one seed. Measured on {data["date"]} on KVM of the kind "{data["kvm"]}", with Python {data["python"]}.

```{{image}} ../_static/planted-times.svg
:alt: seconds to find each bug, by a fuzzer and by chance
```

{table}

*Needs* is how many operations of a device, or bytes of a guest's input, the shortest proof has. *Found* is in how many seeds; min, median and max are
seconds of all seeds. One that found nothing counts as more than {data["limit"]:g}, and where half of them found nothing the rest is not tried.

{held}

`python benches/python/planted.py --json benches/planted.json --again` measures anew and writes this page.
"""


def _row(name: str, bug: Bug) -> list[str]:
    found, chance = bug["fuzzer"], bug["uniform"]
    spread = [_shown(at(_seconds(found))) for at in (min, statistics.median, max)] if found else ["", "", ""]
    hits = f"{sum(each['seconds'] is not None for each in found)} of {len(found)}" if found else "not tried"
    luck = _shown(_median(chance)) if chance else "not tried"
    needs = f"{bug['needs']}" + f" byte{'s' * (bug['needs'] > 1)}" * (bug["of"] == "guest")
    return [name, bug["class"], needs, luck, hits, *spread]


def _seconds(told: Iterable[Bug]) -> list[float]:
    return [math.inf if each["seconds"] is None else each["seconds"] for each in told]


def _median(told: Sequence[Bug]) -> float:
    return statistics.median(_seconds(told))


def _shown(seconds: float) -> str:
    return "no" if seconds == math.inf else f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"


# -- the plot: a line for each bug, with a logarithmic scale of seconds ------------------------------------------------

_LINE, _LEFT, _WIDTH, _RIGHT, _TOP = 17, 82, 560, 30, 26
_FIRST = 0.001
_INK = "#666"  # to be read on light and on dark pages
_CHANCE, _FUZZER = "#c76a15", "#3572b0"


def plot(data: dict[str, Any]) -> str:
    """The plot, as SVG: from the soonest seed to the last one, the median as a dot, and where chance found it."""
    bugs, limit = data["bugs"], data["limit"]
    height = _TOP + _LINE * len(bugs) + 30

    def x(seconds: float) -> float:
        share = math.log(max(min(seconds, limit), _FIRST) / _FIRST) / math.log(limit / _FIRST)
        return round(_LEFT + share * _WIDTH, 1)

    marks = [_text(_LEFT, 14, "seconds to find it: by a fuzzer (line: all seeds; dot: median)", _FUZZER)]
    marks.append(_text(_LEFT + 380, 14, "by chance (diamond)", _CHANCE))
    for tick in (0.001, 0.01, 0.1, 1, 10, limit):
        at = x(tick)
        marks.append(f'<path d="M{at} {_TOP}V{height - 22}" stroke="{_INK}" stroke-opacity=".25"/>')
        marks.append(_text(at, height - 8, f"{tick:g}", _INK, "middle"))
    for number, (name, bug) in enumerate(bugs.items()):
        y = _TOP + _LINE * number + _LINE // 2 + 2
        marks.append(_text(_LEFT - 8, y + 4, name, _INK, "end"))
        marks += _marks(bug, y, x, limit)
    size = f'width="{_LEFT + _WIDTH + _RIGHT}" height="{height}"'
    view = f'viewBox="0 0 {_LEFT + _WIDTH + _RIGHT} {height}"'
    body = "\n".join(marks)
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size} {view} font-family="sans-serif" font-size="11">\n{body}\n</svg>\n'


def _marks(bug: Bug, y: float, x: Any, limit: float) -> list[str]:
    marks = []
    if bug["fuzzer"]:
        seconds = _seconds(bug["fuzzer"])
        low, median, high = x(min(seconds)), x(statistics.median(seconds)), x(max(seconds))
        marks.append(f'<path d="M{low} {y}H{high}" stroke="{_FUZZER}" stroke-width="2"/>')
        fill = _FUZZER if statistics.median(seconds) < limit else "none"
        marks.append(f'<circle cx="{median}" cy="{y}" r="4" fill="{fill}" stroke="{_FUZZER}"/>')
    if bug["uniform"] and (luck := _median(bug["uniform"])) < limit:
        at = x(luck)
        marks.append(f'<path d="M{at} {y - 5}l4 5l-4 5l-4-5z" fill="{_CHANCE}"/>')
    return marks


def _text(x: float, y: float, text: str, ink: str, anchor: str = "start") -> str:
    return f'<text x="{x}" y="{y}" fill="{ink}" text-anchor="{anchor}">{escape(text)}</text>'


if __name__ == "__main__":
    if len(sys.argv) > 1:
        sys.exit(__doc__)
    write(json.loads(DATA.read_text()))
