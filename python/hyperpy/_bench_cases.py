"""What `hyperpy bench` measures: a row for each kind of exit and verb, each done by hyperpy and by C.

A row that is a guest's operation is a few lines: its bytes, and what hyperpy attaches. See `_bench_guests` for the loop
around it and for the registers that it may change.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from hyperpy._bench_floor import BenchError, Floor
from hyperpy._bench_guests import (
    COUNT,
    INTERRUPTS,
    INTERRUPTS_ON,
    STRING,
    VECTOR,
    FloorGuest,
    Guest,
    Loop,
    Side,
)
from hyperpy._bench_verbs import (
    GSI,
    MESSAGE,
    Attach,
    Call,
    FloorLife,
    FloorMaps,
    FloorThread,
    Kick,
    Life,
    Maps,
    Wake,
    kicked,
    woken,
)
from hyperpy.declare import Register
from hyperpy.device import DebugConsole, DebugExit, Device
from hyperpy.doctor import flavour
from hyperpy.exits import Exit
from hyperpy.irq import Msi
from hyperpy.machine import Machine, Unclaimed

__all__ = ["CASES", "Case"]

_PORT = 0x80
_GPA = 0xFE00_0000


@dataclass(frozen=True, slots=True)
class Case:
    """One row: how each side is opened, or why there is none.

    `alone` says that all is done by one thread, which then stays on one processor; `most` bounds operations in a round.
    """

    name: str
    title: str
    hyperpy: Callable[[], Side] | str
    floor: Callable[[], Side] | str
    alone: bool = True
    most: int = 1000


class _Plain(Device):
    """The least that methods can do."""

    size = 8

    def read(self, offset: int, size: int, /) -> int:
        return 7

    def write(self, offset: int, size: int, value: int, /) -> None:
        pass


def _guest(
    name: str,
    title: str,
    loop: Loop | Callable[[], Loop],
    attach: Callable[[Machine], object] | str | None = None,
    prepare: Callable[[Floor], object] | str | None = None,
    most: int = 1000,
    *,
    alone: bool = True,
) -> Case:
    """A row of a guest's operation. A text in place of `attach` or `prepare` says why that side has none.

    A function in place of the loop is called when it is measured: its bytes depend on the host.
    """

    def made() -> Loop:
        return loop if isinstance(loop, Loop) else loop()

    return Case(
        name,
        title,
        attach if isinstance(attach, str) else lambda: Guest(made(), attach),
        prepare if isinstance(prepare, str) else lambda: FloorGuest(made(), prepare),
        alone=alone,
        most=most,
    )


# Accesses of one byte: out 0x80, al; in al, 0x80; mov [rbx], al; mov al, [rbx].
_AT = b"\xbb" + _GPA.to_bytes(4, "little")
_OUT, _IN = Loop(b"\xe6\x80"), Loop(b"\xe4\x80")
_STORE, _LOAD = Loop(b"\x88\x03", prologue=_AT), Loop(b"\x8a\x03", prologue=_AT)


def _put(machine: Machine, device: object, is_pio: bool) -> None:
    machine.attach(device, pio=_PORT if is_pio else None, mmio=None if is_pio else _GPA)


def _policy(machine: Machine, policy: Unclaimed) -> None:
    machine.unclaimed = policy


# Who answers an access, by rung of the dispatch ladder, and how a machine gets it: on ports or in mmio, for writes or reads.
_RUNGS: tuple[tuple[str, str, Callable[[Machine, bool, bool], object]], ...] = (
    (
        "rust",
        "a device in Rust",
        lambda m, is_pio, is_write: _put(m, DebugConsole(m.console) if is_write else DebugExit(), is_pio),
    ),
    ("python", "a method of a Python device", lambda m, is_pio, _: _put(m, _Plain(), is_pio)),
    ("ones", 'nobody, unclaimed="ones"', lambda m, *_: _policy(m, "ones")),
    ("exit", 'the script: run() returns, unclaimed="exit"', lambda m, *_: _policy(m, "exit")),
)
_RUST = _RUNGS[0][2]
_ACCESSES = (
    ("pio-out", "write to a port", _OUT, True, True),
    ("pio-in", "read of a port", _IN, True, False),
    ("mmio-write", "write to mmio", _STORE, False, True),
    ("mmio-read", "read of mmio", _LOAD, False, False),
)


def _answered(
    attach: Callable[[Machine, bool, bool], object], is_pio: bool, is_write: bool
) -> Callable[[Machine], object]:
    return lambda machine: attach(machine, is_pio, is_write)


# What is no access to a bus, or one that the kernel takes. Registers that an operation may change: see _bench_guests.
_MSR = 0x4054_0000
_ECX = b"\xb9" + _MSR.to_bytes(4, "little")  # mov ecx, _MSR
# mov esi (edi), STRING; mov ecx, 32; mov edx, 0x80; rep outsb (insb)
_STRING_LENGTH = 32
_TO_STRING = STRING.to_bytes(4, "little") + bytes.fromhex("b920000000 ba80000000 f3")
_COM1 = 0x3F8
_INTERRUPTED = bytes.fromhex("4585e4 74fb")  # 1: test r12d, r12d; jz 1b


class _Stream(Device):
    """A register whose writes wait in the kernel's ring; each is told to a method."""

    data = Register(0x0, width=1, access="wo", stream=True)

    @data.on_write
    def _data(self, value: int) -> None:
        pass


class _Bell(Device):
    """A doorbell."""

    bell = Register(0x0, width=1, access="wo", doorbell=True)

    @bell.on_write
    def _bell(self, value: None) -> None:
        pass


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


def _message(floor: Floor) -> None:
    floor.tell("message", GSI, MESSAGE, VECTOR)


def _event(floor: Floor) -> None:
    _message(floor)
    floor.tell("irqfd", GSI)


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


def _special_cases() -> list[Case]:
    doorbell = b"\xc6\x03\x01"  # mov byte ptr [rbx], 1
    ring = Loop(b"\xba" + _COM1.to_bytes(4, "little") + b"\xee", irqchip=True)  # mov edx, COM1; out dx, al
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
    read_msr, write_msr = Loop(_ECX + b"\x0f\x32"), Loop(_ECX + b"\x0f\x30")
    string_out, string_in = Loop(b"\xbe" + _TO_STRING + b"\x6e"), Loop(b"\xbf" + _TO_STRING + b"\x6c")
    return [
        _guest(
            "pio-out-ring",
            "write to COM1, which waits in the kernel's ring",
            ring,
            lambda m: m.attach_pc(),
            lambda f: f.tell("ring", True, _COM1, 1),
        ),
        _guest(
            "mmio-write-ring",
            "write to mmio that waits in the kernel's ring",
            _STORE,
            lambda m: _put(m, _Stream(), False),
            lambda f: f.tell("ring", False, _GPA, 8),
        ),
        _guest(
            "pio-out-doorbell",
            "write to a port that signals an ioeventfd, which a thread reads",
            _OUT,
            lambda m: _put(m, _Bell(), True),
            lambda f: f.tell("ioeventfd", True, _PORT, 1),
            alone=False,
        ),
        _guest(
            "mmio-write-doorbell",
            "write to mmio that signals an ioeventfd, which a thread reads",
            Loop(doorbell, prologue=_AT),
            lambda m: _put(m, _Bell(), False),
            lambda f: f.tell("ioeventfd", False, _GPA, 1),
            alone=False,
        ),
        _guest(
            "string-out",
            f"rep outsb of {_STRING_LENGTH} bytes to a device in Rust",
            string_out,
            _answered(_RUST, True, True),
        ),
        _guest(
            "string-in",
            f"rep insb of {_STRING_LENGTH} bytes from a device in Rust",
            string_in,
            _answered(_RUST, True, False),
        ),
        _guest("hlt", "HLT without interrupt controllers: run() returns", Loop(b"\xf4")),
        _guest("cpuid", "CPUID, answered by the kernel", Loop(bytes.fromhex("31c0 31c9 0fa2"))),
        _guest(
            "msr-read-kernel",
            "RDMSR of IA32_APIC_BASE, answered by the kernel",
            Loop(bytes.fromhex("b91b000000 0f32")),
        ),
        _guest("msr-read-python", "RDMSR answered by a function", read_msr, _answering_msr, _trapped_msr),
        _guest("msr-write-python", "WRMSR given to a function", write_msr, _answering_msr, _trapped_msr),
        _guest(
            "msr-read-exit",
            "RDMSR answered by the script: run() returns",
            read_msr,
            lambda m: m.trap_msr(_MSR),
            _trapped_msr,
        ),
        _guest("hypercall-kernel", "hypercall of a number that the kernel does not know", _unknown_call),
        _guest(
            "hypercall-exit",
            "hypercall 12 answered by the script: run() returns",
            _call_of_the_user,
            lambda m: m.trap_hypercalls(),
            lambda f: f.tell("trap_hypercalls"),
        ),
        _guest(
            "irq-inject",
            "write to a device that raises its line; until the guest's handler has returned",
            raised,
            _raising,
            _raised,
        ),
        _guest("self-ipi", "message to the own local APIC; until the handler has returned", to_self),
    ]


def _trapped_msr(floor: Floor) -> None:
    floor.tell("trap_msr", _MSR)


def _verb_cases() -> list[Case]:
    def thread(name: str, title: str, hyperpy: Callable[[], Side] | str, floor: Callable[[], Side]) -> Case:
        return Case(name, title, hyperpy, floor, alone=False, most=40)

    nothing_like_it = "nothing in C is like it"
    return [
        thread(
            "irq-wake",
            "line raised while the guest sleeps; until its handler's access is out",
            lambda: Wake(by_pulse=False),
            lambda: FloorThread(woken, "wakes", GSI, _message),
        ),
        thread(
            "irqfd-wake",
            "the same by an irqfd",
            lambda: Wake(by_pulse=True),
            lambda: FloorThread(woken, "wakes", GSI, _event),
        ),
        thread(
            "kick",
            "pause() of a guest that computes; until it stands",
            Kick,
            lambda: FloorThread(kicked, "kicks", COUNT),
        ),
        Case(
            "create-close",
            "machine made, loaded, run to its first exit, closed",
            lambda: Life(irqchip=False),
            lambda: FloorLife(irqchip=False),
            most=100,
        ),
        Case(
            "create-close-irqchip",
            "the same with interrupt controllers and a PIT",
            lambda: Life(irqchip=True),
            lambda: FloorLife(irqchip=True),
            most=100,
        ),
        Case("map-change", "2 MiB of memory added and removed", Maps, FloorMaps, most=200),
        Case("attach-detach", "Python device attached and detached", Attach, nothing_like_it, most=200),
        Case(
            "python-call",
            "call of a Python device's read() without KVM, mean of 1,000",
            lambda: Call(_Plain()),
            nothing_like_it,
            most=50,
        ),
    ]


def _cases() -> list[Case]:
    cases = [_guest("clock", "nothing: what each guest's row has in it for reading the clock", Loop(b""))]
    for rung, who, attach in _RUNGS:
        for access, what, loop, is_pio, is_write in _ACCESSES:
            title = f"{what}, answered by {who}"
            cases.append(_guest(f"{access}-{rung}", title, loop, _answered(attach, is_pio, is_write)))
    return [*cases, *_special_cases(), *_verb_cases()]


CASES: dict[str, Case] = {case.name: case for case in _cases()}
