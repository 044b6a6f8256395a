"""A copy of a machine, as far as it is Python's: what the script has told it, and devices that are copies too, at the same places.

What makes the copy somebody else is here too. The core copies its configuration, memory and state (`machine/snapshot.rs`); how a device is copied is the device's (`device`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from hyperpy._cloning import copy_of
from hyperpy._placed import placed
from hyperpy.device import DebugConsole, Device
from hyperpy.errors import DeviceError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from hyperpy import _hyperpy
    from hyperpy.clock import ClockSetting
    from hyperpy.identity import Identity
    from hyperpy.machine import Machine


def name_for(machine: Machine, name: str | None) -> str:
    """The name of a copy of the machine."""
    return name or f"{machine.name}.{next(machine._numbers)}"


def copy_into(child: Machine, native: _hyperpy.Machine, machine: Machine, name: str) -> list[object]:
    """Make `child` of its native half, with copies of the devices of `machine`, which are returned: in the order of `devices_of`."""
    child._become(native, name, machine.cpu_limit, machine._traced, machine._asked)
    child.unclaimed = machine.unclaimed
    child._images = dict(machine._images)
    child._image, child._brought, child._made_from = machine._image, set(machine._brought), machine._made_from
    if machine._native.has_pc:
        child.attach_pc()
    copies: dict[int, object] = {}
    for device, facts, where, _ in placed(list(machine._attached.items())):
        if id(device) not in copies:
            copies[id(device)] = _copy_of(device, machine, child)
        size = None if facts["window"] is not None else facts["size"]
        child.attach(copies[id(device)], size=size, irq=facts["irq"], name=facts["name"], **where)
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


def individual(
    child: Machine, devices: Iterable[tuple[object, Any]], identity: Identity, clock: ClockSetting | None
) -> None:
    """Make a copy of a machine, with its devices as (parent, copy), somebody else, before it runs."""
    if clock is not None:
        clock._apply(child.clock)
    child._native.renew_generation(child._generation)
    for parent, copy in devices:
        if isinstance(copy, Device):
            place = _place_of(copy, child)
            try:
                copy.forked(cast("Any", parent), identity._told(place))
            except Exception as error:
                error.add_note(
                    f"in `forked` of {type(copy).__name__} at {place}, called of a copy of the machine"
                )
                raise


def _place_of(device: object, machine: Machine) -> str:
    """Where a device was attached first."""
    for (is_pio, _), (other, facts) in list(machine._attached.items()):
        if other is device:
            return f"{'port' if is_pio else 'mmio'} {facts['base']:#x}"
    return ""  # taken off meanwhile


def devices_of(machine: Machine) -> list[object]:
    """Return the devices that a copy of the machine has copies of."""
    attached = list(machine._attached.values())
    return list({id(device): device for device, _ in attached}.values())
