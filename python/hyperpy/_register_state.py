"""What a device's registers hold as a plain value, and back: `Device.save` and `Device.load`.

A saved state names every register; one of another schema, or with other registers, is refused as a whole.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hyperpy.declare import Counter, Fifo, FifoLevel, Indexed, Ram, Register
from hyperpy.errors import SnapshotError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from hyperpy._layout import Placed
    from hyperpy.device import Device

__all__ = ["load", "save"]

_BYTES = 8


def save(device: Device) -> dict[str, Any]:
    """Return the state of all registers, with the schema of their class."""
    return {
        "schema": type(device).schema,
        "registers": {place.name: _saved(device, place) for place in _kept(device)},
    }


def _kept(device: Device) -> Iterator[Placed]:
    """Yield what holds something: what is behind a port does, the port does not."""
    return (place for place in device._places if not isinstance(place.declared, Indexed | FifoLevel))


def _saved(device: Device, place: Placed) -> Any:
    file = device._register_file
    match place.declared:
        case Fifo():
            return {
                "items": file.items(place.cell),
                "lost": file.level(place.cell)[1],
                "threshold": file.threshold(place.cell),
            }
        case Ram() as ram:
            return file.read_window(place.cell, 0, ram.size)
        case _:
            return file.get(place.cell)


def load(device: Device, state: dict[str, Any]) -> None:
    """Put a saved state back: all of it, or nothing of one that does not fit."""
    name, ours = type(device).__name__, type(device).schema
    try:
        schema, registers = state["schema"], dict(state["registers"])
    except (TypeError, KeyError, ValueError):
        raise SnapshotError(
            f"not a saved state of {name}", hint="give what its `save` has returned"
        ) from None
    if schema != ours:
        raise SnapshotError(
            f"state of {name} is of schema {schema!r}, not {ours}",
            hint="override `load` to convert older states",
        )
    places = {place.name: place for place in _kept(device)}
    odd = sorted(places.keys() ^ registers.keys())
    if odd:
        raise SnapshotError(
            f"state of {name} has other registers: {', '.join(odd[:8])}",
            hint="raise `schema` when registers change",
        )
    steps = [_step(device, places[key], value) for key, value in registers.items()]
    for step in steps:
        step()


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
