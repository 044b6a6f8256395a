"""Exits of every kind that this KVM gives, the three modes of flat code, several vcpus."""

from __future__ import annotations

import array
import threading
from typing import Any, assert_never, cast

import pytest
from tests.guests import assemble, spin

import hyperpy
from hyperpy import AnyExit, BootError, Device, Exit, Flat, StateError
from hyperpy.doctor import flavour

pytestmark = pytest.mark.core

RUN = 10.0


def word_for(exit_: AnyExit) -> str:
    """As a script would write it; a type checker sees that no case is missing."""
    match exit_:
        case Exit.Halt(vcpu=0):
            return "halt"
        case Exit.Halt():
            return "halt elsewhere"
        case Exit.Pio(address=port, size=size, is_write=True, value=value):
            return f"out {port:#x} {size} {value:#x}"
        case Exit.Pio(address=port, size=size):
            return f"in {port:#x} {size}"
        case Exit.Mmio(address=gpa, size=size, is_write=True, value=value):
            return f"write {gpa:#x} {size} {value:#x}"
        case Exit.Mmio(address=gpa, size=size):
            return f"read {gpa:#x} {size}"
        case Exit.Stopped(reason=why):
            return why
        case Exit.InternalError(suberror=1, bytes=code):
            return f"cannot emulate {code[:2].hex()}"
        case Exit.Shutdown():
            return "shutdown"
        case Exit.Timeout():
            return "timeout"
        case Exit.InternalError() | Exit.FailEntry() | Exit.Hypercall() | Exit.Msr() | Exit.Debug():
            return "other"
        case Exit.SystemEvent(kind=kind):
            return kind
        case _:
            assert_never(exit_)


@pytest.mark.parametrize(
    ("source", "mode", "word"),
    [
        ("hlt", "real", "halt"),
        ("hlt", "protected", "halt"),
        ("hlt", "long", "halt"),
        ("mov ax, 0x1234\n out 0x98, ax", "real", "out 0x98 2 0x1234"),
        ("in eax, 0x98", "real", "in 0x98 4"),
        ("mov byte ptr [0xfe000003], 5", "protected", "write 0xfe000003 1 0x5"),
        ("mov eax, [0xfe000000]", "protected", "read 0xfe000000 4"),
        ("mov rbx, 0xfe000000\n mov rax, [rbx]", "long", "read 0xfe000000 8"),
        (spin(), "long", "timeout"),
        ("ud2", "long", "shutdown"),
        ("lidt [0x3000]\n ud2", "protected", "shutdown"),
    ],
)
def test_run_of_a_guest_gives_its_exit(boot: Any, source: str, mode: str, word: str) -> None:
    assert word_for(boot(source, mode).run(0.2 if word == "timeout" else RUN)) == word


@pytest.mark.fault(23)
def test_triple_fault_ends_the_guest(boot: Any) -> None:
    m = boot("ud2", "long")
    assert m.run(RUN) == Exit.Shutdown(0)
    assert m.state == "stopped"
    # kvm-amd resets a vcpu that shuts down: its rip is that of a processor that starts.
    assert m.vcpus[0].regs.rip == (0xFFF0 if flavour() == "amd" else 0x1000)
    with pytest.raises(StateError, match="the guest has ended"):
        m.run(RUN)


@pytest.mark.fault(24)
def test_instruction_that_the_emulator_lacks_is_an_internal_error_or_runs(boot: Any) -> None:
    """x87 at CPL 0 is interpreted on some hosts, whose KVM cannot; processors run it."""
    m = boot("fld1\n hlt", "long")
    exit_ = m.run(RUN)
    if flavour() != "page-table":
        assert exit_ == Exit.Halt(0)
    else:
        assert isinstance(exit_, Exit.InternalError)
        assert (exit_.suberror, exit_.bytes[:2]) == (1, b"\xd9\xe8")
        assert m.state == "paused"
        assert m.vcpus[0].regs.rip == 0x1000


def test_power_off_through_acpi_is_a_system_event(boot: Any) -> None:
    m = boot("mov dx, 0x604\n mov ax, 0x3400\n out dx, ax\n hlt")
    m.attach_pc()
    control = next(row for row in m.map.rows if row.name == "acpi pm1a control")
    if control.base != 0x604:
        m.load(Flat(assemble(f"mov dx, {control.base}\n mov ax, 0x3400\n out dx, ax\n hlt"), mode="real"))
    assert m.run(RUN) == Exit.SystemEvent(0, "power-off", 1)
    assert m.state == "stopped"


def test_reset_through_the_keyboard_controller_is_a_system_event(boot: Any) -> None:
    m = boot("mov al, 0xfe\n out 0x64, al\n hlt")
    m.attach_pc()
    assert m.run(RUN) == Exit.SystemEvent(0, "reset", 2)


def test_attach_pc_twice_is_fine_and_over_a_device_is_refused(boot: Any) -> None:
    m = boot()
    m.attach_pc()
    rows = m.map.rows
    m.attach_pc()
    assert m.map.rows == rows
    other = boot()
    other.attach(hyperpy.DebugExit(), pio=0x3F8)
    with pytest.raises(hyperpy.DeviceError, match="overlaps DebugExit at 0x3f8"):
        other.attach_pc()
    assert len(other.map.rows) == 2


@pytest.mark.parametrize("mode", ["real", "protected", "long"])
def test_flat_code_in_each_mode_begins_as_told(boot: Any, mode: str) -> None:
    m = boot("hlt", mode)
    vcpu = m.vcpus[0]
    assert (vcpu.regs.rip, vcpu.regs.rsp, vcpu.regs.rflags) == (0x1000, 0x8FF0, 2)
    assert bool(vcpu.sregs.cr0 & 1) == (mode != "real")
    assert bool(vcpu.sregs.efer & 0x400) == (mode == "long")
    assert m.run(RUN) == Exit.Halt(0)


@pytest.mark.parametrize(
    ("image", "says"),
    [
        (Flat(b"", at=0x1000), "empty"),
        (Flat(b"\xf4", at=0x100000, mode="real"), "beyond what real mode reaches"),
        (Flat(b"\xf4", at=1 << 40), "beyond what long mode reaches"),
        (Flat(b"\xf4", at=0x20_0000), "no memory at 0x200000"),
        (Flat(b"\xf4" * 0x1001, at=0x1F_F000), "no memory"),
        (Flat(b"\xf4", at=2**64 - 1), "beyond"),
    ],
)
def test_flat_code_that_does_not_fit_is_refused(boot: Any, image: Flat, says: str) -> None:
    with pytest.raises(BootError, match=says):
        boot().load(image)


@pytest.mark.parametrize(
    "image", [Flat(b"\xf4", at=-1), Flat(b"\xf4", at=2**64), Flat(b"\xf4", mode=cast("Any", "virtual"))]
)
def test_flat_code_of_wrong_options_is_refused(boot: Any, image: Flat) -> None:
    with pytest.raises(ValueError, match="hint: "):
        boot().load(image)


def test_flat_code_from_any_buffer_is_taken(boot: Any) -> None:
    codes: list[Any] = [bytearray(b"\xf4"), memoryview(b"\xf4"), array.array("H", [0xF4F4])]
    for code in codes:
        m = boot()
        m.load(Flat(code, mode="real"))
        assert m.run(RUN) == Exit.Halt(0)


# Starts vcpus 1 to n by INIT and SIPI to each (SDM vol. 3, 11.4), then halts. The APIC is enabled first, as operating
# systems do: KVM brings its table of destinations up to date then.
def _start_others(count: int) -> str:
    each = [
        f"mov dword ptr [0xfee00310], {apic << 24:#x}\n mov dword ptr [0xfee00300], {command:#x}"
        for apic in range(1, count)
        for command in (0x4500, 0x4608)
    ]
    return "\n".join(["mov dword ptr [0xfee000f0], 0x1ff", *each, "out 0x80, al\n cli\n hlt"])


@pytest.mark.parametrize("count", [2, 4])
def test_several_vcpus_are_in_one_device_at_once(boot: Any, count: int) -> None:
    together = threading.Barrier(count)

    class Meeting(Device):
        size = 1

        def __init__(self) -> None:
            self.threads: set[int] = set()

        def write(self, offset: int, size: int, value: int) -> None:
            together.wait(RUN)
            self.threads.add(threading.get_ident())

    m = boot(_start_others(count), "protected", vcpus=count)
    m.memory.write(0x8000, assemble("out 0x80, al\n cli\n hlt", "real", 0x8000))
    meeting = m.attach(Meeting(), pio=0x80)
    assert isinstance(m.run(RUN), Exit.Halt)
    assert len(meeting.threads) == count
    assert [vcpu.hits["python"] for vcpu in m.stats.vcpus] == [1] * count


def test_exits_of_several_vcpus_are_returned_one_by_one_before_any_runs_on(boot: Any) -> None:
    m = boot(_start_others(2).replace("0x80", "0x99"), "protected", vcpus=2)
    m.memory.write(0x8000, assemble("out 0x98, al\n out 0x98, al\n cli\n hlt", "real", 0x8000))
    seen = []
    while not isinstance(exit_ := m.run(RUN), Exit.Halt):
        seen.append((exit_.vcpu, exit_.address))
    assert sorted(seen) == [(0, 0x99), (1, 0x98), (1, 0x98)]


def test_halt_with_interrupts_on_is_idle_and_with_them_off_is_an_exit(boot: Any) -> None:
    """Rule 10."""
    assert boot("sti\n hlt", irqchip=True).run(0.3) == Exit.Timeout()
    assert boot("cli\n hlt", irqchip=True).run(RUN) == Exit.Halt(0)
    assert boot("sti\n hlt").run(RUN) == Exit.Halt(0)


def test_run_after_a_halt_goes_past_it(boot: Any) -> None:
    m = boot("hlt\n mov bl, 7\n hlt")
    assert m.run(RUN) == Exit.Halt(0)
    assert m.run(RUN) == Exit.Halt(0)
    assert m.vcpus[0].regs.rbx == 7
