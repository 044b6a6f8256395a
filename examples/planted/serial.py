"""A serial port that takes as long to send a byte as its divisor says.

The class of CVE-2016-8669: a speed is a clock divided by what the guest wrote.

Rule: a guest's number is no divisor before 0 is excluded, and a number may be 0 between two writes of its halves.
"""

from hyperpy import Device, Field, Register, Timer

from .table import Planted, w8

CLOCK = 115_200
SECOND = 10**9


class Serial(Device):
    """Sends; while it does, the transmitter is not empty."""

    access_rule = "exact"
    saved_attributes = ("sending",)
    size = 8
    line_control = Register(0x3, width=1, bits=Field(0, 2), latch=Field(7))
    line_status = Register(0x5, width=1, access="ro", reset=0x20, empty=Field(5))
    divisor_low = Register(0x0, width=1, reset=12, when=line_control.latch)
    divisor_high = Register(0x1, width=1, when=line_control.latch)
    data = Register(0x0, width=1, access="wo")
    scratch = Register(0x7, width=1)
    sending: Timer | None = None

    def reset(self) -> None:
        self.sending = None

    def divisor(self) -> int:
        return self.divisor_high << 8 | self.divisor_low  # the bug: 0 is what both hold for a while

    @data.on_write
    def _send(self, byte: int) -> None:
        if self.line_status.empty:
            bits_per_second = CLOCK // self.divisor()
            self.line_status.empty = False
            self.sending = self.clock.after(10 * SECOND // bits_per_second, self.sent)

    def sent(self) -> None:
        self.line_status.empty = True


class FixedSerial(Serial):
    """The chip takes 0 for the slowest."""

    def divisor(self) -> int:
        return super().divisor() or 0x1_0000


PLANTED = Planted(
    Serial,
    FixedSerial,
    kind="division by a guest value",
    shows="ZeroDivisionError",
    proof=(w8(0x3, 0x80), w8(0x0, 0), w8(0x3, 0x03), w8(0x0, 0x41)),
)
