"""What a guest was doing when it stopped, put together as a `GuestFault`.

Whatever cannot be seen (the machine runs, it is closed, this is inside a device) is left out, and the fault says so: an
account of one error must not become another.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from hyperpy import _hyperpy
from hyperpy.disassembly import disassemble
from hyperpy.errors import GuestFault
from hyperpy.exits import AnyExit, Exit

if TYPE_CHECKING:
    from hyperpy.disassembly import Instruction

__all__ = ["fill", "make"]

_POWER_ON_RIP = 0xFFF0
_CODE = 48  # bytes that are read at rip
_SHOWN = 5  # instructions that are kept of them
_PAGE = 4096


def make(machine: Any, exit_: AnyExit) -> GuestFault:
    """A fault for an exit of a machine."""
    what, hint = _words(exit_)
    fault = GuestFault(what, exit=exit_, hint=hint)
    fill(machine, fault)
    return fault


def _words(exit_: AnyExit) -> tuple[str, str]:
    """What happened, and what to do."""
    match exit_:
        case Exit.InternalError(suberror=1, bytes=code):
            what = f"KVM cannot interpret the instruction {code.hex(' ') or 'there'}"
            return what, "`hyperpy doctor` tells about this host's KVM"
        case Exit.Shutdown():
            return (
                "triple fault: an exception, and nothing to handle it",
                "the code shows what the guest was about to do; step() or a breakpoint before it shows how it came there",
            )
        case Exit.Halt():
            return "every vcpu has halted with interrupts off", "look at what the guest did before"
        case Exit.FailEntry(reason=reason):
            what = f"the processor refuses the guest's state: {reason:#x}"
            return what, "Intel SDM vol. 3, 28.3 lists what it checks"
        case Exit.Mmio() | Exit.Pio():
            return (
                f"nobody claims {exit_!r}",
                "attach a device there, or make the machine with unclaimed='ones'",
            )
        case Exit.Debug():
            return f"guest stopped for {exit_!r}", "run() goes on from there"
        case Exit.Timeout():
            return "guest did not end in time", "run() goes on from there"
        case _:
            return f"guest ended with {exit_!r}", "the guest's last output tells more"


def fill(machine: Any, fault: GuestFault) -> None:
    """Put what can be seen of the guest into a fault. Never raises."""
    vcpu = fault.vcpu
    with contextlib.suppress(Exception):
        fault.trace = machine.trace() if machine._traced else []
    try:
        fault.regs = machine.vcpus[vcpu].regs.all()
    except Exception as error:
        fault.unseen = getattr(error, "message", "") or str(error)
        return
    # On AMD, KVM puts a vcpu that shuts down into its power-on state (svm.c, shutdown_interception).
    fault.is_reset = isinstance(fault.exit, Exit.Shutdown) and fault.regs["rip"] == _POWER_ON_RIP
    if fault.is_reset:
        return
    with contextlib.suppress(Exception):
        address, bits = _hyperpy.code_at(machine._native, vcpu)
        fault.walk = machine.memory.walk(address, vcpu=vcpu)
        fault.code = _code(machine, vcpu, address, bits)
    with contextlib.suppress(Exception):
        if isinstance(fault.exit, Exit.Shutdown | Exit.InternalError):
            cr2 = machine.vcpus[vcpu].sregs.cr2
            fault.cr2_walk = machine.memory.walk(cr2, vcpu=vcpu) if cr2 else None


def _code(machine: Any, vcpu: int, address: int, bits: int) -> list[Instruction]:
    code = b"".join(_mapped(machine, vcpu, address))
    return disassemble(code, address=address, bits=bits)[:_SHOWN] if code else []


def _mapped(machine: Any, vcpu: int, address: int) -> Iterator[bytes]:
    """The bytes there, page by page, as far as they are mapped."""
    end = address + _CODE
    while address < end:
        length = min(end, (address | _PAGE - 1) + 1) - address
        try:
            yield machine.memory.read(machine.memory.translate(address, vcpu=vcpu), length)
        except Exception:  # the end of what is mapped
            return
        address += length
