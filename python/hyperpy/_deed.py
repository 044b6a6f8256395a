"""What a device does by itself, as a value; public as `hyperpy.testing.Deed`. Who keeps and compares them: `hyperpy._record`, `_replay`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from hyperpy.dma import Range

__all__ = ["Deed", "DeedKind", "alike", "first_difference", "text"]

DeedKind: TypeAlias = Literal["line", "message", "read", "write"]
# Bytes of guest memory, and ranges, that a text shows.
_SHOWN, _RANGES = 16, 3


class Deed(NamedTuple):
    """Something that a device did by itself: to an interrupt line, by a message, or to guest memory.

    Arguments:
        kind: "line": it drove one elsewhere; "message": it sent one; "read" and "write": it read or wrote guest memory.
        name: of a line, or of what sends messages: the device's attribute.
        value: of a line, 1 for high; of a message, its data.
        address: of a message.
        is_taken: whether a local APIC took the message, as the device was told.
        ranges: the gpa and the length in bytes of each range of memory; one, but for `gather` and `scatter`.
        data: what was read or written, one range behind the other.
        refused: why the memory could not be reached, and the `address` and `size` of the `MemoryAccessError`.

    Example:
        >>> from hyperpy import Device, Register
        >>> from hyperpy.testing import DeviceBench
        >>> class Sampler(Device):
        ...     dma = True
        ...     buffer = Register(0x0)
        ...
        ...     @buffer.on_write
        ...     def _buffer(self, gpa: int) -> None:
        ...         self.memory.write_int(gpa, 2, 0x1234)
        ...         self.irq.set(True)
        >>> bench = DeviceBench(Sampler())
        >>> with bench.record() as recording:
        ...     bench.write32(0x0, 0x8000)
        >>> print(*recording.events[0].did, sep=", then ")
        write of 2 bytes at 0x8000: 3412, then irq high
    """

    kind: DeedKind
    name: str = ""
    value: int = 0
    address: int = 0
    is_taken: bool = True
    ranges: tuple[Range, ...] = ()
    data: bytes = b""
    refused: tuple[str, int, int] | None = None

    def __str__(self) -> str:
        return text(self)


def alike(one: Deed, other: Deed) -> bool:
    """Whether a device did the same, whatever came of it: what it read and was told may be something else."""
    if (one.kind, one.name, one.ranges) != (other.kind, other.name, other.ranges):
        return False
    mine, its = (one.value, one.address, one.data), (other.value, other.address, other.data)
    return one.kind == "read" or mine == its


def text(deed: Deed, begin: int = 0) -> str:
    """A deed in words, with its data from about a byte on."""
    match deed.kind:
        case "line":
            return f"{deed.name} {'high' if deed.value else 'low'}"
        case "message":
            lost = "" if deed.is_taken else ", which reached nobody"
            return f"{deed.name} sends {deed.value:#x} to {deed.address:#x}{lost}"
    parts = [f"{size} byte{'' if size == 1 else 's'} at {gpa:#x}" for gpa, size in deed.ranges[:_RANGES]]
    more = [f"{len(deed.ranges) - _RANGES} more"] if len(deed.ranges) > _RANGES else []
    what = f"{deed.kind} of {', '.join(parts + more)}"
    if deed.refused is not None:
        return f"{what}: refused: {deed.refused[0]}"
    begin = begin - _SHOWN // 2 if begin >= _SHOWN else 0
    end = begin + _SHOWN
    where = f", from byte {begin:#x}" if begin else ""
    return f"{what}{where}: {deed.data[begin:end].hex()}{'...' if end < len(deed.data) else ''}"


def first_difference(one: Deed, other: Deed) -> int:
    """The first byte in which the data of two differ."""
    pairs = enumerate(zip(one.data, other.data, strict=False))
    shorter = min(len(one.data), len(other.data))
    return next((at for at, (mine, its) in pairs if mine != its), shorter)
