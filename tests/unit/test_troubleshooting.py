"""The pages about errors against the sources: the list is complete, and what is told of a message is told of one there is."""

from __future__ import annotations

import importlib.util
import inspect
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

import hyperpy.errors
import hyperpy.guest
import hyperpy.lab
import hyperpy.packages
import hyperpy.testing

ROOT = Path(__file__).parents[2]
TROUBLESHOOTING = (ROOT / "docs/troubleshooting.md").read_text()


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("messages", ROOT / "scripts/messages.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["messages"] = module
    spec.loader.exec_module(module)
    return module


def test_every_message_of_the_sources_is_on_its_page(script: ModuleType) -> None:
    there, wanted = (ROOT / "docs/messages.md").read_text().splitlines(), script.page().splitlines()
    missing, gone = [row for row in wanted if row not in there], [row for row in there if row not in wanted]
    assert (missing, gone) == ([], []), "run `python scripts/messages.py`"
    assert there == wanted


def test_messages_are_found_wherever_they_are_made(script: ModuleType) -> None:
    found = {(message.text, message.raised_as) for message in script.messages()}
    assert {
        ("… failed: …", "KvmError"),  # of an enum in Rust
        ("cannot …: the machine is …", "StateError"),  # of a struct there
        ("buffer is not contiguous", "BufferError"),  # of the native module
        ("not a pattern: …", "TypeError"),  # of Python
        ("the lab does not boot…", "LabError"),  # with a hint beside it
    } <= found


def test_every_message_has_a_hint(script: ModuleType) -> None:
    assert len(script.messages()) > 250
    assert [message.text for message in script.messages() if not message.has_hint] == []


def test_every_class_of_errors_has_a_section() -> None:
    sections = re.findall(r"^## (.*)$", TROUBLESHOOTING, re.MULTILINE)
    classes = {
        name
        for module in (hyperpy.errors, hyperpy.guest, hyperpy.lab, hyperpy.packages, hyperpy.testing)
        for name, value in inspect.getmembers(module, inspect.isclass)
        if issubclass(value, hyperpy.errors.HyperpyError) and value is not hyperpy.errors.HyperpyError
    }
    assert classes - {name for section in sections for name in re.findall(r"\w+", section)} == set()


def test_every_message_that_is_explained_exists(script: ModuleType) -> None:
    texts = [message.text for message in script.messages()]
    told = re.findall(r"^\| `([^`]+)` \|", TROUBLESHOOTING.partition("## It hangs")[0], re.MULTILINE)
    assert len(told) > 50
    unknown = [
        one
        for one in told
        if not any(text.startswith(one.rstrip("… ")) or _same(one, text) for text in texts)
    ]
    assert unknown == []


def _same(told: str, text: str) -> bool:
    """Whether a shortened message, in which `…` stands for anything, is this one."""
    return re.match(".*".join(map(re.escape, told.split("…"))), text) is not None
