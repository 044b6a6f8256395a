"""Devices with bugs for the fuzzer's tests: a module of its own, as a script that reproduces a crash imports it."""

from __future__ import annotations

from typing import ClassVar

from hyperpy import Device, Field, Register
from hyperpy.fuzz import DeviceFuzzer, event


class Mailbox(Device):
    """Trusts its guest with an index."""

    slot = Register(0x0)
    letter = Register(0x4, access="wo")

    def __init__(self) -> None:
        self.slots = [0] * 8

    @letter.on_write
    def _letter(self, value: int) -> None:
        self.slots[self.slot] = value


class Queue(Device):
    """Has no bound, once it is open; and is told of packets."""

    control = Register(0x0, open=Field(0), mode=Field(1, 2))
    push = Register(0x4, access="wo")
    level = Register(0x8, access="ro")

    @push.on_write
    def _push(self, value: int) -> None:
        if self.control.open:
            self.level += 1

    @event(max_bytes=64)
    def receive(self, data: bytes) -> None:
        if self.control.mode == 2 and data[:2] == b"\x55\xaa":
            raise RuntimeError("a packet that it does not expect")


def is_bounded(queue: Queue) -> bool:
    return queue.level <= 20


class Copier(Device):
    """Reads a length from guest memory, and trusts it."""

    dma = True
    address = Register(0x0, width=8)
    go = Register(0x8, access="wo")

    def __init__(self) -> None:
        self.buffer = bytearray(64)

    @go.on_write
    def _go(self, value: int) -> None:
        try:
            length = self.memory.read_int(self.address, 2)
            data = self.memory.read(self.address + 2, length)
        except Exception:
            return
        for at, byte in enumerate(data[:256]):
            self.buffer[at] = byte


class Sticky(Device):
    """Fails if anything of one input reaches the next: by an attribute that nobody names as state."""

    value = Register(0x0)
    seen: ClassVar[int] = 0

    @value.on_write
    def _value(self, value: int) -> None:
        if getattr(self, "mark", None) is None:
            self.mark = value
        self.count = getattr(self, "count", 0) + 1
        if self.count > 5000:
            raise AssertionError("state of an earlier input")


class Loop(Device):
    """Does not end for one value."""

    size = 4

    def write(self, offset: int, size: int, value: int) -> None:
        while value == 0x77:
            pass


class Hungry(Device):
    """Allocates what the guest asks for."""

    size = 4
    data = b""

    def reset(self) -> None:
        self.data = b""

    def write(self, offset: int, size: int, value: int) -> None:
        if value >= 1 << 20:
            self.data = bytes(128 << 20)


class Twice(Device):
    """Reads a word of guest memory twice, and believes that it stays."""

    dma = True
    go = Register(0x0, access="wo")

    @go.on_write
    def _go(self, value: int) -> None:
        first, second = self.memory.read_int(0x10, 1), self.memory.read_int(0x10, 1)
        if first and second and first != second:
            raise ValueError("it has changed")


fuzzer = DeviceFuzzer(Mailbox)


def target() -> DeviceFuzzer:
    made = DeviceFuzzer(Queue)
    made.invariant(is_bounded)
    return made
