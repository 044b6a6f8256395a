"""A device with guest memory, lines and messages, and a recording of it."""

from __future__ import annotations

from typing import Any

from hyperpy import Device, Line, MemoryAccessError, Messages, Register
from hyperpy.testing import (
    Deed,
    DeviceBench,
    Recording,
)

RUN = 10.0
MMIO = 0xFE00_0000
NOWHERE = 0x8000_0000


class Disk(Device):
    """Copies what a request says, tells how it went where that says, and drives a line and sends a message."""

    dma = True
    irq_level = True
    done = Line()
    msi = Messages()
    request = Register(0x0)
    ack = Register(0x4, access="wo")
    later = Register(0x8, access="wo")
    failed = Register(0xC, access="ro")
    lost = Register(0x10, access="ro")

    @request.on_write
    def _request(self, at: int) -> None:
        try:
            source, target, length = (self.memory.read_int(at + 4 * index, 4) for index in range(3))
            self.memory.write(target, self.memory.read(source, length))
            self.memory.write_int(at + 12, 2, 1, "big")
        except MemoryAccessError as error:
            self.failed = error.size
        self.irq.set(True)
        self.done.pulse()
        self.lost = int(not self.msi.send(0xFEE0_0000, 0x41))

    @ack.on_write
    def _ack(self, value: int) -> None:
        self.irq.set(False)

    @later.on_write
    def _later(self, value: int) -> None:
        self.clock.after(value, self.expire)  # type: ignore[union-attr]

    def expire(self) -> None:
        self.memory.write_int(0x40, 8, self.clock.now)  # type: ignore[union-attr]
        self.done.pulse()

    def reset(self) -> None:
        super().reset()
        if self.memory:
            self.memory.write(0x50, b"reset")


def asked(memory: Any, at: int, source: int, target: int, length: int) -> None:
    for index, number in enumerate((source, target, length)):
        memory.write(at + 4 * index, number.to_bytes(4, "little"))


def moved(kind: Any, gpa: int, data: bytes) -> Deed:
    return Deed(kind, ranges=((gpa, len(data)),), data=data)


def recorded() -> Recording:
    """Of three requests, the second one of which is wrong, an acknowledgement, a timer and a reset."""
    bench = DeviceBench(Disk())
    asked(bench.memory, 0x100, 0x1000, 0x2000, 4)
    asked(bench.memory, 0x200, 0x1000, NOWHERE, 2)
    asked(bench.memory, 0x300, 0x1000, 0x3000, 256)
    bench.memory.write(0x1000, bytes(range(256)))
    with bench.record() as recording:
        bench.write32(0x0, 0x100)
        bench.write32(0x4, 0)
        bench.write32(0x0, 0x200)
        assert bench.read32(0xC) == 2
        bench.write32(0x8, 7)
        bench.clock.step(10)
        bench.write32(0x0, 0x300)
        bench.reset()
    return recording


def header(at: int, *numbers: int) -> tuple[Deed, ...]:
    return tuple(
        moved("read", at + 4 * index, number.to_bytes(4, "little")) for index, number in enumerate(numbers)
    )


SENT = Deed("message", "msi", 0x41, 0xFEE0_0000)
