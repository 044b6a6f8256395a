"""The transmit half of a network card: the guest fills a buffer, and says how much of it to send.

Rule: a length has no sign. Where a number with one is compared with an upper bound alone, all that is below 0 passes.
"""

from hyperpy import Device, Field, Ram, Register

from .table import Planted, w32

LONGEST, SHORTEST = 1518, 60


class Sender(Device):
    """Pads what is too short."""

    access_rule = "exact"
    saved_attributes = ("sent",)
    control = Register(0x0, enabled=Field(0), loop=Field(1))
    length = Register(0x4)
    send = Register(0x8, access="wo")
    buffer = Ram(0x800, 2048)

    def __init__(self) -> None:
        self.sent = b""

    def reset(self) -> None:
        self.sent = b""

    def length_given(self) -> int:
        return self.length - (self.length >> 31 << 32)  # the bug: as a driver's C would have it, an int

    @send.on_write
    def _send(self, value: int) -> None:
        length = self.length_given()
        if not self.control.enabled or length > LONGEST:
            return
        frame = bytearray(length)
        frame[:] = self.buffer[0:length]
        self.sent = bytes(frame).ljust(SHORTEST, b"\0")


class FixedSender(Sender):
    """Takes it as it is."""

    def length_given(self) -> int:
        return self.length


PLANTED = Planted(
    Sender,
    FixedSender,
    kind="signed and unsigned length",
    shows="ValueError",
    proof=(w32(0x0, 1), w32(0x4, 0xFFFF_FFFF), w32(0x8, 1)),
)
