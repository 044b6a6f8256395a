"""Every example that a reader can copy runs: docstrings, the README, the pages of docs/.

The ```python blocks of one page share a namespace and run in order; ```python lab blocks run where kernels do.
"""

from __future__ import annotations

import doctest
import gc
import importlib
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest

import hyperpy
from hyperpy.doctor import kernel_code_is_native

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```python(?P<lab> lab)?\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL)
PRINTED = re.compile(r"^ *print\(.*\)  # (.+)$", re.MULTILINE)
MODULES = sorted(
    module.name for module in pkgutil.iter_modules(hyperpy.__path__) if module.name != "__main__"
)


@pytest.mark.parametrize("name", MODULES)
def test_docstrings_of_a_module_show_what_happens(name: str) -> None:
    module = importlib.import_module(f"hyperpy.{name}")
    assert doctest.testmod(module, optionflags=doctest.ELLIPSIS).failed == 0


def test_docstrings_of_the_package_show_what_happens() -> None:
    assert doctest.testmod(hyperpy).failed == 0


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_page_code_runs(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In the README it prints what the comment beside a `print` says, up to a ", and"."""
    monkeypatch.chdir(tmp_path)
    gc.collect()  # what the page before has left counts for a budget until then
    text = page.read_text()
    namespace: dict[str, object] = {"__name__": page.stem}
    for block in BLOCK.finditer(text):
        line = text.count("\n", 0, block.start("code"))
        if block["lab"] and not kernel_code_is_native():
            compile(block["code"], str(page), "exec")  # at least Python
            continue
        exec(compile("\n" * line + block["code"], str(page), "exec"), namespace)
        if page.name != "README.md":
            continue
        printed = capsys.readouterr().out
        assert [
            told for told in PRINTED.findall(block["code"]) if told.split(", and")[0] not in printed
        ] == []


def test_pages_links_lead_somewhere() -> None:
    broken = [
        f"{page.relative_to(ROOT)}: {target}"
        for page in PAGES
        for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text())
        if "://" not in target and not (page.parent / target).exists()
    ]
    assert broken == []


def test_table_of_the_core_set_counts_its_tests() -> None:
    page = (ROOT / "docs/concepts/flavours.md").read_text()
    told = {
        name: int(count)
        for name, count in re.findall(r"^\| `(test_\w+)` \|[^|]*\| (\d+) \|", page, re.MULTILINE)
    }
    command = [
        sys.executable,
        "-m",
        "pytest",
        "--collect-only",
        "-qq",
        "-m",
        "core",
        "-p",
        "no:cacheprovider",
        "tests/kvm",
    ]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    counts = {
        Path(name).stem: int(count) for name, count in re.findall(r"^(\S+\.py): (\d+)$", listed, re.MULTILINE)
    }
    assert told == counts
