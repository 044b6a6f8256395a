"""A crypto engine: a key, a start, data word by word, an end.

Rule: a state and what it says is there are changed together; each way out of a state is a way to a state.
"""

from enum import IntEnum

from hyperpy import Device, Field, Register

from .table import Planted, w32


class Command(IntEnum):
    KEY = 1
    START = 2
    ABORT = 3
    FINISH = 4


class Cipher(Device):
    """Running, it has a key."""

    access_rule = "exact"
    saved_attributes = ("key", "is_running")
    words = Register(0x0, access="wo", count=4)
    command = Register(0x10, access="wo", code=Field(0, 32, enum=Command))
    data = Register(0x14, access="wo")
    result = Register(0x18, access="ro")

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.key: list[int] | None = None
        self.is_running = False

    @command.on_write
    def _command(self, code: int) -> None:
        if code == Command.KEY and not self.is_running:
            self.key = [self.words[number] for number in range(4)]
        elif code == Command.START and self.key:
            self.is_running = True
        elif code == Command.ABORT:
            self.abort()
        elif code == Command.FINISH:
            self.is_running = False

    def abort(self) -> None:
        self.key = None  # the bug: it is forgotten, and what runs runs on

    @data.on_write
    def _data(self, word: int) -> None:
        if self.is_running:
            self.result = word ^ self.key[word % 4]


class FixedCipher(Cipher):
    """Aborts."""

    def abort(self) -> None:
        super().abort()
        self.is_running = False


PLANTED = Planted(
    Cipher,
    FixedCipher,
    kind="state machine out of order",
    shows="TypeError",
    proof=(
        w32(0x10, Command.KEY),
        w32(0x10, Command.START),
        w32(0x10, Command.ABORT),
        w32(0x14, 0),
    ),
)
