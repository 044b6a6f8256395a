"""Prints the totals of all JUnit reports in a folder.

Fails on a failure, on no tests, on more tests that were run again than the lab's emulator explains (see the Makefile), and,
with HYPERPY_NO_SKIPS=1, on a skip.
"""

import os
import sys
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree

_COUNTS = ("tests", "failures", "errors", "skipped")
_MOST_RERUN = 2


def main() -> int:
    """Print a line per report and the sum; return the exit status."""
    total = dict.fromkeys(_COUNTS, 0)
    skips, rerun = [], []
    for path in sorted(Path(sys.argv[1]).glob("*.xml")):
        root = ElementTree.parse(path).getroot()
        counts = {key: sum(int(suite.get(key) or 0) for suite in root.iter("testsuite")) for key in _COUNTS}
        print(f"{path.stem:8} " + "  ".join(f"{counts[key]:5} {key}" for key in _COUNTS))
        total = {key: total[key] + counts[key] for key in _COUNTS}
        cases = Counter((case.get("classname"), case.get("name")) for case in root.iter("testcase"))
        rerun += [f"{place}::{name}" for (place, name), times in cases.items() if times > 1]
        skips += [
            f"{case.get('classname')}::{case.get('name')}: {skipped.get('message')}"
            for case in root.iter("testcase")
            if (skipped := case.find("skipped")) is not None
        ]
    print("total    " + "  ".join(f"{total[key]:5} {key}" for key in _COUNTS))
    if total["failures"] or total["errors"] or not total["tests"]:
        return 1
    if rerun:
        print("run once more, since a guest was lost:", *rerun, sep="\n  ")
    if len(rerun) > _MOST_RERUN:
        print(
            f"more tests were run again than may be: {len(rerun)}\n\nhint: at most {_MOST_RERUN}",
            file=sys.stderr,
        )
        return 1
    if skips and os.environ.get("HYPERPY_NO_SKIPS") == "1":
        print("tests were skipped where none may be:", *skips, sep="\n  ", file=sys.stderr)
        print("hint: `hyperpy doctor` tells what is missing", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
