"""The form of specs: what a value may be, and from tables to frozen dataclasses and back.

Each field of a spec carries a *rule*: a function that gives the value in its one form, or raises ValueError. Specs made
by hand and specs that are read go through the same rules; an error names the path of its key. What the keys mean is in
`hyperpy.spec`.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, fields
from typing import Any, TypeAlias, TypeVar

from hyperpy._toml import Hex
from hyperpy._words import nearest
from hyperpy.errors import SpecError
from hyperpy.memory import parse_size

__all__ = ["Form", "plain", "read", "unread"]

Rule: TypeAlias = Callable[[Any], Any]
_S = TypeVar("_S", bound="Form")


class Form:
    """Base of the specs: applies the rules."""

    __slots__ = ()

    def __post_init__(self) -> None:
        """Put every field into its form.

        Raises:
            SpecError: one cannot be.
        """
        for place in _fields(type(self)):
            value = getattr(self, place.name)
            try:
                value = place.metadata["rule"](value)
            except SpecError as error:
                raise error.under(place.name) from None
            except (TypeError, ValueError) as error:
                message, _, hint = str(error).partition("\n\nhint: ")
                raise SpecError(message, path=place.name, hint=hint) from None
            object.__setattr__(self, place.name, value)
        self._together()

    def _together(self) -> None:
        """Check what concerns several fields."""


def _fields(kind: type) -> list[Field[Any]]:
    return [place for place in fields(kind) if "rule" in place.metadata]


# -- rules -----------------------------------------------------------------------------------------------------------


def rule(
    check: Rule, *, shown: Rule | None = None, of: type | Mapping[str, type] | None = None
) -> dict[str, Any]:
    """Metadata of a field: its rule; how its value is written; which spec is in it, or which by their `kind`."""
    return {"rule": check, "shown": shown, "of": of}


def optional(check: Rule) -> Rule:
    """None, or what the other rule takes."""
    return lambda value: None if value is None else check(value)


def text(value: object) -> str:
    """Text without NULs that can be written."""
    if not isinstance(value, str):
        raise ValueError(f"not text: {value!r}\n\nhint: write it in quotes")
    if "\0" in value or any("\ud800" <= letter <= "\udfff" for letter in value):
        raise ValueError(
            f"text has what cannot be written: {value!r}\n\nhint: no NUL, and Unicode throughout"
        )
    return value


def path(value: object) -> str:
    """A path, as text."""
    return text(os.fspath(value) if isinstance(value, os.PathLike) else value)


def flag(value: object) -> bool:
    """True or False."""
    if not isinstance(value, bool):
        raise ValueError(f"not true or false: {value!r}\n\nhint: write true or false, without quotes")
    return value


def one_of(*words: str) -> Rule:
    """One of these words."""

    def check(value: object) -> str:
        if value not in words or not isinstance(value, str):
            hint = nearest(value, words) or f"write {', '.join(words[:-1])} or {words[-1]}"
            raise ValueError(f"not one of {', '.join(words)}: {value!r}\n\nhint: {hint}")
        return value

    return check


def number(least: int, most: int, what: str) -> Rule:
    """A whole number; also as text such as "0x10", since JSON has no other way to write that."""

    def check(value: object) -> int:
        if isinstance(value, str) and re.fullmatch(r"0x[0-9a-fA-F]{1,32}|\d{1,32}", value):
            value = int(value, 16 if value.startswith("0x") else 10)
        if isinstance(value, bool) or not isinstance(value, int):
            raise ValueError(f"not a number: {value!r}\n\nhint: write {what}, as 16 or 0x10")
        if not least <= value <= most:
            shown = f"{value:#x}" if most > 0xFFF else str(value)
            raise ValueError(f"out of range: {shown}\n\nhint: {what}")
        return int(value)

    return check


address = number(0, (1 << 64) - 1, "an address, 0 to 2**64 - 1")


def numbers(each: Rule) -> Rule:
    """Several numbers, each once, in order."""

    def check(value: object) -> tuple[int, ...]:
        if not isinstance(value, list | tuple | set | frozenset) or not value:
            raise ValueError(f"not a list of numbers: {value!r}\n\nhint: write [0, 1]")
        return tuple(sorted({each(item) for item in value}))

    return check


def positive(value: object) -> float:
    """A number above 0."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"not a number: {value!r}\n\nhint: 0.5 is half of one, 2 is two")
    if not 0 < value < math.inf:
        raise ValueError(f"out of range: {value!r}\n\nhint: above 0: 0.5 is half of one, 2 is two")
    return float(value)


def size(value: object) -> int:
    """A size as `parse_size` takes it."""
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ValueError(f'not a size: {value!r}\n\nhint: write bytes, or a number with K, M, G or T: "512M"')
    return parse_size(value)


def values(value: object) -> dict[str, Any]:
    """Named values of the kinds that TOML and JSON share."""
    if not isinstance(value, Mapping):
        raise ValueError(f"not a table: {value!r}\n\nhint: write args = {{ name = value }}")
    found = {}
    for key, item in value.items():
        try:
            found[text(key)] = _plain(item)
        except SpecError as error:
            raise error.under(str(key)) from None
        except ValueError as error:
            message, _, hint = str(error).partition("\n\nhint: ")
            raise SpecError(message, path=str(key), hint=hint) from None
    return found


def _plain(value: object) -> Any:
    match value:
        case bool() | int():
            return value
        case str():
            return text(value)
        case float() if math.isfinite(value):
            return value
        case list() | tuple():
            return [_plain(item) for item in value]
        case Mapping():
            return values(value)
        case _:
            hint = "text, finite numbers, true and false, and lists and tables of them"
            raise ValueError(f"not a value that a file can hold: {value!r}\n\nhint: {hint}")


def many(kind: type) -> Rule:
    """A tuple of specs."""

    def check(items: object) -> tuple[Any, ...]:
        if not isinstance(items, list | tuple):
            raise ValueError(f"not a list: {items!r}\n\nhint: give a tuple of {kind.__name__}")
        for index, item in enumerate(items):
            if not isinstance(item, kind):
                hint = f"give {kind.__name__}(...)"
                raise SpecError(f"not a {kind.__name__}: {item!r}", path=f"[{index}]", hint=hint)
        return tuple(items)

    return check


def kinds(known: Mapping[str, type]) -> Rule:
    """None, or a spec of one of these kinds."""

    def check(value: object) -> Any:
        if value is not None and not isinstance(value, tuple(known.values())):
            names = ", ".join(kind.__name__ for kind in known.values())
            raise ValueError(f"not an image: {value!r}\n\nhint: one of {names}")
        return value

    return check


# -- how values are written ------------------------------------------------------------------------------------------


def as_hex(value: int) -> Hex:
    """In base 16."""
    return Hex(value)


def as_size(value: int) -> int | str:
    """With the largest unit that leaves no remainder."""
    for unit, shift in (("G", 30), ("M", 20), ("K", 10)):
        if value % (1 << shift) == 0:
            return f"{value >> shift}{unit}"
    return value


# -- tables ----------------------------------------------------------------------------------------------------------


def read(kind: type[_S], table: object) -> _S:
    """A spec from a table.

    Raises:
        SpecError: it is none; names the path of the key.
    """
    if not isinstance(table, Mapping):
        raise SpecError(f"not a table: {table!r}", hint="write keys and values")
    known = {place.name: place for place in _fields(kind)}
    if unknown := [key for key in table if key not in known]:
        hint = nearest(unknown[0], list(known)) or f"known are {', '.join(known)}"
        raise SpecError("unknown key", path=unknown[0], hint=hint)
    for place in known.values():
        if place.name not in table and place.default is MISSING and place.default_factory is MISSING:
            raise SpecError("key is missing", path=place.name, hint=f"write {place.name} = ...")
    return kind(**{key: _read_value(known[key], value) for key, value in table.items()})


def _read_value(place: Field[Any], value: object) -> Any:
    of = place.metadata["of"]
    if of is None:
        return value
    try:
        if isinstance(of, Mapping):
            return _read_kind(of, value)
        if not isinstance(value, list):
            raise SpecError(f"not a list of tables: {value!r}", hint=f"write [[{place.name}]] for each")
        items = []
        for index, item in enumerate(value):
            try:
                items.append(read(of, item))
            except SpecError as error:
                raise error.under(f"[{index}]") from None
        return tuple(items)
    except SpecError as error:
        raise error.under(place.name) from None


def _read_kind(known: Mapping[str, type[Form]], table: object) -> Form:
    if not isinstance(table, Mapping):
        raise SpecError(f"not a table: {table!r}", hint='write [image] and below it kind = "linux"')
    if "kind" not in table:
        raise SpecError("key is missing", path="kind", hint=f"one of {', '.join(known)}")
    kind = table["kind"]
    if not isinstance(kind, str) or kind not in known:
        hint = nearest(kind, list(known)) or f"one of {', '.join(known)}"
        raise SpecError(f"unknown kind of image: {kind!r}", path="kind", hint=hint)
    return read(known[kind], {key: value for key, value in table.items() if key != "kind"})


def plain(spec: Form, *, defaults: bool = False) -> dict[str, Any]:
    """A spec as a table; keys that have their default are left out unless they are wanted and hold something."""
    table: dict[str, Any] = {}
    for place in _fields(type(spec)):
        value, shown, of = (getattr(spec, place.name), place.metadata["shown"], place.metadata["of"])
        default = place.default if place.default_factory is MISSING else place.default_factory()
        is_default = value == _formed(place, default)
        if value is None or (is_default and (not defaults or value in ((), {}))):
            continue
        if isinstance(of, Mapping):
            kind = next(word for word, kind in of.items() if type(value) is kind)
            table[place.name] = {"kind": kind, **plain(value, defaults=defaults)}
        elif of is not None:
            table[place.name] = [plain(item, defaults=defaults) for item in value]
        else:
            table[place.name] = shown(value) if shown else value
    return table


def _formed(place: Field[Any], default: object) -> object:
    return default if default is MISSING else place.metadata["rule"](default)


def unread(value: Any) -> Any:
    """A table for JSON: numbers in base 16 as text."""
    match value:
        case Hex():
            return f"{value:#x}"
        case Mapping():
            return {key: unread(item) for key, item in value.items()}
        case list():
            return [unread(item) for item in value]
        case _:
            return value
