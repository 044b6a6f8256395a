"""A clock chip in Python: Linux's own rtc-cmos driver reads a time that Python chose, and an alarm interrupts it.

It stands in place of the stock RTC, whose ports it takes. Needs a KVM that runs kernels, or the lab:
`hyperpy lab -- python examples/python_rtc.py`. The chip: MC146818A, its data sheet. Guests cannot set this one.
"""

from contextlib import suppress
from datetime import datetime, timedelta

from hyperpy import Device, Indexed, Linux, Machine, Register, packages
from hyperpy.guest import busybox_initramfs

INIT = """/bin/busybox mount -t proc proc /proc; /bin/busybox mount -t sysfs sys /sys; cd /sys/class/rtc/rtc0
echo "$(/bin/busybox cat name) says $(/bin/busybox cat date) $(/bin/busybox cat time)"; echo +3 >wakealarm
while [ -n "$(/bin/busybox cat wakealarm)" ]; do /bin/busybox usleep 100000; done
echo "alarm heard at $(/bin/busybox cat time)"; /bin/busybox grep rtc0 /proc/interrupts; /bin/busybox poweroff -f"""
NS = 10**9  # of a second
TIME, ALARM, A, B, C, D = (0, 2, 4, 7, 8, 9, 6), (1, 3, 5), 10, 11, 12, 13
FIXED = {A: 0x26, B: 0x02, D: 0x80}  # it runs; 24 hours; its battery is good
UPDATE_SOON, ALARM_ENABLED, ALARM_RANG = 0x80, 0x20, 0xA0


class Rtc(Device):
    """Shows `start` plus the machine's time, two digits in a byte. Other bytes of its 128 keep what is written, without Python."""

    acpi_hid = "PNP0B00"
    index = Register(0x0, width=1, access="wo")
    data = Indexed(0x1, index=index, count=128, width=1, mask=0x7F)
    start, alarm = datetime(2042, 1, 2, 3, 4, 5), None

    def reset(self) -> None:
        self.alarm = None  # its timer is taken off by the machine

    @property
    def now(self) -> datetime:
        return self.start + timedelta(seconds=self.clock.now // NS)

    @data[TIME].on_read
    def _time(self, index: int) -> int:
        digits = bytes.fromhex(self.now.strftime(f"%S%M%H%d%m%y0{self.now.isoweekday() % 7 + 1}"))
        return digits[TIME.index(index)]

    @data[A, B, D].on_read
    def _status(self, index: int) -> int:
        soon = UPDATE_SOON if index == A and -self.clock.now % NS < 244_000 else 0
        return self.data[index] | FIXED[index] | soon

    @data[C].on_read
    def _why(self) -> int:
        self.irq.set(False)
        if self.alarm and self.clock.now >= self.alarm.deadline:
            self.set_alarm()
            return ALARM_RANG
        return self.data[C]

    @data[ALARM].on_write
    def _alarm(self, index: int, value: int) -> None:
        self.set_alarm()

    def set_alarm(self) -> None:
        """Set a timer for when the alarm's time of day is next."""
        if self.alarm:
            self.alarm.cancel()
        self.alarm = None
        with suppress(ValueError):  # digits that are no time: no alarm
            time = datetime.strptime(bytes(self.data[at] for at in ALARM).hex(), "%S%M%H")
            wait = (time - self.now).seconds or 86_400
            self.alarm = self.clock.at((self.clock.now // NS + wait) * NS, self.ring)

    def ring(self) -> None:
        self.irq.set(bool(self.data[B] & ALARM_ENABLED))


if __name__ == "__main__":
    with Machine(memory="256M") as m:
        m.attach(Rtc(), pio=0x70, irq=8)
        m.load(Linux(packages.kernel().vmlinuz, busybox_initramfs(INIT), "console=ttyS0 quiet panic=-1"))
        print(m.run(timeout=300), m.console.output, sep="\n")
