"""The coverage of Python devices: by `sys.settrace` or `sys.monitoring`, as the interpreter has it.

Each test runs on the interpreter of the tests, and on one that has `sys.monitoring`, if there is one on this machine: the native module is the same for all.
"""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
DEVICE = """
from itertools import count
from hyperpy import Device
from hyperpy.fuzz import DeviceFuzzer

class Subject(Device):
    size = 4

    def __init__(self):
        self.n = 0

    def write(self, offset, size, value):
        %s
"""
MAIN = """
import importlib, json, sys
fuzzer = importlib.import_module("subject").DeviceFuzzer(
    importlib.import_module("subject").Subject, seed=1, time_limit=1000, dictionary=[0x77]
)
asked = json.loads(sys.argv[1])
inputs = [fuzzer._native.encode([("write", 0, 4, value, b"")]) for value in asked["values"]]
errors = [fuzzer.replay(data) for data in inputs]
fuzzer._native.give(inputs[::-1])
report = fuzzer.run(executions=asked["executions"])
told = {
    "errors": [str(error) for error in errors],
    "kept": len(fuzzer.inputs),
    "inputs": [data.hex() for data in fuzzer.inputs],
    "coverage": report.coverage,
}
print(json.dumps(told))
"""


def candidates() -> Iterator[Path]:
    """Interpreters that may have `sys.monitoring`."""
    for minor in (14, 13, 12):
        found = shutil.which(f"python3.{minor}")
        if found:
            yield Path(found)
        yield from sorted(Path.home().glob(f".pyenv/versions/3.{minor}.*/bin/python"))


@functools.cache
def newer() -> Path | None:
    """An interpreter of 3.12 or later."""
    for path in [Path(sys.executable), *candidates()]:
        asked = [path, "-c", "import sys; sys.exit(sys.version_info < (3, 12))"]
        if subprocess.run(asked, capture_output=True, check=False).returncode == 0:
            return path
    return None


@pytest.fixture(params=["this interpreter", "one with sys.monitoring"])
def python(request: pytest.FixtureRequest) -> Path:
    if request.param == "this interpreter":
        return Path(sys.executable)
    return monitoring()


def monitoring() -> Path:
    found = newer()
    if found is None:
        pytest.skip("no Python of 3.12 or later on this machine, which has sys.monitoring")
    return found


def told(python: Path, tmp_path: Path, body: str, values: list[int], executions: int) -> dict[str, Any]:
    """What a fuzzer in another process says of a device whose write does this."""
    (tmp_path / "subject.py").write_text(DEVICE % body)
    asked = json.dumps({"values": values, "executions": executions})
    places = os.pathsep.join([str(tmp_path), str(ROOT / "python")])
    done = subprocess.run(
        [python, "-c", MAIN, asked],
        env={**os.environ, "PYTHONPATH": places, "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


@pytest.mark.parametrize(
    "body",
    [
        "while value == 0x77: self.n += 1",
        "while value == 0x77: pass",
        "for _ in count(): self.n += value == 0x77",
        "self.n = sum(1 for _ in count() if value == 0x77)",
        "while value == 0x77:\n            self.n += 1\n            self.n -= 1",
    ],
)
def test_loop_without_an_end_is_a_hang_by_its_lines_on_one_line_too(
    python: Path, tmp_path: Path, body: str
) -> None:
    answer = told(python, tmp_path, body, [0x77], 1)
    assert answer["errors"] == ["one operation ran more than 250000 lines of the device"]


def test_loop_of_one_line_is_covered_by_how_often_it_goes_round(python: Path, tmp_path: Path) -> None:
    answer = told(python, tmp_path, "for _ in range(value & 15): pass", [9, 0xF0], 2)
    assert answer["kept"] == 2


def test_ways_of_a_branch_within_a_line_are_covered(tmp_path: Path) -> None:
    answer = told(monitoring(), tmp_path, "self.n = 1 if value == 0x77 else 1", [0x76, 0x77], 2)
    assert answer["kept"] == 2


def test_same_seed_gives_the_same_corpus_in_another_process(python: Path, tmp_path: Path) -> None:
    body = "for at in range(8): self.n += value >> at & 1 and value % (at + 2)"
    one, two = (told(python, tmp_path, body, [1], 300) for _ in range(2))
    assert one == two
    assert one["kept"] > 1
