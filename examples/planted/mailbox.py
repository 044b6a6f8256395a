"""A mailbox: letters lie in guest memory, a length of two bytes before each.

The class of CVE-2016-6480, a double fetch: what was checked and what is used are two reads, and the guest runs between them.

Rule: what lies in guest memory is read once, and the copy is checked and used.
"""

from hyperpy import Device, MemoryAccessError, Register

from .table import Planted, w32, w64

LONGEST = 64


class Mailbox(Device):
    """Fetches a letter when it is told to."""

    dma = True
    access_rule = "exact"
    saved_attributes = ("letter",)
    address = Register(0x0, width=8)
    doorbell = Register(0x8, access="wo")
    failed = Register(0xC, access="ro")

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.letter = bytearray(LONGEST)

    @doorbell.on_write
    def _fetch(self, value: int) -> None:
        if self.address == 0:
            return
        try:
            self.failed = not self.fetch(self.address)
        except MemoryAccessError:
            self.failed = 1

    def fetch(self, gpa: int) -> bool:
        if self.memory.read_int(gpa, 2) > LONGEST:
            return False
        length = self.memory.read_int(gpa, 2)  # the bug: it may be another one now
        self.copy(self.memory.read(gpa + 2, length))
        return True

    def copy(self, text: bytes) -> None:
        for at, byte in enumerate(text):
            self.letter[at] = byte


class FixedMailbox(Mailbox):
    """Reads the length once."""

    def fetch(self, gpa: int) -> bool:
        length = self.memory.read_int(gpa, 2)
        if length > LONGEST:
            return False
        self.copy(self.memory.read(gpa + 2, length))
        return True


PLANTED = Planted(
    Mailbox,
    FixedMailbox,
    kind="double fetch",
    shows="IndexError",
    proof=(w64(0x0, 0x1000), w32(0x8, 1)),
    memory={0x1000: (b"\x40\x00", b"\x41\x00")},
)
