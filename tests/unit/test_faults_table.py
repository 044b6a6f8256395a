"""The script that holds each row of docs/faults.md to its tests."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = """
| # | input or fault | handled where | test |
|---|---|---|---|
| 3 | a | there | `test_a_is_survived` |
| 4, 5 | b | there | waits for disks |
"""


@pytest.fixture(scope="module")
def faults() -> Any:
    spec = importlib.util.spec_from_file_location("faults", ROOT / "scripts/faults.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["faults"] = module  # where its dataclass looks its own annotations up
    spec.loader.exec_module(module)
    return module


def _report(folder: Path, *cases: str) -> Path:
    (folder / "x.xml").write_text(f"<testsuites><testsuite>{''.join(cases)}</testsuite></testsuites>")
    return folder


def _case(name: str, row: int, inner: str = "") -> str:
    fault = f'<properties><property name="fault" value="{row}"/></properties>'
    return f'<testcase classname="tests.unit" name="{name}">{fault}{inner}</testcase>'


PASSED = _case("test_a_is_survived[x]", 3)


@pytest.mark.parametrize(
    ("cases", "wrong"),
    [
        ([PASSED], []),
        ([PASSED, _case("test_more", 5)], []),
        ([], ["row 3 (a) is untested", "row 3: docs/faults.md names test_a_is_survived"]),
        (
            [_case("test_a_is_survived", 3, "<skipped/>")],
            ["row 3 (a) is untested", "row 3: docs/faults.md names test_a_is_survived"],
        ),
        (
            [_case("test_a_is_survived", 3, "<skipped/>"), _case("test_more", 3)],
            ["row 3: docs/faults.md names test_a_is_survived"],
        ),
        ([PASSED, _case("test_a_is_survived[y]", 3, "<skipped/>")], []),
        ([PASSED, _case("test_a_is_survived[y]", 3, "<failure/>")], ["row 3 (a) is failed"]),
        ([_case("test_other", 3)], ["row 3: docs/faults.md names test_a_is_survived"]),
        ([PASSED, _case("test_more", 6)], ["test_more covers row 6, which docs/faults.md lacks"]),
    ],
)
def test_row_without_its_passing_test_is_wrong(
    faults: Any, tmp_path: Path, cases: list[str], wrong: list[str]
) -> None:
    rows = faults.rows_from_page(PAGE)
    found = faults.collect(rows, faults.results(_report(tmp_path, *cases), {}))
    assert [text[: len(expected)] for text, expected in zip(found, wrong, strict=True)] == wrong
    assert {number: row.waits for number, row in rows.items()} == {3: False, 4: True, 5: True}


def test_rust_test_declares_its_rows_in_a_comment_above_it(faults: Any, tmp_path: Path) -> None:
    (tmp_path / "src").mkdir()
    (tmp_path / "Cargo.toml").write_text('[package]\nname = "some-crate"\n')
    (tmp_path / "src/a_test.rs").write_text(
        "// fault row 3, 4\n#[test]\nfn test_one() {}\n\n"
        "    // fault row 5\n    // Why.\n    #[test]\n    #[ignore]\n    fn test_two() {}\n\n"
        "#[test]\nfn test_three() {}\n"
    )
    marks = faults.rust_marks([tmp_path])
    assert marks == {"some-crate::test_one": {3, 4}, "some-crate::test_two": {5}}
    report = _report(
        tmp_path, '<testcase classname="some-crate::kvm" name="tests::test_one"/>',
        '<testcase classname="other" name="tests::test_two"/>',
    )  # fmt: skip
    assert list(faults.results(report, marks)) == [
        ("test_one", {3, 4}, "passed"),
        ("test_two", set(), "passed"),
    ]


def test_page_of_faults_has_rows_that_name_tests(faults: Any) -> None:
    rows = faults.rows_from_page((ROOT / "docs/faults.md").read_text())
    assert len(rows) > 20
    assert [number for number, row in rows.items() if not row.named and not row.waits] == []


def test_page_of_faults_names_tests_that_declare_its_rows(faults: Any) -> None:
    marks = faults.python_marks(ROOT / "tests")
    for name, numbers in faults.rust_marks([*(ROOT / "crates").iterdir(), ROOT / "benches"]).items():
        marks[name.split("::")[1]] |= numbers
    rows = faults.rows_from_page((ROOT / "docs/faults.md").read_text())
    wrong = [
        (number, name) for number, row in rows.items() for name in row.named if number not in marks[name]
    ]
    assert wrong == []
    assert {number for numbers in marks.values() for number in numbers} == rows.keys()
