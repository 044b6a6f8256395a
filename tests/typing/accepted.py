"""What a type checker must accept: an exhaustive match on exits, and `attach` that keeps the device's type."""

from __future__ import annotations

from typing import assert_never, assert_type

from hyperpy import AnyExit, Device, Exit, Machine


class Bell(Device):
    """A device of our own."""

    size = 4


def name_from_exit(exit_: AnyExit) -> str:
    """Handle every exit there is: a new one would be an error here."""
    match exit_:
        case Exit.Halt() | Exit.Shutdown() | Exit.Timeout() | Exit.Debug() | Exit.Hypercall() | Exit.Msr():
            return "plain"
        case Exit.Mmio(address=address) | Exit.Pio(address=address):
            return hex(address)
        case Exit.SystemEvent(kind=kind):
            return kind
        case Exit.Stopped(reason=reason):
            return reason
        case Exit.FailEntry() | Exit.InternalError():
            return "error"
        case _:
            assert_never(exit_)


def bell_from_machine(machine: Machine) -> Bell:
    """Attach gives back what it took."""
    assert_type(machine.attach(Bell(), pio=0x80), Bell)
    return machine.attach(Bell(), mmio=0xFE00_0000)
