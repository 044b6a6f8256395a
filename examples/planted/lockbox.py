"""Configuration that can be locked: the upper half of a register stays as it is from then on.

A device without declarations, that works out by itself what a narrow write changes.

Rule: masks are moved to where the bytes go before they are compared with anything; better, a field is declared.
"""

from hyperpy import Device

from .table import Planted, w16, w32

LOCK, CONFIG = 0x0, 0x4
LOCKED_BITS = 0xFFFF_0000


class Lockbox(Device):
    """Two registers of four bytes."""

    size = 8
    saved_attributes = ("lock", "config", "sealed")

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.lock, self.config, self.sealed = 0, 0, 0

    def read(self, offset: int, size: int, /) -> int:
        both = self.config << 32 | self.lock
        return both >> 8 * offset & ((1 << 8 * size) - 1)

    def write(self, offset: int, size: int, value: int, /) -> None:
        register, byte = offset & 4, offset & 3
        if byte + size > 4:
            return
        if register == LOCK and value & 1 and not byte and not self.lock:
            self.lock, self.sealed = 1, self.config & LOCKED_BITS
        elif register == CONFIG:
            bits = self.bits((1 << 8 * size) - 1, 8 * byte)
            self.config = self.config & ~bits | value << 8 * byte & bits

    def bits(self, given: int, shift: int) -> int:
        """Which bits of the register a write changes."""
        if self.lock:
            given &= ~LOCKED_BITS  # the bug: compared where the guest's bytes are, not where they go
        return given << shift


class FixedLockbox(Lockbox):
    """Moves, then compares."""

    def bits(self, given: int, shift: int) -> int:
        return given << shift & (~LOCKED_BITS if self.lock else 0xFFFF_FFFF)


PLANTED = Planted(
    Lockbox,
    FixedLockbox,
    kind="wrong mask on a narrow write",
    shows="invariant",
    proof=(w32(LOCK, 1), w16(CONFIG + 2, 0x1234)),
    invariants=(lambda box: not box.lock or box.config & LOCKED_BITS == box.sealed,),
)
