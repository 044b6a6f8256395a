"""Unmodified kernels on a KVM that runs them: boot, SMP, consoles, Python devices, the demo and the command line."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hyperpy import Device, Exit, Linux, Machine, StateError, packages
from hyperpy.guest import busybox_initramfs

INIT = """#!/bin/busybox sh
/bin/busybox mount -t proc proc /proc; /bin/busybox mount -t devtmpfs dev /dev
"""
OFF = "/bin/busybox poweroff -f\n"
CMDLINE = "console=ttyS0 panic=-1 iomem=relaxed"
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def debian() -> packages.Kernel:
    return packages.kernel("linux-image-amd64")


@pytest.fixture(scope="module")
def cloud() -> packages.Kernel:
    return packages.kernel("linux-image-cloud-amd64", suite="bookworm-backports")


class Counter(Device):
    size = 16
    acpi_hid = "LNRO0005"

    def __init__(self) -> None:
        self.written: list[tuple[int, int, int]] = []

    def read(self, offset: int, size: int, /) -> int:
        return 0x1234_5678 >> (8 * (offset % 4)) & ((1 << (8 * size)) - 1)

    def write(self, offset: int, size: int, value: int, /) -> None:
        self.written.append((offset, size, value))


@pytest.fixture
def machine() -> Iterator[Machine]:
    with Machine(memory="256M", vcpus=2) as made:
        yield made


def test_boot_debian_bzimage_with_two_vcpus_counts_ticks_on_both_and_powers_off(
    machine: Machine, debian: packages.Kernel
) -> None:
    init = INIT + 'echo "cpus: $(/bin/busybox nproc)"; /bin/busybox grep LOC: /proc/interrupts\n' + OFF
    machine.load(Linux(debian.vmlinuz, initrd=busybox_initramfs(init), cmdline=CMDLINE))
    machine.start()
    assert machine.console.expect(re.compile(r"cpus: (\d+)"), timeout=120)[1] == "2"
    ticks = machine.console.expect(re.compile(r"LOC: +(\d+) +(\d+)"), timeout=10)
    assert int(ticks[1]) > 0
    assert int(ticks[2]) > 0
    assert machine.wait(timeout=30) == Exit.SystemEvent(machine.wait().vcpu, "power-off", 1)
    assert machine.state == "stopped"
    with pytest.raises(StateError, match="stands still"):
        machine.console.expect("never said", timeout=60)


def test_boot_cloud_kernel_without_unpacking_reaches_init_and_reboot_is_a_reset(
    machine: Machine, cloud: packages.Kernel
) -> None:
    init = INIT + "echo here $(/bin/busybox uname -r); /bin/busybox reboot -f\n"
    machine.load(Linux(cloud.vmlinuz, initrd=busybox_initramfs(init), cmdline=CMDLINE, unpack=False))
    machine.start()
    assert cloud.release in machine.console.expect(re.compile("here .*\n"), timeout=200)[0]
    exit_ = machine.wait(timeout=60)
    assert isinstance(exit_, Exit.SystemEvent)
    assert exit_.kind == "reset"


def test_device_in_python_is_found_by_devmem_and_listed_by_acpi(
    machine: Machine, debian: packages.Kernel
) -> None:
    device = machine.attach(Counter(), mmio=0xFE00_0000, irq=11)
    init = (
        INIT
        + "/bin/busybox mount -t sysfs sys /sys\n"
        + "/bin/busybox devmem 0xfe000004 32 0xcafe0001; /bin/busybox devmem 0xfe000008 8 0x7f\n"
        + 'echo "read: $(/bin/busybox devmem 0xfe000000 32) $(/bin/busybox devmem 0xfe000001 8)"\n'
        + 'echo "acpi: $(/bin/busybox ls /sys/bus/acpi/devices | /bin/busybox grep LNRO)"\n'
        + OFF
    )
    machine.load(Linux(debian.vmlinuz, initrd=busybox_initramfs(init), cmdline=CMDLINE))
    machine.start()
    assert machine.console.expect(re.compile("read: (.*)\r?\n"), timeout=120)[1].split() == [
        "0x12345678",
        "0x56",
    ]
    assert "LNRO0005" in machine.console.expect(re.compile("acpi: (.*)\n"), timeout=10)[1]
    machine.wait(timeout=30)
    assert device.written == [(4, 4, 0xCAFE_0001), (8, 1, 0x7F)]
    assert machine.stats.hits["python"] == 4


def test_console_input_reaches_a_shell_in_the_guest(machine: Machine, debian: packages.Kernel) -> None:
    init = INIT + 'echo asking; read line; echo "got: $line"\n' + OFF
    machine.load(Linux(debian.vmlinuz, initrd=busybox_initramfs(init), cmdline=CMDLINE))
    machine.start()
    machine.console.expect("asking", timeout=120)
    machine.console.send("forty two\n")
    assert machine.console.expect(re.compile("got: (.*)\n"), timeout=20)[1].strip() == "forty two"
    assert isinstance(machine.wait(timeout=30), Exit.SystemEvent)


def test_demo_runs_five_operating_systems_from_one_script() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "examples/demo.py"], capture_output=True, text=True, timeout=400, check=False
    )
    assert done.returncode == 0, done.stderr + done.stdout
    assert "came back from debian-1" in done.stdout
    rows = [
        line
        for line in done.stdout.splitlines()
        if re.match(r"(debian-[12]|cloud|memtest86\+|bare metal) ", line)
    ]
    assert len(rows) == 5


def test_demo_that_is_interrupted_while_it_boots_ends_at_once() -> None:
    """Not after every guest has said what is waited for."""
    command = [sys.executable, ROOT / "examples/demo.py"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as demo:
        assert demo.stdout is not None
        assert demo.stderr is not None
        assert any(line.startswith("booting, ") for line in demo.stdout)
        demo.send_signal(signal.SIGINT)
        begin = time.monotonic()
        assert "KeyboardInterrupt" in demo.stderr.read()
        assert demo.wait(60) == -signal.SIGINT
        assert time.monotonic() - begin < 20


def test_command_line_boots_linux_and_ends_with_status_0(debian: packages.Kernel, tmp_path: Path) -> None:
    (tmp_path / "initrd").write_bytes(busybox_initramfs(INIT + "echo through the command line\n" + OFF))
    command = [sys.executable, "-m", "hyperpy", "run", "--kernel", str(debian.vmlinuz)]
    command += ["--initrd", str(tmp_path / "initrd"), "--append", CMDLINE, "--memory", "256M", "--cpus", "2"]
    done = subprocess.run(command, input="", capture_output=True, text=True, timeout=200, check=False)
    assert "through the command line" in done.stdout
    assert (done.returncode, done.stderr) == (0, "")
