"""The page of `hyperpy bench --html`: one file that loads nothing, says what the report says, and takes any text."""

from __future__ import annotations

import itertools
import re
from dataclasses import replace
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyperpy import _bench_plot
from hyperpy._bench_cases import CASES
from hyperpy.bench import Report, Row, Samples

HOST = {"flavour": "amd", "kernel": "6.1", "processor": "a cpu", "cpus": "2", "when": "today"}
VOID = {"meta", "col", "br"}
# What an attribute or a style could load.
LOADS = re.compile(
    r"<script|<link|<img|<iframe|\b(src|href|srcset|data|action)\s*=|url\(|@import|https?:", re.IGNORECASE
)


def samples(median: float, rounds: int = 7) -> Samples:
    return Samples(((median * 0.9, median, median * 1.1, median * 30),) * rounds)


def row(name: str, hyperpy: float, floor: float, **more: object) -> Row:
    counted = {"exits": 1.0, "rust": 1.0}
    return Row(name, f"what {name} does", samples(hyperpy), samples(floor), per_operation=counted, **more)  # type: ignore[arg-type]


def report(*rows: Row) -> Report:
    return Report(rows, HOST)


class Text(HTMLParser):
    """The text of a page by the tags around it; fails where tags do not match."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.words: list[tuple[str, str]] = []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if data.strip() and self.open[-1] != "style":
            self.words.append((self.open[-1], data))

    def of(self, *tags: str) -> list[str]:
        return [data for tag, data in self.words if tag in tags]


def plots(page: str) -> list[ElementTree.Element]:
    """Its drawings without those of the key."""
    drawn = [ElementTree.fromstring(found) for found in re.findall(r"<svg.*?</svg>", page, re.DOTALL)]
    return [one for one in drawn if one.get("role") == "img"]


def test_page_of_a_report_has_the_machine_its_groups_figures_and_reasons() -> None:
    told = report(
        row("pio-in", 2000, 1000, group="ports", target=1.5),
        row("pio-out", 1000, 1000, group="ports"),
        Row("bell", "a bell", None, samples(1000), why="nobody rings", group="bells"),
    )
    text = Text(told.html())
    assert text.of("h1") == ["hyperpy bench: KVM amd, Linux 6.1"]
    assert text.of("h2") == ["ports", "bells", "What is missing, and why"]
    counts = [" undecided", " slower than C", " with one side only", " targets missed"]
    assert text.of("li") == [*counts, "bell: no hyperpy: nobody rings"]
    cells = text.of("td")
    assert cells[:9] == [
        "2.10",
        "60.0",
        "60.0",
        "1.05",
        "30.0",
        "30.0",
        "2.00",
        "slower",
        "\N{LESS-THAN OR EQUAL TO} 1.50 missed",
    ]
    assert "a cpu" in text.of("dd")


def test_page_loads_nothing_and_runs_nothing() -> None:
    told = report(row("a", 2, 1, target=1.5), Row("b", "", samples(3)))
    for page in (told.html(), told.compare(told).html()):
        assert page.startswith("<!DOCTYPE html>")
        assert LOADS.search(page) is None
        assert "prefers-color-scheme: dark" in page
        assert "@media print" in page


def test_page_of_a_comparison_has_both_machines_and_both_verdicts() -> None:
    before = Report((row("a", 200, 100, group="ports"), row("gone", 1, 1)), {**HOST, "hyperpy": "1"})
    after = Report((row("a", 400, 200, group="ports"),), {**HOST, "hyperpy": "2"})
    text = Text(before.compare(after).html())
    assert text.of("h1") == ["hyperpy bench: KVM amd, Linux 6.1, compared"]
    assert [fact for fact in text.of("dd") if fact in ("1", "2")] == [
        "2",
        "2",
        "1",
        "2",
    ]  # processors, hyperpy
    assert text.of("td")[-5:] == ["2.00", "slower", "2.00", "2.00", "undecided"]
    assert text.of("li") == ["gone"]


def test_plot_marks_what_is_decided_and_draws_a_target() -> None:
    page = report(row("a", 2000, 1000, target=1.5), row("b", 1000, 1000)).html()
    (plot,) = plots(page)
    kinds = [group.get("class") for group in plot.iter("g") if group.find("circle") is not None]
    assert kinds == ["slower", "undecided"]
    words = ["hyperpy", "C", "faster", "slower", "undecided", "target: the most that it shall be"]
    assert [word.strip() for word in Text(page).of("span")[: len(words)]] == words  # the key
    assert [path.get("class") for path in plot.iter("path")].count("target") == 1
    notes = [text.text for text in plot.iter("text") if "note" in (text.get("class") or "")]
    assert notes == ["2.00 slower", "\N{LESS-THAN OR EQUAL TO} 1.50 missed", "1.00 undecided"]


def test_plot_of_rows_without_c_has_no_ratios() -> None:
    (plot,) = plots(report(Row("a", "", samples(2)), Row("b", "", why="no")).html())
    assert list(plot.iter("circle")) == []
    assert len([group for group in plot.iter("g") if group.get("class") == "ours"]) == 1


def test_plot_keeps_everything_inside_and_labels_apart() -> None:
    rows = [row(f"row {number}", 10.0**number, 3 * 10.0**number) for number in range(9)]
    (plot,) = plots(report(*rows, row("near", 1, 1.001), row("far", 1e9, 1)).html())
    _, _, width, height = map(float, (plot.get("viewBox") or "").split())
    for part in plot.iter():
        for key in ("x", "x1", "x2", "cx"):
            assert 0 <= float(part.get(key, 0)) <= width
        for key in ("y", "y1", "y2", "cy"):
            assert -1 <= float(part.get(key, 0)) <= height
    ticks = sorted(float(text.get("x", 0)) for text in plot.iter("text") if text.get("class") == "tick")
    assert min(b - a for a, b in itertools.pairwise(ticks)) >= 30


def test_plot_points_to_a_worst_case_that_is_far_out() -> None:
    far = Samples(((1.0,) * 200 + (1e6,),) * 7)
    near = Samples(((1.0,) * 200 + (2.0,),) * 7)
    (plot,) = plots(report(Row("far", "", far), Row("near", "", near)).html())
    ends = [path.get("d", "") for path in plot.iter("path") if path.get("class") == "tail"]
    assert ["l4 3" in end for end in ends] == [True, False]


@pytest.mark.parametrize("name", sorted(CASES, key=len)[-3:])
def test_names_of_rows_fit_into_their_column(name: str) -> None:
    assert len(name) * _bench_plot._CHARACTER <= _bench_plot._NAMES


def test_plot_squeezes_a_name_that_is_too_long() -> None:
    (plot,) = plots(report(Row("n" * 60, "", samples(2))).html())
    (name,) = [text for text in plot.iter("text") if text.get("class") == "name"]
    assert name.get("textLength") == str(_bench_plot._NAMES)


@given(st.text(max_size=20), st.text(max_size=20), st.text(max_size=20))
def test_page_escapes_what_a_file_says(name: str, title: str, group: str) -> None:
    hostile = f"<script>{name}</script>\"'&"
    told = replace(
        row(hostile, 2, 1, group=hostile + group), title=hostile + title, why=hostile, why_floor="<b>"
    )
    whole = Report((told,), dict.fromkeys(HOST, hostile))
    for page in (whole.html(), whole.compare(whole).html()):
        assert "<script" not in page
        assert "<b>no" not in page


@given(
    st.lists(st.floats(0, 1e14), min_size=1, max_size=8), st.lists(st.floats(0, 1e14), min_size=1, max_size=8)
)
def test_page_takes_any_times(mine: list[float], floor: list[float]) -> None:
    told = Row("a", "", Samples((tuple(mine),) * 7), Samples((tuple(floor),) * 7), target=1.04)
    for page in (report(told).html(), report(told).compare(report(told)).html()):
        assert "nan" not in page
        Text(page)
