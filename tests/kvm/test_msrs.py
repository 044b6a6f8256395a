"""Model-specific registers: the vcpu's own, and those that a function or the script answers; hypercalls."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest

from hyperpy import (
    AnyExit,
    DeviceError,
    Exit,
    KvmError,
    KvmUnavailable,
    Machine,
    StateError,
    Stop,
)

RUN = 10.0
CLOCK = 0x4B56_4D00
# rdmsr twice, the first one's value into ebx; a general-protection fault ends in the hlt at 0x2000.
READS = f"mov ecx, {CLOCK:#x}\n rdmsr\n mov ebx, eax\n rdmsr\n hlt"
WRITE = f"mov ecx, {CLOCK:#x}\n mov eax, 7\n mov edx, 1\n wrmsr\n hlt"


def with_fault_handler(machine: Machine) -> Machine:
    """A machine in real mode whose interrupt table leads a general-protection fault to a hlt."""
    machine.memory.write(4 * 13, b"\x00\x20\x00\x00")
    machine.memory.write(0x2000, b"\xf4")
    return machine


def faulted(machine: Machine) -> bool:
    return machine.vcpus[0].regs.rip == 0x2001


def test_msrs_are_a_mapping_by_index_and_name(boot: Any) -> None:
    m = boot("mov ecx, 0x277\n rdmsr\n hlt")
    msrs = m.vcpus[0].msrs
    msrs["IA32_PAT"] = 0x0007_0406_0007_0405
    assert msrs[0x277] == msrs["IA32_PAT"] == 0x0007_0406_0007_0405
    msrs.update({"IA32_SYSENTER_CS": 8, 0x175: 0x1000}, IA32_SYSENTER_EIP=0x2000)
    read = msrs.read("IA32_SYSENTER_CS", "IA32_SYSENTER_ESP", "IA32_SYSENTER_EIP")
    assert read == {"IA32_SYSENTER_CS": 8, "IA32_SYSENTER_ESP": 0x1000, "IA32_SYSENTER_EIP": 0x2000}
    assert len(msrs) == len(list(msrs)) > 10
    assert set(msrs.read(*msrs)) == set(msrs)
    assert 0x277 in msrs
    assert "IA32_PAT" in msrs
    assert 0xDEAD_BEEF not in msrs
    assert "IA32_NONE" not in msrs
    assert None not in msrs
    assert m.run(RUN) == Exit.Halt(0)
    assert m.vcpus[0].regs.rax == 0x0007_0405


@pytest.mark.fault(25)
def test_msr_that_is_refused_is_named(boot: Any) -> None:
    msrs = boot().vcpus[0].msrs
    with pytest.raises(KvmError, match="KVM_GET_MSRS refuses msr 0xdeadbeef") as caught:
        msrs.read("IA32_PAT", 0xDEAD_BEEF)
    assert (caught.value.ioctl, caught.value.msr, caught.value.errno) == ("KVM_GET_MSRS", 0xDEAD_BEEF, 22)
    with pytest.raises(KvmError, match=r"refuses msr IA32_EFER \(0xc0000080\): 0x8000000000000000") as caught:
        msrs.update({"IA32_SYSENTER_CS": 9, "IA32_EFER": 1 << 63, "IA32_SYSENTER_ESP": 9})
    assert caught.value.hint
    assert msrs.read("IA32_SYSENTER_CS", "IA32_SYSENTER_ESP") == {
        "IA32_SYSENTER_CS": 9,
        "IA32_SYSENTER_ESP": 0,
    }


@pytest.mark.parametrize(
    ("which", "value", "error"),
    [
        ("IA32_NONE", 1, KeyError),
        (1 << 32, 1, ValueError),
        (-1, 1, ValueError),
        (0x277, 1 << 64, ValueError),
        (0x277, -1, ValueError),
        (0x277, "1", TypeError),
        (1.5, 1, TypeError),
    ],
)
def test_msr_of_wrong_name_or_value_is_refused(
    boot: Any, which: Any, value: Any, error: type[Exception]
) -> None:
    msrs = boot().vcpus[0].msrs
    with pytest.raises(error):
        msrs.update([("IA32_SYSENTER_CS", 5), (which, value)])
    assert msrs["IA32_SYSENTER_CS"] == 0
    with pytest.raises(TypeError, match="cannot be deleted"):
        del msrs["IA32_PAT"]


@pytest.mark.core
def test_msr_handler_answers_reads_and_takes_writes(boot: Any) -> None:
    m = boot(f"{READS[:-4]} mov ecx, {CLOCK + 1:#x}\n mov edx, 3\n wrmsr\n hlt")
    seen: list[Exit.Msr] = []

    @m.msr("KVM_WALL_CLOCK_NEW", 2)
    def clock(access: Exit.Msr) -> int | None:
        seen.append(access)
        return None if access.is_write else 0x1_0000_0000 + len(seen)

    assert m.run(RUN) == Exit.Halt(0)
    assert seen == [
        Exit.Msr(0, CLOCK, False, 0),
        Exit.Msr(0, CLOCK, False, 0),
        Exit.Msr(0, CLOCK + 1, True, 3 << 32 | 2),
    ]
    assert m.vcpus[0].regs.rbx == 1
    assert m.stats.vcpus[0].hits["python"] == 3
    assert clock(Exit.Msr(0, 0, True, 0)) is None  # the decorator gives the function back


@pytest.mark.parametrize("source", [READS, WRITE])
def test_msr_handler_that_returns_notimplemented_is_a_fault_for_the_guest(boot: Any, source: str) -> None:
    m = with_fault_handler(boot(source))
    m.msr(CLOCK)(lambda access: NotImplemented)
    assert m.run(RUN) == Exit.Halt(0)
    assert faulted(m)


@pytest.mark.parametrize("source", [READS, WRITE])
def test_msr_handler_that_raises_pauses_and_is_a_fault_for_the_guest(boot: Any, source: str) -> None:
    m = with_fault_handler(boot(source))

    @m.msr(CLOCK)
    def broken(access: Exit.Msr) -> int:
        raise LookupError("of mine")

    with pytest.raises(LookupError, match="of mine") as caught:
        m.run(RUN)
    (note,) = caught.value.__notes__
    assert "broken: " in note
    assert f"msr {CLOCK:#x}" in note
    assert note.startswith("msr handler test_")
    assert (m.state, m.errors) == ("paused", [caught.value])
    assert m.run(RUN) == Exit.Halt(0)
    assert faulted(m)


@pytest.mark.parametrize("answer", [None, -1, 1 << 64, "7", 1.0])
def test_msr_handler_that_returns_something_unusable_is_an_error(boot: Any, answer: Any) -> None:
    m = with_fault_handler(boot(READS))
    m.msr(CLOCK)(lambda access: answer)
    with pytest.raises(DeviceError, match="msr handler .*: read returned"):
        m.run(RUN)
    assert m.run(RUN) == Exit.Halt(0)
    assert faulted(m)


def test_msr_handler_stops_the_machine_and_may_not_run_it(boot: Any) -> None:
    m = boot(WRITE)
    refused: list[StateError] = []

    @m.msr(CLOCK)
    def stopper(access: Exit.Msr) -> Stop:
        for verb in (m.run, m.vcpus[0].regs.all, lambda: m.trap_msr(0x10)):
            with pytest.raises(StateError) as caught:
                verb()
            refused.append(caught.value)
        return Stop("enough")

    assert m.run(RUN) == Exit.Stopped(0, "enough")
    assert all("inside a device callback" in error.message for error in refused)
    assert m.run(RUN) == Exit.Halt(0)


def test_trapped_msr_is_an_exit_that_can_be_answered(boot: Any) -> None:
    m = with_fault_handler(boot(READS))
    m.trap_msr(CLOCK)
    first = m.run(RUN)
    assert first == Exit.Msr(0, CLOCK, False, 0)
    assert repr(first) == "Exit.Msr(vcpu=0, index=0x4b564d00, is_write=False, value=0x0)"
    m.answer(first, 0xFFFF_FFFF_0000_0042)
    second = m.run(RUN)
    assert second == first
    with pytest.raises(StateError, match="moved on"):
        m.answer(first, 1)
    assert m.run(RUN) == Exit.Halt(0)
    assert (faulted(m), m.vcpus[0].regs.rbx) == (True, 0x42)


def test_trapped_msr_write_is_dropped_and_takes_no_answer(boot: Any) -> None:
    m = boot(WRITE)
    m.trap_msr(CLOCK)
    exit_ = m.run(RUN)
    assert exit_ == Exit.Msr(0, CLOCK, True, 1 << 32 | 7)
    with pytest.raises(ValueError, match="needs no answer"):
        m.answer(exit_, 1)
    assert m.run(RUN) == Exit.Halt(0)
    assert m.vcpus[0].msrs[CLOCK] == 0


def test_pending_msr_is_completed_before_registers_are_written(boot: Any) -> None:
    m = boot(READS)
    m.trap_msr(CLOCK)
    m.answer(m.run(RUN), 0x99)
    m.vcpus[0].regs.rsi = 5
    assert (m.vcpus[0].regs.rax, m.vcpus[0].regs.rsi) == (0x99, 5)
    m.answer(m.run(RUN), 0)
    assert m.run(RUN) == Exit.Halt(0)
    assert m.vcpus[0].regs.rbx == 0x99


def test_msr_trapped_on_a_paused_machine_is_trapped_from_then_on(boot: Any) -> None:
    m = boot(f"out 0x80, al\n {READS}")
    m.run(RUN)
    m.msr(CLOCK)(lambda access: 0x77)
    assert m.run(RUN) == Exit.Halt(0)
    assert m.vcpus[0].regs.rbx == 0x77


@pytest.mark.parametrize(
    ("first", "count", "error"),
    [(0x800, 1, ValueError), (0x10, 0, ValueError), (0x10, 1 << 32, ValueError), ("IA32_NONE", 1, KeyError)],
)
def test_msr_that_cannot_be_trapped_is_refused(first: Any, count: int, error: type[Exception]) -> None:
    with Machine(memory="1M") as m:
        with pytest.raises(error):
            m.trap_msr(first, count)
        m.trap_msr(0x10, 8)
        with pytest.raises(ValueError, match=r"trapped already by 0x10 \+ 0x8: 0x17 \+ 0x1"):
            m.msr(0x17)(lambda access: 0)


def test_msr_trapped_while_the_machine_runs_or_after_close_is_refused(boot: Any) -> None:
    m = boot("jmp .")
    m.start()
    with pytest.raises(StateError, match="the machine is running"):
        m.trap_msr(0x10)
    m.close()
    with pytest.raises(StateError, match="the machine is closed"):
        m.trap_hypercalls()


def test_machine_whose_msr_handler_refers_to_it_is_collected(boot: Any) -> None:
    m = Machine(memory="1M")
    m.msr(CLOCK)(lambda access, m=m: 0)
    m.msr(0x10)(lambda access, m=m: 0)
    gone = weakref.ref(m)
    with pytest.warns(ResourceWarning):
        del m
        gc.collect()
    assert gone() is None


@pytest.mark.parametrize("exit_", [Exit.Halt(0), None, Exit.Timeout()])
def test_answer_to_something_else_is_a_type_error(boot: Any, exit_: AnyExit) -> None:
    with pytest.raises(TypeError, match="not an access"):
        boot().answer(exit_, 1)


def test_hypercalls_are_trapped_or_the_host_lacks_it() -> None:
    with Machine(memory="1M") as m:
        m.vcpus[0].regs.all()
        try:
            m.trap_hypercalls()
        except KvmUnavailable as error:
            assert error.message == "/dev/kvm lacks KVM_CAP_EXIT_HYPERCALL"  # noqa: PT017
        with pytest.raises(StateError, match="moved on"):
            m.answer(Exit.Hypercall(0, 12, (0,) * 6), -1)


def test_reset_keeps_what_was_changed_of_cpuid_and_what_is_trapped(boot: Any) -> None:
    m = boot(READS)
    m.vcpus[0].cpuid.features.discard("hypervisor")
    m.msr(CLOCK)(lambda access: 0x55)
    for _ in range(2):
        assert m.run(RUN) == Exit.Halt(0)
        assert m.vcpus[0].regs.rbx == 0x55
        m.vcpus[0].msrs["IA32_SYSENTER_CS"] = 8
        m.reset()
        assert "hypervisor" not in m.vcpus[0].cpuid.features
        assert m.vcpus[0].msrs["IA32_SYSENTER_CS"] == 0
    m.vcpus[0].cpuid.features.add("hypervisor")  # the vcpu is a new one
    assert "hypervisor" in m.vcpus[0].cpuid.features
