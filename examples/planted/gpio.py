"""A pin controller: eight pins behind an index port and a data port.

Rule: a number that the guest chose is compared with the length of what it leads into, where it is used.
"""

from hyperpy import Device, Register

from .table import Planted, r32, w32

PINS = 8


class Gpio(Device):
    """The index port says which pin the data port leads to."""

    access_rule = "exact"
    saved_attributes = ("levels",)
    index = Register(0x0)
    level = Register(0x4, mask=1)

    def __init__(self) -> None:
        self.levels = [0] * PINS

    def reset(self) -> None:
        self.levels = [0] * PINS

    def is_there(self) -> bool:
        return True  # the bug: any number is taken for a pin

    @level.on_read
    def _read(self) -> int:
        return self.levels[self.index] if self.is_there() else 0

    @level.on_write
    def _write(self, value: int) -> None:
        if self.is_there():
            self.levels[self.index] = value & 1


class FixedGpio(Gpio):
    """A pin that is not there reads as 0."""

    def is_there(self) -> bool:
        return self.index < PINS


PLANTED = Planted(
    Gpio,
    FixedGpio,
    kind="bounds on register index",
    shows="IndexError",
    proof=(w32(0x0, PINS), r32(0x4)),
)
