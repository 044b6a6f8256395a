"""Pause, resume and the reset button on real guests: what is as at power-on afterwards, and what stays."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from tests.guests import assemble

import hyperpy
from hyperpy import Device, Exit, Flat, Machine, StateError

RUN = 10.0
COUNT = "again: inc dword ptr [0x2000]\n out 0x80, al\n jmp again"


class Bell(Device):
    """Counts accesses and resets; says when the guest has reached it."""

    size = 1

    def __init__(self, error: BaseException | None = None) -> None:
        self.rung, self.rings, self.resets, self.error = threading.Event(), 0, 0, error

    def write(self, offset: int, size: int, value: int) -> None:
        self.rings += 1
        self.rung.set()

    def reset(self) -> None:
        self.resets += 1
        if self.error is not None:
            raise self.error


def test_pause_stops_the_guest_where_it_is_and_resume_goes_on_there(boot: Any) -> None:
    m = boot(COUNT, "protected", vcpus=2)
    bell = m.attach(Bell(), pio=0x80)
    m.start()
    assert bell.rung.wait(RUN)
    m.pause()
    first, rings = m.memory.read(0x2000, 4), bell.rings
    assert m.vcpus[0].regs.rip in range(0x1000, 0x1010)
    assert (m.memory.read(0x2000, 4), bell.rings) == (first, rings)
    bell.rung.clear()
    m.resume()
    assert bell.rung.wait(RUN)
    m.pause()
    assert int.from_bytes(m.memory.read(0x2000, 4), "little") > int.from_bytes(first, "little")


def test_pause_is_what_a_run_on_another_thread_returns(boot: Any) -> None:
    m = boot(COUNT, "protected")
    bell = m.attach(Bell(), pio=0x80)
    got: list[Any] = []
    thread = threading.Thread(target=lambda: got.append(m.run()))
    thread.start()
    assert bell.rung.wait(RUN)
    m.pause()
    thread.join(RUN)
    assert got == [Exit.Stopped(None, "pause")]
    assert m.run(0) == Exit.Timeout()  # nothing was queued


# Ends that only a reset leads out of, and the exit of each.
ENDS = {
    "triple fault": ("ud2", Exit.Shutdown(0)),
    "power-off": ("mov dx, 0x604\n mov ax, 0x3400\n out dx, ax\n hlt", Exit.SystemEvent(0, "power-off", 1)),
    "reset": ("mov al, 0xfe\n out 0x64, al\n hlt", Exit.SystemEvent(0, "reset", 2)),
    "halt": ("cli\n hlt", Exit.Halt(0)),
}


@pytest.mark.parametrize("end", ENDS)
def test_reset_after_each_end_of_a_guest_runs_it_again_to_the_same(boot: Any, end: str) -> None:
    source, exit_ = ENDS[end]
    m = boot(source, "long")
    m.attach_pc()
    for _ in range(3):
        assert m.run(RUN) == exit_
        m.reset()
        assert m.state == "created"


def test_reset_gives_fresh_vcpus_zeroed_ram_and_the_image_again(boot: Any) -> None:
    m = boot(
        "mov eax, 0x12345678\n mov [0x2000], eax\n mov byte ptr [0x1000], 0x90\n hlt", "protected", vcpus=2
    )
    code = m.memory.read(0x1000, 16)
    view = m.memory.view(0x2000, 4)
    fresh = (m.vcpus[0].regs.all(), m.vcpus[1].regs.all(), m.vcpus[0].sregs.all(), m.vcpus[1].sregs.all())
    assert isinstance(m.run(RUN), Exit.Halt)
    assert (bytes(view), m.memory.read(0x1000, 1)) == (b"\x78\x56\x34\x12", b"\x90")
    m.vcpus[1].sregs.cr2 = 7
    m.reset()
    assert (bytes(view), m.memory.read(0x1000, 16)) == (bytes(4), code)
    assert (
        m.vcpus[0].regs.all(),
        m.vcpus[1].regs.all(),
        m.vcpus[0].sregs.all(),
        m.vcpus[1].sregs.all(),
    ) == fresh
    assert isinstance(m.run(RUN), Exit.Halt)
    assert bytes(view) == b"\x78\x56\x34\x12"  # still of the same pages


def test_reset_gives_ram_back_and_keeps_rom(boot: Any) -> None:
    m = boot("hlt", memory="8M")
    m.memory.add(0x1000_0000, 0x1000, kind="rom", name="firmware")
    m.memory.write(0x1000_0000, b"firmware")
    m.memory.write(0x10_0000, b"x" * (4 << 20))
    before = m.memory.committed
    m.reset()
    assert m.memory.committed < before - (3 << 20)
    assert m.memory.read(0x1000_0000, 8) == b"firmware"


def test_reset_keeps_statistics_threads_and_descriptors(boot: Any) -> None:
    import os

    m = boot(COUNT, "protected", vcpus=2)
    bell = m.attach(Bell(), pio=0x80)
    counts = []
    for _ in range(5):
        bell.rung.clear()
        m.start()
        assert bell.rung.wait(RUN)
        m.pause()
        threads = {thread.ident for thread in threading.enumerate() if thread.name.startswith("hyperpy-vcpu")}
        counts.append((m.stats.vcpus[0].exits, threads, len(os.listdir("/proc/self/fd"))))
        m.reset()
        assert m.stats.vcpus[0].exits == counts[-1][0]
    exits, threads, descriptors = zip(*counts, strict=True)
    assert list(exits) == sorted(set(exits))
    assert threads[0]
    assert set(map(frozenset, threads)) == {frozenset(threads[0])}
    assert len(set(descriptors)) == 1


def test_reset_loads_every_image_again_and_the_last_at_each_place(boot: Any) -> None:
    m = boot("hlt")
    m.load(Flat(b"\xf4" * 3, at=0x3000, mode="real"))
    m.load(Flat(b"\xe4\x99\xf4", at=0x2000, mode="real"))
    for letter in b"abc":
        m.load(Flat(bytes([letter]), at=0x4000, mode="real"))
    m.load(Flat(b"\xe4\x98\xf4", at=0x2000, mode="real"))
    m.run(0)
    m.reset()
    assert m.memory.read(0x3000, 3) == b"\xf4" * 3
    assert m.memory.read(0x4000, 1) == b"c"
    assert m.memory.read(0x2000, 3) == b"\xe4\x98\xf4"


def test_reset_whose_image_cannot_be_loaded_again_raises_and_the_machine_is_reset(boot: Any) -> None:
    class Once:
        loads = 0

        def load_into(self, machine: Machine) -> None:
            self.loads += 1
            if self.loads > 1:
                raise hyperpy.BootError("gone", hint="look for it")

    m = boot("hlt")
    m.load(Once())
    m.run(RUN)
    with pytest.raises(hyperpy.BootError, match="gone"):
        m.reset()
    assert m.state == "created"


def test_reset_calls_each_device_once_and_raises_the_first_of_their_exceptions(boot: Any) -> None:
    first, second = ValueError("first"), KeyError("second")
    m = boot("hlt")
    good, bad, worse = Bell(), Bell(first), Bell(second)
    m.attach(bad, pio=0x10, name="bad one")
    m.attach(worse, pio=0x20)
    m.attach(good, pio=0x30)
    m.attach(good, mmio=0xFE00_0000)

    class Plain:
        def read(self, offset: int, size: int) -> int:
            return 0

        def write(self, offset: int, size: int, value: int) -> None: ...

    m.attach(Plain(), pio=0x40, size=1)
    with pytest.raises(ValueError, match="first") as caught:
        m.reset()
    assert caught.value is first
    assert caught.value.__notes__ == ["device bad one: reset", "then KeyError: 'second'"]
    assert m.errors == [first, second]
    assert (good.resets, bad.resets, worse.resets) == (1, 1, 1)
    assert (m.state, m.run(RUN)) == ("created", Exit.Halt(0))


def test_reset_keeps_exceptions_that_no_run_has_raised_in_errors(boot: Any) -> None:
    class Broken(Device):
        size = 1

        def write(self, offset: int, size: int, value: int) -> None:
            raise ValueError("not raised yet")

    m = boot("out 0x80, al\n again: jmp again")
    m.attach(Broken(), pio=0x80)
    m.start()
    while m.state == "running":
        m.console.output  # noqa: B018 - something to do
    m.reset()
    assert [str(error) for error in m.errors] == ["not raised yet"]
    assert m.state == "created"


def test_exit_from_before_a_reset_or_of_another_machine_cannot_be_answered(boot: Any) -> None:
    m, other = boot("in al, 0x99\n hlt"), boot("in al, 0x99\n hlt")
    old = m.run(RUN)
    m.reset()
    new, theirs = m.run(RUN), other.run(RUN)
    for stale in (old, theirs):
        with pytest.raises(StateError, match="moved on"):
            m.answer(stale, 1)
    m.answer(new, 0x42)
    assert m.run(RUN) == Exit.Halt(0)
    assert m.vcpus[0].regs.rax & 0xFF == 0x42


def test_reset_lowers_interrupt_lines(boot: Any) -> None:
    """A line that was high before is not seen by the guest after it: its 8259 has no request."""
    m = boot(
        "mov al, 0x0a\n out 0x20, al\n in al, 0x20\n out 0x99, al\n hlt"
    )  # OCW3: read the request register
    bell = Bell()
    m.attach(bell, pio=0x80, irq=5)
    assert bell.irq
    bell.irq.set(True)
    assert m.run(RUN) == Exit.Pio(0, 0x99, 1, True, 0x20)
    m.reset()
    assert m.run(RUN) == Exit.Pio(0, 0x99, 1, True, 0)


def test_reset_in_the_middle_of_other_verbs_on_eight_threads_never_hangs(boot: Any) -> None:
    m = boot(COUNT, "protected", vcpus=2)
    m.attach(Bell(), pio=0x80)
    turns = 40
    unexpected: list[BaseException] = []

    def call(verb: Any) -> None:
        for _ in range(turns):
            try:
                verb()
            except StateError:
                pass
            except BaseException as error:
                unexpected.append(error)

    verbs: list[Any] = [
        m.reset,
        m.reset,
        m.pause,
        m.resume,
        m.start,
        lambda: m.run(0.005),
        lambda: m.vcpus[1].regs.update(rbx=1),
        lambda: m.load(Flat(assemble(COUNT, "protected"), at=0x1000, mode="protected")),
    ]
    threads = [threading.Thread(target=call, args=(verb,)) for verb in verbs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)
    assert unexpected == []


# The first vcpu starts the one with local APIC id 1 by INIT and SIPI to that id alone (SDM vol. 3, 9.4.4), before it has
# written any register of its own local APIC.
ONE = """
    mov dword ptr [0xfee00310], 0x01000000
    mov dword ptr [0xfee00300], 0x00004500
    mov dword ptr [0xfee00310], 0x01000000
    mov dword ptr [0xfee00300], 0x00004608
    again: jmp again
"""


@pytest.mark.parametrize("resets", [0, 1])
def test_init_and_sipi_to_the_last_vcpu_alone_start_it(boot: Any, resets: int) -> None:
    m = boot(ONE, "protected", vcpus=2)
    m.load(Flat(assemble("out 0x99, al\n cli\n hlt", "real", 0x8000), at=0x8000, mode="real"))
    m.load(Flat(assemble(ONE, "protected"), at=0x1000, mode="protected"))
    for _ in range(resets):
        m.reset()
    assert m.run(RUN) == Exit.Pio(1, 0x99, 1, True, 0)


def test_machine_of_more_vcpus_than_kvm_takes_is_refused_at_once() -> None:
    with pytest.raises(ValueError, match=r"more vcpus than this KVM's \d+: 100000\n\nhint: "):
        Machine(memory="1M", vcpus=100_000)
