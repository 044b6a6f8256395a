"""An audio codec whose rate is a number from a table.

Rule: a field of four bits has sixteen values, and a table of eleven answers eleven of them.
"""

from enum import IntEnum

from hyperpy import Device, Field, Register

from .table import Planted, w32

RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000, 88200, 96000)
Rate = IntEnum("Rate", {f"HZ_{rate}": number for number, rate in enumerate(RATES)})


class Stream(IntEnum):
    STOP = 0x10
    START = 0x11


class Codec(Device):
    """Says how long a sample takes, once it is started."""

    access_rule = "exact"
    saved_attributes = ()
    power = Register(0x0, on=Field(0))
    format = Register(0x4, rate=Field(0, 4, enum=Rate), stereo=Field(4))
    stream = Register(0x8, access="wo", code=Field(0, 32, enum=Stream))
    sample_ns = Register(0xC, access="ro")

    @stream.on_write
    def _stream(self, code: int) -> None:
        if not self.power.on:
            return
        if code == Stream.START and self.is_rate():
            self.sample_ns = 10**9 // RATES[self.format.rate]
        elif code == Stream.STOP:
            self.sample_ns = 0

    def is_rate(self) -> bool:
        return True  # the bug: the rates that drivers know are all there


class FixedCodec(Codec):
    """A rate that is not there starts nothing."""

    def is_rate(self) -> bool:
        return self.format.rate < len(RATES)


PLANTED = Planted(
    Codec,
    FixedCodec,
    kind="unvalidated enum into a table",
    shows="IndexError",
    proof=(w32(0x0, 1), w32(0x4, len(RATES)), w32(0x8, Stream.START)),
)
