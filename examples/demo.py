"""Several operating systems at once, from one script: two Debians, a cloud kernel, memtest86+, and a guest of ours.

One Debian finds a device that is defined here, in Python; a random number that this script puts into it comes back on
that guest's console. Needs a KVM that runs kernels: `make demo` finds one, or makes one.
"""

import re
import secrets
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

from hyperpy import Device, Exit, Flat, Linux, Machine, packages
from hyperpy.guest import busybox_initramfs
from hyperpy.stats import overview

MAILBOX = 0xFE00_0000
UP = """/bin/busybox mount -t proc proc /proc; /bin/busybox mount -t devtmpfs dev /dev
echo "ready: Linux $(/bin/busybox uname -r), timer ticks by cpu:$(/bin/busybox grep LOC: /proc/interrupts)"
"""
ASK = f"""/bin/busybox devmem {MAILBOX + 4:#x} 32 0x600d
echo "number: $(/bin/busybox devmem {MAILBOX:#x} 32)"
"""
OFF = "/bin/busybox poweroff -f\n"
HELLO = (
    b"".join(b"\xb0%c\xe6\xe9" % letter for letter in b"hello") + b"\xfa\xf4"
)  # mov al; out 0xe9, al ... cli; hlt


class Mailbox(Device):
    """Register 0 gives a number, register 4 takes one."""

    size, number, taken = 8, 0, 0

    def read(self, offset: int, size: int, /) -> int:
        return self.number if offset == 0 else self.taken

    def write(self, offset: int, size: int, value: int, /) -> None:
        self.taken = value


def linux(name: str, init: str, package: packages.Kernel, cpus: int) -> Machine:
    machine = Machine(name=name, memory="256M", vcpus=cpus)
    initrd = busybox_initramfs("#!/bin/busybox sh\n" + init)
    machine.load(Linux(package.vmlinuz, initrd=initrd, cmdline="console=ttyS0 panic=-1 quiet iomem=relaxed"))
    return machine


def boot(machine: Machine, sign: str) -> float:
    machine.start()
    said = machine.console.expect(re.compile(sign), timeout=180)[1].strip()
    print(f"{machine.stats.wall_seconds:6.1f} s  {machine.name}: {said}", flush=True)
    return machine.stats.wall_seconds


def main() -> None:
    debian = packages.kernel("linux-image-amd64")
    cloud = packages.kernel("linux-image-cloud-amd64", suite="bookworm-backports")
    memtest = packages.fetch("memtest86+").file("boot/memtest86+x64.bin")
    for file in (debian.vmlinuz, cloud.vmlinuz, memtest):
        print(f"unmodified: {file.name} of package {packages.verify(file).name}", flush=True)

    # Whatever happens, the machines are closed before the pool is joined: then nothing is waited for in vain.
    with ThreadPoolExecutor(5) as pool, ExitStack() as stack:
        enter = stack.enter_context
        asker = enter(linux("debian-1", UP + ASK + OFF, debian, 2))
        linuxes = [
            asker,
            enter(linux("debian-2", UP + OFF, debian, 2)),
            enter(linux("cloud", UP + OFF, cloud, 1)),
        ]
        tester = enter(Machine(name="memtest86+", memory="64M"))
        tester.load(Linux(memtest, cmdline="console=ttyS0"))
        bare = enter(Machine(name="bare metal", memory="1M"))
        bare.attach_pc()
        bare.load(Flat(HELLO, at=0x1000, mode="real"))
        mailbox = asker.attach(Mailbox(), mmio=MAILBOX)
        mailbox.number = secrets.randbits(32)

        signs = {bare: "(hello)", tester: "(Memtest86)", **dict.fromkeys(linuxes, r"ready: (.*)\n")}
        print("booting", *(machine.name for machine in signs), sep=", ", flush=True)
        booted = dict(zip(signs, pool.map(boot, signs, signs.values()), strict=True))

        answer = int(asker.console.expect(re.compile(r"number: (0x[0-9A-Fa-f]+)"), timeout=60)[1], 16)
        assert (answer, mailbox.taken) == (mailbox.number, 0x600D), "the guest saw another number"
        print(
            f"the number {mailbox.number:#010x} went into the Python device and came back from {asker.name}"
        )
        for machine in linuxes:
            assert isinstance(machine.wait(timeout=60), Exit.SystemEvent)
        print(overview(booted))


if __name__ == "__main__":
    main()
