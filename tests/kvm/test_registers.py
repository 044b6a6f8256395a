"""A vcpu's registers: states that no processor has, vector registers, names and values."""

from __future__ import annotations

import copy
from typing import Any

import pytest

import hyperpy
from hyperpy import (
    Device,
    Exit,
    KvmError,
    Machine,
    RegisterError,
    Segment,
)

RUN = 10.0


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
    # An AMD processor saves `fop` as 0 unless an exception is pending: a host that switched tasks meanwhile lost it.
    after = fpu.all()
    assert after.pop("fop") in (values.pop("fop"), 0)
    assert after == values


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


# -- names and values -------------------------------------------------------------------------------------------------


@pytest.mark.core
@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        ("rxa", 1, AttributeError),
        ("rax", -1, ValueError),
        ("rax", 1 << 64, ValueError),
        ("rax", "1", TypeError),
        ("rax", 1.0, TypeError),
    ],
)
def test_general_register_of_wrong_name_or_value_is_refused_and_none_is_changed(
    boot: Any, name: str, value: Any, error: type[Exception]
) -> None:
    regs = boot().vcpus[0].regs
    with pytest.raises(error):
        regs.update({"rbx": 5, name: value})
    assert regs.rbx == 0
    with pytest.raises(error):
        setattr(regs, name, value)


@pytest.mark.core
@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        ("cr9", 1, AttributeError),
        ("cr3", -1, ValueError),
        ("cs", 8, TypeError),
        ("cs", (1, 2), TypeError),
        ("cs", hyperpy.Segment(selector=1 << 16), ValueError),
        ("gdt", hyperpy.DescriptorTable(0, 1 << 16), ValueError),
        ("efer", None, TypeError),
    ],
)
def test_special_register_of_wrong_name_or_value_is_refused(
    boot: Any, name: str, value: Any, error: type[Exception]
) -> None:
    sregs = boot().vcpus[0].sregs
    before = sregs.all()
    with pytest.raises(error):
        setattr(sregs, name, value)
    assert sregs.all() == before


@pytest.mark.core
def test_registers_set_are_read_back_and_shown(boot: Any) -> None:
    vcpu = boot().vcpus[0]
    vcpu.regs.update(rax=1, r15=2**64 - 1)
    assert (vcpu.regs.rax, vcpu.regs.r15) == (1, 2**64 - 1)
    assert "r15 ffffffffffffffff" in repr(vcpu.regs)
    vcpu.sregs.ds = vcpu.sregs.ds._replace(base=0x20000)
    assert vcpu.sregs.ds.base == 0x20000
    assert "cr0 0x" in repr(vcpu.sregs)
    assert "rax" in dir(vcpu.regs)
    assert "cr0" in dir(vcpu.sregs)
