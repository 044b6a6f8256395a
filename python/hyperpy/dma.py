"""Guest memory as a device reaches it: what `self.memory` is to a device whose class says `dma = True`.

Addresses and lengths are the guest's here, so whatever is wrong with one is a `MemoryAccessError`, and a device has one
exception to look for. What may be reached is decided in Rust (`memory/dma.rs` of the core); a script's own way into memory is
`hyperpy.memory`.
"""

from __future__ import annotations

import contextlib
import operator
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from hyperpy._lent import NotLent, give_back
from hyperpy.errors import DeviceError, MemoryAccessError

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from hyperpy import _hyperpy

__all__ = ["DmaMemory", "Range"]

Range: TypeAlias = tuple[int, int]
"""A range of guest memory: gpa and bytes."""

_MOST_RANGES = 1 << 16
_MOST_INT = 8
_U64 = 1 << 64


class DmaMemory:
    """Guest memory for one device, from `attach` to `detach`: `self.memory` where its class says `dma = True`.

    A device reaches what the guest could reach without it: ram, and rom to read. Everything else is refused before a byte
    is copied, with `MemoryAccessError`: another device's registers and its own, a hole, what lies beyond the memory, a range
    that wraps, a write to rom or to protected ram, a length beyond `limit`. So an address or a length of the guest needs no
    check, and one `except MemoryAccessError` is where the device reports the error to its guest.

    Each call reads each byte once, and the guest may change memory at any moment: read a header once, into `bytes`, and
    check and use these. Two reads of one place can give two values. An aligned integer of 2, 4 or 8 bytes is read and written
    whole, and what one thread writes is seen in that order.

    It works from any thread, while the machine runs or not: in `read` and `write`, in timers, in threads of the device's own.
    Written pages are in `Memory.dirty`. When `detach` has returned, the device writes nothing any more.

    All methods raise `StateError` once the device is detached or the machine is closed, and in the child of a fork.

    Example:
        >>> import hyperpy
        >>> from hyperpy.testing import DeviceBench
        >>> class Adder(hyperpy.Device):
        ...     dma = True
        ...     list = hyperpy.Register(0x0, width=8)
        ...     go = hyperpy.Register(0x8, access="wo")
        ...     failed = hyperpy.Register(0xC, access="ro")
        ...
        ...     @go.on_write
        ...     def _go(self, count: int) -> None:
        ...         try:
        ...             numbers = self.memory.read(self.list, 4 * count)
        ...         except hyperpy.MemoryAccessError:
        ...             self.failed = 1
        ...         else:
        ...             total = sum(memoryview(numbers).cast("I"))
        ...             self.memory.write_int(self.list, 8, total)
        >>> bench = DeviceBench(Adder())
        >>> bench.memory.write(0x1000, bytes([5, 0, 0, 0, 7, 0, 0, 0]))
        >>> bench.write64(0x0, 0x1000)
        >>> bench.write32(0x8, 2)
        >>> bench.memory.read(0x1000, 8)[0], bench.read32(0xC)
        (12, 0)
        >>> bench.write32(0x8, 0xFFFF_FFFF)
        >>> bench.read32(0xC)
        1
    """

    __slots__ = ("_limit", "_native", "_of")

    def __init__(
        self, native: _hyperpy.Dma | None = None, limit: int = 0, of: tuple[int, int] | None = None
    ) -> None:
        if native is None:
            hint = "`dma = True` in a device's class, and `self.memory` is one from `attach` on"
            raise TypeError(f"memory of a device is not made by its class\n\nhint: {hint}")
        self._native = native
        self._limit = limit
        self._of = of  # the machine and the device whose it is

    @property
    def limit(self) -> int:
        """Most bytes that `read` and `gather` read at once: `dma_limit` of the device's class."""
        return self._limit

    def read(self, gpa: int, size: int) -> bytes:
        """Copy `size` bytes at `gpa`, across adjoining regions.

        Raises:
            MemoryAccessError: a byte of the range is no memory, or they are more than `limit`.
        """
        try:
            return self._native.read(gpa, size)
        except OverflowError:
            raise _beyond(gpa, size) from None

    def read_into(self, gpa: int, buffer: Buffer) -> int:
        """Copy bytes at `gpa` into a writable buffer, as many as it holds; returns their number.

        Raises:
            MemoryAccessError: a byte of the range is no memory. Nothing is copied then.
            BufferError: the buffer is read-only.
        """
        with memoryview(buffer).cast("B") as target:
            try:
                self._native.read_into(gpa, target)
            except OverflowError:
                raise _beyond(gpa, target.nbytes) from None
            return target.nbytes

    def write(self, gpa: int, data: Buffer) -> None:
        """Copy `data` to `gpa`. A refused write changes nothing.

        Raises:
            MemoryAccessError: a byte of the range is no memory, or the guest cannot write it.
        """
        try:
            self._native.write(gpa, data)
        except OverflowError:
            raise _beyond(gpa, memoryview(data).nbytes) from None

    def read_int(self, gpa: int, size: int, order: Literal["little", "big"] = "little") -> int:
        """Read an integer of `size` bytes, 1 to 8, without a sign.

        Raises:
            MemoryAccessError: as for `read`.
            ValueError: it has not 1 to 8 bytes.
        """
        is_big = _is_big(size, order)
        try:
            return self._native.read_int(gpa, size, is_big)
        except OverflowError:
            raise _beyond(gpa, size) from None

    def write_int(self, gpa: int, size: int, value: int, order: Literal["little", "big"] = "little") -> None:
        """Write an integer of `size` bytes, 1 to 8, from 0 to all ones of them.

        Raises:
            MemoryAccessError: as for `write`.
            ValueError: it has not 1 to 8 bytes, or the value does not fit.
        """
        is_big = _is_big(size, order)
        if not 0 <= operator.index(value) < 1 << 8 * size:
            raise ValueError(
                f"value is too wide for {size} bytes: {value:#x}\n\nhint: give a larger size, or fewer bits"
            )
        try:
            self._native.write_int(gpa, size, value, is_big)
        except OverflowError:
            raise _beyond(gpa, size) from None

    def gather(self, ranges: Iterable[Range]) -> bytes:
        """Read a scatter list: the bytes of all ranges, one behind the other.

        Arguments:
            ranges: (gpa, bytes) of each, up to 65,536. A generator that follows a chain of descriptors will do: one that
                never ends is cut off by that number.

        Raises:
            MemoryAccessError: a byte of a range is no memory, the ranges are more than `limit` bytes, or too many.

        Example:
            >>> from hyperpy import Device
            >>> from hyperpy.testing import DeviceBench
            >>> class Card(Device):
            ...     size, dma = 4, True
            >>> bench = DeviceBench(Card())
            >>> bench.device.memory.scatter([(0x1000, 2), (0x8000, 16)], b"packet")
            6
            >>> bench.device.memory.gather([(0x8000, 4), (0x1000, 2)])
            b'cketpa'
        """
        listed = _listed(ranges)
        try:
            return self._native.gather(listed)
        except OverflowError:
            raise _beyond_of(listed) from None

    def scatter(self, ranges: Iterable[Range], data: Buffer) -> int:
        """Write `data` into the ranges of a scatter list, one behind the other; returns the number of bytes.

        What the list has room for beyond them stays as it is. All ranges are checked, and a refused write changes nothing.

        Raises:
            MemoryAccessError: a byte of a range is no memory or the guest cannot write it, the list has not room for the
                data, or too many ranges.
        """
        listed = _listed(ranges)
        try:
            return self._native.scatter(listed, data)
        except OverflowError:
            raise _beyond_of(listed) from None

    def __repr__(self) -> str:
        return f"<memory of a device{'' if self._native.is_usable else ', detached'}>"


def _is_big(size: int, order: str) -> bool:
    if not 1 <= operator.index(size) <= _MOST_INT:
        raise ValueError(f"not a size of an integer: {size}\n\nhint: 1 to 8 bytes; `read` takes more")
    if order not in ("little", "big"):
        raise ValueError(f"no such byte order: {order!r}\n\nhint: little or big")
    return order == "big"


def _listed(ranges: Iterable[Range]) -> list[Range]:
    listed = list(islice(ranges, _MOST_RANGES + 1))
    if len(listed) > _MOST_RANGES:
        gpa, size = listed[-1]
        raise MemoryAccessError(
            f"scatter list has more than {_MOST_RANGES} ranges",
            address=gpa,
            size=size,
            hint="a chain that never ends, most likely: count what the guest may queue",
        )
    return listed


def _beyond(gpa: int, size: int) -> MemoryAccessError:
    """What a number means that does not fit: the guest's arithmetic, done without its wrap."""
    hint = "an address is from 0 to 2**64 - 1, and a length from 0: mask what is computed from the guest's numbers"
    return MemoryAccessError(
        f"dma reaches no memory at {gpa:#x} for {size:#x} bytes", address=gpa, size=size, hint=hint
    )


def _beyond_of(ranges: list[Range]) -> MemoryAccessError:
    return _beyond(*next(each for each in ranges if not all(0 <= number < _U64 for number in each)))


def wants_dma(device: object) -> bool:
    """Whether a device's class asks for memory. A register of that name does not."""
    return getattr(type(device), "dma", False) is True


def made(device: object, native: _hyperpy.Memory, of: tuple[int, int] | None) -> DmaMemory:
    """Return a machine's memory for a device."""
    limit = operator.index(getattr(device, "dma_limit", 0))
    if not 0 < limit < 1 << 63:
        raise TypeError(
            f"dma_limit of {type(device).__name__} is no number of bytes: {limit}\n\nhint: 1 << 20, say"
        )
    return DmaMemory(native.dma(limit), limit, of)


@contextlib.contextmanager
def lent(device: Any, native: _hyperpy.Memory, machine: int) -> Iterator[DmaMemory | None]:
    """Give a device that wants it the memory of a machine before the guest can reach it, and take it back if it will not."""
    if not wants_dma(device):
        yield None
        return
    before, of = getattr(device, "memory", None), (machine, id(device))
    if isinstance(before, DmaMemory) and before._native.is_usable and before._of is not None:
        if before._of == of:
            yield before
            return
        if before._of[1] == of[1]:
            raise DeviceError(
                f"device is attached to another machine: {type(device).__name__}",
                hint="one with `dma = True` is of one machine: detach it there, or make another",
            )
    elif not isinstance(before, DmaMemory | NotLent | None):
        raise TypeError(
            f"{type(device).__name__} has another `memory`: {before!r}\n\nhint: with `dma = True` the name is taken"
        )
    now = made(device, native, of)
    try:
        device.memory = now
    except AttributeError as error:
        hint = "give its class `memory = None`, or name it in __slots__"
        raise TypeError(
            f"{type(device).__name__} takes no attribute `memory`: {error}\n\nhint: {hint}"
        ) from None
    try:
        yield now
    except BaseException:
        give_back(device, "memory", before)
        now._native.revoke()
        raise
