"""A CD drive: the guest writes a packet of 12 bytes to the data port, two at a time, and the drive does what it says.

Re-creates CVE-2015-5154, from its public descriptions: a packet command without data did not end the transfer of its packet, and the guest went on
writing to the data port, behind the buffer.

Rule: the end of a transfer closes its port, before what was transferred is looked at.
"""

from enum import IntEnum

from hyperpy import Device, Field, Register

from .table import Planted, w8, w16

PACKET = 12


class Command(IntEnum):
    NOP = 0x00
    PACKET = 0xA0
    IDENTIFY = 0xA1


class Op(IntEnum):
    TEST_UNIT_READY = 0x00
    REQUEST_SENSE = 0x03
    START_STOP = 0x1B
    LOCK = 0x1E


class Atapi(Device):
    """The data port is open while `requests_data` is set."""

    access_rule = "exact"
    saved_attributes = ("buffer", "filled", "is_spinning", "is_locked")
    data = Register(0x0, width=2, access="wo", op=Field(0, 8, enum=Op), argument=Field(8, 8))
    error = Register(0x4, width=1, access="ro")
    status = Register(
        0x6, width=1, access="ro", reset=0x40, failed=Field(0), requests_data=Field(3), ready=Field(6)
    )
    command = Register(0x7, width=1, access="wo", code=Field(0, 8, enum=Command))

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.buffer, self.filled = bytearray(PACKET), 0
        self.is_spinning, self.is_locked = True, False

    @command.on_write
    def _command(self, code: int) -> None:
        self.status.failed = code not in (Command.NOP, Command.PACKET)
        self.filled, self.status.requests_data = 0, code == Command.PACKET

    @data.on_write
    def _data(self, word: int) -> None:
        if not self.status.requests_data:
            return
        for byte in word.to_bytes(2, "little"):
            self.buffer[self.filled] = byte
            self.filled += 1
        if self.filled == PACKET:
            self.packet()

    def packet(self) -> None:
        match self.buffer[0]:
            case Op.START_STOP:
                self.is_spinning = bool(self.buffer[4] & 1)  # the bug: nobody ends the transfer here
            case Op.LOCK:
                self.is_locked = bool(self.buffer[4] & 1)
                self.end()
            case Op.TEST_UNIT_READY | Op.REQUEST_SENSE:
                self.end()
            case _:
                self.status.failed = True
                self.end()

    def end(self) -> None:
        self.filled, self.status.requests_data = 0, False


class FixedAtapi(Atapi):
    """Ends the transfer, whatever is in the packet."""

    def packet(self) -> None:
        self.end()
        super().packet()


PLANTED = Planted(
    Atapi,
    FixedAtapi,
    kind="missing end of a transfer",
    shows="IndexError",
    proof=(w8(0x7, Command.PACKET), w16(0x0, Op.START_STOP), *[w16(0x0, 0)] * 6),
    recreates="CVE-2015-5154",
)
