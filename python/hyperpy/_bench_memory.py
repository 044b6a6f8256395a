"""Guest memory on a bench for a device, with hooks on what the device does to it: faults, and guests that change their mind.

Public as `hyperpy.testing.BenchMemory`. The test itself reads and writes it as a `Memory`; the hooks are asked for the device's own
accesses alone (`hyperpy.dma`), before they reach memory.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, TypeAlias, cast

from hyperpy._dma_layers import Layer
from hyperpy.dma import DmaMemory, Range, made
from hyperpy.errors import MemoryAccessError
from hyperpy.memory import Memory, _address, _length

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from hyperpy import _hyperpy
    from hyperpy.machine import Machine

__all__ = ["BenchMemory"]

Answer: TypeAlias = Callable[[int, int], "bytes | None"]
_PAGE = 4096


class BenchMemory(Memory):
    """The guest memory of a `DeviceBench`: `device.memory` of a device with `dma = True` leads here.

    It takes up what is touched, however large it is. For the test it is a `Memory` as a machine's. `fail`, `answer_reads` and
    `on_first_touch` change what the device's accesses meet, and stay until `clear_hooks`.

    Example:
        >>> from hyperpy import Device, MemoryAccessError
        >>> from hyperpy.testing import DeviceBench
        >>> class Careless(Device):
        ...     dma, size = True, 4
        ...
        ...     def write(self, offset: int, size: int, value: int) -> None:
        ...         if self.memory.read_int(value, 2) <= 16:
        ...             self.got = self.memory.read(value + 2, self.memory.read_int(value, 2))
        >>> bench = DeviceBench(Careless())
        >>> lengths = iter([16, 4000])  # what a guest leaves there for the check, and for the use
        >>> bench.memory.answer_reads(0x1000, 2, lambda gpa, size: next(lengths).to_bytes(2, "little"))
        >>> bench.write32(0, 0x1000)
        >>> len(bench.device.got)
        4000
    """

    def __init__(self, machine: Machine) -> None:
        super().__init__(machine.memory._native, machine._share, machine._native)
        self._failing: list[Range] = []
        self._answering: list[tuple[int, int, Answer]] = []
        self._first_touch: Callable[[int], object] | None = None
        self._touched: set[int] = set()

    def fail(self, gpa: int, size: int) -> None:
        """Refuse the device every access to a range, as where there is no memory.

        Arguments:
            gpa: first address.
            size: bytes, from 1.
        """
        self._failing.append((_address(gpa), _some(size)))

    def answer_reads(self, gpa: int, size: int, answer: Answer) -> None:
        """Ask `answer` what the device reads in a range, each time it reads there.

        Arguments:
            gpa: first address.
            size: bytes, from 1.
            answer: gets the gpa and the size of the part of the range that is read, and returns as many bytes; None for
                what memory holds. What it raises, the device's read raises.
        """
        if not callable(answer):
            raise TypeError(f"not to be called: {answer!r}\n\nhint: a function of gpa and size")
        self._answering.append((_address(gpa), _some(size), answer))

    def on_first_touch(self, callback: Callable[[int], object]) -> None:
        """Call `callback(gpa)` before the device's first access to each page of 4 KiB: it can fill the page.

        Pages that nobody has asked for need not be made: a test can make up the memory of a guest as the device asks for it.
        """
        if not callable(callback):
            raise TypeError(f"not to be called: {callback!r}\n\nhint: a function of a page's gpa")
        self._first_touch = callback
        self._touched = set()

    def clear_hooks(self) -> None:
        """Take off what `fail`, `answer_reads` and `on_first_touch` have set."""
        self._failing.clear()
        self._answering.clear()
        self._first_touch = None
        self._touched = set()

    def _for_device(self, device: object) -> DmaMemory:
        """What the device is lent."""
        lent = made(device, self._native, None)
        lent._native = cast("_hyperpy.Dma", _Hooked(lent._native, self))
        return lent

    def _meets(self, ranges: list[Range]) -> None:
        """Do what is to be done before the device accesses ranges that are memory."""
        for gpa, size in ranges:
            for start, length in self._failing:
                if _overlap(gpa, size, start, length):
                    raise MemoryAccessError(
                        f"dma reaches no memory at {gpa:#x} for {size:#x} bytes",
                        address=gpa,
                        size=size,
                        hint="the bench was told to `fail` there",
                    )
        if (touch := self._first_touch) is None:
            return
        for page in _pages(ranges):
            if page not in self._touched:
                self._touched.add(page)
                touch(page * _PAGE)

    def _answered(self, gpa: int, data: bytes) -> bytes:
        """What the device reads where memory holds `data`."""
        for start, length, answer in self._answering:
            part = _overlap(gpa, len(data), start, length)
            given = answer(*part) if part else None
            if part is None or given is None:
                continue
            at, size = part[0] - gpa, part[1]
            if len(given) != size:
                raise ValueError(
                    f"answer to a read of {size} bytes has {len(given)}\n\nhint: return as many bytes as are asked for"
                )
            data = data[:at] + bytes(given) + data[at + size :]
        return data


class _Hooked(Layer):
    """Asks the hooks before memory is reached."""

    def __init__(self, native: _hyperpy.Dma, memory: BenchMemory) -> None:
        super().__init__(native)
        self._memory = memory

    def read_into(self, gpa: int, into: memoryview) -> None:
        self._native.check([(gpa, len(into))], False)
        self._memory._meets([(gpa, len(into))])
        self._native.read_into(gpa, into)
        into[:] = self._memory._answered(gpa, bytes(into))

    def gather(self, ranges: list[Range]) -> bytes:
        self._native.check(ranges, False)
        self._memory._meets(ranges)
        data, at, parts = self._native.gather(ranges), 0, []
        for gpa, size in ranges:
            parts.append(self._memory._answered(gpa, data[at : at + size]))
            at += size
        return b"".join(parts)

    def scatter(self, ranges: list[Range], data: Buffer) -> int:
        self._native.check(ranges, True)
        self._memory._meets(ranges)
        return self._native.scatter(ranges, data)


def _overlap(gpa: int, size: int, start: int, length: int) -> Range | None:
    """What two ranges share, or None."""
    first, end = max(gpa, start), min(gpa + size, start + length)
    return (first, end - first) if first < end else None


def _pages(ranges: list[Range]) -> Iterator[int]:
    for gpa, size in ranges:
        if size:
            yield from range(gpa // _PAGE, (gpa + size - 1) // _PAGE + 1)


def _some(size: int) -> int:
    if operator.index(size) == 0:
        raise ValueError("range has no bytes\n\nhint: from 1 on")
    return _length(size)
