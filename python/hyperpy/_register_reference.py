"""A reference of a class's registers as Markdown: `Device.markdown`.

It says all that a driver's author must know and the class declares: an array of registers, or of blocks of them, is a line.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from hyperpy import window as windows
from hyperpy._delivery import NOW
from hyperpy._layout import _stride, end_of
from hyperpy.declare import Blocks, Counter, Fifo, FifoLevel, Indexed, Ram, Register
from hyperpy.line import Line, declared

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from hyperpy._declaration import Bits, Declared
    from hyperpy.device import Device

__all__ = ["markdown"]

_NUMBERS = "nmkji"  # what counts the registers of an array of arrays


class _Row(NamedTuple):
    """A register, or all of an array: in the device's own range, and how far apart those of each array are."""

    declared: Declared[Any]
    name: str
    offset: int | None
    strides: tuple[int, ...]


def markdown(cls: type[Device]) -> str:
    """Return a reference of a class's registers: a table, and one more for the fields of each register."""
    lines = [f"# {cls.__name__}", ""]
    summary = (cls.__doc__ or "").strip().partition("\n")[0]
    if summary:
        lines += [summary, ""]
    rows = sorted(_rows(cls), key=lambda row: (row.offset is None, row.offset or 0))
    table = [(_place(row, cls), f"`{row.name}`", *_facts(row)) for row in rows]
    lines += _table(("offset", "register", "bytes", "access", "at reset", "what it is"), table)
    parts = [(f"`{part.name}`", f"{part.size:#x}", _cell(part.doc)) for part in cls._windows]
    if parts:
        lines += ["", "## Windows", "", *_table(("window", "bytes", "what it is"), parts)]
    wires = [
        (f"`{name}`", "level" if line.level else "edge", _cell(line.doc))
        for name, line in declared(cls, Line).items()
        if name != "irq"
    ]
    if wires:
        lines += ["", "## Interrupts", "", *_table(("line", "trigger", "what it is"), wires)]
    named: dict[Register, list[str]] = {}
    for row in rows:
        if isinstance(row.declared, Register) and row.declared.fields:
            named.setdefault(row.declared, []).append(row.name)
    for register, names in named.items():
        lines += ["", f"## {', '.join(names)}", ""]
        lines += _table(("bits", "field", "access", "at reset", "what it is"), _fields(register))
    return "\n".join(lines) + "\n"


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> list[str]:
    ruled = f"|{'---|' * len(head)}"
    return [f"| {' | '.join(head)} |", ruled, *(f"| {' | '.join(cells)} |" for cells in rows)]


def _rows(cls: type, base: int = 0, prefix: str = "", strides: tuple[int, ...] = ()) -> Iterator[_Row]:
    parts = getattr(cls, "_windows", ())
    for one in cls._cell_numbers:  # type: ignore[attr-defined]
        offset = None if one.offset is None else base + windows.place_of(one.offset, parts)
        name = prefix + one.name + ("" if one.count is None else f"[0…{one.count - 1}]")
        if isinstance(one, Blocks):
            apart = strides if one.count is None else (*strides, _stride(one))
            if one.doc:
                yield _Row(one, name, offset, apart)
            yield from _rows(one.kind, offset or 0, f"{name}.", apart)
        else:
            yield _Row(one, name, offset, strides if one.count is None else (*strides, one.stride))


def _place(row: _Row, cls: type[Device]) -> str:
    if row.offset is None:
        return "behind the port"
    steps = (f" + {number} * {stride:#x}" for number, stride in zip(_NUMBERS, row.strides, strict=False))
    return f"`{windows.shown(row.offset, cls._windows)}`" + "".join(steps)


def _facts(row: _Row) -> tuple[str, str, str, str]:
    """Bytes, access, value at reset, and what it is."""
    one = row.declared
    size, access, reset = str(one.width), str(getattr(one, "access", "")), ""
    told = [_cell(one.doc)] if one.doc else []
    if one.when is not None:
        told.append(_condition(one.when))
    match one:
        case Blocks():
            size, access = f"{end_of(one.kind):#x}", "block"
        case Ram():
            size = f"{one.size:#x}"
        case Fifo():
            access = f"{access}, queue of {one.depth}"
        case FifoLevel():
            told.append(f"how many items are in `{one.register.name}`")
        case Counter():
            told.append(f"counts {one.hz:,} a second")
        case Indexed():
            access = f"{access}, port"
            step = f", which each access moves by {one.step}" if one.step else ""
            told.append(f"leads to that of `{one.name}` whose number is in `{one.register.name}`{step}")
        case Register():
            reset = f"{one.reset:#x}"
            if any(field.access not in (None, access) for field in one.fields.values()):
                access = "by field"
            told += _of_register(one)
    if getattr(one, "order", "little") == "big":
        told.append("big-endian")
    return size, access, reset, "; ".join(told)


def _of_register(register: Register) -> Iterator[str]:
    named = 0
    for field in register.fields.values():
        named |= field.mask
    if register.mask not in (named, (1 << 8 * register.width) - 1):
        yield f"has the bits {register.mask:#x}"
    if register.delivery != NOW:
        kind, values = register.delivery
        yield kind + (f" for {', '.join(map(hex, values))}" if values else "")


def _condition(when: Bits) -> str:
    name = next(name for name, field in when.register.fields.items() if field is when.field)
    return f"there while `{when.register.name}.{name}` is {when.equals:#x}"


def _fields(register: Register) -> Iterator[tuple[str, ...]]:
    for name, field in sorted(register.fields.items(), key=lambda item: item[1].low):
        bits = f"{field.low}" if field.width == 1 else f"{field.low + field.width - 1}:{field.low}"
        values = "" if field.enum is None else ", ".join(f"{one.value} {one.name}" for one in field.enum)
        doc = "; ".join(filter(None, [field.doc, values]))
        yield bits, f"`{name}`", field.access or register.access, f"{field.reset:#x}", _cell(doc)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
