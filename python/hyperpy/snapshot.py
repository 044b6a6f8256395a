"""Snapshots as values: what a machine was at one moment, in memory and in files.

A snapshot does not change and does not keep its machine. The verbs that take one and put it back are the machine's
(`_snapshots`); the file's format is in docs/reference/snapshot-format.md.
"""

from __future__ import annotations

import operator
import os
from typing import Any, Literal, Self

from hyperpy import _hyperpy
from hyperpy._value import Value

__all__ = ["Change", "Forked", "PageRange", "RestoreStats", "Snapshot", "SnapshotDiff"]


def _name(path: str | os.PathLike[str]) -> str:
    name = os.fsdecode(path)
    if "\0" in name:
        raise ValueError(f"not the name of a file: {name!r}\n\nhint: there is a zero byte in it")
    return name


class RestoreStats(Value):
    """What one restore did: pages of 4 KiB that it put back, and microseconds for each part."""

    pages: int
    vm_us: float
    vcpus_us: float
    memory_us: float
    devices_us: float

    @property
    def us(self) -> float:
        """Microseconds of all parts."""
        return self.vm_us + self.vcpus_us + self.memory_us + self.devices_us

    def __str__(self) -> str:
        return (
            f"{self.pages} page{'s' * (self.pages != 1)} in {self.us:.1f} us: controllers {self.vm_us:.1f}, vcpus {self.vcpus_us:.1f}, "
            f"memory {self.memory_us:.1f}, devices {self.devices_us:.1f}"
        )


class Forked(Value):
    """How a copy of a machine was made: pages of 4 KiB that were copied for it, and what is not in it.

    `lost_timers` names the timers of the other machine that call something else than a method of a device: nobody knows what
    they would be here.
    """

    pages: int
    lost_timers: tuple[str, ...]


class PageRange(Value):
    """Pages of 4 KiB, one after the other, that differ: the name of their region, the gpa of the first one, how many."""

    region: str
    gpa: int
    pages: int


class Change(Value):
    """A value of the state that differs, by its path, as `vcpus[0].state.regs.rip`; None for one that is not there."""

    path: str
    old: Any
    new: Any


class SnapshotDiff(Value):
    """In what two snapshots differ; prints as tables, and is false if they do not.

    `regions` are the names of those that only one of the two has.
    """

    pages: tuple[PageRange, ...]
    regions: tuple[str, ...]
    state: tuple[Change, ...]

    def __bool__(self) -> bool:
        return bool(self.pages or self.regions or self.state)

    def __str__(self) -> str:
        from hyperpy._snapshot_text import found_text  # noqa: PLC0415 - few programs show one

        pages = [(part.region, part.gpa, part.pages) for part in self.pages]
        values = [(it.path, it.old is not None, it.old, it.new is not None, it.new) for it in self.state]
        only = f"only in one: {', '.join(self.regions)}\n\n" if self.regions else ""
        return only + found_text(pages, [], [], values) or "no difference"


class Snapshot:
    r"""A machine at one moment: `Machine.snapshot` takes it, `Machine.restore` puts it back.

    Two are equal if `hash()` is.

    Example:
        >>> import hyperpy
        >>> code = bytes(
        ...     [0xFE, 0x06, 0x00, 0x80, 0xF4, 0xEB, 0xF9]
        ... )  # again: inc byte [0x8000]; hlt; jmp again
        >>> with hyperpy.Machine(memory="1M") as m:
        ...     m.load(hyperpy.Flat(code, at=0x1000, mode="real"))
        ...     before = m.snapshot()
        ...     _ = m.run(timeout=1.0)
        ...     after = m.snapshot()
        >>> before.diff(after).pages
        (PageRange(region='ram', gpa=32768, pages=1),)
        >>> before.read(0x8000, 1), after.read(0x8000, 1)
        (b'\x00', b'\x01')
    """

    __slots__ = ("_native",)
    _native: _hyperpy.Snapshot

    def __init__(self) -> None:
        raise TypeError("a snapshot is taken of a machine\n\nhint: m.snapshot(), or Snapshot.open(file)")

    @classmethod
    def _of(cls, native: _hyperpy.Snapshot) -> Self:
        self = object.__new__(cls)
        self._native = native
        return self

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Self:
        """Read a snapshot from a file, which may hold anything: all of its checksums are held.

        Its memory is a file of this process's own: what becomes of the one on disk does not matter.

        Raises:
            SnapshotError: it is no snapshot, is damaged or cut off, or of a newer version.
            OSError: it cannot be read.

        Example:
            >>> import hyperpy, tempfile, os
            >>> with tempfile.TemporaryDirectory() as folder, hyperpy.Machine(memory="1M") as m:
            ...     base, path = m.snapshot(), os.path.join(folder, "base.hps")
            ...     base.save(path)
            ...     same = hyperpy.Snapshot.open(path)
            ...     print(base.diff(same), same.hash() == base.hash())
            no difference True
        """
        return cls._of(_hyperpy.Snapshot.open(_name(path)))

    def save(self, path: str | os.PathLike[str], *, compress: Literal["zstd"] | None = "zstd") -> None:
        """Write it to a file: at once or not at all, so that no crash leaves a wrong one. Pages of zeros are not in it, equal ones once.

        Arguments:
            path: the file, usually `*.hps`; one that is there is replaced.
            compress: "zstd", or None: faster where the disk is.

        Raises:
            OSError: the host refuses; the file that was there is there still.
            SnapshotError: a device's state has a name twice, or is nested too deeply.
        """
        if compress not in ("zstd", None):
            raise ValueError(f'no such compression: {compress!r}\n\nhint: "zstd", or None')
        self._native.save(_name(path), compress is not None)

    def diff(self, other: Snapshot) -> SnapshotDiff:
        """Tell in what another differs from this one: pages of memory, and values of the state by path."""
        if not isinstance(other, Snapshot):
            raise TypeError(f"not a snapshot: {other!r}\n\nhint: Snapshot.open(file) reads one")
        pages, old, new, changes = self._native.diff(other._native)
        return SnapshotDiff(
            tuple(PageRange(*part) for part in pages),
            tuple(name for name, _, _ in old + new),
            tuple(Change(path, before, after) for path, _, before, _, after in changes),
        )

    @property
    def state(self) -> dict[str, Any]:
        """All but memory, as plain data: vcpus, interrupt controllers, lines, devices, clock. A new dict each time."""
        state: dict[str, Any] = self._native.state()
        return state

    @property
    def memory_bytes(self) -> int:
        """Bytes of its pages that are not zeros, whoever else has them too: other snapshots, machines and their copies."""
        return self._native.bytes()[0]

    @property
    def own_bytes(self) -> int:
        """Bytes of memory that the host gets back when this snapshot goes now: of pages that no machine and no other snapshot has.

        So it costs what it keeps beyond the others. Pages that two snapshots share count for neither, and those of a machine's last one
        for the machine, until it is elsewhere.

        Example:
            >>> import hyperpy
            >>> with hyperpy.Machine(memory="1M") as m:
            ...     base = m.snapshot()
            ...     m.memory.write(0x8000, b"one")
            ...     one = m.snapshot()
            ...     m.memory.write(0x8000, b"two")
            ...     two = m.snapshot()
            ...     print(one.memory_bytes, one.own_bytes, two.own_bytes)
            4096 4096 0
        """
        return self._native.bytes()[1]

    def read(self, gpa: int, size: int) -> bytes:
        """Return bytes of guest memory as it was.

        Raises:
            MemoryAccessError: not all of it was memory.
        """
        return self._native.read(operator.index(gpa), operator.index(size))

    def hash(self, *, clocks: bool = False) -> int:
        """Return 64 bits that are the same for the same state, on every host.

        Of all that a restore puts back, but for what time alone moves: the machine's clock and its timers, the paravirtual clock,
        the time-stamp counter, the current counts of local APICs, and the ACPI timer. It is no protection against who wants two to be the same.

        Arguments:
            clocks: of these too, but for timers, which call code that is in no file. Two snapshots of one state have it different
                then; one that was saved and opened has it the same.
        """
        return self._native.hash(clocks)

    def __eq__(self, other: object) -> bool:
        return self.hash() == other.hash() if isinstance(other, Snapshot) else NotImplemented

    def __hash__(self) -> int:
        return self.hash()

    def __copy__(self) -> Self:
        return self  # it does not change

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self

    def __reduce__(self) -> Any:
        hint = "save(path) in one process, Snapshot.open(path) in the other; fork() copies a machine"
        raise TypeError(f"a snapshot cannot be pickled\n\nhint: {hint}")

    def __repr__(self) -> str:
        from hyperpy._snapshot_text import size_text  # noqa: PLC0415 - few programs show one

        regions, vcpus, irqchip, state = self._native.about()
        size = sum(size for _, size, _ in regions)
        controllers = ", interrupt controllers" if irqchip else ""
        return f"<Snapshot of a machine that is {state}: {vcpus} vcpus, {size_text(size)} of memory{controllers}>"
