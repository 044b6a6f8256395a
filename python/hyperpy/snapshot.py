"""Snapshots as values: what a machine was at one moment.

A snapshot does not change and does not keep its machine. The verbs are the machine's (`_snapshots`); files and comparisons are in
`_snapshot_file`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hyperpy._value import Value

if TYPE_CHECKING:
    from hyperpy import _hyperpy

__all__ = ["Forked", "RestoreStats", "Snapshot"]


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


class Forked(Value):
    """How a copy of a machine was made: pages of 4 KiB that were copied for it, and what is not in it.

    `timers_left` names the timers of the other machine that call something else than a method of a device: nobody knows what
    they would be here.
    """

    pages: int
    timers_left: tuple[str, ...]


class Snapshot:
    """A machine at one moment: `Machine.snapshot` makes it, `Machine.restore` puts it back."""

    __slots__ = ("_native",)
    _native: _hyperpy.Snapshot

    def __init__(self) -> None:
        raise TypeError("a snapshot is taken of a machine\n\nhint: m.snapshot(), or Snapshot.open(file)")

    @classmethod
    def _of(cls, native: _hyperpy.Snapshot) -> Snapshot:
        self = object.__new__(cls)
        self._native = native
        return self

    def hash(self) -> int:
        """Return 64 bits that are the same for the same state: all that a restore puts back, but for what time alone moves."""
        return self._native.hash()

    def __repr__(self) -> str:
        return f"<Snapshot {self.hash():016x}>"
