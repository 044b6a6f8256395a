"""Rows of what a guest does that is no access to a bus: HLT, CPUID, MSRs, hypercalls, interrupts."""

from __future__ import annotations

from hyperpy._bench_buses import RETURNED
from hyperpy._bench_case import Case, guest
from hyperpy._bench_floor import BenchError, Floor
from hyperpy._bench_guests import INTERRUPTS, INTERRUPTS_ON, VECTOR, Loop
from hyperpy._bench_verbs import GSI, MESSAGE
from hyperpy.device import Device
from hyperpy.doctor import flavour
from hyperpy.exits import Exit
from hyperpy.irq import Msi
from hyperpy.machine import Machine

__all__ = ["INSTRUCTIONS", "INTERRUPT", "cases"]

INSTRUCTIONS, INTERRUPT = "instructions", "interrupts"
_PORT = 0x80
_MSR = 0x4054_0000
_ECX = b"\xb9" + _MSR.to_bytes(4, "little")  # mov ecx, _MSR
_INTERRUPTED = bytes.fromhex("4585e4 74fb")  # 1: test r12d, r12d; jz 1b


class _Raising(Device):
    """Raises its line at each write."""

    size = 1

    def write(self, offset: int, size: int, value: int, /) -> None:
        self.irq.pulse()


def _raising(machine: Machine) -> None:
    machine.route(GSI, Msi(MESSAGE, VECTOR))
    machine.attach(_Raising(), pio=_PORT, irq=GSI)


def _raised(floor: Floor) -> None:
    floor.tell("message", GSI, MESSAGE, VECTOR)
    floor.tell("raise_at_access", GSI)


def _trapped_msr(floor: Floor) -> None:
    floor.tell("trap_msr", _MSR)


def _answering_msr(machine: Machine) -> None:
    @machine.msr(_MSR)
    def answer(access: Exit.Msr) -> int | None:
        return None if access.is_write else 7


def _unknown_call() -> Loop:
    return Loop(b"\xb8\xff\x7f\x00\x00" + _vmcall())  # mov eax, 0x7fff: a number that nobody knows


def _call_of_the_user() -> Loop:
    # mov eax, 12 (KVM_HC_MAP_GPA_RANGE); mov ebx, 0x1000; mov ecx, 1 (page); xor edx, edx
    return Loop(bytes.fromhex("b80c000000 bb00100000 b901000000 31d2") + _vmcall())


def _vmcall() -> bytes:
    """The instruction of this processor's maker: KVM would write the other one over in the guest's code."""
    if flavour() == "page-table":
        raise BenchError(
            "this KVM interprets kernel-mode code, in which no hypercall ends",
            hint="`hyperpy lab -- hyperpy bench` has a KVM that runs it",
        )
    return bytes.fromhex("0f01d9" if flavour() == "amd" else "0f01c1")


def _instructions() -> list[Case]:
    read_msr, write_msr = Loop(_ECX + b"\x0f\x32"), Loop(_ECX + b"\x0f\x30")
    rows = (
        ("clock", "nothing: what each guest's row has in it for reading the clock", Loop(b""), None, None),
        ("hlt", "HLT without interrupt controllers: run() returns", Loop(b"\xf4"), None, None),
        ("cpuid", "CPUID, answered by the kernel", Loop(bytes.fromhex("31c0 31c9 0fa2")), None, None),
        (
            "msr-read-kernel",
            "RDMSR of IA32_APIC_BASE, answered by the kernel",
            Loop(bytes.fromhex("b91b000000 0f32")),
            None,
            None,
        ),
        ("msr-read-python", "RDMSR answered by a function", read_msr, _answering_msr, _trapped_msr),
        ("msr-write-python", "WRMSR given to a function", write_msr, _answering_msr, _trapped_msr),
        (
            "msr-read-exit",
            "RDMSR answered by the script: run() returns",
            read_msr,
            lambda m: m.trap_msr(_MSR),
            _trapped_msr,
        ),
        (
            "msr-write-exit",
            "WRMSR seen by the script: run() returns",
            write_msr,
            lambda m: m.trap_msr(_MSR),
            _trapped_msr,
        ),
        (
            "hypercall-kernel",
            "hypercall of a number that the kernel does not know",
            _unknown_call,
            None,
            None,
        ),
        (
            "hypercall-exit",
            "hypercall 12 answered by the script: run() returns",
            _call_of_the_user,
            lambda m: m.trap_hypercalls(),
            lambda f: f.tell("trap_hypercalls"),
        ),
    )
    returned = ("hlt", "msr-read-exit", "msr-write-exit", "hypercall-exit")
    return [guest(RETURNED if row[0] in returned else INSTRUCTIONS, *row) for row in rows]


def _interrupts() -> list[Case]:
    # xor r12d, r12d; out 0x80, al
    raised = Loop(
        bytes.fromhex("4531e4 e680") + _INTERRUPTED, prologue=INTERRUPTS_ON, data=INTERRUPTS, irqchip=True
    )
    # xor r12d, r12d; mov eax, 0xfee00300 (interrupt command); mov dword ptr [rax], self | assert | VECTOR
    to_self = Loop(
        bytes.fromhex("4531e4 b80003e0fe c70040400400") + _INTERRUPTED,
        prologue=INTERRUPTS_ON,
        data=INTERRUPTS,
        irqchip=True,
    )
    return [
        guest(
            INTERRUPT,
            "irq-inject",
            "write to a device that raises its line; until the guest's handler has returned",
            raised,
            _raising,
            _raised,
        ),
        guest(
            INTERRUPT,
            "self-ipi",
            "message to the own local APIC; until the handler has returned",
            to_self,
        ),
    ]


def cases() -> list[Case]:
    """Rows of a guest's instructions, the clock's first, and of its interrupts."""
    return [*_instructions(), *_interrupts()]
