"""A disk with one bounce buffer, whose image ends in the middle of a sector.

The class of CVE-2015-5165 and its like: what the guest is given is more than what was read for it.

Rule: a buffer that is used again is cleared behind what was put in, or no more than that is given out.
"""

from enum import IntEnum

from hyperpy import Device, Field, MemoryAccessError, Register

from .table import Planted, w32

SECTOR = 64
IMAGE = b"the first sector, which belongs to another program of the guest.".ljust(3 * SECTOR, b".") + b"short"


class Command(IntEnum):
    READ = 0x20
    FLUSH = 0xE7


class Disk(Device):
    """Reads a sector into guest memory."""

    dma = True
    access_rule = "exact"
    saved_attributes = ("buffer", "filled", "given")
    sector = Register(0x0)
    address = Register(0x8, width=8)
    command = Register(0x10, access="wo", code=Field(0, 32, enum=Command))
    failed = Register(0x14, access="ro")

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.buffer, self.filled, self.given = bytearray(SECTOR), 0, b""

    @command.on_write
    def _command(self, code: int) -> None:
        if code == Command.READ:
            data = IMAGE[self.sector * SECTOR :][:SECTOR]
            self.failed = not data or not self.hand_over(data)

    def hand_over(self, data: bytes) -> bool:
        self.fill(data)
        try:
            self.memory.write(self.address, self.buffer)
        except MemoryAccessError:
            return False
        self.filled, self.given = len(data), bytes(self.buffer)
        return True

    def fill(self, data: bytes) -> None:
        self.buffer[: len(data)] = data  # the bug: what is behind them is of the sector before


class FixedDisk(Disk):
    """What the image does not have is zeros."""

    def fill(self, data: bytes) -> None:
        self.buffer[:] = data.ljust(SECTOR, b"\0")


PLANTED = Planted(
    Disk,
    FixedDisk,
    kind="uninitialised buffer returned",
    shows="invariant",
    proof=(w32(0x10, Command.READ), w32(0x0, 3), w32(0x10, Command.READ)),
    invariants=(lambda disk: not any(disk.given[disk.filled :]),),
)
