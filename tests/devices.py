"""Devices that several tests attach."""

from __future__ import annotations

from hyperpy import Device


class Recorder(Device):
    """Keeps every access; reads give the bytes 0x11, 0x22, ... of its size."""

    size = 16
    pattern = 0x8877665544332211

    def __init__(self) -> None:
        self.reads: list[tuple[int, int]] = []
        self.writes: list[tuple[int, int, int]] = []

    def read(self, offset: int, size: int) -> int:
        self.reads.append((offset, size))
        return self.pattern & ((1 << (8 * size)) - 1)

    def write(self, offset: int, size: int, value: int) -> None:
        self.writes.append((offset, size, value))


class Plain:
    """No base class: read and write are all that is wanted."""

    def __init__(self) -> None:
        self.written: list[int] = []

    def read(self, offset: int, size: int) -> int:
        return 0x5A

    def write(self, offset: int, size: int, value: int) -> None:
        self.written.append(value)
