"""A floppy controller: commands and their parameters go into one FIFO, byte by byte.

Re-creates CVE-2015-3456 ("VENOM"), from its public descriptions: the position in the FIFO goes up with each byte, and it is the handler
of the command that puts it back. The handler of DRIVE SPECIFICATION did so only for some of its parameters; after the others a guest
could go on writing, past the end of the FIFO. Here the FIFO has the 16 bytes of the chip (Intel 82077AA, its data sheet).

Rule: what ends a phase is in one place, and no handler can leave it out.
"""

from enum import IntEnum

from hyperpy import Device, Field, Register

from .table import Planted, w8

FIFO = 16


class Command(IntEnum):
    SPECIFY = 0x03
    SENSE_DRIVE = 0x04
    RECALIBRATE = 0x07
    READ_ID = 0x4A
    DRIVE_SPECIFICATION = 0x8E


PARAMETERS: dict[int, int] = {
    Command.SPECIFY: 2,
    Command.SENSE_DRIVE: 1,
    Command.RECALIBRATE: 1,
    Command.READ_ID: 1,
    Command.DRIVE_SPECIFICATION: 5,
}


class Floppy(Device):
    """Takes commands, and gives the bytes of their results."""

    size = 8
    saved_attributes = ("fifo", "position", "length", "results")
    output = Register(0x2, width=1, reset=0x0C, running=Field(2), dma=Field(3), motor=Field(4))
    status = Register(0x4, width=1, access="ro", reset=0x80, busy=Field(4), to_guest=Field(6), ready=Field(7))
    data = Register(0x5, width=1, command=Field(0, 8, enum=Command))

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.fifo, self.position, self.length = bytearray(FIFO), 0, 0
        self.results = b""

    @output.on_write
    def _output(self, value: int) -> None:
        if not self.output.running:
            self.reset()

    @data.on_read
    def _result(self) -> int:
        first, self.results = self.results[:1], self.results[1:]
        self.status.to_guest = bool(self.results)
        return first[0] if first else 0

    @data.on_write
    def _byte(self, value: int) -> None:
        if not self.output.running or self.results:
            return
        if self.position == 0:
            self.length = 1 + PARAMETERS.get(value, 0)
        self.fifo[self.position] = value
        self.position += 1
        self.status.busy = True
        if self.position == self.length:
            self.execute()

    def execute(self) -> None:
        match self.fifo[0]:
            case Command.SPECIFY | Command.RECALIBRATE:
                self.end(b"")
            case Command.SENSE_DRIVE:
                self.end(b"\x28")
            case Command.READ_ID:
                self.end(bytes([0, 0, 0, 0, 0, 1, 2]))
            case Command.DRIVE_SPECIFICATION:
                self.drive_specification()
            case _:
                self.end(b"\x80")

    def drive_specification(self) -> None:
        last = self.fifo[self.position - 1]
        if last & 0x80:  # that was all; the guest may want to see it
            self.end(bytes(self.fifo[1:3]) if last & 0x40 else b"")
        # the bug: without that bit nothing ends, and the next byte is put behind the last one

    def end(self, results: bytes) -> None:
        """Begin anew, with the next byte as a command."""
        self.position, self.results = 0, results
        self.status.busy, self.status.to_guest = False, bool(results)


class FixedFloppy(Floppy):
    """Ends the command whatever its parameters are."""

    def drive_specification(self) -> None:
        super().drive_specification()
        self.position = 0


PLANTED = Planted(
    Floppy,
    FixedFloppy,
    kind="FIFO overflow",
    shows="IndexError",
    proof=(w8(0x5, Command.DRIVE_SPECIFICATION), *[w8(0x5, 0)] * 5, *[w8(0x5, 0)] * (FIFO - 6), w8(0x5, 0)),
    recreates="CVE-2015-3456",
)
