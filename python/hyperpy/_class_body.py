"""What a class body of registers cannot say, beyond what single declarations cannot.

That is names that are taken, and marked methods that nobody would call. Both are mistakes of which Python says nothing: a register under the name of a method stands in its place, and so does the
second of two functions of one name. `hyperpy._layout` asks here when a class is made; what it makes of it is there.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from hyperpy._declaration import Declared
from hyperpy.errors import DeclarationError

__all__ = ["OF_BLOCKS", "OF_DEVICES", "check_marks", "check_names"]

# Methods and facts of all of them. A register called memory, clock or dma is one: its device has not what is called so.
OF_DEVICES = {
    "access_rule", "explain", "irq", "load", "markdown", "read", "reset", "save", "schema", "size", "write",
}  # fmt: skip
OF_BLOCKS = {"at", "device", "index"}


def check_names(cls: type, taken: set[str]) -> None:
    """Refuse what is declared under a name that every device, or every block, has.

    Raises:
        DeclarationError: `reset = Register(...)`, for one.
    """
    for name in taken & cls.__dict__.keys():
        declared = cls.__dict__[name]
        if getattr(declared, "_is_declaration", False):
            raise DeclarationError(
                f"{cls.__qualname__}: nothing can be declared under this name: {name}{_where(declared)}",
                hint=f"every {'block' if taken is OF_BLOCKS else 'device'} has it; call it {name}_, say",
            )


def check_marks(cls: type) -> None:
    """Refuse a class body in which one method stands in the place of another that was marked.

    Raises:
        DeclarationError: two are marked for the same accesses, or the marked one is not in the class any more.
    """
    methods: dict[tuple[Any, ...], Any] = {}
    there = set()
    for method in cls.__dict__.values():
        keys = list(_marks_of(method))
        for key in keys:
            declared, kind, name = *key[:2], getattr(method, "__name__", "?")
            index = "" if key[2:] in {(), (None,)} else f"[{key[2]}]"
            there.add((declared, kind, name))
            other = methods.setdefault(key, method)
            if other is not method or keys.count(key) > 1:
                raise DeclarationError(
                    f"{cls.__qualname__}: accesses are told twice: {declared.name}{index}.on_{kind}{_where(declared)} marks"
                    f" {getattr(other, '__name__', '?')} and {name}",
                    hint="mark one method, and call others from it",
                )
    for declared in _markable(cls):
        for kind, name in declared.__dict__.get("_marks", ()):
            if (declared, kind, name) not in there:
                raise DeclarationError(
                    f"{cls.__qualname__}: marked method is not there: {name}, of {declared.name}.on_{kind}{_where(declared)}",
                    hint="something else of that name comes later in the class: give each method its own",
                )


def _marks_of(method: object) -> Iterator[tuple[Any, ...]]:
    """What marks a method, and by what: each register of an array once, whichever bits it looks for."""
    for declared, kind, _, which in getattr(method, "_hooks", ()):
        yield from ((declared, kind, index) for index in (which if isinstance(which, tuple) else (which,)))
    yield from getattr(method, "_window_hooks", ())


def _where(declared: object) -> str:
    return f" ({declared.where})" if isinstance(declared, Declared) else ""


def _markable(cls: type) -> Iterator[Any]:
    """What is declared in the body of this class, and can mark methods."""
    for value in cls.__dict__.values():
        if getattr(value, "_is_declaration", False):
            yield value
            behind = value.__dict__.get("behind")  # of a port
            if behind is not None:
                yield behind
