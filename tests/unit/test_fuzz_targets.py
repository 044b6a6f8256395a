"""The fuzz targets: those in Python hold for what was found and for a few inputs; lists, programs and documentation name the same ones."""

from __future__ import annotations

import importlib.util
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]
FUZZ = ROOT / "fuzz"
PYTHON = (
    "apt_sources",
    "console_search",
    "cpio",
    "declaration",
    "recording",
    "spec_json",
    "spec_toml",
    "toml",
)
MODULES = ("run", "targets", "of_devices", "of_files", "of_specs", "choices")


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """What `make fuzz` runs."""
    monkeypatch.setattr(sys, "path", sys.path[:])
    spec = importlib.util.spec_from_file_location("fuzz_script", ROOT / "scripts/fuzz.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "fuzz_script", module)
    spec.loader.exec_module(module)
    yield module
    for name in MODULES[1:]:
        sys.modules.pop(name, None)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    monkeypatch.syspath_prepend(str(FUZZ / "python"))
    import run

    yield run
    for name in MODULES:
        sys.modules.pop(name)


def listed() -> list[str]:
    """Targets in Rust, by the lists of both crates."""
    names = []
    for crate in ("core", "devices"):
        text = (ROOT / f"crates/hyperpy-{crate}/src/targets.rs").read_text()
        names += re.findall(r"^    (\w+) = crate::", text, re.MULTILINE)
    return sorted(names)


@pytest.mark.parametrize("name", PYTHON)
def test_target_given_what_was_found_and_a_few_inputs_holds(name: str, run: ModuleType) -> None:
    outcomes, finds = run.run(name, 300, 1, None)
    assert outcomes > 1
    assert finds == 0


def test_runs_of_one_seed_are_the_same(run: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[list[bytes]] = []
    for seed in (1, 1, 2):
        given.append([])
        monkeypatch.setitem(run.TARGETS, "toml", lambda data: given[-1].append(data) or str(len(data)))
        run.run("toml", 50, seed, None)
    assert given[0] == given[1] != given[2]


def test_find_is_kept_as_a_file_once_for_each_cause(
    run: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def breaks(data: bytes) -> str:
        assert len(data) < 3
        return str(len(data))

    monkeypatch.setitem(run.TARGETS, "toml", breaks)
    assert run.run("toml", 100, 1, tmp_path)[1] == 1
    (find,) = tmp_path.iterdir()
    assert len(find.read_bytes()) >= 3
    assert "AssertionError" in capsys.readouterr().err


def test_every_target_has_a_program_and_a_line_in_the_documentation(run: ModuleType) -> None:
    manifest = tomllib.loads((FUZZ / "Cargo.toml").read_text())
    names = listed()
    assert len(names) >= 15
    assert sorted(path.stem for path in (FUZZ / "fuzz_targets").iterdir()) == names
    assert sorted(program["name"] for program in manifest["bin"]) == names
    for name in names:
        assert f"::targets::{name}(" in (FUZZ / f"fuzz_targets/{name}.rs").read_text()
    assert tuple(sorted(run.TARGETS)) == PYTHON
    page = (ROOT / "docs/own-fuzzing.md").read_text()
    told = re.findall(
        r"`(\w+)`", "".join(line.split("|")[1] for line in page.splitlines() if line[:3] == "| `")
    )
    assert sorted(told) == sorted([*names, *PYTHON])


def test_every_regression_is_of_a_target() -> None:
    assert {path.name for path in (FUZZ / "regressions").iterdir()} <= {*listed(), *PYTHON}


@pytest.mark.parametrize(("executions", "finds", "status"), [(5, (), 0), (0, (), 1), (5, (FUZZ / "x",), 1)])
def test_target_that_executed_nothing_fails_as_one_with_a_find_does(
    script: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    executions: int,
    finds: tuple[Path, ...],
    status: int,
) -> None:
    done = script.Done("uart", executions, 1.0, 0, finds)
    monkeypatch.setattr(script, "run_all", lambda *options: iter([done]))
    assert script.main(["uart"]) == status
    assert ("targets that executed nothing: uart" in capsys.readouterr().err) == (executions == 0)


def test_program_that_ends_before_its_first_input_executed_nothing(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(script, "WORK", tmp_path)
    program = tmp_path / "idle"
    program.write_text("#!/bin/sh\nexit 0\n")
    program.chmod(0o755)
    assert script.run_rust(program, 10, tmp_path / "corpus").executions == 0
