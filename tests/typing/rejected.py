"""What a type checker must refuse: each line is an error of the kind that its comment names, or mypy says it is unused."""

from __future__ import annotations

from hyperpy import Device, Exit, Flat, Machine


def wrong_arguments(machine: Machine) -> None:
    """Positional options, wrong kinds of values, verbs of other things."""
    Machine("64M")  # type: ignore[call-arg]
    Machine(memory=1.5)  # type: ignore[arg-type]
    Machine(unclaimed="one")  # type: ignore[arg-type]
    machine.attach(Device(), 0x80)  # type: ignore[call-arg]
    machine.attach(Device(), pio="0x80")  # type: ignore[arg-type]
    machine.load(b"\xf4")  # type: ignore[arg-type]
    machine.load(Flat(b"\xf4", mode="virtual"))  # type: ignore[arg-type]
    machine.answer(Exit.Halt(0), 1)  # type: ignore[arg-type]
    machine.msr(0x10)(lambda: 0)  # type: ignore[type-var]
    machine.vcpus[0].cpuid.features.add(1)  # type: ignore[arg-type]
    machine.console.expect(5)  # type: ignore[call-overload]
    machine.memory.write(0, "text")  # type: ignore[arg-type]
    machine.memory[0]  # type: ignore[index]


def wrong_uses(exit_: Exit.Pio) -> None:
    """Exits do not change, and have the fields of their kind."""
    exit_.value = 1  # type: ignore[misc]
    exit_.reason  # type: ignore[attr-defined]  # noqa: B018


class Deaf(Device):
    """Arguments of a device's methods are those of `Device`."""

    def read(self, offset: int) -> int:  # type: ignore[override]
        """Leave out the size."""
        return offset
