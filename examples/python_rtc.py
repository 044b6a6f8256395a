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
    """Shows `start` plus the machine's time, two digits in a byte. Other bytes of its 128 keep what is written."""

    acpi_hid = "PNP0B00"
    index = Register(0x0, width=1, access="wo")
    data = Indexed(0x1, index=index, count=128, width=1, mask=0x7F)
    start, alarm = datetime(2042, 1, 2, 3, 4, 5), None

    def reset(self) -> None:
        self.alarm = None  # its timer is taken off by the machine

    def show(self) -> datetime:
        """Put the time into its registers."""
        now = self.start + timedelta(seconds=self.clock.now // NS)
        digits = bytes.fromhex(now.strftime(f"%S%M%H%d%m%y0{now.isoweekday() % 7 + 1}"))
        for at, two in zip(TIME, digits, strict=True):
            self.data[at] = two
        return now

    @data.on_read
    def _read(self, index: int) -> int:
        if index in TIME:
            self.show()
        if index == A and -self.clock.now % NS < 244_000:
            return FIXED[A] | UPDATE_SOON
        if index == C:
            self.irq.set(False)
            if self.alarm and self.clock.now >= self.alarm.deadline:
                self.set_alarm()
                return ALARM_RANG
        return self.data[index] | FIXED.get(index, 0)

    @data.on_write
    def _write(self, index: int, value: int) -> None:
        if index in ALARM:
            self.set_alarm()

    def set_alarm(self) -> None:
        """Set a timer for when the alarm's time of day is next."""
        if self.alarm:
            self.alarm.cancel()
        self.alarm = None
        with suppress(ValueError):  # digits that are no time: no alarm
            time = datetime.strptime(bytes(self.data[at] for at in ALARM).hex(), "%S%M%H")
            wait = (time - self.show()).seconds or 86_400
            self.alarm = self.clock.at((self.clock.now // NS + wait) * NS, self.ring)

    def ring(self) -> None:
        self.irq.set(bool(self.data[B] & ALARM_ENABLED))


if __name__ == "__main__":
    with Machine(memory="256M") as m:
        m.attach(Rtc(), pio=0x70, irq=8)
        m.load(Linux(packages.kernel().vmlinuz, busybox_initramfs(INIT), "console=ttyS0 quiet panic=-1"))
        print(m.run(timeout=300), m.console.output, sep="\n")
