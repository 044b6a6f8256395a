"""Doorbells of guests: each ring is told, in order with what was written before, and costs no exit."""

from __future__ import annotations

import gc
import os
import resource
import threading
import time
import warnings
from typing import Any

import pytest
from tests.guests import START_OTHERS, Mode, assemble, interruptible
from tests.logging_devices import BOUND, GPA, PORT, RUN, Logger, wait_for

from hyperpy import Device, Exit, Flat, Machine, Register, StateError, Stop


class Bells(Device):
    """Doorbells of every width, one whose values are queues, and a register that tells how often they rang."""

    kick = Register(0x0, access="wo", doorbell=True)
    wide = Register(0x8, width=8, access="wo", doorbell=True)
    byte = Register(0x10, width=1, access="wo", doorbell=True)
    queue = Register(0x14, width=2, access="wo", doorbell=True, match=range(4))
    big = Register(0x18, access="wo", doorbell=True, match=0x1234, order="big")
    sync = Register(0x1C)

    def __init__(self) -> None:
        self.log: list[tuple[str, int | None]] = []
        self.threads: set[str] = set()

    def note(self, what: str, value: int | None) -> None:
        self.threads.add(threading.current_thread().name)
        self.log.append((what, value))

    @kick.on_write
    def _kick(self, value: None) -> None:
        self.note("kick", value)

    @wide.on_write
    def _wide(self, value: None) -> None:
        self.note("wide", value)

    @byte.on_write
    def _byte(self, value: None) -> None:
        self.note("byte", value)

    @queue.on_write
    def _queue(self, value: int) -> None:
        self.note("queue", value)

    @big.on_write
    def _big(self, value: int) -> None:
        self.note("big", value)

    @sync.on_write
    def _sync(self, value: int) -> None:
        self.note("sync", value)


def rung(boot: Any, source: str, mode: Mode = "protected", **options: Any) -> tuple[Machine, Bells]:
    m = boot(f"mov ebx, {GPA:#x}\n{interruptible()}\n{source}", mode, **options)
    return m, m.attach(Bells(), mmio=GPA)


@pytest.mark.core
def test_doorbells_cost_no_exit_and_are_told_before_the_run_returns(boot: Any) -> None:
    m, bells = rung(
        boot,
        """
        mov dword ptr [ebx], 7
        mov byte ptr [ebx + 0x10], 1
        mov word ptr [ebx + 0x14], 2
        mov word ptr [ebx + 0x14], 3
        mov dword ptr [ebx + 0x18], 0x34120000
        hlt
        """,
    )
    assert m.run(RUN) == Exit.Halt(0)
    assert sorted(bells.log, key=str) == [
        ("big", 0x1234), ("byte", None), ("kick", None), ("queue", 2), ("queue", 3),
    ]  # fmt: skip
    assert m.stats.hits["python"] == 0
    assert m.stats.devices[0].hits == {"kernel": 5, "register": 0, "python": 0, "unclaimed": 0}
    said = bells.explain()
    assert [(use.register, use.rung, use.writes, use.calls) for use in said if use.writes] == [
        ("kick", "kernel", 1, 1), ("byte", "kernel", 1, 1), ("queue", "kernel", 2, 2), ("big", "kernel", 1, 1),
    ]  # fmt: skip


def test_rings_are_counted_each_though_several_are_one_call(boot: Any) -> None:
    m, bells = rung(boot, "mov ecx, 5000; again: mov [ebx], ecx; dec ecx; jnz again; hlt")
    assert m.run(RUN) == Exit.Halt(0)
    use = bells.explain()["kick"]
    assert (use.writes, use.calls) == (5000, len(bells.log))
    assert 1 <= use.calls <= 5000
    assert m.stats.devices[0].hits == {"kernel": 5000, "register": 0, "python": 0, "unclaimed": 0}
    assert m.stats.hits["kernel"] == 0


def test_doorbell_of_eight_bytes_rings_in_long_mode(boot: Any) -> None:
    m, bells = rung(boot, "mov rax, -1; mov [rbx + 8], rax; hlt", "long")
    assert m.run(RUN) == Exit.Halt(0)
    assert (bells.log, m.stats.hits["python"]) == ([("wide", None)], 0)


def test_write_that_rings_no_bell_is_an_exit_and_told_as_ever(boot: Any) -> None:
    """Of another width, of a value that does not match, across two registers: none is taken by the kernel."""
    m, bells = rung(
        boot,
        """
        mov word ptr [ebx + 0x14], 4
        mov word ptr [ebx], 1
        mov dword ptr [ebx + 0x14], 1
        mov dword ptr [ebx + 0x18], 0x1234
        mov byte ptr [ebx + 0x14], 9
        hlt
        """,
    )
    assert m.run(RUN) == Exit.Halt(0)
    assert bells.log == [
        ("queue", 4), ("kick", None), ("queue", 1), ("big", 0x34120000), ("queue", 9),
    ]  # fmt: skip
    assert m.stats.hits["python"] == 5
    assert m.stats.devices[0].hits == {"kernel": 0, "register": 0, "python": 5, "unclaimed": 0}


def test_doorbell_on_a_port_rings(boot: Any) -> None:
    m = boot("mov dx, 0x300; out dx, eax; mov dx, 0x310; out dx, al; hlt", "protected")
    bells = m.attach(Bells(), pio=PORT)
    assert m.run(RUN) == Exit.Halt(0)
    assert sorted(bells.log) == [("byte", None), ("kick", None)]
    assert m.stats.hits["python"] == 0


def test_ring_is_told_on_a_thread_of_the_machine_while_the_guest_makes_no_exit(boot: Any) -> None:
    m, bells = rung(boot, "mov dword ptr [ebx], 7; again: jmp again")
    m.start()
    wait_for(bells, 1)
    m.stop()
    assert (bells.log, bells.threads) == ([("kick", None)], {"hyperpy-doorbells"})


def test_ring_that_raises_or_stops_ends_the_run(boot: Any) -> None:
    class Picky(Bells):
        def _kick(self, value: None) -> None:
            raise ValueError("not now")

        def _byte(self, value: None) -> Stop:
            return Stop("enough")

        Bells.kick.on_write(_kick)
        Bells.byte.on_write(_byte)

    m = boot(
        f"mov ebx, {GPA:#x}; mov dword ptr [ebx], 7; again: inc byte ptr [0x3000]; jmp again",
        "protected",
    )
    m.attach(Picky(), mmio=GPA, name="bells")
    with pytest.raises(ValueError, match="not now") as caught:
        m.run(RUN)
    assert caught.value.__notes__ == [f"device bells: write to mmio {GPA:#x}, 4 bytes, a doorbell"]
    m = boot(f"mov byte ptr [{GPA + 0x10:#x}], 7; again: jmp again", "protected")
    m.attach(Picky(), mmio=GPA)
    assert m.run(RUN) == Exit.Stopped(None, "enough")


def test_verb_that_waits_is_refused_in_a_method_that_a_ring_calls(boot: Any) -> None:
    class Curious(Bells):
        refused = 0

        def _kick(self, value: None) -> None:
            for verb in (m.pause, m.close, lambda: m.vcpus[0].regs.rax):
                with pytest.raises(StateError, match="inside a device callback"):
                    verb()
            self.log.append(("kick", None))

        Bells.kick.on_write(_kick)

    m = boot(f"mov dword ptr [{GPA:#x}], 7; again: jmp again", "protected")
    curious = m.attach(Curious(), mmio=GPA)
    m.start()
    wait_for(curious, 1)
    m.stop()
    assert m.wait(RUN) == Exit.Stopped(None, "stop")


def test_ring_is_told_after_what_its_vcpu_has_written_to_streams_and_posted_registers(boot: Any) -> None:
    class Mixed(Logger):
        kick = Register(0xC, access="wo", doorbell=True)

        @kick.on_write
        def _kick(self, value: None) -> None:
            self.log.append(("kick", 0))

    m = boot(
        f"mov ebx, {GPA:#x}\n{interruptible()}\n"
        "mov dword ptr [ebx], 1; mov dword ptr [ebx + 4], 2; mov dword ptr [ebx], 3;"
        "mov dword ptr [ebx + 0xc], 4; again: jmp again",
        "protected",
    )
    mixed = m.attach(Mixed(), mmio=GPA)
    m.start()
    wait_for(mixed, 4)
    m.stop()
    assert mixed.log == [("data", 1), ("tail", 2), ("data", 3), ("kick", 0)]


# Rings, then says in memory how often: ecx.
RINGING = "xor ecx, ecx\nagain:\n inc ecx\n mov [ebx], ecx\n mov [0x3000], ecx\n jmp again"


def test_flood_of_rings_is_paused_in_time_and_leaves_none_to_come(boot: Any) -> None:
    m, bells = rung(boot, RINGING)
    for _ in range(5):
        m.start()
        wait_for(bells, len(bells.log) + 100)
        began = time.monotonic()
        m.pause()
        assert time.monotonic() - began < BOUND
    # What rang last was told: the guest goes on to a write that is an exit, and nothing comes with it.
    count = len(bells.log)
    m.vcpus[0].regs.rip = 0x1800
    m.memory.write(0x1800, assemble("hlt", "protected"))
    assert m.run(RUN) == Exit.Halt(0)
    assert len(bells.log) == count


@pytest.mark.parametrize("how", ["detach", "close", "reset"])
def test_ring_is_not_told_after_its_device_or_machine_has_gone(boot: Any, how: str) -> None:
    m, bells = rung(boot, RINGING, unclaimed="ones")
    m.start()
    wait_for(bells, 100)
    if how == "detach":
        m.detach(bells)
    elif how == "close":
        m.close()
    else:
        m.pause()
        m.reset()
    count = len(bells.log)
    if how == "detach":
        at = m.memory.read(0x3000, 4)
        until = time.monotonic() + RUN
        while m.memory.read(0x3000, 4) == at:  # the guest goes on, and writes to nobody
            assert time.monotonic() < until
        m.pause()
        assert m.stats.hits["unclaimed"] > 0
    assert len(bells.log) == count


def test_device_with_doorbells_attached_while_the_guest_runs_is_rung(boot: Any) -> None:
    m = boot(f"mov ebx, {GPA:#x}\n{interruptible()}\n{RINGING}", "protected", unclaimed="ones")
    m.start()
    bells = m.attach(Bells(), mmio=GPA)
    wait_for(bells, 10)
    m.detach(bells)
    m.attach(bells, mmio=GPA)
    wait_for(bells, len(bells.log) + 10)
    m.pause()


def test_doorbells_of_four_vcpus_are_told_and_stopped_in_time(boot: Any) -> None:
    write = "again: out dx, eax; jmp again"
    m = boot(f"{START_OTHERS}; {interruptible()}; mov dx, 0x300; {write}", "protected", vcpus=4)
    m.memory.write(
        0x8000,
        assemble(
            f"{interruptible()}; mov dx, 0x310; mov al, 1; again: out dx, al; jmp again", "real", at=0x8000
        ),
    )
    bells = m.attach(Bells(), pio=PORT)
    m.start()
    until = time.monotonic() + RUN
    while {what for what, _ in bells.log} != {"kick", "byte"}:
        assert time.monotonic() < until, "nothing came"
        time.sleep(0.001)
    began = time.monotonic()
    m.stop()
    assert m.wait(RUN) == Exit.Stopped(None, "stop")
    assert time.monotonic() - began < BOUND


@pytest.mark.fault(39)
def test_doorbells_without_descriptors_are_exits(boot: Any) -> None:
    class Many(Device):
        bells = Register(0x0, access="wo", count=100, doorbell=True)
        rings = 0

        @bells.on_write
        def _ring(self, index: int, value: None) -> None:
            self.rings += 1

    m = boot(f"mov dword ptr [{GPA:#x}], 1; mov dword ptr [{GPA + 4 * 99:#x}], 1; hlt", "protected")
    many = Many()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 50, hard))
    try:
        m.attach(many, mmio=GPA)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert m.run(RUN) == Exit.Halt(0)
    assert (many.rings, m.stats.hits["python"]) == (2, 1)


def test_abandoned_machine_with_doorbells_is_collected_with_its_thread_and_descriptors() -> None:
    class Holds(Bells):
        machine: Machine | None = None

    def abandon() -> None:
        m = Machine(memory="64K")
        m.load(Flat(assemble(f"mov dword ptr [{GPA:#x}], 1; hlt", "protected"), at=0x1000, mode="protected"))
        bells = m.attach(Holds(), mmio=GPA)
        assert m.run(RUN) == Exit.Halt(0)
        bells.machine = m  # a cycle

    def left() -> tuple[int, list[str]]:
        gc.collect()
        return len(os.listdir("/proc/self/fd")), [thread.name for thread in threading.enumerate()]

    before = left()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        for _ in range(5):
            abandon()
        until = time.monotonic() + RUN
        while left() != before:
            assert time.monotonic() < until, left()
