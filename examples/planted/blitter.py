"""A 2D engine that draws the frame of a rectangle into its memory.

The class of CVE-2020-12829: the size of the rectangle is worked out in 32 bits, and what was compared is not what is drawn.

Rule: a product of a guest's numbers is worked out in a type that holds it, or each number is bounded before.
"""

from enum import IntEnum

from hyperpy import Device, Field, Register

from .table import Planted, w32

VRAM = 4096


class Command(IntEnum):
    FRAME = 0x11
    CLEAR = 0x12


class Depth(IntEnum):
    BYTE = 0
    WORD = 1
    LONG = 2


class Blitter(Device):
    """Draws at the beginning of its memory, rows one behind the other."""

    access_rule = "exact"
    saved_attributes = ("vram",)
    width = Register(0x0)
    height = Register(0x4)
    depth = Register(0x8, shift=Field(0, 2, enum=Depth))
    colour = Register(0xC, mask=0xFF)
    command = Register(0x10, access="wo", code=Field(0, 32, enum=Command))

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.vram = bytearray(VRAM)

    @command.on_write
    def _command(self, code: int) -> None:
        if code == Command.CLEAR:
            self.reset()
        elif code == Command.FRAME and self.width and self.height and self.needed() <= VRAM:
            self.frame()

    def needed(self) -> int:
        return (self.width * self.height << self.depth.shift) & 0xFFFF_FFFF  # the bug: as 32 bits have it

    def frame(self) -> None:
        """Set the first and the last pixel of each row."""
        row = self.width << self.depth.shift
        for y in range(self.height):
            self.vram[y * row] = self.colour
            self.vram[(y + 1) * row - 1] = self.colour


class FixedBlitter(Blitter):
    """Counts in full."""

    def needed(self) -> int:
        return self.width * self.height << self.depth.shift


PLANTED = Planted(
    Blitter,
    FixedBlitter,
    kind="size overflow at 2^32",
    shows="IndexError",
    proof=(w32(0x0, 0x8000), w32(0x4, 0x8000), w32(0x8, Depth.LONG), w32(0x10, Command.FRAME)),
)
