"""Surfaces of a graphics card, in the host's memory.

The class of CVE-2017-5578: memory of the host's, as much as the guest asks for.

Rule: what is allocated for a guest has a bound that does not depend on the guest.
"""

from enum import IntEnum

from hyperpy import Device, Field, Register

from .table import Planted, w32

WIDEST, BUDGET = 8192, 4 << 20


class Command(IntEnum):
    CREATE = 0x101
    DESTROY = 0x102


class Surface(Device):
    """Makes one surface at a time."""

    access_rule = "exact"
    saved_attributes = ("pixels",)
    width = Register(0x0)
    height = Register(0x4)
    command = Register(0x8, access="wo", code=Field(0, 32, enum=Command))
    failed = Register(0xC, access="ro")

    def __init__(self) -> None:
        self.pixels = bytearray()

    def reset(self) -> None:
        self.pixels = bytearray()

    @command.on_write
    def _command(self, code: int) -> None:
        if code == Command.DESTROY:
            self.pixels = bytearray()
        elif code == Command.CREATE:
            self.failed = not self.fits()
            if not self.failed:
                self.pixels = bytearray(4 * self.width * self.height)

    def fits(self) -> bool:
        return (
            self.width <= WIDEST and self.height <= WIDEST
        )  # the bug: each is bounded, and both are 256 MiB


class FixedSurface(Surface):
    """Has a budget."""

    def fits(self) -> bool:
        return super().fits() and 4 * self.width * self.height <= BUDGET


PLANTED = Planted(
    Surface,
    FixedSurface,
    kind="unbounded allocation by a guest's length",
    shows="memory",
    proof=(w32(0x0, WIDEST), w32(0x4, WIDEST), w32(0x8, Command.CREATE)),
)
