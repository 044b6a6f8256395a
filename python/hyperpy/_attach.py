"""The half of `Machine` that deals with devices: putting them on a bus, taking them off, and listing them for ACPI.

A mixin, so that each file stays on one subject; states and verbs are in `machine`.
"""

from __future__ import annotations

import contextlib
import operator
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, TypeVar

from hyperpy import _hyperpy
from hyperpy._connect import Irq, connected
from hyperpy.clock import Clock
from hyperpy.device import prepared
from hyperpy.dma import lent
from hyperpy.errors import DeviceError
from hyperpy.irq import Routing
from hyperpy.line import take_back

if TYPE_CHECKING:
    from hyperpy._acpi import Listed
    from hyperpy.console import Console

_D = TypeVar("_D")
_PORTS = 0x10000


class Attaching(Routing):
    """What `Machine` has of devices."""

    _native: _hyperpy.Machine
    _attached: dict[tuple[bool, int], tuple[object, dict[str, Any]]]  # by bus and region
    name: str
    console: Console

    def attach(
        self,
        device: _D,
        *,
        pio: int | None = None,
        mmio: int | None = None,
        size: int | str | None = None,
        irq: Irq = None,
        name: str | None = None,
    ) -> _D:
        """Put a device on a bus, and return it.

        `device.clock` becomes the machine's, where the device has that attribute and it is None or a `Clock`;
        `device.memory` guest memory for it, where its class says `dma = True`.

        Arguments:
            device: an object with `read(offset, size)` and `write(offset, size, value)`.
            pio: first port, 0 to 0xffff. Exactly one of `pio` and `mmio` is given.
            mmio: first gpa.
            size: length of its range in bytes, or "4K"; a device whose class has `size` knows its own.
            irq: gsi of an interrupt line for it, 0 to 23, or one that `route` leads somewhere; or an `Msi` that it sends.
                `device.irq` becomes the line. Of a device with several, by name: `irq={"rx": 5, "tx": 6}`.
            name: shown in maps and messages; the class's name if it is left out.

        Raises:
            DeviceError: the range is taken, or empty, or memory is there, or the kernel answers there itself (with
                interrupt controllers: 8259s, PIT, APICs); or there is no such interrupt line, or the device has none
                of that name; or it has `dma` and is attached to another machine.
            TypeError: the object is no device, or no size or place is given.
            ValueError: no local APIC gets such a message.
            StateError: it wants an interrupt line, and the vcpus exist already without interrupt controllers.
        """
        if (pio is None) == (mmio is None):
            raise TypeError("a device sits on one bus\n\nhint: give pio=PORT or mmio=ADDRESS")
        is_pio, base = (True, pio) if pio is not None else (False, mmio)
        base = operator.index(base)  # type: ignore[arg-type]
        native, length, registers = prepared(device, size)
        if not 0 <= base < (_PORTS if is_pio else 1 << 64) or not 0 <= operator.index(length) < 1 << 64:
            hint = "ports go from 0 to 0xffff, addresses to 2**64 - 1"
            raise DeviceError(f"device region leaves the bus: {base:#x} + {length:#x}", hint=hint)
        name = name or type(device).__name__
        lend = lent(device, self._native.memory, self._native.id)
        with connected(self, device, irq) as lines, self._clock_for(device, name), lend as memory:
            region = self._native.attach(native, is_pio, base, length, name, registers)
        facts = {"base": base, "size": length, "irq": irq, "name": name, "memory": memory, "lines": lines}
        self._attached[is_pio, region] = (device, facts)
        return device

    @contextlib.contextmanager
    def _clock_for(self, device: Any, name: str) -> Iterator[None]:
        """Give a device that asks for it the clock, before the guest can reach it, and take it back if the guest will not."""
        before, of = getattr(device, "clock", self), (self._native.id, id(device))
        if not (before is None or isinstance(before, Clock)) or (before is not None and before._of == of):
            yield
            return
        with contextlib.suppress(AttributeError):  # its class wants none
            device.clock = Clock(self._native.clock(name), of)
        try:
            yield
        except BaseException:
            with contextlib.suppress(AttributeError):
                device.clock = before
            raise

    def detach(self, device: object) -> None:
        """Take a device off its bus, wherever it is attached: its timers off the clock, its lines down, its memory from it.

        Returns after every vcpu has left it and no callback of its timers runs. Ctrl-C ends the wait for a device that does not return; it is off the bus all the same.

        Raises:
            DeviceError: it is not attached to this machine.
        """
        mine = {
            place: facts for place, (attached, facts) in list(self._attached.items()) if attached is device
        }
        if not mine:
            raise DeviceError(
                f"device is not attached to {self.name}: {device!r}", hint="`m.map` shows what is"
            )
        for place in mine:
            self._native.detach(*place)
            _, facts = self._attached.pop(place, (None, {}))
            if (memory := facts.get("memory")) is not None:
                memory._native.revoke()
        for place in mine:
            self._native.wait_until_left(*place)
        clock = getattr(device, "clock", None)
        if isinstance(clock, Clock) and clock._of == (self._native.id, id(device)):
            clock._native.disarm()
        for facts in mine.values():
            for line in facts["lines"].values():
                if isinstance(line, _hyperpy.IrqLine):
                    line.lower()
            take_back(device, facts["lines"])

    def attach_pc(self) -> None:
        """Give the machine a PC's stock devices, once: COM1 as `console`, RTC, i8042, debug console, ACPI power and reset.

        Loading an operating system does it by itself. A device of yours that is attached before, and takes all ports of a
        stock one, stands in its place.

        Raises:
            DeviceError: a device has some of the ports of a stock one.
        """
        self._native.attach_pc(self.console._native)

    @contextlib.contextmanager
    def _attached_or_nothing(self) -> Iterator[None]:
        """Put back on the buses what was there before, if the block raises."""
        before, had_pc, had_irqchip = dict(self._attached), self._native.has_pc, self._native.irqchip
        try:
            yield
        except BaseException:
            for place in self._attached.keys() - before.keys():
                self._native.detach(*place)
                del self._attached[place]
            for (is_pio, region), (device, facts) in before.items():
                if (is_pio, region) not in self._attached:
                    self.attach(
                        device,
                        pio=facts["base"] if is_pio else None,
                        mmio=None if is_pio else facts["base"],
                        size=facts["size"],
                        irq=facts["irq"],
                        name=facts["name"],
                    )
            if not had_pc:
                self._native.detach_pc(had_irqchip)
            raise

    def _listed(self) -> list[Listed]:
        """Devices for the ACPI tables."""
        from hyperpy._acpi import listed  # noqa: PLC0415 - only for an operating system

        return listed(self._attached)
