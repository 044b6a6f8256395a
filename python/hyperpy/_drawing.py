"""How Hypothesis draws accesses to a device that are legal, and ones that break one rule; `hyperpy._strategies` is the public face.

What is legal is in `hyperpy._legal`. A rule is what the declaration says of an access; for each there is a function that draws
an access which breaks it and no other, and one that says where that can be done.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

from hypothesis import strategies as st

from hyperpy._device_bench import Access
from hyperpy._legal import Need, Reach, Target, as_written, writable
from hyperpy.declare import Field, Fifo, Indexed, Ram, Register

__all__ = ["WIDEST", "Do", "breakable", "broken", "legal", "weighted"]

# An access has at most so many bytes.
WIDEST = 8
_SIZES = (1, 2, 4, 8)
# A queue that is deeper is not filled to find out what becomes of one item too many.
_DEEPEST = 64


class Do(NamedTuple):
    """Accesses, and what must be set before them."""

    accesses: tuple[Access, ...]
    needs: tuple[Need, ...] = ()


@st.composite
def weighted(draw: st.DrawFn, *choices: tuple[int, st.SearchStrategy[Any]]) -> Any:
    """One of the strategies, each as often as its weight says; `one_of` leaves out what it has twice."""
    tickets = [strategy for weight, strategy in choices for _ in range(weight)]
    return draw(tickets[draw(st.integers(0, len(tickets) - 1))])


@st.composite
def legal(draw: st.DrawFn, reach: Reach, side: str = "any") -> Do:
    """An access as the declaration has it: a "read", a "write" or "any"."""
    target = draw(_one_of(reach.on(side)))
    is_write = side == "write" or (
        target.writes and side == "any" and (not target.reads or draw(st.booleans()))
    )
    declared, needs = target.declared, target.needs
    if isinstance(declared, Ram):
        size = draw(st.sampled_from([size for size in _SIZES if size <= target.length]))
        offset = target.offset + size * draw(st.integers(0, target.length // size - 1))
        return Do((Access(offset, size, draw(_anything(size)) if is_write else None),), needs)
    if isinstance(declared, Indexed):
        number = draw(st.integers(0, min(declared.behind.count or 1, _numbers(declared)) - 1))
        needs = (*needs, _pointing(target, reach, number))
    return _one(target, draw(_values(target)) if is_write else None, needs)


def _numbers(port: Indexed) -> int:
    """How many numbers its index can have."""
    return (port.bits >> _lowest(port.bits)) + 1


def _lowest(bits: int) -> int:
    return max(0, (bits & -bits).bit_length() - 1)


def _pointing(target: Target, reach: Reach, number: int) -> Need:
    """A port's index has this number."""
    port: Any = target.declared
    return Need(reach.index_of(target), port.bits, number << _lowest(port.bits) & port.bits)


def _one_of(targets: list[Target]) -> st.SearchStrategy[Target]:
    """As `sampled_from`, which looks at each of them first: an array may have very many."""
    return st.integers(0, len(targets) - 1).map(targets.__getitem__)


def _anything(size: int) -> st.SearchStrategy[int]:
    return st.integers(0, (1 << 8 * size) - 1)


def _one(target: Target, value: int | None, needs: tuple[Need, ...]) -> Do:
    given = None if value is None else as_written(target.declared, value)
    return Do((Access(target.offset, target.length, given),), needs)


@st.composite
def _values(draw: st.DrawFn, target: Target) -> int:
    """What a driver writes: bits that can be written, and in a field with an enum one of its values."""
    declared = target.declared
    register = declared.behind if isinstance(declared, Indexed) else declared
    if not isinstance(register, Register):
        return draw(_anything(target.length))
    rest = bits = writable(register)
    value = 0
    for field in register.fields.values():
        if field.enum is not None and field.mask & bits:
            rest &= ~field.mask
            value |= draw(st.sampled_from(sorted(_members(field)) or [0])) << field.low
    return value | _spread(draw(st.integers(0, (1 << rest.bit_count()) - 1)), rest)


def _spread(number: int, bits: int) -> int:
    """The bits of a number, put where `bits` has some: few bits far apart come as often as others."""
    spread, at = 0, 0
    while bits:
        lowest = bits & -bits
        spread |= lowest if number >> at & 1 else 0
        bits, at = bits ^ lowest, at + 1
    return spread


def _members(field: Field) -> set[int]:
    """The values of a field that its enum has."""
    return {int(member) for member in field.enum or () if 0 <= member < 1 << field.width}


# -- rules ---------------------------------------------------------------------------------------------------------------

Rule: TypeAlias = Callable[[Any, Target, Reach], Do]


def breakable(reach: Reach, is_single: bool) -> dict[Rule, list[Target]]:
    """Where each rule can be broken, for the rules that can; `is_single`: by one access alone."""
    found: dict[Rule, list[Target]] = {}
    for target in reach.targets:
        for rule, applies in _RULES.items():
            if applies(target, reach) and not (is_single and rule in (_index, _full)):
                found.setdefault(rule, []).append(target)
    return found


@st.composite
def broken(draw: st.DrawFn, reach: Reach, rules: dict[Rule, list[Target]]) -> Do:
    """An access that breaks a rule. The rule is chosen first: those of few registers come as often as those of many."""
    rule = draw(st.sampled_from(list(rules)))
    return rule(draw, draw(_one_of(rules[rule])), reach)


def _sides(target: Target) -> list[bool]:
    """What can be done to it: False for reads, True for writes."""
    return [is_write for is_write, can in ((False, target.reads), (True, target.writes)) if can]


def _neighbours(target: Target, reach: Reach) -> list[tuple[int, bool]]:
    """Offsets beside a register where none is, and whether they are written."""
    length = min(target.length, WIDEST)
    first, last = max(0, target.offset - length + 1), min(target.offset + length, reach.size - length + 1)
    return [
        (offset, is_write)
        for offset in range(first, last)
        for is_write in _sides(target)
        if not reach.is_legal(offset, length, is_write)
    ]


def _offset(draw: Any, target: Target, reach: Reach) -> Do:
    offset, is_write = draw(st.sampled_from(_neighbours(target, reach)))
    length = min(target.length, WIDEST)
    return Do((Access(offset, length, draw(_anything(length)) if is_write else None),), target.needs)


def _sizes(target: Target, reach: Reach) -> list[tuple[int, bool]]:
    """Sizes that a register has not, and whether they are written."""
    return [
        (size, is_write)
        for size in range(1, min(WIDEST, reach.size - target.offset) + 1)
        for is_write in _sides(target)
        if not reach.is_legal(target.offset, size, is_write)
    ]


def _size(draw: Any, target: Target, reach: Reach) -> Do:
    size, is_write = draw(st.sampled_from(_sizes(target, reach)))
    return Do((Access(target.offset, size, draw(_anything(size)) if is_write else None),), target.needs)


def _missing_bits(target: Target) -> list[int]:
    register = target.declared
    if not isinstance(register, Register) or not target.writes:
        return []
    return [1 << bit for bit in range(8 * target.length) if not register.mask >> bit & 1]


def _reserved(draw: Any, target: Target, reach: Reach) -> Do:
    return _one(target, draw(_values(target)) | draw(st.sampled_from(_missing_bits(target))), target.needs)


def _is_closed(target: Target, reach: Reach, is_write: bool) -> bool:
    """Whether nothing is read, or written, where it is."""
    return is_write not in _sides(target) and not reach.is_legal(target.offset, target.length, is_write)


def _write(draw: Any, target: Target, reach: Reach) -> Do:
    length = min(target.length, WIDEST)
    return Do((Access(target.offset, length, draw(_anything(length))),), target.needs)


def _read(draw: Any, target: Target, reach: Reach) -> Do:
    return Do((Access(target.offset, min(target.length, WIDEST)),), target.needs)


def _open_fields(target: Target) -> list[Field]:
    """Fields that can be given a value which their enum lacks."""
    register = target.declared
    if not isinstance(register, Register) or not target.writes:
        return []
    enums = [field for field in register.fields.values() if field.enum and field.mask & writable(register)]
    return [field for field in enums if len(_members(field)) < 1 << field.width]


def _enum(draw: Any, target: Target, reach: Reach) -> Do:
    field = draw(st.sampled_from(_open_fields(target)))
    members = _members(field)
    bad = draw(st.integers(0, (1 << field.width) - 1).filter(lambda value: value not in members))
    return _one(target, draw(_values(target)) & ~field.mask | bad << field.low, target.needs)


def _has_free_numbers(target: Target) -> bool:
    port = target.declared
    return isinstance(port, Indexed) and _numbers(port) > (port.behind.count or 1)


def _index(draw: Any, target: Target, reach: Reach) -> Do:
    """An access to a port while it has the number of no register."""
    port: Any = target.declared
    need = _pointing(target, reach, draw(st.integers(port.behind.count, _numbers(port) - 1)))
    is_write = draw(st.sampled_from(_sides(target)))
    return _one(target, draw(_values(target)) if is_write else None, (*target.needs, need))


def _is_filled(target: Target) -> bool:
    queue = target.declared
    return isinstance(queue, Fifo) and target.writes and queue.depth <= _DEEPEST


def _full(draw: Any, target: Target, reach: Reach) -> Do:
    """One item more than a queue takes."""
    queue: Any = target.declared
    item = Access(target.offset, target.length, draw(_anything(target.length)))
    return Do((item,) * (queue.depth + 1), target.needs)


# In this order they shrink.
_RULES: dict[Rule, Callable[[Target, Reach], bool]] = {
    _read: lambda target, reach: _is_closed(target, reach, False),
    _write: lambda target, reach: _is_closed(target, reach, True),
    _reserved: lambda target, reach: bool(_missing_bits(target)),
    _enum: lambda target, reach: bool(_open_fields(target)),
    _size: lambda target, reach: bool(_sizes(target, reach)),
    _offset: lambda target, reach: bool(_neighbours(target, reach)),
    _index: lambda target, reach: _has_free_numbers(target),
    _full: lambda target, reach: _is_filled(target),
}
