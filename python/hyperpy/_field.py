"""Fields of registers, and what every declaration asks of the values that it is given.

`hyperpy._declaration` makes registers of them; both are public in `hyperpy.declare`.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping
from enum import IntEnum, IntFlag
from typing import Literal, TypeAlias

from hyperpy.errors import DeclarationError

__all__ = ["KINDS", "AccessKind", "Field", "check_access", "check_arguments", "whole"]

AccessKind: TypeAlias = Literal["rw", "ro", "wo", "w1c", "w0c", "w1s", "rc", "rs"]
KINDS = ("rw", "ro", "wo", "w1c", "w0c", "w1s", "rc", "rs")


class Field:
    """Bits of a register that have a name.

    Arguments:
        low: number of its lowest bit.
        width: how many bits.
        access: what accesses do to it, if not what the register says: see `Register`.
        reset: what it holds at power-on.
        enum: an IntEnum or IntFlag of its values: reading the attribute gives its members.
        doc: what it is for.

    Example:
        >>> from hyperpy import Device, Field, Register
        >>> class Timer(Device):
        ...     control = Register(0x0, enable=Field(0), mode=Field(4, width=2, reset=1))
        >>> timer = Timer()
        >>> timer.control.enable = 1
        >>> timer.control.mode, hex(timer.control)
        (1, '0x11')
    """

    def __init__(
        self,
        low: int,
        width: int = 1,
        *,
        access: AccessKind | None = None,
        reset: int = 0,
        enum: type[IntEnum | IntFlag] | None = None,
        doc: str = "",
    ) -> None:
        self.low, self.width = whole("low", low), whole("width", width)
        self.access, self.reset, self.enum, self.doc = access, whole("reset", reset), enum, doc
        if self.low < 0 or not 1 <= self.width <= 64:
            raise DeclarationError(
                f"no such bits: {low} and {width} of them", hint="from bit 0, 1 or more of them"
            )
        if not 0 <= self.reset < 1 << self.width:
            raise DeclarationError(
                f"reset value is wider than its {width} bits: {reset:#x}",
                hint="give more bits, or a smaller value",
            )
        given: object = enum
        if enum is not None and not (isinstance(given, type) and issubclass(given, IntEnum | IntFlag)):
            raise DeclarationError(f"not an IntEnum: {enum!r}", hint="class Mode(IntEnum), and enum=Mode")
        check_access(access)

    def __repr__(self) -> str:
        return f"Field({self.low}, {self.width})"

    @property
    def mask(self) -> int:
        """Its bits in the register."""
        return ((1 << self.width) - 1) << self.low


def check_arguments(given: Mapping[str, object]) -> None:
    """Refuse a field where an argument is meant: many a register has a bit that is called reset."""
    for name, value in given.items():
        if isinstance(value, Field):
            raise DeclarationError(
                f"field has the name of an argument: {name}",
                hint=f'give it in a mapping: fields={{"{name}": Field({value.low})}}',
            )


def whole(name: str, value: object) -> int:
    """A number that was given for something, as an int.

    Raises:
        DeclarationError: it is none, such as "0x10".
    """
    try:
        return operator.index(value)  # type: ignore[arg-type] # whatever is given
    except TypeError:
        raise DeclarationError(f"not a number: {name}={value!r}", hint="an int, such as 0x10") from None


def check_access(access: object) -> None:
    if access is not None and access not in KINDS:
        raise DeclarationError(f"no such access: {access!r}", hint=f"one of {', '.join(KINDS)}")
