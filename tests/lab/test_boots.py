"""Kernels that are not entered as Linux is, and Linux without ACPI, on a KVM that runs them: what each prints."""

from __future__ import annotations

import re

import pytest

from hyperpy import Exit, Firmware, Linux, Machine, Multiboot, Pvh, packages
from hyperpy.boot import recognise
from hyperpy.guest import busybox_initramfs

INIT = "#!/bin/busybox sh\necho here: $(/bin/busybox nproc) cpus\n/bin/busybox poweroff -f\n"


@pytest.fixture(scope="module")
def debian() -> packages.Kernel:
    return packages.kernel("linux-image-amd64")


def test_pvh_debians_vmlinux_reaches_its_init(debian: packages.Kernel) -> None:
    with Machine(memory="256M", vcpus=2) as machine:
        machine.load(Pvh(debian.vmlinuz, busybox_initramfs(INIT), "console=ttyS0 quiet panic=-1"))
        machine.start()
        machine.console.expect("here: 2 cpus", timeout=90)
        assert isinstance(machine.wait(timeout=30), Exit.SystemEvent)


def test_mp_table_shows_linux_without_acpi_both_cpus(debian: packages.Kernel) -> None:
    with Machine(memory="256M", vcpus=2) as machine:
        cmdline = "console=ttyS0 acpi=off panic=-1"
        machine.load(Linux(debian.vmlinuz, initrd=busybox_initramfs(INIT), cmdline=cmdline))
        machine.start()
        machine.console.expect("MPTABLE: OEM ID: HYPERPY", timeout=60)
        machine.console.expect("here: 2 cpus", timeout=90)
        assert "ACPI: RSDP" not in machine.console.output


def test_multiboot_xen_prints_its_log_and_finds_its_module(debian: packages.Kernel) -> None:
    xen = packages.fetch("xen-hypervisor-4.17-amd64").file("boot/xen-4.17-amd64.gz")
    options = "com1=115200,8n1 console=com1 noreboot"
    with Machine(memory="512M") as machine:
        machine.load(Multiboot(xen, options, [(debian.vmlinuz, "console=hvc0")]))
        machine.start()
        machine.console.expect("(XEN) Xen version 4.17", timeout=60)
        machine.console.expect("(XEN) Bootloader: hyperpy", timeout=10)
        machine.console.expect(f"(XEN) Command line: {options}", timeout=10)
        machine.console.expect("(XEN) ACPI: RSDP 000E0000", timeout=30)
        # Without a module it would have said so before, and not gone on to make domain 0.
        machine.console.expect(re.compile(r"\(XEN\) d0 has maximum \d+ PIRQs"), timeout=60)


def test_multiboot_gnu_mach_prints_its_memory_map_and_wants_a_server() -> None:
    mach = packages.fetch("gnumach-image-1.8-486").file("boot/gnumach-1.8-486.gz")
    image = recognise(mach, cmdline="console=com0")
    assert isinstance(image, Multiboot)  # a header in an ELF file of the 64-bit class
    with Machine(memory="64M") as machine:
        machine.load(image)
        machine.start()
        machine.console.expect("GNU Mach 1.8", timeout=60)
        machine.console.expect(re.compile("biosmem: 0*100000:0*4000000, available"), timeout=20)
        machine.console.expect("No bootstrap code loaded with the kernel", timeout=20)


def test_firmware_seabios_looks_for_a_boot_device_in_vain() -> None:
    bios = packages.fetch("seabios").file("usr/share/seabios/bios.bin")
    with Machine(memory="64M", vcpus=2) as machine:
        machine.load(Firmware(bios))
        machine.start()
        machine.console.expect("Found 2 cpu(s)", timeout=60)
        machine.console.expect("No bootable device.", timeout=60)
