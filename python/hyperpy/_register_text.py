"""A device's registers as text: in one line, and as a table for a notebook. The reference of its class is in `_register_reference`."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from hyperpy import window as windows
from hyperpy.declare import Counter, Fifo, FifoLevel, Indexed, Ram, Register

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from hyperpy._layout import Placed
    from hyperpy.declare import Block
    from hyperpy.device import Device

__all__ = ["html", "of_block", "one_line"]

_SHOWN = 8
_WIDE = 64


def shown(device: Device, place: Placed) -> str:
    """Return what a register holds, as text: fields that are not 0 by name."""
    file = device._register_file
    match place.declared:
        case Register() as register:
            value = file.get(place.cell)
            named = [
                name if field.width == 1 else f"{name}={(value & field.mask) >> field.low:#x}"
                for name, field in register.fields.items()
                if value & field.mask
            ]
            return f"{value:#x}" + (f" ({' '.join(named)})" if named else "")
        case Fifo() as fifo:
            return f"{file.level(place.cell)[0]} of {fifo.depth}"
        case Counter() | FifoLevel():
            return f"{file.get(place.cell):#x}"
        case Ram() as ram:
            return f"{ram.size:#x} bytes"
        case _:
            return ""


def _parts(device: Device, places: Iterable[Placed] | None = None) -> Iterator[tuple[str, str]]:
    """Yield names and texts, an array as one; of all its registers, or of some."""
    arrays: dict[tuple[object, str], list[str]] = {}
    for place in device._places if places is None else places:
        if isinstance(place.declared, Indexed):
            continue  # what is behind the port is shown
        text = shown(device, place)
        if place.index is None:
            yield place.name, text
            continue
        name = place.name.rpartition("[")[0]
        values = arrays.setdefault((place.declared, name), [])
        values.append(text)
        if len(values) == place.declared.count:
            whole = ", ".join(values)
            yield name, f"[{whole if len(whole) <= _WIDE else f'{len(values)} registers'}]"


def one_line(device: Device) -> str:
    """Return a device as `repr` shows it: its first registers."""
    return _line(device, [f"{name}={text}" for name, text in _parts(device)])


def of_block(block: Block) -> str:
    """Return a block as `repr` shows it: its own registers, without those of blocks in it."""
    own = [
        place
        for place in block.device._places
        if (place.owner, place.first) == (type(block), block._first_cell)
    ]
    return _line(block, [f"{name.rpartition('.')[2]}={text}" for name, text in _parts(block.device, own)])


def _line(owner: object, parts: list[str]) -> str:
    more = f", and {len(parts) - _SHOWN} more" if len(parts) > _SHOWN else ""
    return f"<{type(owner).__name__} {', '.join(parts[:_SHOWN])}{more}>"


def html(device: Device) -> str:
    """Return a device as a notebook shows it: a table of what its registers hold."""
    places = {place.name: place for place in device._places}
    rows = []
    for name, text in _parts(device):
        place = places.get(name) or places.get(f"{name}[0]")
        offset = "" if place is None or place.offset is None else windows.shown(place.offset, device._windows)
        doc = "" if place is None else place.declared.doc
        cells = "".join(f"<td>{escape(cell)}</td>" for cell in (name, offset, text, doc))
        rows.append(f"<tr>{cells}</tr>")
    head = "".join(f"<th>{word}</th>" for word in ("register", "offset", "holds", "what it is"))
    title = escape(type(device).__name__)
    return f"<table><caption>{title}</caption><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
