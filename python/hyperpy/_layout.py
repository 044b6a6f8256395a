"""What a class body's declarations come to: numbered registers, checked together, and the methods that want to know.

Every register of a class has a number; a block's follow one another, so that the registers of one are its first number and
theirs within it. The core gets them as flat descriptions, in this order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from hyperpy import _hyperpy
from hyperpy import window as windows
from hyperpy._class_body import OF_BLOCKS, OF_DEVICES, check_marks, check_names
from hyperpy._declaration import Declared, Hooked, Register, declarations
from hyperpy._delivery import NOW, Delivery
from hyperpy._made import OWN
from hyperpy.declare import Block, Blocks, Counter, Fifo, FifoLevel, Indexed, Ram
from hyperpy.errors import DeclarationError
from hyperpy.window import parts_of, place_of

if TYPE_CHECKING:
    from hyperpy.device import Device

__all__ = ["Placed", "declare", "handlers", "make_blocks", "number_cells", "placed"]

RULES = ("exact", "split", "widen", "refuse")
# Masks of the core's `Bits`, by number, that each kind of access puts a bit into.
_READABLE, _STORED, _CLEARED_BY_1, _CLEARED_BY_0, _SET_BY_1, _CLEARED_BY_READ, _SET_BY_READ = range(7)
_MASKS: dict[str, tuple[int, ...]] = {
    "rw": (_READABLE, _STORED),
    "ro": (_READABLE,),
    "wo": (_STORED,),
    "w1c": (_READABLE, _CLEARED_BY_1),
    "w0c": (_READABLE, _CLEARED_BY_0),
    "w1s": (_READABLE, _SET_BY_1),
    "rc": (_READABLE, _CLEARED_BY_READ),
    "rs": (_READABLE, _SET_BY_READ),
}
_WRITABLE = (_STORED, _CLEARED_BY_1, _CLEARED_BY_0, _SET_BY_1)
_MOST_CELLS = 1 << 20
_MOST_BYTES = 1 << 63


class Hook(NamedTuple):
    """A method that wants to know: its name, the mask of `on_write_if` or 0, and whether it gets the number in an array first."""

    method: str
    mask: int
    takes_index: bool


Hooks: TypeAlias = dict[tuple[Hooked[Any], int | None], tuple[Hook | None, Hook | None]]
"""Who wants to know of reads and of writes, by declaration and by number in an array; None: of all of them."""


class Placed:
    """One register of a class: what declares it, its place, and how it is called."""

    __slots__ = ("cell", "declared", "first", "index", "name", "offset", "owner")

    def __init__(
        self,
        cell: int,
        declared: Declared[Any],
        name: str,
        offset: int | None,
        index: int | None,
        owner: type,
        first: int,
    ) -> None:
        self.cell, self.declared, self.name, self.offset = cell, declared, name, offset
        self.index, self.owner = index, owner
        self.first = first  # number of the first register of its block, or of the device


def hooks_of(cls: type) -> Hooks:
    """Return the marked methods of a class: those of its bases, and its own in place of them."""
    found: Hooks = {}
    for base in reversed(cls.__mro__):
        for name, method in base.__dict__.items():
            for declared, kind, mask, where in getattr(method, "_hooks", ()):
                takes_index = declared.count is not None and not isinstance(where, int)
                hook = Hook(name, mask, takes_index)
                for index in where if isinstance(where, tuple) else (where,):
                    read, write = found.get((declared, index), (None, None))
                    found[declared, index] = (hook, write) if kind == "read" else (read, hook)
    return found


def hooks_for(hooks: Hooks, declared: Hooked[Any], index: int | None) -> tuple[Hook | None, Hook | None]:
    """Who wants to know of a register, or of one of an array; its own method goes before that of all."""
    read, write = hooks.get((declared, None), (None, None))
    if index is None:
        return read, write
    own_read, own_write = hooks.get((declared, index), (None, None))
    return own_read or read, own_write or write


def _length(declared: Declared[Any]) -> int:
    """How many numbers a declaration takes."""
    if isinstance(declared, Blocks):
        cells: int = declared.kind._cells
        return (declared.count or 1) * cells
    if isinstance(declared, Indexed):
        return 1 + (declared.behind.count or 1)
    return declared.count or 1


def _numbers(cls: type) -> tuple[dict[Declared[Any], int], int]:
    found = declarations([base.__dict__ for base in reversed(cls.__mro__)])
    numbers: dict[Declared[Any], int] = {}
    cell = 0
    for declared in dict.fromkeys(found.values()):  # a second name for one is no second register
        numbers[declared] = cell
        if isinstance(declared, Indexed):
            numbers[declared.behind] = cell + 1
        cell += _length(declared)
        if cell > _MOST_CELLS:
            raise DeclarationError(
                f"too many registers: {declared.name} ({declared.where})",
                hint=f"a device has up to {_MOST_CELLS}",
            )
    return numbers, cell


def number_cells(cls: type[Block | Device]) -> None:
    """Give the registers of a device's or a block's class their numbers in it, and find its marked methods."""
    for name in OWN & cls.__dict__.keys():
        raise DeclarationError(
            f"{cls.__qualname__}.{name} is what hyperpy keeps there itself", hint="give it another name"
        )
    check_names(cls, OF_BLOCKS if issubclass(cls, Block) else OF_DEVICES)
    cls._cell_numbers, cls._cells = _numbers(cls)
    check_marks(cls)
    cls._told = hooks_of(cls)
    _check_members(cls)


def _check_members(cls: type) -> None:
    for declared in cls._cell_numbers:  # type: ignore[attr-defined]
        when = declared.when
        for other in filter(None, (when.register if when else None, getattr(declared, "register", None))):
            if other not in cls._cell_numbers:  # type: ignore[attr-defined]
                raise DeclarationError(
                    f"{declared.name} ({declared.where}) refers to a register of another class: {other.name}",
                    hint="declare it in the same class, or use the one that replaces it",
                )
            if other.count is not None:
                raise DeclarationError(
                    f"{declared.name} ({declared.where}) refers to an array of registers: {other.name}",
                    hint="only one can hold a bank or an index",
                )


def end_of(cls: type) -> int:
    """Where the last declaration of a class ends, in bytes."""
    return max((_end(declared) for declared in cls._cell_numbers), default=0)  # type: ignore[attr-defined]


def _end(declared: Declared[Any]) -> int:
    return 0 if declared.offset is None else declared.offset + _span(declared)


def _span(declared: Declared[Any]) -> int:
    """How many bytes it takes."""
    if isinstance(declared, Blocks):
        return ((declared.count or 1) - 1) * _stride(declared) + end_of(declared.kind)
    size: int = declared.size if isinstance(declared, Ram) else declared.width
    return ((declared.count or 1) - 1) * declared.stride + size


def _stride(blocks: Blocks[Any]) -> int:
    return end_of(blocks.kind) if blocks.asked_stride is None else blocks.asked_stride


def placed(cls: type, first: int = 0, base: int = 0, prefix: str = "") -> Iterator[Placed]:
    """Yield every register of a class by ascending number."""
    parts = getattr(cls, "_windows", ())
    for declared, number in cls._cell_numbers.items():  # type: ignore[attr-defined]
        cell, name = first + number, prefix + declared.name
        offset = None if declared.offset is None else base + place_of(declared.offset, parts)
        for index in range(declared.count or 1):
            label = name if declared.count is None else f"{name}[{index}]"
            if isinstance(declared, Blocks):
                start = (offset or 0) + index * _stride(declared)
                yield from placed(declared.kind, cell + index * declared.kind._cells, start, f"{label}.")
            else:
                place = None if offset is None else offset + index * declared.stride
                at = None if declared.count is None else index
                yield Placed(cell + index, declared, label, place, at, cls, first)


def _describe(place: Placed) -> dict[str, Any]:
    declared, first = place.declared, place.first
    hooks: Hooks = place.owner._told  # type: ignore[attr-defined]
    read, write = hooks_for(hooks, declared, place.index) if isinstance(declared, Hooked) else (None, None)
    numbers = place.owner._cell_numbers  # type: ignore[attr-defined]
    bits, sides, reset, kind, details = [0] * 7, (True, True), 0, "plain", [0]
    match declared:
        case Register():
            bits, reset = masks(declared), declared.reset
            sides = _sides(declared, read is not None, write is not None)
        case Fifo():
            takes = declared.access == "ro"
            sides = (takes, not takes)
            kind, details = (
                "fifo",
                [
                    declared.depth,
                    int(takes),
                    int(declared.overflow == "overwrite"),
                    declared.empty,
                    declared.threshold,
                ],
            )
        case FifoLevel():
            sides, kind, details = (True, False), "level", [first + numbers[declared.register]]
        case Counter():
            sides = (True, declared.access == "rw" or write is not None)
            kind, details = "counter", [declared.hz]
        case Ram():
            sides = (declared.access != "wo", declared.access != "ro")
            kind, details = "ram", [declared.size]
        case Indexed():
            behind = [of for (register, _), of in hooks.items() if register is declared.behind]
            sides = _sides(declared.behind, *(any(of[side] for of in behind) for side in (0, 1)))
            index, at = first + numbers[declared.register], first + numbers[declared.behind]
            step = declared.step % (1 << 64)
            kind, details = "port", [index, declared.bits, at, declared.behind.count or 0, step]
    if place.offset is None:
        sides = (False, False)
    when, condition = declared.when, None
    if when is not None:
        field = when.field
        condition = (first + numbers[when.register], field.mask, (when.equals << field.low) & field.mask)
    return {
        "name": place.name,
        "offset": place.offset,
        "width": declared.width,
        "kind": kind,
        "numbers": details,
        "bits": bits,
        "reset": reset,
        "big_endian": getattr(declared, "order", "little") == "big",
        "sides": sides,
        "when": condition,
        "on_read": read is not None,
        "on_write": None if write is None else write.mask,
        "delivery": _delivery(place, 0 if write is None else write.mask),
    }


def _sides(register: Register, is_asked: bool, is_told: bool) -> tuple[bool, bool]:
    """Whether guests can read it, and write it: there is something to see or to do, or somebody wants to know."""
    bits = masks(register)
    readable = bits[_READABLE] | bits[_CLEARED_BY_READ] | bits[_SET_BY_READ]
    # A doorbell may hold no bits.
    writable = any(bits[at] for at in _WRITABLE) or register.delivery != NOW
    return bool(readable) or is_asked, writable or is_told


def _delivery(place: Placed, mask: int) -> Delivery:
    kind, values = getattr(place.declared, "delivery", NOW)
    if kind == "doorbell" and mask:
        raise DeclarationError(
            f"a doorbell has no bits to look for: {place.name} ({place.declared.where})",
            hint="mark the method by on_write",
        )
    return kind, values


def masks(register: Register) -> list[int]:
    """Return what accesses do to the bits of a register, as the core's masks."""
    found = [0] * 7
    if register.delivery == ("doorbell", ()):
        return found  # nobody knows what was written
    rest = register.mask
    for field in register.fields.values():
        rest &= ~field.mask
        for at in _MASKS[field.access or register.access]:
            found[at] |= field.mask
    for at in _MASKS[register.access]:
        found[at] |= rest
    return found


def declare(cls: type[Device]) -> None:
    """Number and check what a device's class declares, and make its layout."""
    number_cells(cls)
    cls._windows = parts_of(cls, cls._cell_numbers, _span)
    if not (cls._cell_numbers or cls._windows):
        cls._layout = None
        return
    end = windows.end_of(cls._windows) if cls._windows else end_of(cls)
    is_asked = "size" in cls.__dict__ or cls.size != cls._computed_size
    cls._computed_size = None if is_asked else end
    if cls.size is None or not is_asked:
        cls.size = end
    if end > _MOST_BYTES:
        raise DeclarationError(
            f"{cls.__name__}: registers reach beyond every device: {end:#x}",
            hint="smaller offsets or strides",
        )
    if cls._windows:
        windows.check(cls, is_asked)
    if not cls._cell_numbers:
        cls._layout = None
        return
    if cls.access_rule not in RULES:
        raise DeclarationError(
            f"no such rule: {cls.access_rule!r}", hint=f"access_rule is one of {', '.join(RULES)}"
        )
    places = tuple(placed(cls))
    try:
        cls._layout = _hyperpy.RegisterLayout(
            [_describe(place) for place in places],
            cls.size,
            cls.access_rule,
            cls._has_own_accesses(),
            cls.schema,
        )
    except ValueError as error:
        text, hint, about = error.args
        names = " and ".join(
            f"{place.name} ({_at(cls, place)}{place.declared.where})"
            for place in (places[cell] for cell in about)
        )
        raise DeclarationError(f"{cls.__name__}: {text}: {names}", hint=hint) from None
    cls._places = places


def _at(cls: type[Device], place: Placed) -> str:
    return "" if place.offset is None else f"{windows.shown(place.offset, cls._windows)}, "


class Made(dict[Blocks[Any], list[Any]]):
    """The blocks of a device, told from what a user would keep under that name."""


def make_blocks(owner: Any, device: Any) -> dict[Blocks[Any], list[Any]]:
    """Make an object for each block of a device, or of one of its blocks."""
    made = Made()
    for declared, number in type(owner)._cell_numbers.items():
        if isinstance(declared, Blocks):
            made[declared] = []
            for index in range(declared.count or 1):
                block = object.__new__(declared.kind)
                block.device, block.index = device, index
                block._register_file = device._register_file
                block._first_cell = owner._first_cell + number + index * declared.kind._cells
                block._blocks = make_blocks(block, device)
                declared.kind.__init__(block)
                made[declared].append(block)
    return made


_Method: TypeAlias = tuple[Callable[..., Any], int | None]
Handler: TypeAlias = tuple[int, _Method | None, _Method | None]
"""The number of a register, and who wants to know of reads and writes: methods with their first argument, if it is a number."""


def handlers(device: Device) -> list[Handler]:
    """Return the methods of a device that want to know of accesses, by number of register."""
    found: list[Handler] = []
    _collect(device, found)
    return found


def _collect(owner: Any, found: list[Handler]) -> None:
    hooks: Hooks = type(owner)._told
    numbers: Mapping[Declared[Any], int] = type(owner)._cell_numbers

    def method(hook: Hook | None, index: int | None) -> _Method | None:
        return None if hook is None else (getattr(owner, hook.method), index if hook.takes_index else None)

    for declared in dict.fromkeys(declared for declared, _ in hooks):
        if declared not in numbers:
            continue  # a subclass has replaced it
        first = owner._first_cell + numbers[declared]
        for index in (None,) if declared.count is None else range(declared.count):
            read, write = hooks_for(hooks, declared, index)
            if read or write:
                found.append((first + (index or 0), method(read, index), method(write, index)))
    for blocks in owner._blocks.values():
        for block in blocks:
            _collect(block, found)
