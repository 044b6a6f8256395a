"""A pvpanic device in Python: when Linux panics, its own driver says so, and the machine stops with that reason.

Needs a KVM that runs kernels, or the lab: `hyperpy lab -- python examples/python_pvpanic.py`. The device: QEMU's
docs/specs/pvpanic.rst, one port that a read asks what it knows of, and a write tells what has happened.
"""

from hyperpy import Device, Field, Linux, Machine, Register, Stop, packages
from hyperpy.guest import busybox_initramfs, kernel_modules

INIT = """/bin/busybox mount -t proc proc /proc; /bin/busybox mount -t sysfs sys /sys
/bin/busybox modprobe pvpanic-mmio
echo "the driver knows of events: $(/bin/busybox cat /sys/bus/platform/devices/QEMU0001:00/capability)"
echo c >/proc/sysrq-trigger"""


class PvPanic(Device):
    """Stops the machine when the guest panics. `event` is the last one."""

    acpi_hid = "QEMU0001"
    supported = Register(0x0, width=1, access="ro", reset=0b11)
    event = Register(0x0, width=1, access="wo", panicked=Field(0), crash_loaded=Field(1))

    @event.on_write
    def _happened(self, value: int) -> Stop:
        return Stop("the guest panicked" if self.event.panicked else "the guest starts its crash kernel")


if __name__ == "__main__":
    debian = packages.kernel()
    with Machine(memory="256M") as m:
        m.attach(PvPanic(), pio=0x505)
        initrd = busybox_initramfs(INIT, extra=kernel_modules(debian.modules, "pvpanic-mmio"))
        m.load(Linux(debian.vmlinuz, initrd, "console=ttyS0 quiet panic=-1"))
        print(m.run(timeout=300), m.console.output, sep="\n")
