"""A device whose traffic several tests record, and what is done to it."""

from __future__ import annotations

from typing import Any

from hyperpy import Counter, Device, Fifo, Ram, Register, Stop
from hyperpy.testing import Access, Deed, Step


def drove(*levels: bool, name: str = "irq") -> tuple[Deed, ...]:
    """Changes of a line."""
    return tuple(Deed("line", name, int(level)) for level in levels)


class Nic(Device):
    """Registers of most kinds, a timer, a line, a stop, a mistake."""

    irq_level = True
    size = 0x40
    control = Register(0x0)
    status = Register(0x4, access="w1c", mask=0x3)
    data = Fifo(0x8, depth=4, width=4, access="wo")
    delay = Register(0xC, access="wo")
    uptime = Counter(0x10, hz=1_000_000_000)
    log = Register(0x18, width=8, access="ro")
    slots = Ram(0x20, 8)
    packets = 0

    @data.on_write
    def _data(self, value: int) -> Stop | None:
        self.packets += 1
        self.status = 1
        self.show()
        if value == 0xBAD:
            raise ZeroDivisionError
        return Stop("off") if value == 0xDEAD else None

    @status.on_write
    def _status(self, value: int) -> None:
        self.show()

    @delay.on_write
    def _delay(self, value: int) -> None:
        assert self.clock is not None
        self.clock.after(value, self.expire)

    @log.on_read
    def _log(self) -> int:
        assert self.clock is not None
        return self.clock.now

    def expire(self) -> None:
        self.status = 2
        self.show()

    def show(self) -> None:
        if self.irq:
            self.irq.set(bool(self.status))

    def save(self) -> dict[str, Any]:
        return {**super().save(), "packets": self.packets}

    def load(self, state: dict[str, Any]) -> None:
        super().load(state)
        self.packets = state["packets"]


TRAFFIC = [
    Access(0x0, 4, 5), Access(0x8, 4, 1), Step(10), Access(0x4, 4), Access(0x4, 4, 1), Access(0xC, 4, 500), Step(1000),
    Access(0x4, 4), Access(0x10, 8), Access(0x18, 8), Access(0x22, 2, 0xABCD), Access(0x20, 8), Access(0x8, 4, 0xDEAD),
]  # fmt: skip
