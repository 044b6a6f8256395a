"""A slot for SD cards. A read takes a while, and in that while the card can be taken out.

The class of CVE-2016-1568, a use after free: what was begun outlives what it was begun with.

Rule: whoever takes a thing away ends what is still to be done with it; and what is done later looks anew whether it is there.
"""

from enum import IntEnum

from hyperpy import Device, Field, Register, Timer

from .table import Event, Planted, Step, event, w32

BLOCK, BLOCKS = 16, 8
TAKES = 100_000


class Command(IntEnum):
    IDLE = 0
    READ = 17


class SdSlot(Device):
    """Reads blocks of the card that is in."""

    access_rule = "exact"
    saved_attributes = ("card", "timer")
    block = Register(0x0)
    command = Register(0x4, access="wo", code=Field(0, 32, enum=Command))
    status = Register(0x8, access="ro", reset=1, present=Field(0), busy=Field(1), failed=Field(2))
    data = Register(0x10, access="ro", count=4)

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.card: bytes | None = bytes(range(BLOCK * BLOCKS))
        self.timer: Timer | None = None

    @command.on_write
    def _command(self, code: int) -> None:
        if code != Command.READ or self.status.busy:
            return
        self.status.failed = self.card is None or self.block >= BLOCKS
        if not self.status.failed:
            self.status.busy = True
            self.timer = self.clock.after(TAKES, self.read_done)

    def read_done(self) -> None:
        at = BLOCK * min(self.block, BLOCKS - 1)
        for number in range(4):
            first = at + 4 * number
            self.data[number] = int.from_bytes(self.card[first : first + 4], "little")
        self.status.busy = False
        self.irq.pulse()

    @event
    def insert(self) -> None:
        """A card is put in."""
        self.card, self.status.present = bytes(range(BLOCK * BLOCKS)), True

    @event
    def eject(self) -> None:
        """The card is taken out."""
        self.card, self.status.present = None, False  # the bug: the read that goes on is not told


class FixedSdSlot(SdSlot):
    """Ends the read, as failed."""

    @event
    def eject(self) -> None:
        super().eject()
        if self.status.busy:
            self.timer.cancel()
            self.status.busy, self.status.failed = False, True


PLANTED = Planted(
    SdSlot,
    FixedSdSlot,
    kind="use after remove",
    shows="TypeError",
    proof=(w32(0x4, Command.READ), Event("eject"), Step(TAKES)),
)
