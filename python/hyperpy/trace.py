"""The last exits of a machine, as values that print as a table and turn into an array.

They are recorded by the native module on machines that are made with `Machine(trace=...)`. Names are put to them when they
are read: an exit has the name of what was at its address when it was made, also where something else is there now. A bus
remembers the last 64 devices that were detached from it for that.
"""

from __future__ import annotations

import operator
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from typing import Any, Self, SupportsIndex, overload

from hyperpy import _hyperpy
from hyperpy.stats import table

__all__ = ["Trace", "TraceEntry"]

_LOOKS_S = 0.02  # between two looks at a machine that is followed


@dataclass(frozen=True, slots=True)
class TraceEntry:
    """One exit.

    `ns` is when the guest was left, on the clock of `time.monotonic_ns()`. `kind` is one of pio, mmio, halt,
    hypercall, msr, debug, shutdown, system-event, fail-entry, internal-error and unknown. `address` is a gpa, a port, a
    register's index, a hypercall's number or a linear address; `value` what was written or what the read was answered.
    `size` is in bytes. A string instruction moves `count` values, of which `value` is the first. `rip` is on the
    instruction for a read and after it for a write.

    `device` is the name of the device that was at the address, `register` that of its register; empty where there is none,
    or it is not known. Of an access to several registers the names are joined by "+"; of several that share a place by "|".
    """

    ns: int
    vcpu: int
    kind: str
    address: int
    value: int
    size: int
    count: int
    is_write: bool
    rip: int
    device: str = ""
    register: str = ""

    @property
    def what(self) -> str:
        """The exit in words."""
        if self.kind not in ("pio", "mmio", "msr"):
            return self.kind
        return f"{self.kind} {'write' if self.is_write else 'read'}" + (
            f" x{self.count}" if self.count != 1 else ""
        )

    @property
    def where(self) -> str:
        """Device and register, such as "uart com1.line_status"."""
        return ".".join(filter(None, (self.device, self.register)))


class Trace(list[TraceEntry]):
    """Exits by ascending time; the table shows how long each was before the last one.

    A slice is a `Trace` too. `next(trace)` gives its entries one after the other, and `array()` all of them as a structured array of numpy's.
    """

    _given = 0

    def __next__(self) -> TraceEntry:
        if self._given >= len(self):
            raise StopIteration
        self._given += 1
        return super().__getitem__(self._given - 1)

    @overload
    def __getitem__(self, at: SupportsIndex, /) -> TraceEntry: ...
    @overload
    def __getitem__(self, at: slice, /) -> Self: ...
    def __getitem__(self, at: SupportsIndex | slice, /) -> TraceEntry | Self:
        found = super().__getitem__(at)
        return type(self)(found) if isinstance(found, list) else found

    def array(self) -> Any:
        """The same as a structured array: a row for each exit, a field for each of `TraceEntry`'s. Wants numpy.

        `numpy.asarray(trace)` gives it too.

        Raises:
            ImportError: numpy is not installed.

        Example:
            >>> import hyperpy
            >>> with hyperpy.Machine(memory="1M", unclaimed="ones", trace=16) as m:
            ...     m.load(hyperpy.Flat(bytes([0xE6, 0x80, 0xE4, 0x60, 0xF4]), at=0x1000, mode="real"))
            ...     _ = m.run(timeout=1.0)  # out 0x80, al; in al, 0x60; hlt
            ...     exits = m.trace().array()
            >>> exits["address"][exits["kind"] == "pio"].tolist()
            [128, 96]
        """
        try:
            import numpy  # noqa: PLC0415 - no dependency
        except ImportError:
            raise ImportError(
                "an array of a trace wants numpy\n\nhint: pip install numpy; a trace is a list, too"
            ) from None
        text = {
            name: f"U{max((len(getattr(entry, name)) for entry in self), default=0) or 1}"
            for name in ("kind", "device", "register")
        }
        numbers = {"ns": "u8", "vcpu": "u4", "address": "u8", "value": "u8", "size": "u1", "count": "u4"}
        kinds = text | numbers | {"is_write": "?", "rip": "u8"}
        names = [field.name for field in fields(TraceEntry)]
        rows = list(map(operator.attrgetter(*names), self))
        return numpy.array(rows, dtype=[(name, kinds[name]) for name in names])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        made = self.array()
        return made if dtype is None else made.astype(dtype, copy=False)

    def __str__(self) -> str:
        if not self:
            return "no exits"
        last = self[-1].ns
        rows = [
            [
                str(e.vcpu),
                f"{(e.ns - last) / 1000:.1f}",
                e.what,
                f"{e.address:#x}",
                e.where,
                str(e.size) if e.size else "",
                f"{e.value:#x}",
                f"{e.rip:#x}",
            ]
            for e in self
        ]
        return table(["vcpu", "us", "exit", "address", "device", "size", "value", "rip"], rows)


def _by_time(entries: Iterable[tuple[Any, ...]]) -> Iterator[TraceEntry]:
    return iter(sorted((TraceEntry(*entry) for entry in entries), key=lambda entry: entry.ns))


def read(machine: _hyperpy.Machine) -> Trace:
    """What a machine's rings hold, of all vcpus by time."""
    return Trace(_by_time(_hyperpy.trace(machine, None)[0]))


def follow(machine: _hyperpy.Machine) -> Iterator[TraceEntry]:
    """What its rings hold, and then what is recorded, until the machine stands still."""
    entries, after, is_running = _hyperpy.trace(machine, [])
    while True:
        yield from _by_time(entries)
        if not is_running:
            return
        time.sleep(_LOOKS_S)
        entries, after, is_running = _hyperpy.trace(machine, after)
