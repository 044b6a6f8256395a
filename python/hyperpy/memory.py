"""Guest-physical memory as a script sees it: reads, writes and views by gpa.

Sizes and addresses are bytes. What is where is shown by `Machine.map`; how guest pages come to be is the core's.
"""

from __future__ import annotations

import operator
import re
import weakref
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import TYPE_CHECKING, Literal, TypeAlias

from hyperpy.errors import StateError

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from hyperpy import _hyperpy
    from hyperpy.paging import PageWalk
    from hyperpy.resources import Share

__all__ = ["HugePages", "Memory", "parse_size"]

HugePages: TypeAlias = Literal["2M", "1G", "transparent"]

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

    def __init__(self, native: _hyperpy.Memory, share: Share, machine: _hyperpy.Machine) -> None:
        self._native = native
        self._machine = machine
        # Weak: who keeps the memory of a machine that is gone asks for nothing more.
        self._share = weakref.ref(share)

    def read(self, gpa: int, size: int) -> bytes:
        """Copy `size` bytes at `gpa`, across adjoining regions.

        Raises:
            MemoryAccessError: a byte of the range has no memory.
        """
        return self._native.read(_address(gpa), _length(size))

    def read_into(self, gpa: int, buffer: Buffer) -> int:
        """Copy bytes at `gpa` into a writable buffer, as many as it holds; returns their number.

        Raises:
            MemoryAccessError: a byte of the range has no memory. Nothing is copied then.
            BufferError: the buffer is read-only.
        """
        with memoryview(buffer).cast("B") as target:
            self._native.read_into(_address(gpa), target)
            return target.nbytes

    def write(self, gpa: int, data: Buffer) -> None:
        """Copy `data` to `gpa`. A refused write changes nothing.

        Raises:
            MemoryAccessError: a byte of the range has no memory.
        """
        self._native.write(_address(gpa), data)

    def view(self, gpa: int, size: int, *, writable: bool = False) -> memoryview:
        """A zero-copy window onto `size` bytes at `gpa`, within one region.

        The guest may change it at any moment. It stays valid after the region is removed and the machine is closed.
        numpy works on it. A writable one counts as written (`dirty`) while it lives.

        Raises:
            MemoryAccessError: the range leaves its region.
        """
        return memoryview(self._native.view(_address(gpa), _length(size), writable))

    def add(
        self,
        gpa: int,
        size: int | str,
        *,
        kind: Literal["ram", "rom", "mmio"] = "ram",
        name: str = "",
        huge_pages: HugePages | None = None,
    ) -> None:
        """Add a region of whole pages: ram, rom (a guest's write is an exit) or mmio (every access is one).

        It can come at any time: before the vcpus exist, while the machine stands still, and while it runs.

        Arguments:
            gpa: first address, a multiple of the page. Memory lies below 2**52, mmio anywhere.
            size: bytes, or "64M": a multiple of the page.
            kind: what it is to the guest. The host can write rom too.
            name: shown in maps.
            huge_pages: as for `Machine`; gpa and size are multiples of them.

        Raises:
            ValueError: it is not of whole pages, or overlaps another region or a device; or the name has a NUL.
            HostMemoryError: the host has no memory to map, or too few huge pages.
            BudgetError: it is more than `hyperpy.budget` has left.
            StateError: the machine is closed.

        Example:
            >>> import hyperpy
            >>> with hyperpy.Machine(memory="1M") as m:
            ...     m.memory.add(0xF000_0000, "64K", kind="rom", name="option rom")
            ...     m.memory.write(0xF000_0000, b"ROM")
            ...     m.memory.remove(0xF000_0000)
        """
        length = parse_size(size)
        share = self._share() if kind != "mmio" else None
        if share is not None:
            share.ask(memory=length)
        try:
            self._native.add(_address(gpa), length, kind, _name(name or kind), huge_pages)
        except BaseException:
            if share is not None:
                share.ask(memory=-length)
            raise

    def remove(self, gpa: int) -> None:
        """Take the region that begins at `gpa` away, at any time; what the guest does there is an exit from then on.

        Views of it stay valid. What it held is given back to the host when the last of them is gone.

        Raises:
            ValueError: no region begins there.
            StateError: an alias of it is there; or the machine is closed.
        """
        _address(gpa)
        length = sum(
            size for base, size, kind, *_, of in self._native.regions() if base == gpa and _costs(kind, of)
        )
        self._native.remove(gpa)
        if (share := self._share()) is not None:
            share.ask(memory=-length)

    def alias(self, gpa: int, *, of: int, size: int | str, name: str = "alias") -> None:
        """Show memory at a second place too: a write at one is seen at the other. It costs no memory.

        Arguments:
            gpa: where it appears.
            of: gpa of what appears there, within one region of ram or rom.
            size: bytes, or "64K": whole pages.
            name: shown in maps.

        Raises:
            MemoryAccessError: there is no such memory at `of`.
            ValueError: as for `add`.
            StateError: the machine is closed.

        Example:
            >>> import hyperpy
            >>> with hyperpy.Machine(memory="1M") as m:
            ...     m.memory.alias(
            ...         0xFFFF_0000, of=0xF0000, size="64K"
            ...     )  # the BIOS below 1 MiB, also below 4 GiB
            ...     m.memory.write(0xFFFF0, b"jump")
            ...     print(m.memory.read(0xFFFF_FFF0, 4))
            b'jump'
        """
        self._native.alias(_address(gpa), _address(of), parse_size(size), _name(name))

    def protect(self, gpa: int, *, writable: bool) -> None:
        """Make the region that begins at `gpa` read-only for the guest, or writable (again).

        A guest's write to read-only memory is an exit, as with rom. An alias is protected for itself. While the machine
        runs, every vcpu is taken out of the guest for the moment that it takes.

        Raises:
            ValueError: no region with memory begins there.
            StateError: the machine is closed; this is inside a device; or a vcpu does not come out of one within 1 s.
        """
        self._native.protect(_address(gpa), writable)

    def track_dirty(self) -> AbstractContextManager[None]:
        """Begin to track which pages are written, by the guest and the host alike; `dirty` tells.

        As a context manager it ends at the end of the block. Tracking costs the guest a fault at its first write to each
        page after each query.

        Raises:
            StateError: the machine is closed.

        Example:
            >>> import hyperpy
            >>> with hyperpy.Machine(memory="1M") as m, m.memory.track_dirty():
            ...     m.memory.write(0x3FFE, b"four")
            ...     print([(hex(gpa), size) for gpa, size in m.memory.dirty()], m.memory.dirty())
            [('0x3000', 8192)] []
        """
        before = self._native.track(True)

        @contextmanager
        def until() -> Iterator[None]:
            try:
                yield
            finally:
                if not before:
                    with suppress(StateError):  # closed meanwhile
                        self._native.track(False)

        return until()

    def dirty(self, *, clear: bool = True) -> list[tuple[int, int]]:
        """Ranges of pages that were written since the last call, or since `track_dirty`: (gpa, bytes), ascending.

        Written by the guest, by the host, by a device, or possibly through a writable view that lives or has lived since.
        A page is told at the region that it belongs to, whatever alias it was written through. The whole of a region
        that was added while tracking counts as clean. Works while the machine runs.

        Arguments:
            clear: whether the next call tells only what is written from now on. False looks without forgetting.

        Raises:
            StateError: `track_dirty` was not called, or the machine is closed.
        """
        return self._native.dirty(clear)

    def walk(self, gva: int, *, vcpu: int = 0) -> PageWalk:
        """The walk of a linear address through the page tables of a vcpu, as memory holds them now.

        Segment bases are not added. It prints as a table.

        Raises:
            ValueError: the address does not fit into 64 bits.
            IndexError: there is no such vcpu.
            StateError: the machine runs or is closed, or this is inside a device.
        """
        from hyperpy import paging  # noqa: PLC0415 - few scripts need it

        if not 0 <= operator.index(gva) < 1 << 64:
            raise ValueError(f"address does not fit into 64 bits: {gva:#x}\n\nhint: from 0 to 2**64 - 1")
        if not 0 <= operator.index(vcpu) < 1 << 32:
            raise IndexError(f"no such vcpu: {vcpu}\n\nhint: vcpus are numbered from 0")
        return paging.walk(self._machine, vcpu, gva)

    def translate(self, gva: int, *, vcpu: int = 0) -> int:
        """The gpa of a linear address, as a vcpu would find it.

        Without paging it is the address itself. There may be no memory at the gpa: devices are mapped too.

        Raises:
            MemoryAccessError: the address is not mapped; the message says at which level and with which entry.
            StateError: the machine runs or is closed, or this is inside a device. Else as for `walk`.

        Example:
            >>> import hyperpy
            >>> with hyperpy.Machine(memory="1M") as m:
            ...     m.load(
            ...         hyperpy.Flat(bytes([0xF4]), at=0x1000, mode="long")
            ...     )  # its tables map 4 GiB, each to itself
            ...     print(hex(m.memory.translate(0x1234)))
            ...     print(m.memory.walk(0x1234))
            0x1234
            gva 0x1234 is gpa 0x1234 (4-level paging, page of 2 MiB, writable, executable)
            level  table   index  entry   flags
            PML4   0x9000    0x0  0xa003  P RW
            PDPT   0xa000    0x0  0xb003  P RW
            PD     0xb000    0x0    0x83  P RW PS
        """
        return self.walk(gva, vcpu=vcpu).require()

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
            raise ValueError(
                f"range ends before it begins: {key.start:#x} to {key.stop:#x}\n\nhint: m.memory[first:end]"
            )
        return self.read(key.start, key.stop - key.start)

    def __setitem__(self, key: slice, data: Buffer) -> None:
        if not _is_range(key):
            raise TypeError("memory is written by a range\n\nhint: m.memory[0x1000:0x1002] = b'ok'")
        length = memoryview(data).nbytes
        if key.stop - key.start != length:
            hint = "m.memory.write(gpa, data) takes any length"
            raise ValueError(f"range is of {key.stop - key.start} bytes, data of {length}\n\nhint: {hint}")
        self.write(key.start, data)

    def __repr__(self) -> str:
        total = sum(size for _, size, kind, *_, of in self._native.regions() if _costs(kind, of))
        return f"Memory({total >> 10} KiB, {self.committed >> 10} KiB in use)"

    def _rows(self) -> Iterator[tuple[int, int, str, str]]:
        """For `Machine.map`: base, size, name, and what it is in words."""
        for gpa, size, kind, name, writable, huge, of in self._native.regions():
            words = [kind]
            if kind != "mmio" and writable != (kind == "ram"):
                words.append("writable" if writable else "read-only")
            if of is not None:
                words.append(f"alias of {of:#x}")
            if huge is not None:
                words.append(f"{huge} pages" if huge[0].isdigit() else f"{huge} huge pages")
            yield gpa, size, name, ", ".join(words)


def _costs(kind: str, alias_of: int | None) -> bool:
    """Whether a region has memory of its own."""
    return kind != "mmio" and alias_of is None


def _name(name: str) -> str:
    if "\0" in name:
        raise ValueError(f"name has a NUL: {name!r}\n\nhint: leave it out")
    return name


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
