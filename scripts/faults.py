"""Prints which tests cover each row of docs/faults.md, and how they went: row, status, test.

A test declares the rows that it covers: in Python by `@pytest.mark.fault(37)` (tests/conftest.py puts them into the
report), in Rust by a line `// fault row 37` above its `#[test]`; several numbers are separated by commas. What counts
is the last run's JUnit reports. Fails when a row has no passing test or a failing one, unless its last cell begins
with "waits for", and when the page names a test that does not exist or does not cover that row.
"""

import re
import sys
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parent.parent
_ROW = re.compile(r"^\| (?P<numbers>[\d, ]+) \| (?P<fault>.*?) \| .* \| (?P<tests>.*?) \|$", re.MULTILINE)
_NAMED = re.compile(r"`(test_\w+)`")
_MARKED_RUST = re.compile(
    r"// fault row (?P<rows>[\d, ]+)$(?:\s*(?://|#\[).*$)*\s*fn (?P<name>test_\w+)", re.MULTILINE
)
_MARKED_PYTHON = re.compile(
    r"@pytest\.mark\.fault\((?P<rows>[\d, ]+)\)\n(?:(?!def ).*\n)*def (?P<name>test_\w+)"
)
_NUMBER = re.compile(r"\d+")


@dataclass
class Row:
    """A row of docs/faults.md, and what its tests said: by test, "passed", "failed" or "skipped"."""

    fault: str
    named: set[str]
    waits: bool
    tests: dict[str, str] = field(default_factory=dict)

    @property
    def status(self) -> str:
        """In a word."""
        said = set(self.tests.values())
        if "failed" in said:
            return "failed"
        return "passed" if "passed" in said else "waits" if self.waits else "untested"


def rows_from_page(page: str) -> dict[int, Row]:
    """Return the table's rows by number; a line with several numbers is as many rows."""
    rows = {}
    for match in _ROW.finditer(page):
        tests = match["tests"]
        for number in _NUMBER.findall(match["numbers"]):
            named = set(_NAMED.findall(tests))
            rows[int(number)] = Row(match["fault"], named, waits=tests.startswith("waits for"))
    return rows


def rust_marks(folders: list[Path]) -> dict[str, set[int]]:
    """Return the rows that each Rust test declares, by `crate::test`, the crate as cargo names its package."""
    marks: dict[str, set[int]] = defaultdict(set)
    for folder in folders:
        manifest = folder / "Cargo.toml"
        package = re.search(r'^name = "(.*)"$', manifest.read_text(), re.MULTILINE)
        for source in folder.glob("*/**/*.rs"):
            for match in _MARKED_RUST.finditer(source.read_text()):
                name = f"{package[1] if package else folder.name}::{match['name']}"
                marks[name] |= {int(number) for number in _NUMBER.findall(match["rows"])}
    return marks


def python_marks(folder: Path) -> dict[str, set[int]]:
    """Return the rows that each Python test below a folder declares."""
    marks: dict[str, set[int]] = defaultdict(set)
    for source in folder.rglob("test_*.py"):
        for match in _MARKED_PYTHON.finditer(source.read_text()):
            marks[match["name"]] |= {int(number) for number in _NUMBER.findall(match["rows"])}
    return marks


def results(reports: Path, marks: dict[str, set[int]]) -> Iterator[tuple[str, set[int], str]]:
    """Yield (test, rows that it declares, status) of every test in the reports, without its parameters."""
    for path in sorted(reports.glob("*.xml")):
        for case in ElementTree.parse(path).getroot().iter("testcase"):
            name = (case.get("name") or "").split("[")[0].split("::")[-1]
            # nextest: `package` or `package::binary`, then modules in the name.
            package = (case.get("classname") or "").split("::")[0]
            rows = marks.get(f"{package}::{name}", set()) | {
                int(prop.get("value") or 0) for prop in case.iter("property") if prop.get("name") == "fault"
            }
            failed = case.find("failure") is not None or case.find("error") is not None
            yield (
                name,
                rows,
                "failed" if failed else "skipped" if case.find("skipped") is not None else "passed",
            )


def collect(rows: dict[int, Row], found: Iterator[tuple[str, set[int], str]]) -> list[str]:
    """Fill in what the tests said, and return what is wrong."""
    # Of several cases of a test, and of several reports: skipped is what none has run.
    worst = ("skipped", "passed", "failed")
    wrong = []
    for name, numbers, status in found:
        for number in numbers:
            if number not in rows:
                wrong.append(f"{name} covers row {number}, which docs/faults.md lacks")
                continue
            tests = rows[number].tests
            tests[name] = max(status, tests.get(name, "skipped"), key=worst.index)
    for number, row in rows.items():
        if row.status in {"untested", "failed"}:
            wrong.append(f"row {number} ({row.fault}) is {row.status}")
        gone = sorted(row.named - {name for name, status in row.tests.items() if status != "skipped"})
        wrong += [
            f"row {number}: docs/faults.md names {name}, which did not run or does not cover it"
            for name in gone
        ]
    return wrong


def main() -> int:
    """Print the table; 1 if a row has lost its test."""
    rows = rows_from_page((ROOT / "docs/faults.md").read_text())
    marks = rust_marks([*sorted((ROOT / "crates").iterdir()), ROOT / "benches"])
    wrong = collect(rows, results(Path(sys.argv[1]), marks))
    for number, row in sorted(rows.items()):
        print(f"fault {number:2}  {row.status:8}  {row.fault}")
        for name, status in sorted(row.tests.items()):
            print(f"    {name}" + (f" ({status})" if status != "passed" else ""))
    if wrong or not rows:
        print("faults without the tests that they had:", *wrong, sep="\n  ", file=sys.stderr)
        print("hint: mark tests with @pytest.mark.fault(ROW) or `// fault row ROW`", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
