"""What a test gives to a bench and gets of it: accesses and steps of time, batches that are checked already, and snapshots.

Public by `hyperpy.testing`; the bench is in `_device_bench`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from hyperpy.device import Stop

if TYPE_CHECKING:
    from hyperpy import _hyperpy
    from hyperpy._device_bench import DeviceBench

__all__ = ["Access", "Batch", "BenchSnapshot", "Step", "fields"]


class Access(NamedTuple):
    """An access to a device: a read, or with a `value` a write.

    Arguments:
        offset: bytes from the start of the device's range.
        size: 1 to 8 bytes.
        value: what is written; None for a read.
    """

    offset: int
    size: int
    value: int | None = None

    def __repr__(self) -> str:
        if self.value is None:
            return f"Access({self.offset:#x}, {self.size})"
        return f"Access({self.offset:#x}, {self.size}, {self.value:#x})"


class Step(NamedTuple):
    """A step of a bench's clock, among accesses: see `DeviceBench.play`.

    Arguments:
        ns: nanoseconds, 0 to 2**64 - 1.
    """

    ns: int

    def __repr__(self) -> str:
        return f"Step({self.ns})"


class Batch:
    """Accesses that `DeviceBench.compile` has checked: `run` makes them all, as often as it is called."""

    def __init__(self, bench: DeviceBench[Any], accesses: list[tuple[int, int, int | None]]) -> None:
        self._bench, self._length = bench, len(accesses)
        self._native = bench._native.compile(accesses)

    def run(self) -> list[int]:
        """Make the accesses in order, and return what the reads gave.

        A write that returns `Stop` does not end it; `DeviceBench.stopped` is the last one.

        Raises:
            Exception: what the device raises, with a note of which access it was. Later ones are not made.
        """
        values, reason = self._bench._native.run(self._native)
        if reason is not None:
            self._bench.stopped = Stop(reason)
        return values

    def __len__(self) -> int:
        return self._length


class BenchSnapshot:
    """What the device of a `DeviceBench`, its clock and its lines were; made by `DeviceBench.snapshot`."""

    def __init__(self, native: _hyperpy.BenchState, levels: dict[str, bool]) -> None:
        self._native, self._levels = native, levels

    @property
    def state(self) -> Any:
        """The device's state as plain data, a new copy of it; as `Device.save` gives it."""
        return self._native.device()

    def __repr__(self) -> str:
        return f"<BenchSnapshot {self.state!r:.60}>"


def fields(access: Any) -> tuple[int, int, int | None]:
    """Offset, size and value of an access, or a TypeError."""
    match access:
        case (offset, size):
            return offset, size, None
        case (offset, size, value):
            return offset, size, value
    hint = "Access(offset, size) or (offset, size) reads; Access(offset, size, value) writes"
    raise TypeError(f"not an access: {access!r}\n\nhint: {hint}")
