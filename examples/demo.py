"""Several operating systems at once, from one script: two Debians, a cloud kernel, memtest86+, and a guest of ours.

One Debian finds a device that is defined here, in Python; a random number that this script puts into it comes back on
that guest's console. Needs a KVM that runs kernels: `make demo` finds one, or makes one.
"""

import contextlib
import re
import secrets

from hyperpy import Device, Exit, Flat, Linux, Machine, packages
from hyperpy.guest import busybox_initramfs
from hyperpy.stats import table

MAILBOX = 0xFE00_0000
CMDLINE = "console=ttyS0 panic=-1 quiet iomem=relaxed"
INIT = """#!/bin/busybox sh
/bin/busybox mount -t proc proc /proc; /bin/busybox mount -t devtmpfs dev /dev
echo "ready: Linux $(/bin/busybox uname -r), timer ticks by cpu:$(/bin/busybox grep LOC: /proc/interrupts)"
"""
ASK = (
    INIT
    + f"""/bin/busybox devmem {MAILBOX + 4:#x} 32 0x600d
echo "number: $(/bin/busybox devmem {MAILBOX:#x} 32)"
"""
)
OFF = "/bin/busybox poweroff -f\n"


class Mailbox(Device):
    """Register 0 gives a number, register 4 takes one."""

    size, number, taken = 8, 0, 0

    def read(self, offset: int, size: int, /) -> int:
        return self.number if offset == 0 else self.taken

    def write(self, offset: int, size: int, value: int, /) -> None:
        self.taken = value


def linux(name: str, init: str, package: packages.Kernel, cpus: int) -> Machine:
    machine = Machine(name=name, memory="256M", vcpus=cpus)
    machine.load(Linux(package.vmlinuz, initrd=busybox_initramfs(init + OFF), cmdline=CMDLINE))
    return machine


def main() -> None:
    debian = packages.kernel("linux-image-amd64")
    cloud = packages.kernel("linux-image-cloud-amd64", suite="bookworm-backports")
    memtest = packages.fetch("memtest86+").file("boot/memtest86+x64.bin")
    for file in (debian.vmlinuz, cloud.vmlinuz, memtest):
        print(f"unmodified: {file.name} of package {packages.verify(file).name}", flush=True)

    asker, other = linux("debian-1", ASK, debian, 2), linux("debian-2", INIT, debian, 2)
    third = linux("cloud", INIT, cloud, 1)
    tester = Machine(name="memtest86+", memory="64M")
    tester.load(Linux(memtest, cmdline="console=ttyS0"))
    bare = Machine(name="bare metal", memory="1M")
    bare.attach_pc()
    code = (
        b"".join(b"\xb0" + bytes([letter]) + b"\xe6\xe9" for letter in b"hello") + b"\xfa\xf4"
    )  # mov, out; cli, hlt
    bare.load(Flat(code, at=0x1000, mode="real"))

    mailbox = asker.attach(Mailbox(), mmio=MAILBOX)
    mailbox.number = secrets.randbits(32)
    ready = re.compile(r"ready: (.*)\n")
    waits = {
        bare: re.compile("(hello)"),
        asker: ready,
        other: ready,
        third: ready,
        tester: re.compile("(Memtest86)"),
    }
    print("booting", *(machine.name for machine in waits), sep=", ", flush=True)
    for machine in waits:
        machine.start()
    booted = {}
    while waits:  # whoever is ready first
        for machine, text in list(waits.items()):
            with contextlib.suppress(TimeoutError):
                said = machine.console.expect(text, timeout=0.2)[1].strip()
                booted[machine] = machine.stats.wall_seconds
                print(f"{booted[machine]:6.1f} s  {machine.name}: {said}", flush=True)
                del waits[machine]

    answer = int(asker.console.expect(re.compile(r"number: (0x[0-9A-Fa-f]+)"), timeout=60)[1], 16)
    assert (answer, mailbox.taken) == (mailbox.number, 0x600D), "the guest saw another number"
    print(f"the number {mailbox.number:#010x} went into the Python device and came back from {asker.name}")
    for machine in (asker, other, third):
        assert isinstance(machine.wait(timeout=60), Exit.SystemEvent)

    rows = []
    for machine, boot in booted.items():
        state, stats = machine.state, machine.stats
        hits = [str(stats.hits[rung]) for rung in ("rust", "python", "unclaimed")]
        times = [f"{boot:.1f}", f"{stats.wall_seconds:.1f}", f"{stats.cpu_seconds:.1f}"]
        rows.append([machine.name, state, *times, f"{stats.memory_bytes >> 20}", str(stats.exits), *hits])
        machine.close()
    print(
        table(
            ["machine", "state", "boot s", "wall s", "vcpu s", "MiB", "exits", "rust", "python", "unclaimed"],
            rows,
        )
    )


if __name__ == "__main__":
    main()
