"""The script that holds unsafe code to its places and its reasons."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
# SAFETY reasons are counted line by line.
BLOCK = "fn f() {\n    // SAFETY: a test.\n    unsafe {}\n}\n"


@pytest.fixture(scope="module")
def script() -> Any:
    spec = importlib.util.spec_from_file_location("count_unsafe", ROOT / "scripts/count_unsafe.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_unsafe_code_of_this_repository_is_in_its_places(script: Any) -> None:
    assert script.main() == 0


def test_page_names_the_same_places(script: Any) -> None:
    page = (ROOT / "docs/unsafe.md").read_text()
    assert tuple(re.findall(r"^\| `([^`]+)` \|", page, re.MULTILINE)) == script.PLACES


@pytest.mark.parametrize(
    ("path", "text", "says"),
    [
        ("crates/hyperpy-core/src/kvm/page.rs", BLOCK, ""),
        ("crates/hyperpy-python/src/buffer.rs", BLOCK, ""),
        ("crates/hyperpy-python/src/device.rs", "// unsafe { } in words, and in \"unsafe {\"\n", ""),
        ("crates/hyperpy-python/src/device.rs", BLOCK, "where none may be: crates/hyperpy-python/src/device.rs"),
        ("crates/hyperpy-python/src/buffer.rs.rs", BLOCK, "where none may be"),
        ("benches/build.rs", BLOCK, "where none may be: benches/build.rs"),
        ("crates/hyperpy-core/src/kvm/page.rs", "fn f() { unsafe {} }", "reasons differ: 1 files"),
    ],
)  # fmt: skip
def test_unsafe_code_elsewhere_or_without_a_reason_is_told(
    script: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], path: str, text: str, says: str
) -> None:
    file = tmp_path / path
    file.parent.mkdir(parents=True)
    file.write_text(text)
    assert script.main(tmp_path) == bool(says)
    assert says in capsys.readouterr().err
