"""What is fuzzed of specs: the text of one in TOML and in JSON, and TOML that is written."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable, Iterator
from typing import Any

from choices import Input, edited, unsaid, word

from hyperpy import MachineSpec, SpecError
from hyperpy._toml import Hex, dumps

__all__ = ["SPEC", "spec_json", "spec_toml", "toml"]

SPEC = """
memory = "64M"
vcpus = 2
name = "one"
unclaimed = "ones"

[image]
kind = "flat"
file = "code.bin"
at = 0x1000
mode = "real"

[[devices]]
model = "debug-exit"
pio = 0xf4

[[regions]]
gpa = 0x1000_0000
size = "1M"
kind = "rom"
"""


def _spec(loads: Callable[[str], MachineSpec], text: str) -> str:
    try:
        spec = loads(text)
    except SpecError as error:
        return word(error) if error.hint else unsaid(error)
    assert MachineSpec.from_toml(spec.to_toml() + "\n") == spec
    assert MachineSpec.from_json(spec.to_json()) == spec
    assert not spec.diff(spec)
    for finding in spec.check() if not spec.devices else []:
        assert str(finding)
    return f"spec of {sorted(json.loads(spec.to_json()))}"


def spec_toml(data: bytes) -> str:
    """Text of any kind is no spec, or one that is written as itself, in both languages."""
    return _spec(lambda text: MachineSpec.from_toml(text + "\n"), data.decode("utf-8", "replace"))


def spec_json(data: bytes) -> str:
    """The same of JSON: a spec with things changed, or text."""
    take = Input(data)
    if not take.below(4):
        return _spec(MachineSpec.from_json, "{" + take.bytes(200).decode("utf-8", "replace"))
    table = json.loads(MachineSpec.from_toml(SPEC).to_json())
    for _ in range(take.below(6)):
        table = edited(table, take)
    return _spec(MachineSpec.from_json, json.dumps(table if isinstance(table, dict) else {"memory": table}))


def _value(take: Input, depth: int) -> Any:
    match take.below(8 if depth else 6):
        case 0:
            return take.number()
        case 1:
            return take.text()
        case 2:
            return take.one(True, False)
        case 3:
            return Hex(max(take.number(), 0))
        case 4:
            return -take.number()
        case 5:
            return take.number() / 7
        case 6:
            return [_value(take, depth - 1) for _ in range(take.below(4))]
    return {take.text(): _value(take, depth - 1) for _ in range(take.below(4))}


def toml(data: bytes) -> str:
    """Tables are written as what the standard library reads as the same."""
    take = Input(data)
    table = {take.text(): _value(take, 3) for _ in range(take.below(6))}

    def plain(value: Any) -> Any:
        match value:
            case dict():
                return {key: plain(item) for key, item in value.items()}
            case list():
                return [plain(item) for item in value]
            case Hex() if value >= 1 << 63:
                return hex(value)
            case bool() | str() | float():
                return value
        return int(value)

    if any(abs(number) >> 63 for number in _whole(table)):
        return "a number that TOML has not"
    assert tomllib.loads(dumps(table)) == plain(table)
    return f"{len(table)} keys"


def _whole(value: Any) -> Iterator[int]:
    match value:
        case dict():
            for item in value.values():
                yield from _whole(item)
        case list():
            for item in value:
                yield from _whole(item)
        case int() if not isinstance(value, Hex):
            yield value
