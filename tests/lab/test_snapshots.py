"""Snapshots, restores and forks of an unmodified Linux that runs on two vcpus, with a serial port in Python beside COM1.

It is booted once: each test begins at the snapshot of a shell that waits. What its guest prints is computed there, across what is
restored, and sent through the Python device, whose state is a part of the snapshot.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from examples.python_uart import Uart

from hyperpy import Exit, Linux, Machine, Snapshot, packages
from hyperpy.guest import busybox_initramfs

# Text that compresses to a half, the same each time.
DATA = " ".join(f"{number * 2654435761 % 4294967296:x}" for number in range(12_000)).encode()
INIT = """#!/bin/busybox sh
export PATH=/bin; /bin/busybox mount -t proc proc /proc; /bin/busybox --install -s /bin
mount -t devtmpfs dev /dev; mount -t sysfs sys /sys
stty -F /dev/ttyS1 raw -echo; exec 3<>/dev/ttyS1; stty -echo; dmesg -n 8; dmesg -c >/dev/null
work() {
    echo begun; for round in $(seq $1); do gzip </data | md5sum >&3; read answer <&3; echo "sum $answer"; done; echo worked
}
draw() { echo "drawn $(taskset 1 head -c 16 /dev/urandom | xxd -p)"; grep Ged /proc/interrupts; }
nap() { read begin rest </proc/uptime; sleep 0.2; read end rest </proc/uptime; echo "napped from $begin to $end"; }
echo ready
while read line; do eval "$line"; done
"""
CMDLINE = "console=ttyS0 quiet panic=-1"
RESEEDED = "crng reseeded due to virtual machine fork"
ALARMS = "lockup|stall|hung|BUG|WARN|clocksource.*unstable|lost"


def make() -> Machine:
    machine = Machine(memory="128M", vcpus=2)
    machine.attach(Uart(), pio=0x2F8, irq=3)
    return machine


@pytest.fixture(scope="module")
def booted() -> Iterator[tuple[Machine, Snapshot]]:
    with make() as machine:
        initrd = busybox_initramfs(INIT, extra={"data": DATA})
        machine.load(Linux(packages.kernel().vmlinuz, initrd=initrd, cmdline=CMDLINE))
        machine.start()
        machine.console.expect("ready", timeout=120)
        yield machine, machine.snapshot()


@pytest.fixture
def linux(booted: tuple[Machine, Snapshot]) -> Machine:
    """As it was when it had booted, and runs."""
    machine, ready = booted
    go_back(machine, ready)
    return machine


@pytest.fixture(scope="module")
def checksum() -> str:
    """What the guest is to print: by the same program, outside."""
    busybox = shutil.which("busybox")
    assert busybox
    packed = subprocess.run([busybox, "gzip"], input=DATA, capture_output=True, check=True).stdout
    done = subprocess.run([busybox, "md5sum"], input=packed, capture_output=True, check=True).stdout
    return done.split()[0].decode().upper()  # the Python device answers in capitals


def go_back(machine: Machine, snapshot: Snapshot, *, renew: bool = False) -> None:
    if machine.state == "running":
        machine.pause()
    machine.restore(snapshot, renew=renew)
    machine.console.read()  # what another test has left
    machine.start()


def tell(machine: Machine, command: str, answer: str, timeout: float = 60) -> re.Match[str]:
    machine.console.send(f"{command}\n")
    return machine.console.expect(re.compile(answer), timeout=timeout)


def sums(machine: Machine) -> set[str]:
    """The checksums that it prints until its work is done."""
    said = machine.console.expect(re.compile(".*worked", re.DOTALL), timeout=60)[0]
    return set(re.findall(r"sum (\w+)", said))


def snapshots_at_work(machine: Machine) -> list[Snapshot]:
    """Taken while it compresses and runs; the checksum is not yet printed."""
    tell(machine, "work 4", "begun")  # for some snapshots, however fast the host is
    taken: list[Snapshot] = []
    while True:
        try:
            machine.console.expect("worked", timeout=0.05)
        except TimeoutError:
            taken.append(machine.snapshot())
        else:
            return taken[:-1]  # it may have been printed before the last one was taken


def test_linux_that_compresses_is_restored_twenty_times_and_ends_with_the_right_checksum(
    linux: Machine, checksum: str
) -> None:
    taken = snapshots_at_work(linux)
    assert f"sum {checksum} " in linux.console.output  # snapshots have not disturbed it
    assert len(taken) >= 2
    for snapshot in [taken[len(taken) // 2]] * 20 + [taken[0], taken[-1]]:
        go_back(linux, snapshot)
        assert sums(linux) == {checksum}


def test_linux_that_has_powered_off_is_restored_and_works_again(
    booted: tuple[Machine, Snapshot], linux: Machine, checksum: str
) -> None:
    linux.console.send("poweroff -f\n")
    exit_ = linux.wait(timeout=60)
    assert isinstance(exit_, Exit.SystemEvent)
    assert (exit_.kind, linux.state) == ("power-off", "stopped")
    go_back(linux, booted[1])
    linux.console.send("work 1\n")
    assert sums(linux) == {checksum}


def test_fork_of_linux_at_work_gives_copies_that_finish_when_the_first_is_closed(
    linux: Machine, checksum: str
) -> None:
    parent = linux.fork()
    tell(parent, "work 4", "begun")
    children = [parent.fork()]  # it runs, the others stand still until they are started
    parent.pause()
    children += [parent.fork(), parent.fork(), children[0].fork()]
    assert [child.state for child in children] == ["running", "paused", "paused", "running"]
    parent.close()
    try:
        for number, child in enumerate(children):
            if child.state == "paused":
                child.start()
            assert sums(child) == {checksum}
            tell(child, f"echo {number} >/mine; work 1", "begun")
            if number == 1:
                child.pause()
                grandchild = child.fork()
                child.close()
                children[number] = grandchild
                grandchild.start()
        for number, child in enumerate(children):
            assert sums(child) == {checksum}
            assert tell(child, "echo mine is $(cat /mine)", r"mine is (\d+)")[1] == str(number)
    finally:
        for child in children:
            child.close()
    # The first of all has none of it.
    assert tell(linux, "echo mine: $(ls /mine 2>&1)", "mine: (.*)")[1].endswith("No such file or directory\r")


def drawn(machine: Machine) -> tuple[str, list[str]]:
    """A random number of Linux's, and the counts of interrupts by which it learns of a new generation."""
    found = tell(machine, "draw", r"drawn (\w+)\s+23: +(\d+) +(\d+) +IO-APIC +23-edge +ACPI:Ged")
    return found[1], sorted(found.groups()[1:])


def test_linux_makes_new_random_numbers_in_a_fork_and_in_a_restore_that_renews(
    booted: tuple[Machine, Snapshot], linux: Machine
) -> None:
    go_back(linux, booted[1], renew=True)
    linux.console.expect(RESEEDED, timeout=60)
    drawn(linux)
    # It has just reseeded, and does not by itself for some seconds.
    base = linux.snapshot()
    same = []
    for _ in range(4):
        go_back(linux, base)
        number, counts = drawn(linux)
        assert counts == ["0", "1"]
        same.append(number)
    assert len(set(same)) < len(same)  # or this shows nothing
    others = []
    for _ in range(2):
        go_back(linux, base, renew=True)
        linux.console.expect(RESEEDED, timeout=60)
        number, counts = drawn(linux)
        assert sum(map(int, counts)) == 2
        others.append(number)
    linux.pause()
    linux.restore(base)
    for _ in range(3):
        with linux.fork() as child:
            assert child.state == "paused"
            child.start()
            child.console.expect(RESEEDED, timeout=60)
            number, counts = drawn(child)
            assert sum(map(int, counts)) == 2
            others.append(number)
    assert len({*same, *others}) == len(set(same)) + 5


def test_linux_from_a_file_goes_on_in_another_machine_and_learns_that_it_is_a_copy(
    booted: tuple[Machine, Snapshot], checksum: str, tmp_path: Path
) -> None:
    booted[1].save(tmp_path / "ready.hps")
    with make() as other:
        other.attach_pc()
        go_back(other, Snapshot.open(tmp_path / "ready.hps"), renew=True)
        other.console.expect(RESEEDED, timeout=60)
        other.console.send("work 1\n")
        assert sums(other) == {checksum}


def test_linux_that_is_restored_much_later_sleeps_and_counts_time_from_then(
    booted: tuple[Machine, Snapshot], linux: Machine
) -> None:
    """At the end of the file: the boot is half a minute ago."""
    machine, ready = booted
    begins = []
    for _ in range(2):
        go_back(machine, ready)
        for _ in range(2):
            begin, end = map(float, tell(machine, "nap", r"napped from (\S+) to (\S+)").groups())
            assert 0.2 <= end - begin < 5
            begins.append(begin)
    with machine.fork() as child:
        begin, end = map(float, tell(child, "nap", r"napped from (\S+) to (\S+)").groups())
        assert 0.2 <= end - begin < 5
        assert begin > begins[-1]
    # Back in time, and not on by the time that has gone.
    assert begins[0] < begins[1]
    assert begins[2] < begins[1]
    clock = "/sys/devices/system/clocksource/clocksource0/current_clocksource"
    assert tell(machine, f"echo clock $(cat {clock})", r"clock (\S+)")[1] == "kvm-clock"
    assert tell(machine, f"echo alarms: $(dmesg | grep -E '{ALARMS}')", r"alarms:(.*)\r")[1].strip() == ""
