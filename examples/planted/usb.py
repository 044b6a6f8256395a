"""The control endpoint of a USB device: a setup says how many bytes follow, and tokens move them.

Re-creates CVE-2020-14364, from its public descriptions: the length of a setup was stored and then checked. A setup that is refused left
its length behind, and the transfer that was open before went on with that.

Rule: a guest's number is checked before it is stored where the next step finds it.
"""

from enum import IntEnum

from hyperpy import Device, Field, MemoryAccessError, Register

from .table import Planted, w32, w64

BUFFER, SETUP = 64, 8


class Token(IntEnum):
    IN = 0x69
    OUT = 0xE1
    SETUP = 0x2D


class Usb(Device):
    """A token moves as many bytes as `length` says, from or to `address`, as far as the setup goes."""

    dma = True
    access_rule = "exact"
    saved_attributes = ("buffer", "wanted", "moved", "is_open")
    token = Register(0x0, access="wo", kind=Field(0, 32, enum=Token))
    length = Register(0x4)
    address = Register(0x8, width=8)
    stalled = Register(0x10, access="ro")

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.buffer, self.wanted, self.moved, self.is_open = bytearray(BUFFER), 0, 0, False

    @token.on_write
    def _token(self, kind: int) -> None:
        try:
            if kind == Token.SETUP:
                self.setup(int.from_bytes(self.memory.read(self.address, SETUP)[6:], "little"))
            elif kind == Token.OUT and self.is_open:
                self.out(min(self.length, self.wanted - self.moved))
            elif kind == Token.IN:
                self.is_open = False
        except MemoryAccessError:
            self.stalled = 1

    def setup(self, wanted: int) -> None:
        self.wanted = wanted  # the bug: before it is known to be good
        if wanted > BUFFER:
            self.stalled = 1
            return
        self.moved, self.is_open, self.stalled = 0, True, 0

    def out(self, length: int) -> None:
        for byte in self.memory.read(self.address, length):
            self.buffer[self.moved] = byte
            self.moved += 1


class FixedUsb(Usb):
    """Refuses, and closes what was open."""

    def setup(self, wanted: int) -> None:
        if wanted > BUFFER:
            self.wanted, self.is_open, self.stalled = 0, False, 1
            return
        super().setup(wanted)


PLANTED = Planted(
    Usb,
    FixedUsb,
    kind="length stored before it is checked",
    shows="IndexError",
    proof=(
        w32(0x0, Token.SETUP),
        w64(0x8, 0x1000),
        w32(0x0, Token.SETUP),
        w32(0x4, BUFFER + 1),
        w32(0x0, Token.OUT),
    ),
    memory={0x1000: bytes([0, 5, 0, 0, 0, 0, 0, 1])},
    recreates="CVE-2020-14364",
)
