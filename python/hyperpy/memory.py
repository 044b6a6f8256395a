"""Guest-physical memory as a script sees it: reads, writes and views by gpa.

Sizes and addresses are bytes. What is where is shown by `Machine.map`; how guest pages come to be is the core's.
"""

from __future__ import annotations

import operator
import re
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from hyperpy import _hyperpy

__all__ = ["Memory", "parse_size"]

# No process maps more than this; the core's own tables grow with it.
_LARGEST = 1 << 46
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


def parse_size(size: int | str) -> int:
    """A size in bytes from an int, or from a string such as "64M" (K, M, G and T are powers of 1024).

    Raises:
        ValueError: the string is no size, or the size is not from 1 byte to 64 TiB.

    Example:
        >>> parse_size("64M") == 64 * 1024 * 1024
        True
    """
    if isinstance(size, str):
        match = re.fullmatch(r"\s*(\d{1,20})\s*([KMGT]?)(?:i?B)?\s*", size, re.IGNORECASE)
        if match is None:
            raise ValueError(
                f'not a size: {size!r}\n\nhint: write bytes, or a number with K, M, G or T: "512M"'
            )
        size = int(match[1]) * _UNITS[match[2].upper()]
    if not 0 < operator.index(size) <= _LARGEST:
        raise ValueError(f"size is out of range: {size}\n\nhint: more than nothing, and at most 64T")
    return size


class Memory:
    """Guest-physical memory of a machine.

    Example:
        >>> import hyperpy
        >>> with hyperpy.Machine(memory="1M") as m:
        ...     m.memory.write(0x2000, b"hello")
        ...     print(m.memory.read(0x2000, 5), m.memory[0x2001:0x2003])
        b'hello' b'el'
    """

    def __init__(self, native: _hyperpy.Memory) -> None:
        self._native = native

    def read(self, gpa: int, size: int) -> bytes:
        """Copy `size` bytes at `gpa`, across adjoining regions.

        Raises:
            MemoryAccessError: a byte of the range has no memory.
        """
        return self._native.read(_address(gpa), _length(size))

    def read_into(self, gpa: int, buffer: Buffer) -> int:
        """Copy bytes at `gpa` into a writable buffer, as many as it holds; returns their number.

        Raises:
            MemoryAccessError: a byte of the range has no memory.
        """
        with memoryview(buffer).cast("B") as target:
            target[:] = self._native.read(_address(gpa), target.nbytes)
            return target.nbytes

    def write(self, gpa: int, data: Buffer) -> None:
        """Copy `data` to `gpa`. A refused write changes nothing.

        Raises:
            MemoryAccessError: a byte of the range has no memory.
        """
        self._native.write(_address(gpa), data)

    def view(self, gpa: int, size: int, *, writable: bool = False) -> memoryview:
        """A zero-copy window onto `size` bytes at `gpa`, within one region.

        The guest may change it at any moment. It stays valid after the machine is closed. numpy works on it.

        Raises:
            MemoryAccessError: the range leaves its region.
        """
        return memoryview(self._native.view(_address(gpa), _length(size), writable))

    def add(
        self, gpa: int, size: int | str, *, kind: Literal["ram", "rom", "mmio"] = "ram", name: str = ""
    ) -> None:
        """Add a region of whole 4 KiB pages: ram, rom (a guest's write is an exit) or mmio (every access is one).

        Raises:
            ValueError: it is not of whole pages, or overlaps another; or the name has a NUL.
            StateError: the vcpus exist already.
        """
        if "\0" in name:
            raise ValueError(f"name has a NUL: {name!r}")
        self._native.add(_address(gpa), parse_size(size), kind, name or kind)

    @property
    def committed(self) -> int:
        """Bytes of host memory in use: pages that somebody has touched."""
        return self._native.committed()

    def __getitem__(self, key: slice) -> bytes:
        if not _is_range(key):
            raise TypeError(
                "memory is read by a range\n\nhint: m.memory[0x1000:0x1010], or m.memory.read(gpa, size)"
            )
        if key.stop < key.start:
            raise ValueError(f"range ends before it begins: {key.start:#x} to {key.stop:#x}")
        return self.read(key.start, key.stop - key.start)

    def __setitem__(self, key: slice, data: Buffer) -> None:
        if not _is_range(key):
            raise TypeError("memory is written by a range\n\nhint: m.memory[0x1000:0x1002] = b'ok'")
        length = memoryview(data).nbytes
        if key.stop - key.start != length:
            raise ValueError(f"range is of {key.stop - key.start} bytes, data of {length}")
        self.write(key.start, data)

    def __repr__(self) -> str:
        total = sum(size for _, size, kind, _ in self._native.regions() if kind != "mmio")
        return f"Memory({total >> 10} KiB, {self.committed >> 10} KiB in use)"


def _is_range(key: object) -> bool:
    return isinstance(key, slice) and key.step is None and None not in {key.start, key.stop}


def _length(size: int) -> int:
    if not 0 <= operator.index(size) < 1 << 63:
        raise ValueError(f"not a number of bytes: {size}\n\nhint: from 0 to 2**63 - 1")
    return size


def _address(gpa: int) -> int:
    if not 0 <= operator.index(gpa) < 1 << 64:
        raise ValueError(f"not a guest-physical address: {gpa:#x}\n\nhint: from 0 to 2**64 - 1")
    return gpa
