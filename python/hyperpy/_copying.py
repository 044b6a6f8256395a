"""A copy of a machine, as far as it is Python's: what the script has told it, and devices that are copies too, at the same places.

The core copies its configuration, memory and state (`machine/snapshot.rs`); how a device is copied is the device's (`device`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hyperpy._cloning import copy_of
from hyperpy.device import DebugConsole
from hyperpy.errors import DeviceError

if TYPE_CHECKING:
    from hyperpy import _hyperpy
    from hyperpy.machine import Machine


def copy_into(child: Machine, native: _hyperpy.Machine, machine: Machine, name: str | None) -> list[object]:
    """Make `child` of its native half, with copies of the devices of `machine`, which are returned: in the order of `devices_of`."""
    name = name or f"{machine.name}.{next(machine._numbers)}"
    child._become(native, name, machine.cpu_limit, machine._traced, machine._asked)
    child.unclaimed = machine.unclaimed
    child._images = dict(machine._images)
    child._image, child._brought, child._made_from = machine._image, set(machine._brought), machine._made_from
    if machine._native.has_pc:
        child.attach_pc()
    copies: dict[int, object] = {}
    for device, facts, where in _placed(machine):
        copy = copies[id(device)] = _copy_of(device, machine, child)
        windows: dict[str, Any] = {bus: at.get(None, at) for bus, at in where.items()}
        size = None if facts["window"] is not None else facts["size"]
        child.attach(copy, size=size, irq=facts["irq"], name=facts["name"], **windows)
    for device, facts in machine._attached.values():
        if not facts["enabled"]:
            child.disable(copies[id(device)], *([] if facts["window"] is None else [facts["window"]]))
    return list(copies.values())


def _copy_of(device: object, machine: Machine, child: Machine) -> object:
    if isinstance(device, DebugConsole) and device._console is machine.console:
        return DebugConsole(child.console)
    copy = copy_of(device)
    if copy is device:
        raise DeviceError(
            f"device cannot be copied: {type(device).__name__}: its clone returned itself",
            hint="define clone(self), which returns a new one for the copy of the machine",
        )
    return copy


def devices_of(machine: Machine) -> list[object]:
    """Return the devices that a copy of the machine has copies of."""
    return [device for device, _, _ in _placed(machine)]


def _placed(machine: Machine) -> list[tuple[object, dict[str, Any], dict[str, dict[str | None, int]]]]:
    """Each device with its facts, and by bus where its windows are."""
    found: dict[int, tuple[object, dict[str, Any], dict[str, dict[str | None, int]]]] = {}
    for (is_pio, _), (device, facts) in list(machine._attached.items()):
        _, _, where = found.setdefault(id(device), (device, facts, {}))
        where.setdefault("pio" if is_pio else "mmio", {})[facts["window"]] = facts["base"]
    return list(found.values())
