"""A serial port in Python: Linux's own 8250 driver finds it through ACPI, as ttyS1, and uses it with interrupts.

The guest writes lines to ttyS1, and Python answers each in capitals. Needs a KVM that runs kernels, or the lab:
`hyperpy lab -- python examples/python_uart.py`. The chip: PC16550D, its data sheet's table II.
"""

from hyperpy import Device, Field, Fifo, Linux, Machine, Register, packages
from hyperpy.guest import busybox_initramfs

INIT = """/bin/busybox mount -t proc proc /proc; /bin/busybox mount -t devtmpfs dev /dev
/bin/busybox stty -F /dev/ttyS1 raw -echo; exec 3<>/dev/ttyS1
for line in hello "are you python?"; do echo "$line" >&3; read answer <&3; echo "ttyS1 answers: $answer"; done
/bin/busybox grep ttyS1 /proc/interrupts; /bin/busybox poweroff -f"""


class Uart(Device):
    """A 16550. What is not marked, such as each look at the line status, is answered without Python."""

    acpi_hid = "PNP0501"
    saved_attributes = ("idle", "line")

    line_control = Register(0x3, width=1, mask=0xFF, divisor=Field(7))
    received = Fifo(0x0, depth=1024, access="ro")
    sent = Register(0x0, width=1, access="wo")
    enable = Register(0x1, width=1, mask=0x0F, received=Field(0), empty=Field(1))
    divisor = Register(0x0, width=1, count=2, when=line_control.divisor)
    pending = Register(0x2, width=1, access="ro", reset=0x01)
    fifo_control = Register(0x2, width=1, access="wo", mask=0xFF, on=Field(0))
    modem_control = Register(0x4, width=1, mask=0x1F, loop=Field(4))
    line_status = Register(0x5, width=1, access="ro", mask=0xFF, reset=0x60, ready=Field(0))
    modem_status = Register(0x6, width=1, access="ro", reset=0xB0)
    scratch = Register(0x7, width=1)
    idle, line = False, b""  # idle: the guest has not heard yet that all is sent

    @received.on_read
    def look(self) -> None:
        """Say which interrupt is due, and drive the line."""
        self.line_status.ready = bool(self.received)
        data, empty = self.enable.received and self.received, self.enable.empty and self.idle
        cause = 0x4 if data else 0x2 if empty else 0x1
        self.pending = cause | 0xC0 * self.fifo_control.on
        self.irq.set(cause != 0x1)

    @sent.on_write
    def _send(self, value: int) -> None:
        self.idle, self.line = True, (self.line + bytes([value]))[-1024:]
        if value == ord("\n") or self.modem_control.loop:
            self.received.extend(self.line if self.modem_control.loop else self.line.upper())
            self.line = b""
        self.look()

    @pending.on_read
    def _identify(self) -> None:
        self.idle &= self.pending & 0xF != 0x2  # this cause is over when it is read
        self.look()

    @enable.on_write
    def _enable(self, value: int) -> None:
        self.idle |= bool(value & 2)
        self.look()

    @fifo_control.on_write
    def _fifo(self, value: int) -> None:
        if value & 2:
            self.received.clear()
        self.look()

    @modem_control.on_write
    def _modem(self, value: int) -> None:  # in a loop, outputs are led to the inputs
        self.modem_status = (value & 1) << 5 | (value & 2) << 3 | (value & 0xC) << 4 if value & 0x10 else 0xB0


if __name__ == "__main__":
    with Machine(memory="256M") as m:
        m.attach(Uart(), pio=0x2F8, irq=3)
        m.load(Linux(packages.kernel().vmlinuz, busybox_initramfs(INIT), "console=ttyS0 quiet panic=-1"))
        print(m.run(timeout=300), m.console.output, sep="\n")
