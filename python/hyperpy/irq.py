"""Where interrupts lead: targets of a gsi as small values, and the verbs of `Machine` that are about them.

A device raises a gsi; the table says which inputs of the in-kernel interrupt controllers that is, or which message is
sent (kernel: virt/kvm/api.rst, KVM_SET_GSI_ROUTING). The table itself and its checks are in the core (`irq.rs`).
"""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING, Any, TypeAlias

from hyperpy import _hyperpy
from hyperpy._value import Value
from hyperpy.stats import IrqRow

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["IoApicPin", "Msi", "PicInput", "Target"]

_U32, _U64 = 1 << 32, 1 << 64
_PIT_GSI = 0


class IoApicPin(Value):
    """A pin of the I/O APIC, 0 to 23."""

    pin: int

    def __str__(self) -> str:
        return f"I/O APIC pin {self.pin}"


class PicInput(Value):
    """An input of the two 8259 interrupt controllers, 0 to 15."""

    input: int

    def __str__(self) -> str:
        return f"8259 input {self.input}"


class Msi(Value):
    """A message to a local APIC, sent at each rising edge (SDM vol. 3, 11.11).

    Arguments:
        address: 0xfee00000 and in bits 12 to 19 the APIC id.
        data: the vector, from 0x10; delivery mode from bit 8, level in bit 14, trigger mode in bit 15.
    """

    address: int
    data: int

    def __str__(self) -> str:
        return f"message {self.data:#x} to {self.address:#x}"


Target: TypeAlias = IoApicPin | PicInput | Msi


class Routing:
    """What `Machine` has of interrupt routes."""

    _native: _hyperpy.Machine
    _attached: dict[tuple[bool, int], tuple[object, dict[str, Any]]]

    def route(self, gsi: int, *targets: Target) -> None:
        """Lead a gsi to these targets and to no others; with none it leads nowhere.

        A machine starts with gsi n on pin n of the I/O APIC and, below 16, on input n of the 8259s. Devices can be
        attached with `irq=` to any gsi that leads somewhere. Asks for interrupt controllers. Works in every state but
        closed; a guest that runs gets the next interrupt by the new way.

        Arguments:
            gsi: 0 to 4095.
            targets: one `Msi`; or at most one `IoApicPin` and one `PicInput` of each 8259.

        Raises:
            ValueError: there is no such gsi or target, or they exclude each other. Nothing is changed then.
            TypeError: it is no target.
            StateError: the vcpus exist already without interrupt controllers; or this is inside a device.

        Example:
            >>> import hyperpy
            >>> with hyperpy.Machine(memory="1M") as m:
            ...     m.route(24, hyperpy.Msi(0xFEE0_0000, 0x40))
            ...     m.route(5, hyperpy.IoApicPin(11))
            ...     print(m.routes[5], m.routes[24][0])
            (IoApicPin(pin=11),) message 0x40 to 0xfee00000
        """
        if not 0 <= operator.index(gsi) < _U32:
            raise ValueError(f"no such gsi: {gsi}\n\nhint: gsi 0 to 4095")
        _hyperpy.route(self._native, gsi, [fields(target) for target in targets])

    @property
    def routes(self) -> dict[int, tuple[Target, ...]]:
        """Every gsi that leads somewhere, and where."""
        found: dict[int, tuple[Target, ...]] = {}
        for gsi, kind, value, data in sorted(_hyperpy.routes(self._native)):
            target = (
                Msi(value, data)
                if kind == "msi"
                else IoApicPin(value)
                if kind == "ioapic"
                else PicInput(value)
            )
            found[gsi] = (*found.get(gsi, ()), target)
        return found

    def _interrupts(self) -> tuple[IrqRow, ...]:
        """Every gsi that somebody drives, or that leads elsewhere than at the start."""
        drivers: dict[int, list[tuple[str, bool]]] = {}
        for gsi, is_level, name in self._drivers():
            drivers.setdefault(gsi, []).append((name, is_level))
        from hyperpy._connect import gsis_of  # noqa: PLC0415 - it imports this

        # One device at several places has one line.
        mine = {
            (id(device), gsi): (facts["name"], is_level)
            for device, facts in list(self._attached.values())  # others attach and detach meanwhile
            for gsi, is_level in gsis_of(device, facts["irq"])
        }
        for (_, gsi), driver in mine.items():
            drivers.setdefault(gsi, []).append(driver)
        routes = self.routes if self._native.irqchip else {}
        changed = (
            {gsi for gsi in {*routes, *range(24)} if routes.get(gsi, ()) != _usual(gsi)} if routes else set()
        )
        return tuple(
            IrqRow(
                gsi,
                tuple(sorted({"level" if is_level else "edge" for _, is_level in drivers.get(gsi, ())})),
                tuple(map(str, routes.get(gsi, ()))),
                tuple(name for name, _ in drivers.get(gsi, ())),
            )
            for gsi in sorted({*drivers, *changed})
        )

    def _drivers(self) -> Iterator[tuple[int, bool, str]]:
        if self._native.irqchip:
            yield _PIT_GSI, False, "pit (in the kernel)"
        yield from _hyperpy.stock_lines(self._native)


def _usual(gsi: int) -> tuple[Target, ...]:
    pin, input_ = IoApicPin(gsi), PicInput(gsi)
    return (pin, input_) if gsi < 16 else (pin,) if gsi < 24 else ()


def fields(target: object) -> tuple[str, int, int]:
    """Return a target as the native half takes it."""
    match target:
        case IoApicPin(pin=number):
            kind, data = "ioapic", 0
        case PicInput(input=number):
            kind, data = "pic", 0
        case Msi(address=number, data=data):
            kind = "msi"
        case _:
            hint = "give IoApicPin(5), PicInput(5) or Msi(0xfee00000, 0x40)"
            raise TypeError(f"not a target of an interrupt: {target!r}\n\nhint: {hint}")
    if not 0 <= operator.index(number) < _U64 or not 0 <= operator.index(data) < _U32:
        raise ValueError(f"number is out of range: {target!r}\n\nhint: from 0; data has 32 bits")
    return kind, number, data
