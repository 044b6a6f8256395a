"""The half of `Machine` that deals with devices: putting them on a bus, taking them off, and listing them for ACPI.

A mixin, so that each file stays on one subject; states and verbs are in `machine`.
"""

from __future__ import annotations

import contextlib
import operator
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, TypeVar

from hyperpy.clock import Clock
from hyperpy.device import prepared
from hyperpy.errors import DeviceError
from hyperpy.irq import Routing

if TYPE_CHECKING:
    from hyperpy import _hyperpy
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
        irq: int | None = None,
        name: str | None = None,
    ) -> _D:
        """Put a device on a bus, and return it.

        `device.clock` becomes the machine's, where the device has that attribute and it is None or a `Clock`.

        Arguments:
            device: an object with `read(offset, size)` and `write(offset, size, value)`.
            pio: first port, 0 to 0xffff. Exactly one of `pio` and `mmio` is given.
            mmio: first gpa.
            size: length of its range in bytes, or "4K"; a device whose class has `size` knows its own.
            irq: gsi of an interrupt line for it, 0 to 23, or one that `route` leads somewhere; `device.irq` is set to
                the line.
            name: shown in maps and messages; the class's name if it is left out.

        Raises:
            DeviceError: the range is taken, or empty, or memory is there, or the kernel answers there itself (with
                interrupt controllers: 8259s, PIT, APICs); or there is no such interrupt line.
            TypeError: the object is no device, or no size or place is given.
            StateError: it wants an interrupt line, and the vcpus exist already without interrupt controllers.
        """
        if (pio is None) == (mmio is None):
            raise TypeError("a device sits on one bus\n\nhint: give pio=PORT or mmio=ADDRESS")
        is_pio, base = (True, pio) if pio is not None else (False, mmio)
        base = operator.index(base)  # type: ignore[arg-type]
        native, length, registers, calls = prepared(device, size)
        if not 0 <= base < (_PORTS if is_pio else 1 << 64) or not 0 <= operator.index(length) < 1 << 64:
            hint = "ports go from 0 to 0xffff, addresses to 2**64 - 1"
            raise DeviceError(f"device region leaves the bus: {base:#x} + {length:#x}", hint=hint)
        name = name or type(device).__name__
        with self._line_for(device, irq), self._clock_for(device, name):
            region = self._native.attach(native, is_pio, base, length, name, registers, calls)
        facts = {"base": base, "size": length, "irq": irq, "name": name, "calls": calls}
        self._attached[is_pio, region] = (device, facts)
        return device

    @contextlib.contextmanager
    def _line_for(self, device: Any, irq: int | None) -> Iterator[None]:
        """Give a device its line before the guest can reach it, and take it back if the guest will not."""
        if irq is None:
            yield
            return
        if operator.index(irq) not in self.routes:
            hint = "gsi 0 to 23 lead somewhere by themselves; lead others with m.route(gsi, ...)"
            raise DeviceError(f"no such interrupt line: {irq}", hint=hint)
        before = getattr(device, "irq", None)
        try:
            device.irq = before
        except AttributeError as error:
            hint = "give its class `irq = None`, or name it in __slots__"
            raise TypeError(
                f"{type(device).__name__} takes no attribute `irq`: {error}\n\nhint: {hint}"
            ) from None
        device.irq = self._native.line(irq)
        try:
            yield
        except BaseException:
            device.irq = before
            raise

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
        """Take a device off its bus, wherever it is attached, and its timers off the clock.

        Returns after every vcpu has left it and no callback of its timers runs. Ctrl-C ends the wait for a device that does not return; it is off the bus all the same.

        Raises:
            DeviceError: it is not attached to this machine.
        """
        mine = [place for place, (attached, _) in list(self._attached.items()) if attached is device]
        if not mine:
            raise DeviceError(
                f"device is not attached to {self.name}: {device!r}", hint="`m.map` shows what is"
            )
        for place in mine:
            self._native.detach(*place)
            self._attached.pop(place, None)
        for place in mine:
            self._native.wait_until_left(*place)
        clock = getattr(device, "clock", None)
        if isinstance(clock, Clock) and clock._of == (self._native.id, id(device)):
            clock._native.disarm()

    def attach_pc(self) -> None:
        """Give the machine a PC's stock devices, once: COM1 as `console`, RTC, i8042, debug console, ACPI power and reset.

        Loading an operating system does it by itself.
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

    def _listed(
        self,
    ) -> list[tuple[str, list[tuple[int, int]], list[tuple[int, int]], list[tuple[int, bool]]]]:
        """Devices for the ACPI tables: hardware id, mmio ranges, port ranges, interrupts."""
        listed: dict[
            int, tuple[str, list[tuple[int, int]], list[tuple[int, int]], list[tuple[int, bool]]]
        ] = {}
        for (is_pio, _), (device, facts) in list(self._attached.items()):
            hid = getattr(device, "acpi_hid", None)
            if hid is None:
                continue
            _, mmio, pio, irqs = listed.setdefault(id(device), (hid, [], [], []))
            (pio if is_pio else mmio).append((facts["base"], facts["size"]))
            if facts["irq"] is not None:
                irqs.append((facts["irq"], bool(getattr(device, "irq_level", False))))
        return list(listed.values())
