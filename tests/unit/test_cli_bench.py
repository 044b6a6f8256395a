"""`hyperpy bench` on the command line: arguments, their errors, comparison, progress. Nothing is measured here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hyperpy import _bench_args, bench, cli
from hyperpy.bench import Report, Row, Samples

SAMPLES = Samples(((1.0, 2.0, 3.0),) * 7)


def a_report(*_: Any, **__: Any) -> Report:
    return Report((Row("pio-in-rust", "", SAMPLES, SAMPLES),), {"flavour": "amd"})


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What was asked to be measured, instead of measuring."""
    asked: list[dict[str, Any]] = []

    def run(*names: str, **options: Any) -> Report:
        asked.append({"names": names, **options})
        options["progress"]("pio-in-rust", 0, 2)
        return a_report()

    monkeypatch.setattr(bench, "run", run)
    return asked


def test_bench_prints_the_table_on_standard_output_and_progress_on_standard_error(
    measured: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["bench", "pio", "--rounds", "8", "--count", "0x10"]) == 0
    said = capsys.readouterr()
    assert said.out == f"{a_report()}\n"
    assert said.err == "measuring 1 of 2: pio-in-rust\n"
    assert (measured[0]["names"], measured[0]["rounds"], measured[0]["count"]) == (("pio",), 8, 16)


def test_bench_on_a_terminal_has_one_line_of_progress_and_takes_it_away(
    measured: list[dict[str, Any]], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    assert cli.main(["bench"]) == 0
    text = "measuring 1 of 2: pio-in-rust"
    assert capsys.readouterr().err == f"\r{text}\r{' ' * len(text)}\r"


def test_bench_writes_all_samples(measured: list[dict[str, Any]], tmp_path: Path) -> None:
    assert cli.main(["bench", "--json", str(tmp_path / "r.json")]) == 0
    assert Report.load(tmp_path / "r.json") == a_report()


def test_bench_writes_a_page(measured: list[dict[str, Any]], tmp_path: Path) -> None:
    assert cli.main(["bench", "--html", str(tmp_path / "r.html")]) == 0
    assert (tmp_path / "r.html").read_text(encoding="utf-8") == a_report().html()


def test_bench_compares_two_files_on_a_page(tmp_path: Path) -> None:
    file, page = str(tmp_path / "a.json"), tmp_path / "c.html"
    a_report().save(file)
    assert cli.main(["bench", "--compare", file, file, "--html", str(page)]) == 0
    assert page.read_text(encoding="utf-8") == a_report().compare(a_report()).html()


def test_bench_page_that_cannot_be_written_is_told_with_status_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = str(tmp_path / "a.json")
    a_report().save(file)
    assert cli.main(["bench", "--compare", file, file, "--html", str(tmp_path)]) == 1
    assert "page cannot be written: " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message", "hint"),
    [
        (["pyo-out"], "nothing to measure by this name: pyo-out", "did you mean pio-out?"),
        (["zzzz"], "nothing to measure by this name: zzzz", "--list"),
        (["--jsn", "f"], "unknown argument: --jsn", "did you mean --json?"),
        (["--rounds", "x"], "not a number: 'x'", "16 or 0x10"),
        (["--rounds", "0"], "number of rounds is out of range: 0", "7 or more"),
        (["--count", "1"], "number of operations is out of range: 1", "from 2"),
        (["--json", "/nowhere/r.json"], "file cannot be written: /nowhere/r.json", "a folder that is there"),
        (["--json", "/"], "file cannot be written: /", "a folder that is there"),
        (["--compare", "a"], "expected 2 arguments", "--help"),
        (["--compare", "/nowhere/a", "b"], "report cannot be read", "--json"),
        (["clock", "--compare", "a", "b"], "--compare measures nothing", "two files of --json"),
        (["--html", "/nowhere/r.html"], "file cannot be written: /nowhere/r.html", "a folder that is there"),
    ],
)
def test_bench_argument_that_cannot_be_says_why_and_measures_nothing(
    arguments: list[str], message: str, hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["bench", *arguments]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("hyperpy bench: ")
    assert message in said.err.partition("\n\nhint: ")[0]
    assert hint in said.err.partition("\n\nhint: ")[2]


def test_bench_compares_two_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a_report().save(tmp_path / "a.json")
    (tmp_path / "b.json").write_text("{}")
    assert cli.main(["bench", "--compare", *[str(tmp_path / "a.json")] * 2]) == 0
    assert capsys.readouterr().out == f"{bench.compare(a_report(), a_report())}\n"
    assert cli.main(["bench", "--compare", str(tmp_path / "a.json"), str(tmp_path / "b.json")]) == 1
    assert f"{tmp_path / 'b.json'}: not a report" in capsys.readouterr().err


def test_bench_lists_what_it_measures(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["bench", "--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(bench.names())


def test_bench_that_is_interrupted_leaves_no_progress_behind(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(*_: str, progress: Any, **__: Any) -> Report:
        progress("clock", 0, 2)
        raise KeyboardInterrupt

    monkeypatch.setattr(_bench_args.bench, "run", run)
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    assert cli.main(["bench"]) == 130
    assert capsys.readouterr().err.endswith("\r")
