"""A smart card reader: a command, and an answer that is read byte by byte.

Rule: a buffer and its length are changed together, on each path, or are one thing.
"""

from enum import IntEnum

from hyperpy import Device, Field, Register

from .table import Planted, r32, w32

ANSWER_TO_RESET = bytes([0x3B, 0x65, 0x00, 0x00])
UNKNOWN = bytes([0x6D, 0x00])


class Command(IntEnum):
    POWER_ON = 0x62
    POWER_OFF = 0x63
    SERIAL = 0x6B


class Reader(Device):
    """Reads behind the end of an answer give 0."""

    access_rule = "exact"
    saved_attributes = ("answer", "length", "taken", "is_on")
    command = Register(0x0, access="wo", code=Field(0, 32, enum=Command))
    waiting = Register(0x4, access="ro")
    data = Register(0x8, access="ro")

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.answer, self.length, self.taken, self.is_on = b"", 0, 0, False

    @command.on_write
    def _command(self, code: int) -> None:
        if code == Command.POWER_ON:
            self.is_on = True
            self.give(ANSWER_TO_RESET)
        elif not self.is_on:
            self.give(b"")
        elif code == Command.POWER_OFF:
            self.reset()
        elif code == Command.SERIAL:
            self.give(bytes(8))
        else:
            self.refuse()

    def give(self, answer: bytes) -> None:
        self.answer, self.length, self.taken = answer, len(answer), 0

    def refuse(self) -> None:
        self.answer, self.taken = UNKNOWN, 0  # the bug: the length is that of the answer before

    @waiting.on_read
    def _waiting(self) -> int:
        return self.length - self.taken

    @data.on_read
    def _data(self) -> int:
        if self.taken == self.length:
            return 0
        self.taken += 1
        return self.answer[self.taken - 1]


class FixedReader(Reader):
    """An error is given as any answer is."""

    def refuse(self) -> None:
        self.give(UNKNOWN)


PLANTED = Planted(
    Reader,
    FixedReader,
    kind="stale length",
    shows="IndexError",
    proof=(w32(0x0, Command.POWER_ON), w32(0x0, 0), r32(0x8), r32(0x8), r32(0x8)),
)
