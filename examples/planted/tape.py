"""A streaming device that moves a count of bytes, a block of 16 each ten microseconds.

Rule: what is subtracted is at most what is there; and an end is looked for with `<=`, not where exactly it should be.
"""

from enum import IntEnum

from hyperpy import Device, Field, Register, Timer

from .table import Planted, Step, w32

BLOCK, MOST, TAKES = 16, 1024, 10_000


class Command(IntEnum):
    STOP = 1
    STREAM = 8


class Tape(Device):
    """Interrupts when all of the count has been moved."""

    access_rule = "exact"
    saved_attributes = ("left", "timer")
    count = Register(0x0)
    command = Register(0x4, access="wo", code=Field(0, 32, enum=Command))
    moved = Register(0x8, access="ro")
    left = 0
    timer: Timer | None = None

    def reset(self) -> None:
        self.left, self.timer = 0, None

    @command.on_write
    def _command(self, code: int) -> None:
        if code == Command.STOP:
            self.stop()
        elif code == Command.STREAM and self.timer is None and 0 < self.count <= MOST:
            self.left, self.moved = self.count, 0
            self.timer = self.clock.every(TAKES, self.block)

    def stop(self) -> None:
        if self.timer:
            self.timer.cancel()
        self.timer = None

    def block(self) -> None:
        bytes_now = self.part()
        self.left -= bytes_now
        self.moved += bytes_now
        if self.left == 0:
            self.stop()
            self.irq.pulse()

    def part(self) -> int:
        return BLOCK  # the bug: of what is left, only a part may be a block


class FixedTape(Tape):
    """The last block may be a short one."""

    def part(self) -> int:
        return min(BLOCK, self.left)


PLANTED = Planted(
    Tape,
    FixedTape,
    kind="negative count after subtract",
    shows="invariant",
    proof=(w32(0x0, 1), w32(0x4, Command.STREAM), Step(TAKES)),
    invariants=(lambda tape: tape.left >= 0,),
)
