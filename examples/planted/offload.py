"""A network card that works out the checksums of packets in guest memory.

The class of CVE-2015-5165: the lengths in a packet's header are the guest's, as the packet's own is, and they need not agree.

Rule: of two lengths for one thing the one that was measured counts, and the other is compared with it.
"""

from enum import IntEnum

from hyperpy import Device, Field, MemoryAccessError, Register

from .table import Planted, w32, w64

SHORTEST, LONGEST = 20, 128


class Command(IntEnum):
    SEND = 0x40
    FLUSH = 0x41


class Offload(Device):
    """Of a packet: the low half of byte 0 is the header's length in words, bytes 2 and 3 are its whole length."""

    dma = True
    access_rule = "exact"
    saved_attributes = ()
    control = Register(0x0, checksum=Field(0), vlan=Field(1))
    length = Register(0x4)
    address = Register(0x8, width=8)
    command = Register(0x10, access="wo", code=Field(0, 32, enum=Command))
    sum = Register(0x14, access="ro")

    @command.on_write
    def _command(self, code: int) -> None:
        if code != Command.SEND or not self.control.checksum or not SHORTEST <= self.length <= LONGEST:
            return
        try:
            packet = self.memory.read(self.address, self.length)
        except MemoryAccessError:
            return
        header, total = 4 * (packet[0] & 0xF), int.from_bytes(packet[2:4], "big")
        if header >= SHORTEST and self.is_length(total):
            self.sum = sum(packet[at] for at in range(header, total))

    def is_length(self, total: int) -> bool:
        return True  # the bug: the header is believed


class FixedOffload(Offload):
    """A packet that says it is longer than it is goes out as it is."""

    def is_length(self, total: int) -> bool:
        return total <= self.length


_PACKET = bytes([0x45, 0]) + (1500).to_bytes(2, "big") + bytes(60)

PLANTED = Planted(
    Offload,
    FixedOffload,
    kind="header that lies about its length",
    shows="IndexError",
    proof=(w32(0x0, 1), w32(0x4, 64), w64(0x8, 0x1000), w32(0x10, Command.SEND)),
    memory={0x1000: _PACKET},
)
