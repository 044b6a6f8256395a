"""A clock chip whose date the guest sets, as that of the MC146818: two decimal digits in a byte, behind an index port.

Rule: what is made of a guest's digits is looked at when it is made: not all bytes are two digits, and not all two digits are a month.
"""

from hyperpy import Device, Indexed, Register

from .table import Planted, w8

DAY, MONTH, STATUS_B = 7, 8, 11
HOLD = 0x80
DAYS_BEFORE = (0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334)


class Rtc(Device):
    """While the clock is held the date can be set; let go, the chip works out which day of the year that is."""

    access_rule = "exact"
    saved_attributes = ("day_of_year",)
    index = Register(0x0, width=1, access="wo")
    data = Indexed(0x1, index=index, count=128, width=1, mask=0x7F)
    reference = Register(0x8, width=8, access="ro")
    day_of_year = 1

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.day_of_year = 1
        self.data[DAY] = self.data[MONTH] = 1

    @data[STATUS_B].on_write
    def _status(self, value: int) -> None:
        if not value & HOLD:
            self.go_on()

    def go_on(self) -> None:
        day, month = (10 * (two >> 4) + (two & 0xF) for two in (self.data[DAY], self.data[MONTH]))
        if self.is_date(day, month):
            self.day_of_year = DAYS_BEFORE[month - 1] + day

    def is_date(self, day: int, month: int) -> bool:
        return True  # the bug: whatever the two bytes hold


class FixedRtc(Rtc):
    """What is no date is left to the guest."""

    def is_date(self, day: int, month: int) -> bool:
        return 1 <= month <= 12 and 1 <= day <= 31


PLANTED = Planted(
    Rtc,
    FixedRtc,
    kind="unvalidated digits of a date",
    shows="IndexError",
    proof=(
        w8(0x0, MONTH),
        w8(0x1, 0x13),
        w8(0x0, STATUS_B),
        w8(0x1, 0),
    ),
)
