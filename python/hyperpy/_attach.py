"""The half of `Machine` that deals with devices: putting them on a bus, taking them off, and listing them for ACPI.

A mixin, so that each file stays on one subject; states and verbs are in `machine`.
"""

from __future__ import annotations

import contextlib
import operator
from collections.abc import Collection, Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from hyperpy import _hyperpy
from hyperpy._connect import Irq, connected
from hyperpy._lent import NotLent, give_back
from hyperpy._places import Placing, check_range
from hyperpy._prepared import prepared
from hyperpy.clock import Clock
from hyperpy.dma import lent
from hyperpy.line import take_back
from hyperpy.window import named

if TYPE_CHECKING:
    from hyperpy._acpi import Listed
    from hyperpy.console import Console

_D = TypeVar("_D")


class Attaching(Placing):
    """What `Machine` has of devices."""

    _native: _hyperpy.Machine
    _attached: dict[tuple[bool, int], tuple[object, dict[str, Any]]]  # by bus and region
    name: str
    console: Console

    def attach(
        self,
        device: _D,
        *,
        pio: int | Mapping[str, int] | None = None,
        mmio: int | Mapping[str, int] | None = None,
        size: int | str | None = None,
        irq: Irq = None,
        name: str | None = None,
    ) -> _D:
        """Put a device on a bus, or its windows on both, and return it.

        `device.clock` becomes the machine's, where the device has that attribute and nothing but a clock is in it;
        `device.memory` guest memory for it, where its class says `dma = True`.

        Arguments:
            device: an object with `read(offset, size)` and `write(offset, size, value)`.
            pio: first port, 0 to 0xffff. Exactly one of `pio` and `mmio` is given, but for a device with windows: by their
                names, `mmio={"regs": 0xFE00_0000}, pio={"ports": 0x300}`. Those that are left out are not attached.
            mmio: first gpa.
            size: length of its range in bytes, or "4K"; a device whose class has `size` knows its own.
            irq: gsi of an interrupt line for it, 0 to 23, or one that `route` leads somewhere; or an `Msi` that it sends.
                `device.irq` becomes the line. Of a device with several, by name: `irq={"rx": 5, "tx": 6}`.
            name: shown in maps and messages; the class's name if it is left out.

        Raises:
            DeviceError: a range is taken, or empty, or memory is there, or the kernel answers there itself (with
                interrupt controllers: 8259s, PIT, APICs); or there is no such interrupt line, or the device has none
                of that name; or it has `dma` and is attached to another machine. No window is attached then.
            TypeError: the object is no device, or no size or place is given, or one that its class has not.
            ValueError: no local APIC gets such a message.
            StateError: it wants an interrupt line, and the vcpus exist already without interrupt controllers.

        Warns:
            NotListedWarning: it has an `acpi_hid`, and the ACPI tables that would list it are written already.
        """
        if getattr(device, "acpi_hid", None) is not None and self._in_tables is not None:
            self._not_listed(name or type(device).__name__)
        return self._attach(device, pio, mmio, size, irq, name)

    def _attach(
        self,
        device: _D,
        pio: int | Mapping[str, int] | None,
        mmio: int | Mapping[str, int] | None,
        size: int | str | None,
        irq: Irq,
        name: str | None,
        disabled: bool | Collection[str] = False,
    ) -> _D:
        """The same, as `disable` leaves it: all of it, or these windows."""
        parts = getattr(type(device), "_windows", ())
        if (pio is None) == (mmio is None) and not (parts and pio is not None):
            raise TypeError("a device sits on one bus\n\nhint: give pio=PORT or mmio=ADDRESS")
        if parts and size is not None:
            raise TypeError("size of a device with windows is given\n\nhint: Window(0x1000) has it")
        wanted = [
            (is_pio, part, base)
            for is_pio, bus, where in ((True, "pio", pio), (False, "mmio", mmio))
            for part, base in named(device, bus, where, parts)
        ]
        if not wanted:
            raise TypeError("no window is given\n\nhint: mmio={...} names those to attach")
        native, length, registers, calls = prepared(device, size)
        name = name or type(device).__name__
        windows, facts = [], []
        for is_pio, part, base in wanted:
            length = operator.index(length) if part is None else part.size
            check_range(is_pio, base, length)
            label, origin = (name, 0) if part is None else (f"{name}.{part.name}", part.origin)
            is_off = disabled if isinstance(disabled, bool) else part is not None and part.name in disabled
            windows.append((is_pio, base, length, origin, label, not is_off))
            facts.append(
                {
                    "base": base,
                    "size": length,
                    "irq": irq,
                    "name": name,
                    "enabled": not is_off,
                    "calls": calls,
                }
                | {"window": None if part is None else part.name, "label": label}
            )
        by_origin = [(part.origin, part.name) for part in reversed(parts)]
        lend = lent(device, self._native.memory, self._native.id)
        with (
            connected(self, device, irq) as lines,
            self._clock_for(device, name),
            lend as memory,
            self._placing,
        ):
            numbers = _hyperpy.attach(self._native, native, name, windows, by_origin, registers, calls)
            for (is_pio, *_), number, fact in zip(windows, numbers, facts, strict=True):
                self._attached[is_pio, number] = (device, fact | {"memory": memory, "lines": lines})
        return device

    @contextlib.contextmanager
    def _clock_for(self, device: Any, name: str) -> Iterator[None]:
        """Give a device that asks for it the clock, before the guest can reach it, and take it back if the guest will not."""
        before, of = getattr(device, "clock", self), (self._native.id, id(device))
        if not isinstance(before, Clock | NotLent | None) or (isinstance(before, Clock) and before._of == of):
            yield
            return
        with contextlib.suppress(AttributeError):  # its class wants none
            device.clock = Clock(self._native.clock(name), of)
        try:
            yield
        except BaseException:
            give_back(device, "clock", before)
            raise

    def detach(self, device: object) -> None:
        """Take a device off its bus, wherever it is attached: its timers off the clock, its lines down, its memory from it.

        Returns after every vcpu has left it and no callback of its timers runs. Ctrl-C ends the wait for a device that does not return; it is off the bus all the same.

        Raises:
            DeviceError: it is not attached to this machine.
        """
        places = self._places_of(device)
        lines = [facts["lines"] for _, facts in places]
        self._take_off([place for place, _ in places], lambda: self._disconnect(device, lines))

    def _disconnect(self, device: object, lines: list[dict[str, Any]]) -> None:
        """Take a device's timers off the clock, and its lines from it."""
        clock = getattr(device, "clock", None)
        try:
            if isinstance(clock, Clock) and clock._of == (self._native.id, id(device)):
                clock._native.disarm()
        finally:
            for each in lines:
                for line in each.values():
                    if isinstance(line, _hyperpy.IrqLine):
                        line.lower()
                take_back(device, each)

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
            self._take_off(self._attached.keys() - before.keys())
            for place, (device, facts) in before.items():
                if place not in self._attached:
                    where = facts["base"] if facts["window"] is None else {facts["window"]: facts["base"]}
                    self._attach(
                        device,
                        pio=where if place[0] else None,
                        mmio=None if place[0] else where,
                        size=None if facts["window"] else facts["size"],
                        irq=facts["irq"],
                        name=facts["name"],
                        disabled=not facts["enabled"],
                    )
            if not had_pc:
                self._native.detach_pc(had_irqchip)
            raise

    def _listed(self) -> list[Listed]:
        """Devices for the ACPI tables."""
        from hyperpy._acpi import listed  # noqa: PLC0415 - only for an operating system

        found = listed(self._attached)
        self._in_tables = {
            place: facts["base"]
            for place, (device, facts) in list(self._attached.items())
            if facts["enabled"] and getattr(device, "acpi_hid", None) is not None
        }
        return found
