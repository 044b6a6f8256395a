"""Rows of accesses to ports and memory-mapped registers: by each rung of the dispatch ladder, in strings, in rings, to doorbells.

An access is of one byte. See `_bench_guests` for the loop around it and for the registers that it may change.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

from hyperpy._bench_case import Case, guest
from hyperpy._bench_guests import STRING, Loop
from hyperpy.declare import Register
from hyperpy.device import DebugConsole, DebugExit, Device
from hyperpy.machine import Machine, Unclaimed

__all__ = ["COALESCED", "MMIO", "PORTS", "RETURNED", "STRINGS", "Hooked", "Plain", "cases"]

PORTS, MMIO, STRINGS = "ports", "memory-mapped registers", "strings"
COALESCED, RETURNED = "without an exit: rings and doorbells", "what the script answers: run() returns"
_PORT = 0x80
_GPA = 0xFE00_0000
_PIC_MASK = 0x21  # of the first 8259 (OCW1)
_TASK_PRIORITY = 0xFEE0_0080  # of the local APIC (SDM vol. 3, 11.8.3.1)
_COM1 = 0x3F8
_STRING_LENGTH = 32
# Rates that hyperpy keeps to, of C's.
_OF_RUST, _OF_REGISTER, _OF_COALESCED = 1 / 0.97, 1 / 0.96, 1 / 0.97

Attach: TypeAlias = Callable[[Machine, bool, bool], object]


class Stream(Device):
    """A register whose writes wait in the kernel's ring; each is told to a method."""

    data = Register(0x0, width=1, access="wo", stream=True)

    @data.on_write
    def _data(self, value: int) -> None:
        pass


class Doorbell(Device):
    """A register whose writes signal an ioeventfd."""

    bell = Register(0x0, width=1, access="wo", doorbell=True)

    @bell.on_write
    def _bell(self, value: None) -> None:
        pass


class Plain(Device):
    """The least that methods can do."""

    size = 8

    def read(self, offset: int, size: int, /) -> int:
        return 7

    def write(self, offset: int, size: int, value: int, /) -> None:
        pass


class Declared(Device):
    """A register that Rust serves."""

    value = Register(0x0, width=1)


class Hooked(Device):
    """A register whose accesses a method is told of."""

    value = Register(0x0, width=1)

    @value.on_read
    def _read(self) -> int:
        return 7

    @value.on_write
    def _written(self, value: int) -> None:
        pass


def _put(machine: Machine, device: object, is_pio: bool) -> None:
    machine.attach(device, pio=_PORT if is_pio else None, mmio=None if is_pio else _GPA)


def _policy(machine: Machine, policy: Unclaimed) -> None:
    machine.unclaimed = policy


def _rust(machine: Machine, is_pio: bool, is_write: bool) -> None:
    device: Any = DebugConsole(machine.console) if is_write else DebugExit()
    _put(machine, device, is_pio)


# Who answers an access, by rung of the ladder below the kernel, how a machine gets it, and the target.
_RUNGS: tuple[tuple[str, str, Attach, float | None], ...] = (
    ("rust", "a device in Rust", _rust, _OF_RUST),
    ("register", "a declared register, in Rust", lambda m, pio, _: _put(m, Declared(), pio), _OF_REGISTER),
    ("hook", "an on_{} method of a declared register", lambda m, pio, _: _put(m, Hooked(), pio), None),
    ("python", "a Python device's {}()", lambda m, pio, _: _put(m, Plain(), pio), None),
    ("ones", 'nobody, unclaimed="ones"', lambda m, *_: _policy(m, "ones"), None),
    ("exit", 'the script: run() returns, unclaimed="exit"', lambda m, *_: _policy(m, "exit"), None),
)
# Accesses of one byte: out 0x80, al; in al, 0x80; mov [rbx], al; mov al, [rbx].
_AT = b"\xbb" + _GPA.to_bytes(4, "little")  # mov ebx, _GPA
_OUT, _IN = Loop(b"\xe6\x80"), Loop(b"\xe4\x80")
_STORE, _LOAD = Loop(b"\x88\x03", prologue=_AT), Loop(b"\x8a\x03", prologue=_AT)
_ACCESSES = (
    (PORTS, "pio-out", "write to a port", _OUT, True, True),
    (PORTS, "pio-in", "read of a port", _IN, True, False),
    (MMIO, "mmio-write", "write to mmio", _STORE, False, True),
    (MMIO, "mmio-read", "read of mmio", _LOAD, False, False),
)


def _answered(attach: Attach, is_pio: bool, is_write: bool) -> Callable[[Machine], object]:
    return lambda machine: attach(machine, is_pio, is_write)


def _by_the_kernel() -> dict[str, Case]:
    """The first rung: interrupt controllers. No access of these leaves the kernel."""
    mask = _PIC_MASK.to_bytes(1, "little")
    at = b"\xbb" + _TASK_PRIORITY.to_bytes(4, "little")
    # out 0x21, al; in al, 0x21; mov dword ptr [rbx], 0; mov eax, [rbx]
    store, load = bytes.fromhex("c70300000000"), b"\x8b\x03"
    of_pic, of_apic = "the kernel's 8259: its mask", "the kernel's local APIC: its task priority"
    return {
        access: guest(group, f"{access}-kernel", f"{what}, answered by {who}", loop)
        for group, access, what, who, loop in (
            (PORTS, "pio-out", "write to a port", of_pic, Loop(b"\xe6" + mask, irqchip=True)),
            (PORTS, "pio-in", "read of a port", of_pic, Loop(b"\xe4" + mask, irqchip=True)),
            (MMIO, "mmio-write", "write to mmio", of_apic, Loop(store, prologue=at, irqchip=True)),
            (MMIO, "mmio-read", "read of mmio", of_apic, Loop(load, prologue=at, irqchip=True)),
        )
    }


def _accesses() -> list[Case]:
    first, cases = _by_the_kernel(), []
    for group, access, what, loop, is_pio, is_write in _ACCESSES:
        cases.append(first[access])
        for rung, who, attach, target in _RUNGS:
            title = f"{what}, answered by {who.format('write' if is_write else 'read')}"
            answered = _answered(attach, is_pio, is_write)
            shown = RETURNED if rung == "exit" else group
            cases.append(guest(shown, f"{access}-{rung}", title, loop, answered, target=target))
    return cases


def _strings() -> list[Case]:
    # mov esi (edi), STRING; mov ecx, 32; mov edx, 0x80; rep outsb (insb)
    begin = STRING.to_bytes(4, "little") + bytes.fromhex("b920000000 ba80000000 f3")
    out, in_ = Loop(b"\xbe" + begin + b"\x6e"), Loop(b"\xbf" + begin + b"\x6c")
    long = f"of {_STRING_LENGTH} bytes"
    rungs = {rung: (who, attach) for rung, who, attach, _ in _RUNGS}
    cases = []
    for rung in ("rust", "register", "python"):
        who, attach = rungs[rung]
        for name, what, loop, is_write in (
            ("string-out", "rep outsb", out, True),
            ("string-in", "rep insb", in_, False),
        ):
            title = f"{what} {long}, answered by {who.format('write' if is_write else 'read')}"
            cases.append(guest(STRINGS, f"{name}-{rung}", title, loop, _answered(attach, True, is_write)))
    return cases


def _coalesced() -> list[Case]:
    ring = Loop(b"\xba" + _COM1.to_bytes(4, "little") + b"\xee", irqchip=True)  # mov edx, COM1; out dx, al
    bell = Loop(b"\xc6\x03\x01", prologue=_AT)  # mov byte ptr [rbx], 1
    return [
        guest(
            COALESCED,
            "pio-out-ring",
            "write to COM1, which waits in the kernel's ring",
            ring,
            lambda m: m.attach_pc(),
            lambda f: f.tell("ring", True, _COM1, 1),
            _OF_COALESCED,
        ),
        guest(
            COALESCED,
            "mmio-write-ring",
            "write to mmio that waits in the kernel's ring",
            _STORE,
            lambda m: _put(m, Stream(), False),
            lambda f: f.tell("ring", False, _GPA, 8),
            _OF_COALESCED,
        ),
        guest(
            COALESCED,
            "pio-out-doorbell",
            "write to a port that signals an ioeventfd, which a thread reads",
            _OUT,
            lambda m: _put(m, Doorbell(), True),
            lambda f: f.tell("ioeventfd", True, _PORT, 1),
            _OF_COALESCED,
            alone=False,
        ),
        guest(
            COALESCED,
            "mmio-write-doorbell",
            "write to mmio that signals an ioeventfd, which a thread reads",
            bell,
            lambda m: _put(m, Doorbell(), False),
            lambda f: f.tell("ioeventfd", False, _GPA, 1),
            _OF_COALESCED,
            alone=False,
        ),
    ]


def cases() -> list[Case]:
    """Rows of what a guest does on its buses."""
    return [*_accesses(), *_strings(), *_coalesced()]
