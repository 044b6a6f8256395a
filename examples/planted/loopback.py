"""A network card in loopback: what it sends it receives, with the checksum that the wire would have seen.

Re-creates CVE-2015-7504, from its public descriptions: the frame may fill the buffer, and four bytes of CRC are put behind it.

Rule: a bound on what goes in leaves room for what is added.
"""

import zlib
from enum import IntEnum

from hyperpy import Device, Field, MemoryAccessError, Register

from .table import Planted, w32

BUFFER, CRC = 64, 4


class Command(IntEnum):
    INIT = 0x1
    SEND = 0x8


class Loopback(Device):
    """Sends from guest memory; the loop ends in its buffer."""

    dma = True
    access_rule = "exact"
    saved_attributes = ("buffer", "received")
    mode = Register(0x0, loop=Field(2), promiscuous=Field(15))
    length = Register(0x4)
    address = Register(0x8, width=8)
    command = Register(0x10, access="wo", code=Field(0, 32, enum=Command))

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.buffer, self.received = bytearray(BUFFER), 0

    @command.on_write
    def _command(self, code: int) -> None:
        if code != Command.SEND or self.length > self.longest():
            return
        try:
            frame = self.memory.read(self.address, self.length)
        except MemoryAccessError:
            return
        if self.mode.loop:
            for at, byte in enumerate(frame + zlib.crc32(frame).to_bytes(CRC, "little")):
                self.buffer[at] = byte
            self.received += 1

    def longest(self) -> int:
        return BUFFER  # the bug: the CRC has no room


class FixedLoopback(Loopback):
    """Leaves room."""

    def longest(self) -> int:
        return BUFFER - CRC


PLANTED = Planted(
    Loopback,
    FixedLoopback,
    kind="room for what is appended",
    shows="IndexError",
    proof=(w32(0x0, 0b100), w32(0x4, BUFFER), w32(0x10, Command.SEND)),
    recreates="CVE-2015-7504",
)
