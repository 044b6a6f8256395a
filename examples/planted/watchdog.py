"""A watchdog that warns each period, and stops the machine after the third warning.

Rule: a period of 0 is refused, or means something; a loop that catches up with the time must come nearer by each turn.
"""

from enum import IntEnum

from hyperpy import Device, Field, Register, Stop, Timer

from .table import Planted, Step, w32

MS = 1_000_000


class Key(IntEnum):
    UNLOCK = 0x1ACC_E551
    LOCK = 0


class Command(IntEnum):
    START = 0xAA
    FEED = 0x55


class Watchdog(Device):
    """Its period can be set while it is unlocked."""

    access_rule = "exact"
    saved_attributes = ("milliseconds", "next", "warnings", "timer")
    key = Register(0x0, access="wo", code=Field(0, 32, enum=Key))
    period = Register(0x4, access="wo")
    command = Register(0x8, access="wo", code=Field(0, 32, enum=Command))
    is_unlocked = Register(0xC, access="ro")

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.milliseconds, self.next, self.warnings = 1000, 0, 0
        self.timer: Timer | None = None

    @key.on_write
    def _key(self, value: int) -> None:
        self.is_unlocked = value == Key.UNLOCK

    @period.on_write
    def _period(self, value: int) -> None:
        if self.is_unlocked and self.is_period(value):
            self.milliseconds = value

    def is_period(self, value: int) -> bool:
        return True  # the bug: 0 too

    @command.on_write
    def _command(self, code: int) -> None:
        if code == Command.FEED:
            self.warnings = 0
        elif code == Command.START and self.timer is None:
            self.next = self.clock.now + self.milliseconds * MS
            self.arm()

    def arm(self) -> None:
        self.timer = self.clock.after(self.next - self.clock.now, self.tick)

    def tick(self) -> Stop | None:
        while self.next <= self.clock.now:
            self.next += self.milliseconds * MS
        self.warnings += 1
        self.irq.pulse()
        if self.warnings == 3:
            self.timer = None
            return Stop("watchdog")
        self.arm()
        return None


class FixedWatchdog(Watchdog):
    """From a millisecond on."""

    def is_period(self, value: int) -> bool:
        return value >= 1


PLANTED = Planted(
    Watchdog,
    FixedWatchdog,
    kind="timer with period 0",
    shows="hang",
    proof=(w32(0x0, Key.UNLOCK), w32(0x4, 0), w32(0x8, Command.START), Step(1)),
)
