"""The types say what the code does: one file that mypy accepts, one match that it must refuse."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
INCOMPLETE = """
from typing import assert_never
from hyperpy import AnyExit, Exit

def f(exit_: AnyExit) -> int:
    match exit_:
        case Exit.Halt():
            return 1
        case _:
            assert_never(exit_)
"""


def mypy(file: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", str(file)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)


def test_types_exhaustive_match_and_attach_are_accepted() -> None:
    done = mypy(ROOT / "tests/typing/accepted.py")
    assert done.returncode == 0, done.stdout


def test_types_match_that_forgets_an_exit_is_refused(tmp_path: Path) -> None:
    (tmp_path / "incomplete.py").write_text(INCOMPLETE)
    done = mypy(tmp_path / "incomplete.py")
    assert done.returncode == 1
    assert 'Argument 1 to "assert_never"' in done.stdout
