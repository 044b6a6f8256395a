"""What a type checker must accept: an exhaustive match on exits, and `attach` that keeps the device's type."""

from __future__ import annotations

from collections.abc import Iterator
from typing import assert_never, assert_type

from hypothesis.strategies import SearchStrategy

from hyperpy import AnyExit, Device, Exit, Machine
from hyperpy.testing import (
    Access,
    DeviceBench,
    DeviceMachine,
    Divergence,
    Recording,
    Step,
    accesses,
    record,
    replay,
    sequences,
    state_machine,
)
from hyperpy.trace import Trace, TraceEntry


class Bell(Device):
    """A device of our own."""

    size = 4


class Copier(Device):
    """What is lent to a device has no None in its type: a method runs while it is attached."""

    size, dma = 4, True

    def write(self, offset: int, size: int, value: int, /) -> None:
        """Use all that there is."""
        assert_type(self.memory.read(value, 4), bytes)
        assert_type(self.clock.now, int)
        self.irq.pulse()


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


def answered(machine: Machine, exit_: Exit.Mmio | Exit.Pio | Exit.Msr | Exit.Hypercall) -> None:
    """Exits that wait for an answer take one; a handler of registers keeps its type."""
    machine.answer(exit_, 1)

    @machine.msr("IA32_TSC_AUX", count=1)
    def handler(access: Exit.Msr) -> int | None:
        return None if access.is_write else 7

    assert_type(handler(Exit.Msr(0, 1, False, 0)), int | None)


def processor(machine: Machine) -> int:
    """Registers are numbers, leaves of CPUID are numbers by name."""
    vcpu = machine.vcpus[0]
    assert_type(vcpu.fpu.xmm0, int)
    assert_type(vcpu.msrs.read("IA32_PAT", "IA32_EFER"), dict[str, int])
    vcpu.cpuid.features.discard("avx2")
    return vcpu.msrs[0x10] + vcpu.cpuid[1].eax


def seen(machine: Machine, bell: Bell) -> float:
    """A trace is a list of entries, or goes on; what a device costs is a row for each register."""
    assert_type(machine.trace()[0], TraceEntry)
    assert_type(machine.trace()[1:], Trace)
    assert_type(machine.trace(follow=True), Iterator[TraceEntry])
    assert_type([use.register for use in bell.explain()], list[str])
    return bell.explain()["(read, write)"].mean_ns or 0.0


def bell_from_machine(machine: Machine) -> Bell:
    """Attach gives back what it took."""
    assert_type(machine.attach(Bell(), pio=0x80), Bell)
    return machine.attach(Bell(), mmio=0xFE00_0000)


def tested(bell: Bell) -> Divergence | None:
    """What tests of devices are made of keeps the device's type, and says what is drawn."""
    bench = DeviceBench(bell)
    assert_type(bench.device, Bell)
    assert_type(accesses(bell), SearchStrategy[Access])
    assert_type(sequences(Bell, "hostile"), SearchStrategy[list[Access | Step]])
    machine = state_machine(Bell)
    assert_type(machine, type[DeviceMachine[Bell]])
    state_machine(Bell, invariants=[lambda bench: bench.device.size == 4])
    with record(bell) as recording:
        bench.play([Access(0x0, 4), Step(5)])
    assert_type(recording, Recording)
    return replay(recording, Bell())
