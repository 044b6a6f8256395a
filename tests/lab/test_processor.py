"""What a guest sees of its processor on a KVM that runs kernel-mode code as it is: CPUID, vector registers, hypercalls."""

from __future__ import annotations

import pytest
from tests.guests import assemble

from hyperpy import Exit, Flat, Machine
from hyperpy.doctor import flavour

RUN = 30.0


def guest(source: str) -> Flat:
    return Flat(assemble(source, "long"), at=0x1000, mode="long")


def call() -> str:
    """The hypercall instruction of the processor: KVM would write the other one over."""
    return "vmmcall" if flavour() == "amd" else "vmcall"


def test_cpuid_feature_that_was_cleared_is_gone_in_the_guest() -> None:
    source = "mov eax, 1\n cpuid\n mov esi, ecx\n mov eax, 0x40000000\n cpuid\n hlt"
    seen = []
    for hidden in (False, True):
        with Machine(memory="2M") as m:
            if hidden:
                m.vcpus[0].cpuid.features.discard("hypervisor")
                m.vcpus[0].cpuid.features.discard("sse3")
                m.vcpus[0].cpuid[0x4000_0000] = (0x4000_0000, 0x64646464, 2, 3)
            m.load(guest(source))
            assert m.run(RUN) == Exit.Halt(0)
            regs = m.vcpus[0].regs.all()
            seen.append((regs["rsi"] >> 31, regs["rsi"] & 1, regs["rbx"] == 0x64646464, regs["rcx"]))
    assert seen[0][:3] == (1, 1, False)
    assert seen[1] == (0, 0, True, 2)


def test_vector_registers_that_a_script_sets_are_the_guests_and_back() -> None:
    with Machine(memory="2M") as m:
        m.load(guest("movq rax, xmm3\n paddq xmm3, xmm3\n fld st(0)\n fstcw [0x3000]\n hlt"))
        vcpu = m.vcpus[0]
        vcpu.sregs.cr4 |= 0x600  # OSFXSR, OSXMMEXCPT
        one = 0x3FFF_8000000000000000
        vcpu.fpu.update(xmm3=5 << 64 | 7, st0=one, ftw=0x01, fcw=0x27F)
        assert m.run(RUN) == Exit.Halt(0)
        assert (vcpu.regs.rax, vcpu.fpu.xmm3) == (7, 10 << 64 | 14)
        assert (vcpu.fpu.st0, vcpu.fpu.st1) == (one, one)
        assert m.memory.read(0x3000, 2) == b"\x7f\x02"


@pytest.mark.parametrize(("answer", "rax"), [(0, 0), (-22, 2**64 - 22), (None, 2**64 - 1000)])
def test_hypercall_is_an_exit_that_can_be_answered(answer: int | None, rax: int) -> None:
    with Machine(memory="2M") as m:
        m.load(guest(f"mov eax, 12\n mov ebx, 0x100000\n mov ecx, 16\n mov edx, 0x10\n {call()}\n hlt"))
        m.trap_hypercalls()
        exit_ = m.run(RUN)
        assert exit_ == Exit.Hypercall(0, 12, (0x100000, 16, 0x10, 0, 0, 0))
        if answer is not None:
            m.answer(exit_, answer)
        assert m.run(RUN) == Exit.Halt(0)
        assert m.vcpus[0].regs.rax == rax


def test_hypercall_that_is_not_trapped_is_answered_by_kvm() -> None:
    with Machine(memory="2M") as m:
        m.load(guest(f"mov eax, 12\n mov ebx, 0x100000\n mov ecx, 16\n {call()}\n hlt"))
        assert m.run(RUN) == Exit.Halt(0)
        assert m.vcpus[0].regs.rax == 2**64 - 1000
