"""What makes a vcpu's processor: register states that cannot be, vector registers, CPUID, model-specific registers."""

from __future__ import annotations

import copy
import gc
import weakref
from typing import Any

import pytest

from hyperpy import (
    AnyExit,
    Device,
    DeviceError,
    Exit,
    KvmError,
    KvmUnavailable,
    Machine,
    RegisterError,
    Segment,
    StateError,
    Stop,
)
from hyperpy.cpuid import CpuidLeaf

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


# -- states that no processor has --------------------------------------------------------------------------------------


@pytest.mark.fault(25)
@pytest.mark.parametrize(
    ("values", "register", "hint"),
    [
        ({"cr0": 0x8000_0000}, "cr0", "PG .* needs PE"),
        ({"cr0": 0x2000_0010}, "cr0", "NW .* needs CD"),
        ({"cr0": 1 << 40}, "cr0", "reserved"),
        ({"cr4": 1 << 63}, "cr4", "reserved"),
        ({"efer": 0x500}, "efer", "cr0.PG"),
        ({"efer": 2}, "efer", "defined"),
        ({"cr0": 0x8000_0011, "efer": 0x500}, "cr4", "PAE"),
        ({"cr0": 0x8000_0011, "efer": 0x100, "cr4": 0x20}, "efer", "LMA"),
        ({"cr3": 1 << 60}, "cr3", "physical addresses"),
        ({"cr8": 16}, "cr8", "priority"),
        ({"apic_base": 0xFEE0_0400}, "apic_base", "x2APIC"),
        ({"cs": Segment(l=True)}, "cs", "IA-32e"),
        ({"gs": Segment(base=1 << 63)}, "gs", "canonical"),
    ],
    ids=repr,
)
def test_special_registers_that_no_processor_has_are_named(
    boot: Any, values: dict[str, Any], register: str, hint: str
) -> None:
    m = boot()
    before = m.vcpus[0].sregs.all()
    with pytest.raises(RegisterError, match=hint) as caught:
        m.vcpus[0].sregs.update(values)
    assert caught.value.register == register
    assert caught.value.message == f"{register} cannot be set: {caught.value.value:#x}"
    assert m.vcpus[0].sregs.all() == before
    assert m.run(RUN) == Exit.Halt(0)


@pytest.mark.parametrize("which", ["regs", "sregs", "fpu"])
def test_register_file_asked_for_what_it_has_not_leaves_the_vcpus_unmade(which: str) -> None:
    class Port(Device):
        size = 1

    with Machine(memory="1M") as m:
        registers = getattr(m.vcpus[0], which)
        assert not hasattr(registers, "_repr_html_")
        assert not hasattr(registers, "xmm")
        m.attach(Port(), pio=0x80, irq=5)  # too late once there are vcpus without interrupt controllers


@pytest.mark.parametrize(("which", "name"), [("regs", "rbx"), ("sregs", "cr2"), ("fpu", "mxcsr")])
def test_register_file_copied_is_that_of_the_same_vcpu(which: str, name: str) -> None:
    with Machine(memory="1M") as m:
        registers = copy.copy(getattr(m.vcpus[0], which))
        setattr(registers, name, 0x1F81 if which == "fpu" else 7)
        assert getattr(getattr(m.vcpus[0], which), name) == getattr(registers, name)
        with pytest.raises(TypeError, match="pickle"):
            copy.deepcopy(registers)


@pytest.mark.fault(25)
def test_special_registers_that_kvm_alone_refuses_are_named() -> None:
    with Machine(memory="1M") as m:
        m.vcpus[0].cpuid.features.discard("smep")
        sregs = m.vcpus[0].sregs
        before = sregs.all()
        try:
            sregs.cr4 |= 1 << 20  # SMEP, that CPUID does not show
        except KvmError as error:
            assert (error.ioctl, error.errno) == ("KVM_SET_SREGS", 22)  # noqa: PT017
            assert f"cr4 = {1 << 20 | before['cr4']:#x}" in str(error.hint)  # noqa: PT017
            assert sregs.all() == before
        else:
            assert sregs.cr4 == before["cr4"] | 1 << 20  # a KVM that leaves it to the processor


@pytest.mark.fault(25)
@pytest.mark.parametrize(
    "values", [{"rip": 1 << 60}, {"rip": 1 << 47}, {"rflags": 2**64 - 1}, {"rflags": 1 << 5}], ids=repr
)
def test_general_registers_that_no_processor_has_are_named(boot: Any, values: dict[str, int]) -> None:
    m = boot("hlt", "long")
    before = m.vcpus[0].regs.all()
    with pytest.raises(RegisterError) as caught:
        m.vcpus[0].regs.update(values)
    assert {caught.value.register: caught.value.value} == values
    assert m.vcpus[0].regs.all() == before
    assert m.run(RUN) == Exit.Halt(0)


@pytest.mark.fault(25)
def test_cr3_where_no_memory_is_is_named_while_paging_is_on(boot: Any) -> None:
    m = boot("hlt", "long")
    with pytest.raises(RegisterError, match="cr3 cannot be set: 0x70000000, no memory is there") as caught:
        m.vcpus[0].sregs.cr3 = 0x7000_0000
    assert (caught.value.register, caught.value.value) == ("cr3", 0x7000_0000)
    assert m.run(RUN) == Exit.Halt(0)
    with Machine(memory="1M") as off:
        off.vcpus[0].sregs.cr3 = 0x7000_0000  # without paging it leads nowhere
        assert off.vcpus[0].sregs.cr3 == 0x7000_0000


@pytest.mark.fault(24)
@pytest.mark.parametrize("store", ["fstp qword ptr [rbx]", "fist word ptr [rbx]"])
def test_x87_store_to_mmio_is_an_internal_error_with_its_bytes(boot: Any, store: str) -> None:
    """KVM's emulator, which carries out every access to MMIO, has no x87."""
    m = boot(f"mov ebx, 0xfe000000\n {store}\n hlt", "long")
    exit_ = m.run(RUN)
    assert isinstance(exit_, Exit.InternalError)
    assert (exit_.suberror, m.vcpus[0].regs.rip) == (1, 0x1005)
    assert exit_.bytes == b"" or exit_.bytes[0] in {0xDD, 0xDF}
    assert m.state == "paused"


@pytest.mark.fault(24)
def test_vector_store_to_mmio_is_its_parts_or_an_internal_error(boot: Any) -> None:
    m = boot("mov ebx, 0xfe000000\n movups [rbx], xmm1\n hlt", "long")
    m.vcpus[0].sregs.cr4 |= 0x600  # OSFXSR, OSXMMEXCPT
    m.vcpus[0].fpu.xmm1 = 0x1111_1111_1111_1111_2222_2222_2222_2222
    exits = [m.run(RUN), m.run(RUN)]
    match exits[0]:
        case Exit.Mmio():
            values = [(e.address, e.size, e.value) for e in exits if isinstance(e, Exit.Mmio)]
            assert values == [(0xFE00_0000, 8, 0x2222222222222222), (0xFE00_0008, 8, 0x1111111111111111)]
        case Exit.InternalError(suberror=1, bytes=code):
            assert code[:2] in {b"", b"\x0f\x11"}
        case other:
            raise AssertionError(other)


# -- vector registers --------------------------------------------------------------------------------------------------


def test_fpu_registers_set_are_read_back_and_shown(boot: Any) -> None:
    m = boot()
    fpu = m.vcpus[0].fpu
    assert (fpu.fcw, fpu.mxcsr, fpu.xmm0) == (0x37F, 0x1F80, 0)
    fpu.update({"st7": 2**80 - 1, "fsw": 0x3800, "ftw": 0x80, "fop": 0x7FF}, xmm15=2**128 - 1, mxcsr=0x1FA0)
    fpu.fcw = 0x27F
    values = fpu.all()
    assert (values["st7"], values["xmm15"], values["mxcsr"]) == (2**80 - 1, 2**128 - 1, 0x1FA0)
    assert (values["fsw"], values["ftw"], values["fop"], values["fcw"]) == (0x3800, 0x80, 0x7FF, 0x27F)
    assert " xmm15 " + "f" * 32 in repr(fpu)
    assert {"st0", "xmm0"} <= set(dir(fpu))
    assert m.run(RUN) == Exit.Halt(0)
    assert fpu.all() == values


def test_ymm_registers_hold_the_xmm_registers() -> None:
    with Machine(memory="1M") as m:
        fpu = m.vcpus[0].fpu
        if "ymm0" not in fpu.all():
            with pytest.raises(AttributeError, match="ymm0"):
                fpu.ymm0 = 1
            return
        fpu.ymm3 = 7 << 200 | 5
        assert (fpu.xmm3, fpu.ymm3) == (5, 7 << 200 | 5)
        fpu.xmm3 = 6
        assert fpu.ymm3 == 7 << 200 | 6


@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        ("xmm16", 1, AttributeError),
        ("st8", 1, AttributeError),
        ("xmm0", 1 << 128, ValueError),
        ("st0", 1 << 80, ValueError),
        ("fop", 1 << 11, ValueError),
        ("mxcsr", -1, ValueError),
        ("mxcsr", 1 << 31, RegisterError),
        ("xmm0", 1.0, TypeError),
    ],
)
def test_fpu_register_of_wrong_name_or_value_is_refused_and_none_is_changed(
    boot: Any, name: str, value: Any, error: type[Exception]
) -> None:
    fpu = boot().vcpus[0].fpu
    before = fpu.all()
    with pytest.raises(error):
        fpu.update({"xmm1": 5, name: value})
    assert fpu.all() == before


# -- model-specific registers ------------------------------------------------------------------------------------------


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


# -- CPUID -------------------------------------------------------------------------------------------------------------


def test_cpuid_is_a_mapping_that_follows_the_machine() -> None:
    with Machine(memory="1M", vcpus=2) as m:
        first, second = (vcpu.cpuid for vcpu in m.vcpus)
        assert isinstance(first[1], CpuidLeaf)
        assert first[1] == first[1, 0]
        assert (first[1].ebx >> 24, second[1].ebx >> 24) == (0, 1)
        assert (1, 0) in first
        assert len(first) == len(list(first))
        planned = dict(second)
        m.vcpus[0].regs.all()  # now there are vcpus
        made = dict(second)
        assert made.keys() == planned.keys()
        assert made[1, 0].ebx == planned[1, 0].ebx
        assert made[0, 0] == planned[0, 0]
        assert "     1  0 " in repr(first)


@pytest.mark.parametrize("made", [False, True])
def test_cpuid_features_are_a_set_until_the_vcpu_runs(boot: Any, made: bool) -> None:
    m = boot()
    if made:
        m.vcpus[0].regs.all()
    features = m.vcpus[0].cpuid.features
    # Of those that a page-table KVM does not take from the host whatever it was told.
    assert {"fpu", "nx", "hypervisor"} <= set(features)
    features.discard("nx")
    features.discard("nx")
    assert "nx" not in features
    assert "nx" not in set(features)
    features.add("nx")
    features.discard("hypervisor")
    assert m.vcpus[0].cpuid[1].ecx >> 31 == 0
    m.vcpus[0].regs.all()
    assert "nx" in features
    assert "hypervisor" not in features
    assert len(features) == len(list(features))
    assert m.run(RUN) == Exit.Halt(0)
    with pytest.raises(StateError, match="cannot change cpuid: vcpu 0 has run") as caught:
        features.add("hypervisor")
    assert caught.value.hint == "change it before the first run"


def test_cpuid_edited_before_interrupt_controllers_were_asked_for_follows_them() -> None:
    with Machine(memory="1M") as m:
        assert "x2apic" not in m.vcpus[0].cpuid.features
        m.vcpus[0].cpuid.features.discard("hypervisor")
        m.attach_pc()
        with Machine(memory="1M", irqchip=True) as other:
            wanted = other.vcpus[0].cpuid[1]
        assert m.vcpus[0].cpuid[1] == wanted._replace(ecx=wanted.ecx & ~(1 << 31))


def test_cpuid_leaves_are_set_and_deleted() -> None:
    with Machine(memory="1M") as m:
        cpuid = m.vcpus[0].cpuid
        cpuid[0x4000_0100] = (1, 2, 3, 0xFFFF_FFFF)
        cpuid[0x17, 1] = CpuidLeaf(eax=0x10)
        del cpuid[0x8000_0000]
        m.vcpus[0].regs.all()
        assert cpuid[0x4000_0100] == (1, 2, 3, 0xFFFF_FFFF)
        assert cpuid[0x17, 1] == CpuidLeaf(eax=0x10)
        assert 0x8000_0000 not in cpuid
        with pytest.raises(KeyError, match="no such cpuid leaf: 0x80000000, 0x0"):
            cpuid[0x8000_0000]
        with pytest.raises(KeyError):
            del cpuid[0x8000_0000]


@pytest.mark.parametrize(
    ("key", "leaf", "error"),
    [
        (1, (1, 2, 3), TypeError),
        (1, (1 << 32, 0, 0, 0), ValueError),
        (1, (-1, 0, 0, 0), ValueError),
        (1 << 32, (0, 0, 0, 0), ValueError),
        ((1, -1), (0, 0, 0, 0), ValueError),
    ],
)
def test_cpuid_leaf_of_wrong_shape_or_value_is_refused(key: Any, leaf: Any, error: type[Exception]) -> None:
    with Machine(memory="1M") as m:
        before = dict(m.vcpus[0].cpuid)
        with pytest.raises(error):
            m.vcpus[0].cpuid[key] = leaf
        assert dict(m.vcpus[0].cpuid) == before


def test_cpuid_feature_that_is_not_known_is_an_error_with_the_nearest_name() -> None:
    with Machine(memory="1M") as m:
        features = m.vcpus[0].cpuid.features
        for use in (features.add, features.discard, features.__contains__):
            with pytest.raises(
                ValueError, match="no cpu feature is known by that name: sse42\n\nhint: .*sse4_2"
            ):
                use("sse42")


def test_cpuid_of_a_running_or_closed_machine_is_refused(boot: Any) -> None:
    m = boot("jmp .")
    cpuid = m.vcpus[0].cpuid
    m.start()
    with pytest.raises(StateError, match="running"):
        cpuid[1]
    with pytest.raises(StateError, match="running"):
        cpuid.features.add("sse2")
    m.close()
    with pytest.raises(StateError, match="closed"):
        len(cpuid)


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
