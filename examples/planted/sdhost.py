"""An SD host controller that is written block by block, through a data port and a buffer.

Re-creates CVE-2021-3409 (and CVE-2020-17380 before it), from their public descriptions: the guest sets another block size in the middle of a
transfer, and the count of what is in the buffer is compared with that.

Rule: what a transfer was started with holds until its end: it is copied at the start, or locked.
"""

from enum import IntEnum

from hyperpy import Device, Field, Register

from .table import Planted, w32

BUFFER = 32


class Command(IntEnum):
    STOP = 12
    WRITE = 25


class SdHost(Device):
    """Takes four bytes at a time, and hands on each block that is full."""

    access_rule = "exact"
    saved_attributes = ("buffer", "filled", "is_writing", "begun_with")
    block_size = Register(0x0)
    command = Register(0x4, access="wo", code=Field(0, 32, enum=Command))
    data = Register(0x8, access="wo")
    written = Register(0xC, access="ro")

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.buffer, self.filled, self.is_writing = bytearray(BUFFER), 0, False
        self.begun_with = 0

    @command.on_write
    def _command(self, code: int) -> None:
        if code == Command.STOP:
            self.is_writing = False
        elif code == Command.WRITE and self.block_size in range(4, BUFFER + 1, 4):
            self.is_writing, self.filled, self.begun_with = True, 0, self.block_size

    def block(self) -> int:
        return self.block_size  # the bug: as it is now

    @data.on_write
    def _data(self, value: int) -> None:
        if not self.is_writing:
            return
        for byte in value.to_bytes(4, "little"):
            self.buffer[self.filled] = byte
            self.filled += 1
        if self.filled == self.block():
            self.filled = 0
            self.written += 1


class FixedSdHost(SdHost):
    """Keeps to the block size that it began with."""

    def block(self) -> int:
        return self.begun_with


PLANTED = Planted(
    SdHost,
    FixedSdHost,
    kind="mode change in the middle of a transfer",
    shows="IndexError",
    proof=(
        w32(0x0, 16),
        w32(0x4, Command.WRITE),
        *[w32(0x8, 0)] * 3,
        w32(0x0, 8),
        *[w32(0x8, 0)] * 6,
    ),
    recreates="CVE-2021-3409",
)
