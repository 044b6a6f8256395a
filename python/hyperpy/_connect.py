"""What `Machine.attach` does with `irq=`: a device's lines and messages are connected before the guest can reach it.

What a class declares is in `hyperpy.line`.
"""

from __future__ import annotations

import contextlib
import operator
from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

from hyperpy import _hyperpy
from hyperpy.errors import DeviceError
from hyperpy.irq import Msi, Routing, fields
from hyperpy.line import Line, Messages, declared

__all__ = ["Irq", "connected", "gsis_of"]

Irq: TypeAlias = int | Msi | Mapping[str, int | Msi] | None
_ABSENT = object()


def gsis_of(device: object, irq: Irq) -> list[tuple[int, bool]]:
    """Return the gsis that a device drives, each with whether it is level-triggered."""
    lines = declared(type(device), Line)
    return [
        (
            gsi,
            bool(getattr(device, "irq_level", False))
            if name == "irq"
            else name in lines and lines[name].level,
        )
        for name, gsi in _by_name(irq).items()
        if not isinstance(gsi, Msi)
    ]


def _by_name(irq: Irq) -> dict[str, int | Msi]:
    if irq is None:
        return {}
    return dict(irq) if isinstance(irq, Mapping) else {"irq": irq}


@contextlib.contextmanager
def connected(machine: Routing, device: Any, irq: Irq) -> Iterator[dict[str, Any]]:
    """Give a device its lines, and take them back if the block raises; what it was given, by name."""
    wanted = _by_name(irq)
    for name in wanted:
        _check(device, name)
    given: dict[str, Any] = {name: _line(machine, target) for name, target in wanted.items()}
    given |= {name: _hyperpy.message_sender(machine._native) for name in declared(type(device), Messages)}
    before = {name: _held(device, name) for name in given}
    try:
        for name, thing in given.items():
            setattr(device, name, thing)
        yield given
    except BaseException:
        for name, thing in before.items():
            if thing is _ABSENT:
                with contextlib.suppress(AttributeError):
                    delattr(device, name)
            else:
                setattr(device, name, thing)
        raise
    for name, thing in before.items():
        # A line that was replaced drives nothing any more.
        if isinstance(thing, _hyperpy.IrqLine) and thing is not given[name]:
            thing.lower()


def _held(device: Any, name: str) -> Any:
    if isinstance(getattr(type(device), name, None), Line | Messages):
        return device.__dict__.get(name, _ABSENT)
    return getattr(device, name, _ABSENT)


def _check(device: Any, name: str) -> None:
    """Refuse a line that the device has not."""
    lines = declared(type(device), Line)
    if name in lines:
        return
    if name != "irq" and not hasattr(device, name):
        hint = f"its lines: {', '.join(lines) or 'none'}; declare one as {name} = Line()"
        raise DeviceError(f"{type(device).__name__} has no such line: {name}", hint=hint)
    try:
        setattr(device, name, getattr(device, name, None))
    except AttributeError as error:
        hint = f"give its class `{name} = None`, or name it in __slots__"
        raise TypeError(
            f"{type(device).__name__} takes no attribute `{name}`: {error}\n\nhint: {hint}"
        ) from None


def _line(machine: Routing, target: Any) -> _hyperpy.IrqLine:
    if isinstance(target, Msi):
        _, address, data = fields(target)
        return _hyperpy.message_line(machine._native, address, data)
    try:
        gsi = operator.index(target)
    except TypeError:
        hint = 'give a gsi, Msi(address, data), or lines by name: {"sent": 5}'
        raise TypeError(f"not an interrupt: {target!r}\n\nhint: {hint}") from None
    if gsi not in machine.routes:
        hint = "gsi 0 to 23 lead somewhere by themselves; lead others with m.route(gsi, ...)"
        raise DeviceError(f"no such interrupt line: {gsi}", hint=hint)
    return _hyperpy.line(machine._native, gsi)
