"""Devices with declared registers that several tests attach, and how accesses are made to them without a guest."""

from __future__ import annotations

from enum import IntEnum
from typing import Any

from hyperpy import Block, Counter, Device, Field, Fifo, FifoLevel, Indexed, Ram, Register, Stop
from hyperpy.exits import Exit
from hyperpy.testing import Read, ScriptedMachine, Write

BASE = 0xFE00_0000


def play(device: Device, *accesses: tuple[str, int, int] | tuple[str, int, int, int]) -> list[int]:
    """Make accesses to a device, ("r", offset, size) and ("w", offset, size, value), and return what the reads gave."""
    script: list[Read | Write] = []
    for kind, offset, size, *value in accesses:
        place = {"mmio": BASE + offset, "size": size}
        script.append(Write(value[0], **place) if kind == "w" else Read(**place))
    with ScriptedMachine(script) as m:
        m.attach(device, mmio=BASE)
        assert m.run(timeout=10.0) == Exit.Halt(0)
        m.detach(device)
        return m.reads


class Mode(IntEnum):
    """Values of a field."""

    IDLE = 0
    RUN = 1


class Timer(Device):
    """Every kind of access."""

    ident = Register(0x00, access="ro", reset=0x1234)
    control = Register(0x04, enable=Field(0), mode=Field(4, 2, enum=Mode), done=Field(8, access="w1c"))
    key = Register(0x08, access="wo")
    status = Register(0x0C, access="w1c", reset=0xFF)
    low = Register(0x10, access="w0c", reset=0xFF)
    raised = Register(0x14, access="w1s")
    once = Register(0x18, access="rc", reset=0xAA)
    seen = Register(0x1C, access="rs", mask=0x0F)
    narrow = Register(0x20, mask=0x0FF0)
    big = Register(0x24, order="big")


class Bell(Device):
    """Wants to know."""

    def __init__(self) -> None:
        self.log: list[Any] = []

    count = Register(0x0, access="ro")
    ring = Register(0x4)
    go = Register(0x8, access="wo")
    flags = Register(0xC, access="w1c", reset=0xF0F0)
    lights = Register(0x10, width=2, count=4)

    @count.on_read
    def _count(self) -> int | None:
        self.log.append("read")
        return len(self.log) if len(self.log) > 1 else None

    @ring.on_write
    def _ring(self, value: int) -> Stop | None:
        self.log.append((value, self.ring))
        return Stop("enough") if value == 99 else None

    @go.on_write_if(0x100)
    def _go(self, value: int) -> None:
        self.log.append(("go", value))

    @flags.on_write
    def _flags(self, value: int) -> None:
        self.log.append(("flags", value, self.flags))

    @lights.on_write
    def _lights(self, index: int, value: int) -> None:
        self.log.append((index, value))


class Link(Device):
    """Queues, windows, ports, banks."""

    received = Fifo(0x0, depth=2, access="ro", empty=0xEE)
    sent = Fifo(0x0, depth=2, access="wo")
    control = Register(0x1, width=1, bank=Field(7))
    low = Register(0x2, width=1, reset=1)
    divisor = Register(0x2, width=1, reset=2, when=control.bank)
    index = Register(0x3, width=1)
    data = Indexed(0x4, index=index, count=4, width=1, mask=0x0F, step=1)
    ticks = Counter(0x8, hz=1_000_000, access="rw")
    buffer = Ram(0x10, 16)

    def __init__(self) -> None:
        self.log: list[Any] = []

    @data.on_write
    def _data(self, index: int, value: int) -> None:
        self.log.append((index, value))


class Queues(Device):
    """Queues whose methods wait for a level that guests see."""

    received = Fifo(0x0, depth=4, access="ro", threshold=1)
    sent = Fifo(0x0, depth=4, access="wo", threshold=3, overflow="overwrite")
    waiting = FifoLevel(0x1, received, width=1)
    to_send = FifoLevel(0x2, sent, width=2)

    def __init__(self) -> None:
        self.log: list[Any] = []

    @received.on_read
    def _received(self) -> None:
        self.log.append(("drained", self.received.level))

    @sent.on_write
    def _sent(self, value: int) -> None:
        self.log.append((value, list(self.sent)))


class Channel(Block):
    """A block with a method."""

    address = Register(0x0, width=8)
    control = Register(0x8, go=Field(0))

    def __init__(self) -> None:
        self.runs = 0

    @control.on_write_if(1)
    def _go(self, value: int) -> None:
        self.runs += 1
        self.device.log.append((self.index, self.address))
        self.control.go = 0


class Dma(Device):
    """Blocks."""

    def __init__(self) -> None:
        self.log: list[Any] = []

    channels = Channel.at(0x100, count=3, stride=0x20)
    extra = Channel.at(0x20)
