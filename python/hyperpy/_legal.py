"""What a class's declaration lets guests do: which places they read and write, and what must be set before.

Plain data for `hyperpy._strategies`, which draws accesses from it. "Legal" is what a driver does that follows the declaration:
registers at their width, bits that exist, values that an `enum` has. What guests can do beyond it is anything at all.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from hyperpy._declaration import Declared, Register
from hyperpy._layout import _WRITABLE, _describe, masks, placed
from hyperpy.declare import Indexed, Ram

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hyperpy._layout import Placed

__all__ = ["Need", "Reach", "Target", "as_written", "writable"]

# An access has at most so many bytes.
_WIDEST = 8

Key: TypeAlias = tuple[int, int]
"""Offset and width."""


class Need(NamedTuple):
    """Bits that a register must hold for another one to be there."""

    place: Placed
    mask: int
    value: int


class Target(NamedTuple):
    """A place that guests reach, and what must be set before."""

    place: Placed
    offset: int
    length: int
    reads: bool
    writes: bool
    needs: tuple[Need, ...]

    @property
    def declared(self) -> Declared[Any]:
        """What is declared there."""
        return self.place.declared


def writable(register: Register) -> int:
    """Bits that a guest's write can change; of a register that is only told of writes, all."""
    found = masks(register)
    bits = 0
    for at in _WRITABLE:
        bits |= found[at]
    return bits or register.mask


def as_written(declared: Declared[Any], value: int) -> int:
    """A register's value as a guest's access carries it: the bytes of a big-endian one the other way round."""
    if getattr(declared, "order", "little") == "big":
        return int.from_bytes(value.to_bytes(declared.width, "big"), "little")
    return value


class Reach:
    """What guests reach of a device's class."""

    def __init__(self, cls: type, size: int) -> None:
        self.name, self.size = cls.__name__, size
        self._places = list(placed(cls)) if hasattr(cls, "_cell_numbers") else []
        self._sides: dict[tuple[type, int], tuple[bool, bool]] = {}
        self._visible = sorted(
            (place for place in self._places if place.offset is not None and any(self._side(place))),
            key=lambda place: (place.offset, place.cell),
        )
        self._offsets = [place.offset or 0 for place in self._visible]
        self._longest = max(map(_length, self._visible), default=0)
        self._legal: dict[bool, set[Key]] = {False: set(), True: set()}
        self._windows: list[Target] = []
        self._banked = [place for place in self._visible if place.declared.when is not None]
        self.targets = [self._target(place) for place in self._visible]
        self._on = {
            "read": [target for target in self.targets if target.reads],
            "write": [target for target in self.targets if target.writes],
            "any": self.targets,
        }
        for target in self.targets:
            if isinstance(target.declared, Ram):
                self._windows.append(target)
                continue
            for is_write in (False, True):
                if target.writes if is_write else target.reads:
                    self._legal[is_write].add((target.offset, target.length))

    def __repr__(self) -> str:
        return f"<what guests reach of {self.name}>"

    def _side(self, place: Placed) -> tuple[bool, bool]:
        key = place.owner, id(place.declared)
        if key not in self._sides:
            self._sides[key] = _describe(place)["sides"]
        return self._sides[key]

    def _target(self, place: Placed) -> Target:
        reads, writes = self._side(place)
        needs = list(self._needs(place, frozenset()))
        if isinstance(place.declared, Indexed):
            needs += self._needs(self._of(place, place.declared.register), frozenset())
        return Target(place, place.offset or 0, _length(place), reads, writes, tuple(needs))

    def _needs(self, place: Placed, before: frozenset[int]) -> Iterator[Need]:
        """What a guest must have written for a place to be there; of that, what must be written before."""
        when = place.declared.when
        if when is not None:
            value = when.equals << when.field.low & when.field.mask
            yield from self._need(self._of(place, when.register), when.field.mask, value, before)
        elif self._banked:
            # It is there when none of those that share the place is.
            taken: dict[tuple[int, int], set[int]] = {}
            for other in self._sharing(place):
                bits: Any = other.declared.when
                cell = self._of(other, bits.register).cell
                taken.setdefault((cell, bits.field.mask), set()).add(bits.equals << bits.field.low)
            for (cell, mask), values in taken.items():
                low = mask & -mask
                free = next((value for value in range(0, mask + 1, low) if value not in values), None)
                if free is not None:
                    yield from self._need(self._places[cell], mask, free, before)

    def _need(self, place: Placed, mask: int, value: int, before: frozenset[int]) -> Iterator[Need]:
        can_write = isinstance(place.declared, Register) and place.offset is not None and self._side(place)[1]
        if place.cell not in before and can_write:
            yield from self._needs(place, before | {place.cell})
            yield Need(place, mask, value)

    def _sharing(self, place: Placed) -> Iterator[Placed]:
        offset, sides = place.offset or 0, self._side(place)
        for other in self._banked:
            start, side = other.offset or 0, self._side(other)
            overlaps = start < offset + _length(place) and offset < start + _length(other)
            if overlaps and any(mine and its for mine, its in zip(sides, side, strict=True)):
                yield other

    def _of(self, place: Placed, register: Register) -> Placed:
        """Another register of the block that a place is in, or of the device."""
        return self._places[place.first + place.owner._cell_numbers[register]]  # type: ignore[attr-defined]

    def index_of(self, target: Target) -> Placed:
        """The register that holds the number of those behind a port."""
        port: Any = target.declared
        return self._of(target.place, port.register)

    def on(self, side: str) -> list[Target]:
        """Where guests read ("read"), write ("write"), or do either ("any")."""
        return self._on[side]

    def selectors(self) -> list[Placed]:
        """Registers that say which others are there."""
        found = {need.place.cell: need.place for target in self.targets for need in target.needs}
        for target in self.targets:
            if isinstance(target.declared, Indexed):
                place = self.index_of(target)
                found[place.cell] = place
        return list(found.values())

    def moving(self) -> dict[int, int]:
        """Where the ports are whose number goes on by itself: the number's register by offset."""
        return {
            target.offset: self.index_of(target).cell
            for target in self.targets
            if isinstance(target.declared, Indexed) and target.declared.step
        }

    def is_legal(self, offset: int, size: int, is_write: bool) -> bool:
        """Whether a register, or a part of a window, is accessed so, whatever must be set before."""
        if (offset, size) in self._legal[is_write]:
            return True
        return any(
            (window.writes if is_write else window.reads)
            and window.offset <= offset
            and offset + size <= window.offset + window.length
            for window in self._windows
        )

    def names(self, offset: int, size: int) -> str:
        """What an access is of: names of registers that it touches, or "" if it touches none."""
        first = bisect_right(self._offsets, offset - max(self._longest, _WIDEST))
        last = bisect_right(self._offsets, offset + size - 1)
        touched = [
            place.name for place in self._visible[first:last] if (place.offset or 0) + _length(place) > offset
        ]
        return " or ".join(dict.fromkeys(touched))


def _length(place: Placed) -> int:
    return place.declared.size if isinstance(place.declared, Ram) else place.declared.width
