"""A network card with a ring of pages for what it receives, as the NE2000 has.

Re-creates CVE-2015-5279, from its public descriptions: the page where the next packet goes is the guest's to write while the card
runs, and the card compared it with the ring's end only for being equal to it.

Rule: what was checked when a device was started is out of the guest's hands until it is stopped, or is checked again.
"""

from enum import IntEnum

from hyperpy import Device, Field, Register

from .table import Event, Planted, event, w32

PAGES, PAGE = 16, 16
HEADER, LONGEST = 4, 60


class Command(IntEnum):
    STOP = 1
    START = 2


class Ne2000(Device):
    """Puts packets into the ring from `start` up to `stop`, which is not in it any more."""

    access_rule = "exact"
    saved_attributes = ("ring", "is_running", "place", "first", "last")
    start = Register(0x0)
    stop = Register(0x4)
    current = Register(0x8)
    command = Register(0xC, access="wo", code=Field(0, 32, enum=Command))

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.ring = bytearray(PAGES * PAGE)
        self.is_running, self.place, self.first, self.last = False, 0, 0, 0

    @command.on_write
    def _command(self, code: int) -> None:
        if code == Command.STOP:
            self.is_running = False
        elif code == Command.START and self.start < self.stop <= PAGES:
            self.first, self.last = self.start, self.stop
            self.is_running, self.place = True, self.start

    @current.on_write
    def _current(self, page: int) -> None:
        if self.is_allowed(page):
            self.place = page

    def is_allowed(self, page: int) -> bool:
        return True  # the bug: any page, whatever the ring is

    @event
    def receive(self, packet: bytes) -> None:
        """A packet comes."""
        if not self.is_running:
            return
        packet = packet[:LONGEST]
        at = self.place * PAGE
        for byte in bytes([1, 0]) + len(packet).to_bytes(2, "little") + packet:
            self.ring[at] = byte
            at += 1
            if at == self.last * PAGE:
                at = self.first * PAGE
        self.place = -(-at // PAGE)
        if self.place == self.last:
            self.place = self.first


class FixedNe2000(Ne2000):
    """Takes a page of the ring."""

    def is_allowed(self, page: int) -> bool:
        return self.first <= page < self.last


PLANTED = Planted(
    Ne2000,
    FixedNe2000,
    kind="index rewritten after activation",
    shows="IndexError",
    proof=(w32(0x4, 8), w32(0xC, Command.START), w32(0x8, PAGES), Event("receive", b"packet")),
    recreates="CVE-2015-5279",
)
