"""Devices for a copy of a machine: each is made anew, and then given the state of the one that it stands for."""

from __future__ import annotations

from typing import Any, TypeVar

from hyperpy.device import Device
from hyperpy.errors import DeviceError

__all__ = ["again", "copy_of"]

_D = TypeVar("_D")


def again(device: _D) -> _D:
    """Make another device of the same class with the same arguments: as it is before anything happens to it.

    Raises:
        DeviceError: its class cannot be called so.
    """
    kind = type(device)
    arguments, named = getattr(device, "_made_with", None) or ((), {})
    try:
        return kind(*arguments, **named)
    except TypeError as error:
        raise DeviceError(
            f"device cannot be copied: {kind.__name__}: {error}",
            hint="define clone(self), which returns a new one for the copy of the machine",
        ) from error


def copy_of(device: Any) -> Any:
    """Make the device that stands for this one in a copy of its machine, which gives it its state.

    Raises:
        DeviceError: nobody knows how.
        Exception: what its `clone` raises.
    """
    if isinstance(device, Device):
        return again(device) if type(device).clone is Device.clone else device.clone()
    if callable(getattr(device, "clone", None)):
        return device.clone()
    can_be_saved = callable(getattr(device, "save", None)) and callable(getattr(device, "load", None))
    if can_be_saved or getattr(device, "stateless", False):
        return again(device)
    raise DeviceError(
        f"device cannot be copied: {type(device).__name__}",
        hint="define clone(self), which returns a new one for the copy of the machine",
    )
