"""A device's registers as text: in one line, as a table for a notebook, and as a Markdown reference of its class."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from hyperpy import window as windows
from hyperpy.declare import Counter, Fifo, FifoLevel, Indexed, Ram, Register

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hyperpy._layout import Placed
    from hyperpy.device import Device

__all__ = ["html", "markdown", "one_line"]

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


def _parts(device: Device) -> Iterator[tuple[str, str]]:
    """Yield names and texts, an array as one."""
    arrays: dict[tuple[object, str], list[str]] = {}
    for place in device._places:
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
    parts = [f"{name}={text}" for name, text in _parts(device)]
    more = f", and {len(parts) - _SHOWN} more" if len(parts) > _SHOWN else ""
    return f"<{type(device).__name__} {', '.join(parts[:_SHOWN])}{more}>"


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


def markdown(cls: type[Device]) -> str:
    """Return a reference of a class's registers as Markdown: a table, and one more for the fields of each register."""
    lines = [f"# {cls.__name__}", ""]
    summary = (cls.__doc__ or "").strip().partition("\n")[0]
    if summary:
        lines += [summary, ""]
    lines += ["| offset | register | bytes | access | at reset | what it is |", "|---|---|---|---|---|---|"]
    once: list[Register] = []
    for place, count in _rows(cls):
        declared = place.declared
        name = place.name if count is None else f"{place.name.rpartition('[')[0]}[0…{count - 1}]"
        offset = (
            "behind the port" if place.offset is None else f"`{windows.shown(place.offset, cls._windows)}`"
        )
        if count is not None and place.offset is not None:
            offset += f" + n * {declared.stride:#x}"
        lines.append(
            f"| {offset} | `{name}` | {_bytes(declared)} | {_access(declared)} | {_reset(declared)} | {_cell(declared.doc)} |"
        )
        if isinstance(declared, Register) and declared.fields and declared not in once:
            once.append(declared)
    for register in once:
        lines += [
            "",
            f"## {register.name}",
            "",
            "| bits | field | access | at reset | what it is |",
            "|---|---|---|---|---|",
        ]
        for name, field in sorted(register.fields.items(), key=lambda item: item[1].low):
            bits = f"{field.low}" if field.width == 1 else f"{field.low + field.width - 1}:{field.low}"
            doc = field.doc
            if field.enum is not None:
                doc = "; ".join(filter(None, [doc, ", ".join(f"{m.value} {m.name}" for m in field.enum)]))
            lines.append(
                f"| {bits} | `{name}` | {field.access or register.access} | {field.reset:#x} | {_cell(doc)} |"
            )
    return "\n".join(lines) + "\n"


def _rows(cls: type[Device]) -> Iterator[tuple[Placed, int | None]]:
    """Yield registers by ascending offset, those behind ports last; arrays as their first, with their length."""
    places = [place for place in cls._places if place.index in (None, 0)]
    for place in sorted(places, key=lambda place: (place.offset is None, place.offset or 0)):
        yield place, None if place.index is None else place.declared.count


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _bytes(declared: object) -> str:
    return f"{declared.size:#x}" if isinstance(declared, Ram) else str(getattr(declared, "width", ""))


def _access(declared: object) -> str:
    access = str(getattr(declared, "access", ""))
    if isinstance(declared, Register) and any(
        field.access not in (None, access) for field in declared.fields.values()
    ):
        return "by field"
    if isinstance(declared, Fifo):
        return f"{access}, queue of {declared.depth}"
    return f"{access}, port" if isinstance(declared, Indexed) else access


def _reset(declared: object) -> str:
    return f"{declared.reset:#x}" if isinstance(declared, Register) else ""
