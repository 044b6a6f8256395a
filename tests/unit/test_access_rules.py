"""The table of access rules in docs/guides/devices.md: each row is run as it is written there, on the device that it is about."""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from typing import Any

import pytest

from hyperpy import Device, DeviceError, Register
from hyperpy.testing import DeviceBench

PAGE = (Path(__file__).parents[2] / "docs/guides/devices.md").read_text()
ROW = re.compile(r"^\| `(split|widen|exact|refuse)` \| (\w+) \| (.*?) \| (.*?) \|$", re.MULTILINE)
ROWS = [match.groups() for match in ROW.finditer(PAGE)]
CALL = re.compile(r"(?:read|write)\((0x[0-9A-F]+), (\d)")
RULES, SHAPES = ("split", "widen", "exact", "refuse"), ("narrow", "wide", "unaligned", "straddling")


def _device() -> type[Device]:
    """The class as the page has it."""
    (block,) = re.findall(
        r"^```python\n((?:(?!```).)*class Rules\(Device\).*?)^```$", PAGE, re.MULTILINE | re.DOTALL
    )
    namespace: dict[str, Any] = {"Device": Device, "__name__": "page"}
    exec(block, namespace)
    found: type[Device] = namespace["Rules"]
    return found


def _shape(offset: int, size: int) -> str:
    """What the page calls such an access."""
    places = {
        declared.offset: declared.offset + declared.width
        for declared in vars(_device()).values()
        if isinstance(declared, Register) and declared.offset is not None
    }
    start = max(place for place in places if place <= offset)
    end, last = places[start], offset + size
    is_cut = any(place < last < stop for place, stop in places.items())
    if last <= end:
        return "exact" if (start, end) == (offset, last) else "narrow" if start == offset else "unaligned"
    return "wide" if start == offset and not is_cut else "straddling"


class _Names(dict[str, Any]):
    """What the spans of a row can name: accesses, and registers as they are now."""

    def __init__(self, bench: DeviceBench[Device]) -> None:
        super().__init__(read=bench.read, write=bench.write)
        self._device = bench.device

    def __missing__(self, name: str) -> Any:
        return getattr(self._device, name)


def test_table_has_a_row_for_each_rule_and_shape_of_access() -> None:
    assert [(rule, shape) for rule, shape, *_ in ROWS] == list(itertools.product(RULES, SHAPES))


@pytest.mark.parametrize(("rule", "shape", "read", "write"), ROWS, ids=[f"{row[0]}-{row[1]}" for row in ROWS])
def test_row_of_the_table_is_what_happens(rule: Any, shape: str, read: str, write: str) -> None:
    for cell, verb in ((read, "read"), (write, "write")):
        device = _device()
        names = _Names(DeviceBench(type("Ruled", (device,), {"access_rule": rule})()))
        spans = [span for span in re.findall(r"`([^`]+)`", cell) if span not in RULES]
        assert any(span.startswith(verb) for span in spans)
        assert any(" == " in span and not span.startswith(verb) for span in spans)  # what it leaves behind
        for span in spans:
            called = CALL.search(span)
            if called:
                assert _shape(int(called[1], 16), int(called[2])) == shape, span
            if span.endswith(" raises DeviceError"):
                with pytest.raises(DeviceError):
                    eval(span.removesuffix(" raises DeviceError"), {}, names)
            else:
                assert eval(span, {}, names) in (True, None), span
