"""A mailbox of four slots for a guest with several vcpus.

A race of two vcpus is a sequence of accesses in which theirs alternate; a device sees nothing else of it, and neither does a bench.

Rule: to look for a free place and to take it is one step, or what was found is kept for whoever found it.
"""

from enum import IntEnum

from hyperpy import Device, Field, Register

from .table import Planted, event, r32, w32

SLOTS, NONE = 4, 0xFFFF_FFFF


class Command(IntEnum):
    FILL = 0x5A
    RELEASE = 0x5B


class Slots(Device):
    """`free` says which slot is free; `command` fills one that was told so. The host collects what was filled."""

    access_rule = "exact"
    saved_attributes = ("told", "is_full", "posted", "collected")
    free = Register(0x0, access="ro")
    command = Register(0x4, access="wo", slot=Field(0, 8), code=Field(8, 24, enum=Command))

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.told, self.is_full = [0] * SLOTS, [False] * SLOTS
        self.posted, self.collected = 0, 0

    def is_free(self, slot: int) -> bool:
        return not self.is_full[slot]  # the bug: one that was told of is still free, to the other vcpu

    @free.on_read
    def _free(self) -> int:
        for slot in range(SLOTS):
            if self.is_free(slot):
                self.told[slot] += 1
                return slot
        return NONE

    @command.on_write
    def _command(self, value: int) -> None:
        slot, code = value & 0xFF, value >> 8
        if slot >= SLOTS or not self.told[slot]:
            return
        if code in (Command.FILL, Command.RELEASE):
            self.told[slot] -= 1
        if code == Command.FILL:
            self.is_full[slot] = True
            self.posted += 1

    @event
    def collect(self) -> None:
        """The host takes what is there."""
        self.collected += sum(self.is_full)
        self.is_full = [False] * SLOTS


class FixedSlots(Slots):
    """A slot is told to one."""

    def is_free(self, slot: int) -> bool:
        return not self.is_full[slot] and not self.told[slot]


_FILL_0 = Command.FILL << 8

PLANTED = Planted(
    Slots,
    FixedSlots,
    kind="race of two vcpus",
    shows="invariant",
    proof=(r32(0x0), r32(0x0), w32(0x4, _FILL_0), w32(0x4, _FILL_0)),
    invariants=(lambda slots: slots.posted == slots.collected + sum(slots.is_full),),
)
