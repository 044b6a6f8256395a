"""Small immutable values: what a frozen dataclass with slots is, for the classes that `import hyperpy` always makes.

A class body lists fields with their types, and defaults. Values are equal when class and fields are, can be matched by
position and by name, pickled, and copied with changes (`copy.replace` from Python 3.13 on). A field whose name begins
with an underscore is left out of repr, equality and hash. The standard library's `dataclasses` does the same and takes
half of the time that `import hyperpy` may cost, because it brings `inspect`; modules that are imported when they are
needed use it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self, dataclass_transform

__all__ = ["Value"]


@dataclass_transform(frozen_default=True)
class _Fields(type):
    """Turns annotations into slots."""

    _fields: tuple[str, ...]
    _defaults: dict[str, Any]
    # For the common way to make one, with all fields by position: each field's setter and default, how many have none.
    _set: tuple[Callable[[Any, Any], None], ...]
    _rest: tuple[Any, ...]
    _least: int

    def __new__(cls, name: str, bases: tuple[type, ...], namespace: dict[str, Any]) -> _Fields:
        own = [
            # Text where a module asks for annotations as such, as ours do; else the types themselves.
            field
            for field, kind in namespace.get("__annotations__", {}).items()
            if "ClassVar" not in str(kind)
        ]
        before = [base for base in bases if isinstance(base, _Fields)]
        fields = tuple(field for base in before for field in base._fields) + tuple(own)
        defaults = {field: value for base in before for field, value in base._defaults.items()}
        defaults |= {field: namespace.pop(field) for field in own if field in namespace}
        made = super().__new__(
            cls, name, bases, {"__slots__": tuple(own), "__match_args__": fields} | namespace
        )
        made._fields, made._defaults = fields, defaults
        made._set = tuple(getattr(made, field).__set__ for field in fields)
        made._rest = tuple(defaults.get(field) for field in fields)
        made._least = max((at + 1 for at, field in enumerate(fields) if field not in defaults), default=0)
        return made


class Value(metaclass=_Fields):
    """Base of the values; see the module."""

    def __init__(self, *values: Any, **more: Any) -> None:
        kind = type(self)
        if not more and kind._least <= len(values) <= len(kind._fields):
            # An exit's object is made for each run() that returns, and for each access that a function answers.
            for set_field, value in zip(kind._set, values + kind._rest[len(values) :], strict=True):
                set_field(self, value)
            return
        named = dict(zip(kind._fields, values, strict=False))
        if len(values) > len(kind._fields) or more.keys() & named.keys() or more.keys() - set(kind._fields):
            shown = ", ".join(field for field in kind._fields if field[0] != "_")
            wrong = [
                *values[len(kind._fields) :],
                *(name for name in more if name in named or name not in kind._fields),
            ]
            raise TypeError(
                f"{kind.__qualname__} takes no such field, or not twice: {wrong}\n\nhint: its fields: {shown}"
            )
        given = kind._defaults | named | more
        for name in kind._fields:
            if name not in given:
                shown = ", ".join(field for field in kind._fields if field[0] != "_")
                raise TypeError(f"{kind.__qualname__} lacks a field: {name}\n\nhint: its fields: {shown}")
            object.__setattr__(self, name, given[name])

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{type(self).__qualname__} does not change: {name}\n\nhint: make another one")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"{type(self).__qualname__} does not change: {name}\n\nhint: make another one")

    def _shown(self) -> tuple[Any, ...]:
        return tuple(getattr(self, name) for name in type(self)._fields if name[0] != "_")

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return self._shown() == other._shown()

    def __hash__(self) -> int:
        return hash((type(self), self._shown()))

    def __repr__(self) -> str:
        names = (name for name in type(self)._fields if name[0] != "_")
        return f"{type(self).__qualname__}({', '.join(f'{name}={getattr(self, name)!r}' for name in names)})"

    def __reduce__(self) -> tuple[type[Self], tuple[Any, ...]]:
        return type(self), tuple(getattr(self, name) for name in type(self)._fields)

    def __replace__(self, **changes: Any) -> Self:
        return type(self)(**{name: getattr(self, name) for name in type(self)._fields} | changes)
