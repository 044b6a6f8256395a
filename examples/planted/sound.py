"""A sound card that plays a ring of periods, one each millisecond.

Rule: what a stop leaves behind, the next start begins with. A start sets all state, whatever was before.
"""

from enum import IntEnum

from hyperpy import Device, Field, Register, Timer

from .table import Planted, Step, w32

MOST, PERIOD = 32, 1_000_000
PATIENCE = 16  # periods that are played before the guest must say that it is there


class Command(IntEnum):
    STOP = 0
    START = 1
    HEARD = 2


class Sound(Device):
    """Interrupts for each period, and stops by itself where nobody hears it."""

    access_rule = "exact"
    saved_attributes = ("length", "played", "unheard", "timer")
    periods = Register(0x0)
    command = Register(0x4, access="wo", code=Field(0, 32, enum=Command))
    position = Register(0x8, access="ro")
    length, played, unheard = 0, 0, 0
    timer: Timer | None = None

    def reset(self) -> None:
        self.length, self.played, self.unheard, self.timer = 0, 0, 0, None

    @position.on_read
    def _position(self) -> int:
        return self.played

    @command.on_write
    def _command(self, code: int) -> None:
        if code == Command.STOP:
            self.stop()
        elif code == Command.HEARD:
            self.unheard = 0
        elif code == Command.START and not self.timer and 0 < self.periods <= MOST:
            self.begin()
            self.timer = self.clock.every(PERIOD, self.tick)

    def begin(self) -> None:
        self.length, self.unheard = self.periods, 0  # the bug: it plays on from where the last ring was left

    def stop(self) -> None:
        if self.timer:
            self.timer.cancel()
        self.timer = None

    def tick(self) -> None:
        self.played += 1
        if self.played == self.length:
            self.played = 0
        self.irq.pulse()
        self.unheard += 1
        if self.unheard == PATIENCE:
            self.stop()


class FixedSound(Sound):
    """Begins at the beginning."""

    def begin(self) -> None:
        super().begin()
        self.played = 0


PLANTED = Planted(
    Sound,
    FixedSound,
    kind="missed reset of state",
    shows="invariant",
    proof=(
        w32(0x0, 8),
        w32(0x4, Command.START),
        Step(4 * PERIOD),
        w32(0x4, Command.STOP),
        w32(0x0, 4),
        w32(0x4, Command.START),
    ),
    invariants=(lambda sound: sound.length == 0 or sound.played < sound.length,),
)
