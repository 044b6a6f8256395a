"""What a device's `clock` and `memory` are until it is lent them: something false, whose every use says how to get them.

A line that is not connected is of the same kind (`hyperpy.line`). Who lends them is `Machine.attach` and `DeviceBench`.
"""

from __future__ import annotations

import contextlib
from typing import Any, NoReturn

from hyperpy.errors import DeviceError

__all__ = ["Lent", "NotLent", "give_back"]


class Lent:
    """A class attribute in whose place a device has something of a machine's while it is attached."""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    # What is lent is in the instance's own dictionary, which comes first.
    def __get__(self, device: object, owner: type) -> Any:
        return self if device is None else NotLent(owner, self._name)


class NotLent:
    """What there is before."""

    __slots__ = ("_name", "_owner")

    def __init__(self, owner: type, name: str) -> None:
        self._owner, self._name = owner, name

    def __bool__(self) -> bool:
        return False

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("__"):
            raise AttributeError(name)  # Python asks, not the device
        hint = "attach it to a machine, or put it on a DeviceBench"
        if self._name == "memory" and getattr(self._owner, "dma", None) is not True:
            hint = "`dma = True` in its class asks for guest memory"
        raise DeviceError(f"device has no {self._name} here: {self._owner.__name__}", hint=hint)

    def __repr__(self) -> str:
        return f"<no {self._name} of {self._owner.__name__}>"


def give_back(device: Any, name: str, before: object) -> None:
    """Put back what a device had before it was lent something."""
    with contextlib.suppress(AttributeError):  # its class has no place for it
        if isinstance(before, NotLent) or (
            before is None and isinstance(getattr(type(device), name, None), Lent)
        ):
            delattr(device, name)
        else:
            setattr(device, name, before)
