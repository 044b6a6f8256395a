"""What a device holds as a plain value, and back: `Device.save` and `Device.load`.

A saved state names every register, and every attribute that the class names; one of another schema, or with other
registers, is refused as a whole. A snapshot of a machine has the same, in a form of its own (`state.rs` of the bindings).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hyperpy import _hyperpy
from hyperpy.clock import Clock
from hyperpy.declare import Counter, Fifo, FifoLevel, Indexed, Ram, Register
from hyperpy.errors import SnapshotError
from hyperpy.line import Line, Messages

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from hyperpy._layout import Placed
    from hyperpy.device import Device

__all__ = ["load", "own_attributes", "save"]

_BYTES = 8
# What hyperpy puts into an instance.
_OURS = {"_blocks", "_calls", "_made_with", "_register_file", "clock", "fuzz_input", "memory"}


def own_attributes(device: object, names: dict[str, Any]) -> list[str]:
    """Return which attributes of an instance are its own, and not what hyperpy has put there."""
    lines = Line | Messages
    return [
        name
        for name in names
        if name not in _OURS and not isinstance(getattr(type(device), name, None), lines)
    ]


def save(device: Device) -> dict[str, Any]:
    """Return the state of all registers and of the attributes that the class names, with its schema."""
    name, kind = type(device).__name__, type(device)
    registers = {} if device._layout is None else device._register_file.save()
    state = {"schema": kind.schema, "registers": registers}
    if kind.saved_attributes:
        missing = [key for key in kind.saved_attributes if not hasattr(device, key)]
        if missing:
            raise SnapshotError(
                f"device {name} cannot be saved: it has no attribute {missing[0]}",
                hint="set it in `__init__`, or take it out of `saved_attributes`",
            )
        state["attributes"] = {
            key: _hyperpy.plain(getattr(device, key), f"{name}.{key}", _clock_of(device))
            for key in kind.saved_attributes
        }
    return state


def _clock_of(device: Device) -> Clock | None:
    """Return the clock that it has been given; its timers are what a state names."""
    clock: Any = device.clock
    return clock if isinstance(clock, Clock) else None


def _kept(device: Device) -> Iterator[Placed]:
    """Yield what holds something: what is behind a port does, the port does not."""
    return (place for place in device._places if not isinstance(place.declared, Indexed | FifoLevel))


def load(device: Device, state: dict[str, Any]) -> None:
    """Put a saved state back: all of it, or nothing of one that does not fit."""
    name, ours = type(device).__name__, type(device).schema
    try:
        schema, registers = state["schema"], dict(state["registers"])
        attributes = dict(state.get("attributes", {}))
    except (AttributeError, TypeError, KeyError, ValueError):
        raise SnapshotError(
            f"not a saved state of {name}", hint="give what its `save` has returned"
        ) from None
    if schema != ours:
        raise SnapshotError(
            f"state of {name} is of schema {schema!r}, not {ours}",
            hint="override `load` to convert older states",
        )
    places = {place.name: place for place in _kept(device)}
    _same(name, "registers", places.keys() ^ registers.keys())
    _same(name, "attributes", set(type(device).saved_attributes or ()) ^ attributes.keys())
    steps = [_step(device, places[key], value) for key, value in registers.items()]
    copies = {
        key: _hyperpy.plain(value, f"{name}.{key}", _clock_of(device)) for key, value in attributes.items()
    }
    for step in steps:
        step()
    for key, value in copies.items():
        setattr(device, key, value)


def _same(name: str, what: str, odd: set[str]) -> None:
    if odd:
        raise SnapshotError(
            f"state of {name} has other {what}: {', '.join(sorted(odd)[:8])}",
            hint="raise `schema` when registers or `saved_attributes` change",
        )


def _step(device: Device, place: Placed, value: Any) -> Callable[[], object]:
    """Check one value, and return what puts it back."""
    file, declared, cell = device._register_file, place.declared, place.cell
    match declared:
        case Ram() as ram if isinstance(value, bytes | bytearray) and len(value) == ram.size:
            return lambda: file.write_window(cell, 0, bytes(value))
        case Fifo() as fifo if _is_queue(value, fifo):

            def fill() -> None:
                file.set_items(cell, value["items"], value["lost"])
                file.set_threshold(cell, value["threshold"])

            return fill
        case Register() if _fits(value, declared.width) and not value & ~declared.mask:
            return lambda: file.set(cell, value, declared.mask)
        case Counter() if _fits(value, declared.width):
            everything = (1 << 8 * declared.width) - 1
            return lambda: file.set(cell, value, everything)
    raise SnapshotError(
        f"state of {type(device).__name__} has a value that {place.name} cannot hold: {value!r:.60}",
        hint="give what its `save` has returned",
    )


def _fits(value: Any, width: int) -> bool:
    return isinstance(value, int) and 0 <= value < 1 << 8 * width


def _is_queue(value: Any, fifo: Fifo) -> bool:
    return (
        isinstance(value, dict)
        and isinstance(value.get("items"), list)
        and len(value["items"]) <= fifo.depth
        and all(_fits(item, fifo.width) for item in value["items"])
        and _fits(value.get("lost"), _BYTES)
        and _fits(value.get("threshold"), _BYTES)
        and value["threshold"] <= fifo.depth
    )
