"""Devices that several tests attach."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hyperpy import Device, Stop


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


class Notes(Device):
    """Answers with the offset, keeps what it is asked, and stops the machine at a write of 0xff."""

    size = 16

    def __init__(self) -> None:
        self.seen: list[tuple[int, ...]] = []

    def read(self, offset: int, size: int, /) -> int:
        self.seen.append((offset, size))
        return offset

    def write(self, offset: int, size: int, value: int, /) -> Stop | None:
        self.seen.append((offset, size, value))
        return Stop("last") if value == 0xFF else None


class Card(Device):
    """Does with memory whatever a test sets as `work`, when it is written to; counts what guests do to it."""

    dma = True
    size = 16

    def __init__(self, work: Callable[[Any], Any] = lambda memory: None) -> None:
        self.work = work
        self.accesses = 0
        self.result: Any = None

    def read(self, offset: int, size: int, /) -> int:
        self.accesses += 1
        return 0

    def write(self, offset: int, size: int, value: int, /) -> Stop | None:
        self.accesses += 1
        self.result = self.work(self.memory)
        return None
