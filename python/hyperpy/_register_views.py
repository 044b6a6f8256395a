"""How a device sees its own registers: values with fields, arrays, queues and windows, over the state that guests see."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from hyperpy import _hyperpy
    from hyperpy.declare import Fifo, Register

__all__ = ["ArrayView", "FifoView", "RamView", "Value"]


class Value(int):
    """What a register with fields held when it was read: a number whose attributes are the fields.

    Setting a field changes the register, and nothing else of it, also while a guest writes it.
    """

    _where: tuple[_hyperpy.RegisterFile, int, Register]

    def __new__(cls, value: int, file: _hyperpy.RegisterFile, cell: int, register: Register) -> Self:
        made = super().__new__(cls, value)
        object.__setattr__(made, "_where", (file, cell, register))
        return made

    def __getattr__(self, name: str) -> Any:
        register = self._where[2]
        field = register.fields.get(name)
        if field is None:
            raise AttributeError(_no_field(register, name))
        bits = (int(self) & field.mask) >> field.low
        if field.enum is not None:
            try:
                return field.enum(bits)
            except ValueError:
                return bits  # a guest writes what it likes
        return bits

    def __setattr__(self, name: str, value: int) -> None:
        file, cell, register = self._where
        field = register.fields.get(name)
        if field is None:
            raise AttributeError(_no_field(register, name))
        number = operator.index(value)
        if not 0 <= number < 1 << field.width:
            raise ValueError(
                f"field {register.name}.{name} has {field.width} bits: {number:#x}\n\nhint: at most {(1 << field.width) - 1:#x}"
            )
        file.set(cell, number << field.low, field.mask)

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *self._where[2].fields]


def _no_field(register: Register, name: str) -> str:
    return f"register {register.name} has no field {name!r}\n\nhint: its fields: {', '.join(register.fields)}"


def checked(register: Register, value: int) -> int:
    """Return a value that a register can hold, or raise a ValueError."""
    number = operator.index(value)
    if number & ~register.mask or number < 0:
        raise ValueError(
            f"{register.name} has no such bits: {number:#x}\n\nhint: its bits are {register.mask:#x}"
        )
    return number


class ArrayView(Sequence[int]):
    """An array of registers, used as a list of fixed length: `mac[2]`, `mac[2] = 0x54`, `mac[:] = bytes(6)`."""

    def __init__(self, file: _hyperpy.RegisterFile, first: int, register: Register) -> None:
        self._file, self._first, self._register = file, first, register

    def _cell(self, index: int) -> int:
        length = len(self)
        at = operator.index(index)
        if not -length <= at < length:
            raise IndexError(
                f"{self._register.name} has {length} registers: {index}\n\nhint: from 0 to {length - 1}"
            )
        return self._first + at % length

    def __len__(self) -> int:
        return self._register.count or 0

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self._file.get(self._first + at) for at in range(*index.indices(len(self)))]
        cell = self._cell(index)
        value = self._file.get(cell)
        return Value(value, self._file, cell, self._register) if self._register.fields else value

    def __setitem__(self, index: int | slice, value: Any) -> None:
        if not isinstance(index, slice):
            self._file.set(self._cell(index), checked(self._register, value), self._register.mask)
            return
        cells = [self._first + at for at in range(*index.indices(len(self)))]
        values = [checked(self._register, one) for one in value]
        if len(values) != len(cells):
            raise ValueError(
                f"{self._register.name} keeps its length: {len(values)} values for {len(cells)}"
                f"\n\nhint: give {len(cells)}"
            )
        for cell, one in zip(cells, values, strict=True):
            self._file.set(cell, one, self._register.mask)

    def __repr__(self) -> str:
        return repr([hex(value) for value in self])


class FifoView:
    """A queue as its device uses it, while guests run."""

    def __init__(self, file: _hyperpy.RegisterFile, cell: int, fifo: Fifo) -> None:
        self._file, self._cell, self._fifo = file, cell, fifo

    def push(self, item: int) -> bool:
        """Put an item in; False if one was lost because the queue was full."""
        number = operator.index(item)
        if not 0 <= number < 1 << 8 * self._fifo.width:
            raise ValueError(
                f"item is too wide for {self._fifo.width} bytes: {number:#x}\n\nhint: declare a wider queue"
            )
        return self._file.push(self._cell, number)

    def extend(self, items: Iterable[int]) -> bool:
        """Put items in, such as bytes; False if any was lost because the queue was full."""
        kept = [self.push(item) for item in items]
        return all(kept)

    def pop(self) -> int | None:
        """Take the oldest item; None if there is none."""
        return self._file.pop(self._cell)

    def peek(self) -> int | None:
        """Return the oldest item, which stays."""
        return self._file.front(self._cell)

    def clear(self) -> None:
        """Drop all items."""
        self._file.set_items(self._cell, [], self.lost)

    @property
    def level(self) -> int:
        """How many items are in it."""
        return self._file.level(self._cell)[0]

    @property
    def threshold(self) -> int:
        """Which accesses call a method: see `Fifo`. Setting it holds until the next reset."""
        return self._file.threshold(self._cell)

    @threshold.setter
    def threshold(self, items: int) -> None:
        number = operator.index(items)
        if not 0 <= number <= self.depth:
            raise ValueError(f"threshold is out of range: {number}\n\nhint: from 0 to {self.depth}")
        self._file.set_threshold(self._cell, number)

    @property
    def depth(self) -> int:
        """How many fit."""
        return self._fifo.depth

    @property
    def lost(self) -> int:
        """How many items did not fit since the last reset."""
        return self._file.level(self._cell)[1]

    def __len__(self) -> int:
        return self.level

    def __bool__(self) -> bool:
        return self.level > 0

    def __iter__(self) -> Iterator[int]:
        """The items, oldest first, as they are now."""
        return iter(self._file.items(self._cell))

    def __repr__(self) -> str:
        return f"{[hex(item) for item in self]} of {self.depth}"


class RamView:
    """A device's window of memory, as bytes that can be read and written by slices, while guests run."""

    def __init__(self, file: _hyperpy.RegisterFile, cell: int, size: int) -> None:
        self._file, self._cell, self._size = file, cell, size

    def __len__(self) -> int:
        return self._size

    def _range(self, key: int | slice) -> tuple[int, int]:
        if isinstance(key, slice):
            start, stop, step = key.indices(self._size)
            if step != 1:
                raise ValueError(f"a window is read in one piece: step {step}\n\nhint: leave the step out")
            return start, max(0, stop - start)
        at = operator.index(key)
        if not -self._size <= at < self._size:
            raise IndexError(f"window has {self._size} bytes: {key}\n\nhint: from 0 to {self._size - 1:#x}")
        return at % self._size, 1

    def __getitem__(self, key: Any) -> Any:
        start, length = self._range(key)
        found = self._file.read_window(self._cell, start, length)
        return found if isinstance(key, slice) else found[0]

    def __setitem__(self, key: int | slice, value: Any) -> None:
        start, length = self._range(key)
        data = bytes(value) if isinstance(key, slice) else bytes([value])
        if len(data) != length:
            raise ValueError(
                f"a window keeps its length: {len(data)} bytes for {length}\n\nhint: give {length} bytes"
            )
        self._file.write_window(self._cell, start, data)

    def __bytes__(self) -> bytes:
        return self._file.read_window(self._cell, 0, self._size)

    def __repr__(self) -> str:
        return f"<window of {self._size} bytes>"
