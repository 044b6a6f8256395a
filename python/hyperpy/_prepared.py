"""What the native half takes of a device, whatever its class: for a machine that attaches it, and for a bench."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hyperpy import _hyperpy
from hyperpy._made import OWN
from hyperpy.device import Device, DeviceLike, _Stock
from hyperpy.errors import DeclarationError
from hyperpy.memory import parse_size

if TYPE_CHECKING:
    from hyperpy._layout import Handler

__all__ = ["prepared"]


def prepared(
    device: object, size: int | str | None
) -> tuple[object, int, tuple[_hyperpy.RegisterFile, list[Handler]] | None, _hyperpy.Calls | None]:
    """Return what the native half takes of a device: object, length of its range, declared registers, and its calls' meters.

    Raises:
        TypeError: it is no device, or no length is given and it does not know its own.
    """
    if isinstance(device, type):
        raise TypeError(
            f"not a device but a class: {device.__name__}\n\nhint: give an instance, {device.__name__}()"
        )
    # A class of ours first: to look for methods by their names takes long.
    if not isinstance(device, Device | _Stock | DeviceLike):
        hint = "define read(self, offset, size) and write(self, offset, size, value)"
        raise TypeError(f"not a device: {device!r}\n\nhint: {hint}")
    length = parse_size(size) if isinstance(size, str) else size
    if length is None:
        length = getattr(device, "size", None)
    if length is None:
        raise TypeError(
            f"size of {type(device).__name__} is not known\n\nhint: give size=BYTES, or the class a `size`"
        )
    if isinstance(device, _Stock):
        return device._native, length, None, None
    if not isinstance(device, Device):
        return device, length, None, _hyperpy.Calls()
    for name in OWN & vars(device).keys():
        if type(vars(device)[name]).__name__ not in ("Calls", "Made", "MadeWith", "RegisterFile"):
            raise DeclarationError(
                f"{type(device).__name__}: attribute has the name of one of hyperpy's: {name}",
                hint="call it something else, where it is set",
            )
    if device._layout is None:
        return device, length, None, device._calls
    from hyperpy._layout import handlers  # noqa: PLC0415 - whoever declared has imported it

    return device, length, (device._register_file, handlers(device)), device._calls
