"""A log of events: the last eight of them, in a ring that the guest can read.

Rule: a ring's end is where its length says, and the comparison is made before the place is used. `>` is one too far.
"""

from hyperpy import Device, Field, Register

from .table import Planted, w32

ENTRIES = 8


class Log(Device):
    """Keeps what is written, while it is enabled."""

    access_rule = "exact"
    saved_attributes = ("kept", "head")
    control = Register(0x0, enabled=Field(0))
    entry = Register(0x4, access="wo")
    written = Register(0x8, access="ro")
    entries = Register(0x40, access="ro", count=ENTRIES)

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.kept, self.head = [0] * ENTRIES, 0

    @control.on_write
    def _control(self, value: int) -> None:
        if not self.control.enabled:
            self.reset()

    @entry.on_write
    def _entry(self, value: int) -> None:
        if self.control.enabled:
            if self.is_at_end():
                self.head = 0
            self.kept[self.head] = value
            self.head += 1
            self.written += 1

    def is_at_end(self) -> bool:
        return self.head > ENTRIES  # the bug

    @entries.on_read
    def _kept(self, index: int) -> int:
        return self.kept[index]


class FixedLog(Log):
    """Compares with what is no place any more."""

    def is_at_end(self) -> bool:
        return self.head >= ENTRIES


PLANTED = Planted(
    Log,
    FixedLog,
    kind="off by one at a ring's end",
    shows="IndexError",
    proof=(w32(0x0, 1), *[w32(0x4, 0x11)] * (ENTRIES + 1)),
)
