"""fw_cfg in Python: Linux's own qemu_fw_cfg driver shows files that Python made, and writes one by DMA.

That one says where the kernel describes itself in memory, and Python reads on from there. Needs a KVM that runs kernels, or
the lab: `hyperpy lab -- python examples/python_fw_cfg.py`. The device: QEMU's docs/specs/fw_cfg.rst.
"""

from contextlib import suppress
from struct import pack, unpack

from hyperpy import Device, Fifo, Linux, Machine, MemoryAccessError, Register, packages
from hyperpy.guest import busybox_initramfs, kernel_modules

INIT = """/bin/busybox mount -t sysfs sys /sys; /bin/busybox modprobe qemu_fw_cfg; cd /sys/firmware/qemu_fw_cfg
echo "revision $(/bin/busybox cat rev), files: $(cd by_name; echo opt/*/* etc/*)"
echo "motto: $(/bin/busybox cat by_name/opt/org.hyperpy/motto/raw)"; /bin/busybox poweroff -f"""
SIGNATURE, REVISION, DIRECTORY, VMCOREINFO, LONGEST = 0x00, 0x01, 0x19, 0x20, 0x10000
ERROR, READ, SELECT, WRITE = 0x01, 0x02, 0x08, 0x10


class FwCfg(Device):
    """Items, chosen by number: a directory, and files from 0x20 on, of at most 64 KiB each."""

    acpi_hid = "QEMU0002"
    dma = True
    number = Register(0x0, width=2, access="wo")
    rest = Fifo(0x1, depth=LONGEST, access="ro")  # of the chosen item
    signature = Register(0x4, width=8, access="ro", order="big", reset=int.from_bytes(b"QEMU CFG", "big"))
    request_high = Register(0x4, access="wo", order="big")
    request_low = Register(0x8, access="wo", order="big")

    def __init__(self, files: dict[str, bytes]) -> None:
        files = {"etc/vmcoreinfo": bytes(16), **files}
        self.items = {SIGNATURE: b"QEMU", REVISION: pack("<I", 0b11), DIRECTORY: pack(">I", len(files))}
        for key, (name, data) in enumerate(files.items(), VMCOREINFO):
            self.items[key] = data
            self.items[DIRECTORY] += pack(">IHH56s", len(data), key, 0, name.encode())

    @number.on_write
    def choose(self, number: int) -> None:
        self.number = number
        self.rest.clear()
        self.rest.extend(self.items.get(number, b""))

    @request_low.on_write
    def _request(self, low: int) -> None:
        at = self.request_high << 32 | low
        with suppress(MemoryAccessError):  # there is no memory to answer in
            control, length, address = unpack(">IIQ", self.memory.read(at, 16))
            wrong = ERROR
            with suppress(MemoryAccessError):
                wrong = self._done(control, length, address)
            self.memory.write_int(at, 4, wrong, "big")

    def _done(self, control: int, length: int, address: int) -> int:
        if control & SELECT:
            self.choose(control >> 16)
        item = self.items.get(self.number, b"")
        begin = len(item) - len(self.rest)
        here, after = item[begin : begin + length], item[begin + length :]
        if control & READ:
            self.memory.write(address, here.ljust(min(length, LONGEST), b"\0"))
        elif control & WRITE:
            if self.number != VMCOREINFO or len(here) < length:
                return ERROR
            self.items[self.number] = item[:begin] + self.memory.read(address, length) + after
        self.rest.clear()
        self.rest.extend(after)
        return 0


if __name__ == "__main__":
    debian = packages.kernel()
    with Machine(memory="256M") as m:
        fw_cfg = m.attach(FwCfg({"opt/org.hyperpy/motto": b"real drivers, Python devices"}), pio=0x510)
        initrd = busybox_initramfs(INIT, extra=kernel_modules(debian.modules, "qemu_fw_cfg"))
        m.load(Linux(debian.vmlinuz, initrd, "console=ttyS0 quiet panic=-1"))
        print(m.run(timeout=300), m.console.output, sep="\n")
        _, _, size, gpa = unpack("<HHIQ", fw_cfg.items[VMCOREINFO])
        print(f"the kernel at {gpa:#x}:", *m.memory.read(gpa + 24, size - 24).decode().split()[:1])
