"""What hyperpy keeps in a device: how it was made, and what it has of its own from its first use on.

A class of a script's need not know of it: it calls no `super().__init__()`, and its signature is that of its own `__init__`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, NamedTuple, TypeVar

__all__ = ["OWN", "Made", "MadeWith", "holds_declarations", "recording"]

_T = TypeVar("_T")

# What hyperpy keeps in a device and in its class, under names that a user could think of.
OWN = {
    "_blocks", "_calls", "_cell_numbers", "_cells", "_computed_size", "_first_cell", "_layout", "_made_with", "_places",
    "_register_file", "_told", "_windows",
}  # fmt: skip


def holds_declarations(value: object) -> bool:
    """Whether something is a list, a tuple or a dict of declarations, as far as its first item tells."""
    if not isinstance(value, list | tuple | dict):
        return False
    first = next(iter(value.values() if isinstance(value, dict) else value), None)
    return getattr(first, "_is_declaration", False) is True


class MadeWith(NamedTuple):
    """What a device was made with, for `Device.clone`."""

    arguments: tuple[Any, ...]
    named: dict[str, Any]


def recording(init: Callable[..., None]) -> Any:
    """Return a `__new__` that keeps what it is given, with the signature of this `__init__`."""

    def new(cls: type[Any], *arguments: Any, **named: Any) -> Any:
        device = object.__new__(cls)
        if arguments or named:
            device.__dict__["_made_with"] = MadeWith(arguments, named)
        return device

    made: Any = new
    made.__wrapped__, made._records = init, True
    return made


class Made(Generic[_T]):
    """What an instance has of its own from the first use on.

    A subclass need not call `super().__init__()`, and its signature is that of its `__init__`.
    """

    def __init__(self, make: Callable[[Any], _T]) -> None:
        self._make = make

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, device: Any, owner: type) -> _T:
        # Two threads may make one each: the first one stays.
        made: _T = device.__dict__.setdefault(self._name, self._make(device))
        return made
