"""TOML as text, from plain values: the standard library only reads it. Follows TOML 1.0.

Numbers of class `Hex` are written as 0x..., which TOML keeps as numbers; JSON has no such numbers.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

__all__ = ["Hex", "dumps"]

_BARE = re.compile(r"[A-Za-z0-9_-]+")
# Integers are 64 bits with a sign; a larger one is written as text, which is read as a number where one is expected.
_LARGEST = (1 << 63) - 1


class Hex(int):
    """A number that people read in base 16."""


def dumps(table: Mapping[str, Any]) -> str:
    """A document: plain values first, then tables, then arrays of tables. Deeper tables are written inline.

    Example:
        >>> print(dumps({"memory": "64M", "image": {"at": Hex(0x1000)}, "devices": [{"args": {"x": 1.5}}]}))
        memory = "64M"
        <BLANKLINE>
        [image]
        at = 0x1000
        <BLANKLINE>
        [[devices]]
        args = { x = 1.5 }
        <BLANKLINE>
    """
    own = {key: value for key, value in table.items() if not _is_table(value) and not _is_tables(value)}
    parts = [_lines(own)] if own else []
    parts += [f"[{_key(key)}]\n{_lines(value)}" for key, value in table.items() if _is_table(value)]
    for key, value in table.items():
        if _is_tables(value):
            parts += [f"[[{_key(key)}]]\n{_lines(item)}" for item in value]
    return "\n".join(parts)


def _is_table(value: object) -> bool:
    return isinstance(value, Mapping)


def _is_tables(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(item, Mapping) for item in value)


def _lines(table: Mapping[str, Any]) -> str:
    return "".join(f"{_key(key)} = {_value(value)}\n" for key, value in table.items())


def _key(key: str) -> str:
    return key if _BARE.fullmatch(key) else _text(key)


def _value(value: object) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case Hex():
            return f"{value:#x}" if value <= _LARGEST else f'"{value:#x}"'
        case str():
            return _text(value)
        case Mapping():
            return "{ " + ", ".join(_pairs(value)) + " }" if value else "{}"
        case list() | tuple():
            return f"[{', '.join(map(_value, value))}]"
        case _:  # int and float
            return repr(value)


def _pairs(table: Mapping[str, object]) -> Iterator[str]:
    return (f"{_key(key)} = {_value(value)}" for key, value in table.items())


def _text(text: str) -> str:
    # JSON's escapes are TOML's too; it lets one control character stand that TOML does not.
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
