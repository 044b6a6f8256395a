"""The values of a measurement: statistics, verdicts, tables, files, comparison; and the guest's bytes. No KVM is asked."""

from __future__ import annotations

import json
import statistics
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyperpy import _bench_guests, bench, disassemble
from hyperpy.bench import Comparison, Report, Row, Samples, verdict

HOST = {"flavour": "amd", "kernel": "6.1", "processor": "a cpu", "cpus": "2", "load": "0.10 to 0.20"}


def samples(*medians: float) -> Samples:
    return Samples(tuple((median - 1, median, median + 1) for median in medians))


def row(name: str, hyperpy: float, floor: float, spread: float = 0.0, rounds: int = 7) -> Row:
    return Row(
        name,
        f"what {name} does",
        samples(*(hyperpy + spread * i for i in range(rounds))),
        samples(*(floor + spread * i for i in range(rounds))),
        per_operation={"exits": 1.0, "rust": 1.0, "python": 0.0},
    )


def report(*rows: Row) -> Report:
    return Report(rows, HOST)


def a_file(**changed: object) -> bytes:
    """A report's file with one row."""
    whole = report(row("a", 2, 1)).to_dict()
    whole["rows"] = [whole["rows"][0] | changed]
    return json.dumps(whole).encode()


# -- samples ---------------------------------------------------------------------------------------------------------


@given(st.lists(st.lists(st.floats(0, 1e9), min_size=1), min_size=1))
def test_quantiles_lie_between_the_least_and_the_worst_and_rise(rounds: list[list[float]]) -> None:
    taken = Samples(tuple(map(tuple, rounds)))
    flat = [sample for each in rounds for sample in each]
    assert min(flat) <= taken.p50 <= taken.p99 <= taken.worst == max(flat)
    assert taken.p50 == pytest.approx(statistics.median(flat))
    assert taken.medians == tuple(statistics.median(each) for each in rounds)


def test_p99_of_a_hundred_and_one_samples_is_the_last_but_one() -> None:
    assert Samples((tuple(range(101)),)).p99 == 99


@pytest.mark.parametrize("rounds", [(), ((),), ((1.0,), ())])
def test_rounds_without_samples_are_refused(rounds: tuple[tuple[float, ...], ...]) -> None:
    with pytest.raises(ValueError, match="no samples in a round"):
        Samples(rounds)


@pytest.mark.parametrize("part", [-0.1, 1.1, float("nan")])
def test_quantile_that_is_none_is_refused(part: float) -> None:
    with pytest.raises(ValueError, match="not a part of the samples"):
        samples(1).quantile(part)


# -- verdicts --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mine", "other", "expected"),
    [
        ([1] * 7, [2] * 7, "faster"),
        ([2] * 7, [1] * 7, "slower"),
        ([1] * 7, [1] * 7, ""),
        ([1] * 6 + [2], [2] * 7, ""),  # they touch
        ([1] * 6 + [3], [2] * 7, ""),
        ([1] * 6, [2] * 7, ""),  # too few
        ([1] * 7, [2] * 6, ""),
        ([], [], ""),
    ],
)
def test_verdict_is_given_only_where_ranges_do_not_overlap(
    mine: list[float], other: list[float], expected: str
) -> None:
    assert verdict(mine, other) == expected


@given(
    st.lists(st.integers(0, 50), min_size=7, max_size=9), st.lists(st.integers(0, 50), min_size=7, max_size=9)
)
def test_verdicts_of_two_sides_are_opposite(mine: list[float], other: list[float]) -> None:
    opposite = {"faster": "slower", "slower": "faster", "": ""}
    assert verdict(other, mine) == opposite[verdict(mine, other)]


# -- rows and reports ------------------------------------------------------------------------------------------------


def test_row_tells_its_ratio_verdict_and_rung() -> None:
    told = row("a", 200, 100)
    assert (told.ratio, told.verdict, told.rung) == (2.0, "slower", "rust")
    assert told.ratios == (2.0,) * 7


def test_row_with_one_side_has_no_ratio_and_no_verdict() -> None:
    told = Row("a", "", samples(1), why_floor="no compiler")
    assert (told.ratio, told.verdict, told.ratios, told.rung) == (None, "", (), "")
    assert "0.001" in str(told)


def test_report_prints_the_flavour_first_and_why_figures_are_missing() -> None:
    told = report(row("a", 2000, 1000), Row("b", "", None, samples(1), why="KVM lacks it"))
    lines = str(told).splitlines()
    assert lines[0] == "KVM amd, Linux 6.1, a cpu"
    assert lines[-1] == "b: no hyperpy: KVM lacks it"
    cells = ["2.00", "2.00", "2.00", "1.00", "1.00", "1.00", "2.00", "slower", "1.00", "rust"]
    assert ["a", *cells] in [line.split() for line in lines]


def test_report_finds_rows_and_names_the_nearest() -> None:
    told = report(row("pio-in-rust", 2, 1))
    assert told["pio-in-rust"] is told.rows[0]
    with pytest.raises(KeyError, match="did you mean pio-in-rust"):
        told["pio-in-rusty"]


def test_report_comes_back_from_its_file(tmp_path: Path) -> None:
    told = report(row("a", 2, 1), Row("b", "", why="no", why_floor="neither"))
    told.save(tmp_path / "r.json")
    assert Report.load(tmp_path / "r.json") == told
    assert json.loads((tmp_path / "r.json").read_text())["rows"][0]["hyperpy"]["rounds"][0] == [1, 2, 3]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not JSON"),
        (b"\xff\xfe", "not a report"),
        (b"[]", "not a report"),
        (b"{}", "not a report"),
        (b'{"form": 99}', "another version: 99"),
        (b'{"form": 1, "rows": [{}], "host": {}}', "not a report"),
        (b'{"form": 1, "rows": [{"hyperpy": 5, "floor": 5}], "host": {}}', "not a report"),
        (a_file(hyperpy={"rounds": [[-1.0]]}), "sample is not a time"),
        (a_file(hyperpy={"rounds": [[1e999]]}), "sample is not a time"),
        (a_file(floor={"rounds": [[float("nan")]]}), "sample is not a time"),
        (a_file(target=0), "target is out of range: 0"),
        (a_file(target_ns=float("nan")), "target is out of range: nan"),
        (a_file(per_operation=None), "not a report"),
        (a_file(surprise=1), "not a report"),
        (a_file(hyperpy={"rounds": [[10**400]]}), "not a report"),
        (a_file(hyperpy={"rounds": [["soon"]]}), "not a report"),
        (a_file(per_operation={"exits": "one"}), "not a report"),
        (b'{"form": ' + b"1" * 5000 + b"}", "not JSON"),
        (b"[" * 100_000, "not JSON"),
    ],
)
def test_file_that_is_no_report_says_so(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "r.json").write_bytes(content)
    with pytest.raises(ValueError, match=f"(?s){message}.*hint: "):
        Report.load(tmp_path / "r.json")


def test_file_that_never_ends_is_no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hyperpy._bench_values._MOST_BYTES", 1 << 20)
    with pytest.raises(ValueError, match=r"not a report of `hyperpy bench`: it never ends\n\nhint: "):
        Report.load("/dev/zero")


@pytest.mark.parametrize(
    ("target", "spread", "expected"),
    [(2.1, 0, "met"), (2.0, 0, "met"), (1.9, 0, "missed"), (1.9, 10, "undecided"), (None, 0, "")],
)
def test_target_is_met_or_missed_only_where_all_rounds_agree(
    target: float | None, spread: float, expected: str
) -> None:
    told = replace(row("a", 200, 100, spread=spread), target=target)
    assert told.kept == expected
    assert told.bound == ("" if target is None else f"≤ {target:.2f}")


def test_target_in_nanoseconds_is_about_the_time_itself() -> None:
    told = Row("a", "", samples(*[390] * 6, 410), target_ns=400)
    assert (told.kept, told.bound) == ("undecided", "≤ 0.400 µs")
    assert replace(told, target_ns=420).kept == "met"
    assert replace(told, target_ns=380).kept == "missed"


def test_target_with_too_few_rounds_is_not_judged() -> None:
    assert replace(row("a", 200, 100, rounds=6), target=3.0).kept == ""


def test_row_of_c_that_takes_no_time_has_no_ratio() -> None:
    told = Row("a", "", samples(5), Samples(((0.0,),)))
    assert (told.ratio, told.ratios) == (None, ())


def test_report_leaves_out_columns_that_are_empty_and_tells_rates_where_there_is_no_c() -> None:
    lines = str(report(Row("a", "", samples(2000)))).splitlines()
    assert lines[-2].split() == ["µs", "p50", "p99", "worst", "a", "second"]
    assert lines[-1].split() == ["a", "2.00", "2.00", "2.00", "500000"]


# -- comparison ------------------------------------------------------------------------------------------------------


def test_comparison_tells_a_slower_hyperpy_from_a_slower_machine() -> None:
    before = report(row("same", 200, 100), row("regressed", 200, 100), row("gone", 1, 1))
    after = report(row("same", 400, 200), row("regressed", 400, 100), row("new", 1, 1))
    told = Comparison(before, after)
    same, regressed = told.pairs
    assert (same.change, same.verdict, same.verdict_of_c) == (2.0, "slower", "")
    assert (regressed.change, regressed.verdict, regressed.verdict_of_c) == (2.0, "slower", "slower")
    assert told.only == ("gone", "new")
    assert "in one of the two only: gone, new" in str(told)


def test_comparison_of_overlapping_rounds_gives_no_verdict() -> None:
    told = Comparison(report(row("a", 100, 100, spread=10)), report(row("a", 120, 120, spread=10)))
    assert (told.pairs[0].verdict, told.pairs[0].verdict_of_c) == ("", "")
    assert told.pairs[0].change == pytest.approx(150 / 130)


def test_comparison_with_a_missing_side_gives_no_change() -> None:
    (pair,) = bench.compare(report(Row("a", "", why="no")), report(row("a", 1, 1))).pairs
    assert (pair.change, pair.verdict, pair.verdict_of_c) == (None, "", "")


# -- the guest -------------------------------------------------------------------------------------------------------


def test_guest_is_the_loop_that_its_module_tells() -> None:
    told = disassemble(_bench_guests.code_of(b"\xe4\x80", b"\x90"), address=0x1000)
    text = [instruction.text for instruction in told]
    assert text == [
        "nop",
        "out 0x98, al",
        "mov r9d, [0x3000]",
        "mov r10d, 0x100000",
        *("rdtsc", "mov r8d, eax", "mov r11d, edx"),
        "in al, 0x80",
        *("rdtsc", "sub eax, r8d", "sbb edx, r11d", "mov [r10], eax", "mov [r10+4], edx"),
        *("add r10, 8", "dec r9d", f"jne {told[4].address:#x}", "jmp 0x1001"),
    ]
