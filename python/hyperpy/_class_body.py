"""What a class body of registers cannot say, beyond what single declarations cannot.

That is names that are taken, and marked methods that nobody would call. Both are mistakes of which Python says nothing: a register under the name of a method stands in its place, and so does the
second of two functions of one name. `hyperpy._layout` asks here when a class is made; what it makes of it is there.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from hyperpy._declaration import Declared
from hyperpy._made import holds_declarations
from hyperpy.errors import DeclarationError
from hyperpy.window import Window

__all__ = ["OF_BLOCKS", "OF_DEVICES", "check_marks", "check_names"]

# Methods and facts of all of them. A register called memory, clock or dma is one: its device has not what is called so.
OF_DEVICES = {
    "access_rule", "explain", "irq", "load", "markdown", "read", "reset", "save", "schema", "size", "write",
}  # fmt: skip
OF_BLOCKS = {"at", "device", "index"}


def check_names(cls: type, taken: set[str]) -> None:
    """Refuse what is declared under a name that every device, or every block, has; and what has no name.

    Raises:
        DeclarationError: `reset = Register(...)`, for one; `channels = [Register(...), Register(...)]`.
    """
    for name in taken & cls.__dict__.keys():
        declared = cls.__dict__[name]
        if getattr(declared, "_is_declaration", False):
            raise DeclarationError(
                f"{cls.__qualname__}: nothing can be declared under this name: {name}{_where(declared)}",
                hint=f"every {'block' if taken is OF_BLOCKS else 'device'} has it; call it {name}_, say",
            )
    for name, value in cls.__dict__.items():
        if holds_declarations(value):
            raise DeclarationError(
                f"{cls.__qualname__}: registers in a {type(value).__name__} are not declared: {name}",
                hint="Register(0x0, count=4) is an array, and a Block a group of them; others have a name each",
            )


def check_marks(cls: type) -> None:
    """Refuse a class body in which one method stands in the place of another that was marked.

    Raises:
        DeclarationError: two are marked for the same accesses, the marked one is not in the class any more, or it is marked by
            a register of another class.
    """
    methods: dict[tuple[Any, ...], Any] = {}
    windows = [one for base in cls.__mro__ for one in base.__dict__.values() if isinstance(one, Window)]
    known: set[object] = {*cls._cell_numbers, *windows}  # type: ignore[attr-defined]
    for method in cls.__dict__.values():
        keys = list(_marks_of(method))
        if keys and known.isdisjoint(declared for declared, *_ in keys):
            declared, kind = keys[0][:2]
            raise DeclarationError(
                f"{cls.__qualname__}: method is marked by what the class does not have: {_name(method)}, of"
                f" {declared.name}.on_{kind}{_where(declared)}",
                hint="a block's registers mark methods of the block; where a register was replaced, the new one marks",
            )
        for key in keys:
            declared, kind, name = *key[:2], _name(method)
            index = "" if key[2:] in {(), (None,)} else f"[{key[2]}]"
            other = methods.setdefault(key, method)
            if other is not method or keys.count(key) > 1:
                raise DeclarationError(
                    f"{cls.__qualname__}: accesses are told twice: {declared.name}{index}.on_{kind}{_where(declared)} marks"
                    f" {_name(other)} and {name}",
                    hint="mark one method, and call others from it",
                )
    # A register can mark a method of a base, too: `data.on_write(Base._data)`.
    there = {
        (*key[:2], _name(method))
        for base in cls.__mro__
        for method in base.__dict__.values()
        for key in _marks_of(method)
    }
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


def _name(method: object) -> str:
    return getattr(method, "__name__", "?")


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
