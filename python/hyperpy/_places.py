"""Where a machine's devices are: moving them, taking windows off their bus and putting them back while the machine runs.

A mixin below `_attach`. A place is one window of a device, or the whole of one that has none; its number stays the same
wherever it is moved. Changes of the buses are made in the core, several as one (`machine/places.rs`).
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

from hyperpy import _hyperpy
from hyperpy.errors import DeviceError, NotListedWarning
from hyperpy.irq import Routing
from hyperpy.window import named

if TYPE_CHECKING:
    import threading

_PORTS = 0x10000

Place = tuple[bool, int]


class Placing(Routing):
    """What `Machine` has of places."""

    _owner: int
    _places_lock: threading.RLock
    # Where devices are by the ACPI tables, as soon as an image has them.
    _in_tables: dict[Place, int] | None = None
    name: str

    @property
    def _placing(self) -> AbstractContextManager[object]:
        """Held while places change, so that what is known of them is what is so.

        In the child of a fork the lock may be held by a thread that is not there, and the core refuses what is to be done.
        """
        return self._places_lock if self._owner == os.getpid() else nullcontext()

    def move(
        self,
        device: object,
        *,
        pio: int | Mapping[str, int] | None = None,
        mmio: int | Mapping[str, int] | None = None,
    ) -> None:
        """Put a device, or some of its windows, to other addresses of the buses that they are on.

        Interrupt line, timers and memory stay the device's. It can be done at any time: each access of a guest sees the places
        before or those after, also where windows change places with each other. Returns when no vcpu is in the device by way
        of an old place; inside a device or a timer's callback it does not wait, as `detach`. A disabled window stays so, and is
        at the new address when it is enabled.

        Arguments:
            device: an attached one.
            pio: its first port, or by the names of windows: `{"ports": 0x300}`.
            mmio: its first gpa, or `{"regs": 0xFE00_0000}`.

        Raises:
            DeviceError: a range is taken, as for `attach`; or what is to be moved is not attached to that bus, or at several
                places of it. Nothing is moved then.
            TypeError: no place is given, or it is not of the form that the device's class wants.

        Warns:
            NotListedWarning: the guest's ACPI tables tell another place of it.

        Example:
            >>> import hyperpy
            >>> with hyperpy.Machine(memory="1M") as m:
            ...     device = m.attach(hyperpy.Device(), mmio=0xFE00_0000, size=16)
            ...     m.move(device, mmio=0xFE00_1000)
            ...     print([(hex(row.base), row.name) for row in m.map.rows if row.space == "mmio"])
            [('0xfe001000', 'Device')]
        """
        with self._placing:
            moves: dict[Place, tuple[dict[str, Any], int | None, bool | None]] = {}
            for is_pio, bus, where in ((True, "pio", pio), (False, "mmio", mmio)):
                for part, base in named(device, bus, where, getattr(type(device), "_windows", ())):
                    place, facts = self._only(device, is_pio, None if part is None else part.name)
                    check_range(is_pio, base, facts["size"])
                    moves[place] = facts, base, None
            if not moves:
                raise TypeError("no place is given\n\nhint: m.move(device, mmio=ADDRESS)")
            left = self._change(moves)
        self._wait_until_left(left)
        if self._in_tables is not None and any(
            self._in_tables.get(place, base) != base for place, (_, base, _) in moves.items()
        ):
            self._not_listed(type(device).__name__, "tell another place of")

    def disable(self, device: object, *windows: str) -> None:
        """Take a device, or some of its windows, off the buses until `enable`; the guest's accesses there are nobody's.

        It is still attached: its interrupt line, timers and memory stay, and so do its places, for which others may be put there
        meanwhile. `map` and `spec` show it as disabled. Returns when no vcpu is in what was disabled, as `move`.

        Arguments:
            device: an attached one.
            windows: names of windows; all of its places if there are none.

        Raises:
            DeviceError: it is not attached.

        Example:
            >>> import hyperpy
            >>> with hyperpy.Machine(memory="1M") as m:
            ...     device = m.attach(hyperpy.Device(), pio=0x300, size=8)
            ...     m.disable(device)
            ...     off = m.map.rows[-1].rung
            ...     m.enable(device)
            ...     print(off, m.map.rows[-1].rung)
            disabled python
        """
        self._enable(device, windows, False)

    def enable(self, device: object, *windows: str) -> None:
        """Put what `disable` has taken off the buses back on, where it was or was moved to meanwhile.

        Arguments:
            device: an attached one.
            windows: names of windows; all of its places if there are none.

        Raises:
            DeviceError: it is not attached; or a range is taken by now, as for `attach`. Nothing is enabled then.

        Warns:
            NotListedWarning: it has an `acpi_hid`, and was disabled when the ACPI tables were written, or elsewhere.
        """
        self._enable(device, windows, True)
        if self._in_tables is not None and getattr(device, "acpi_hid", None) is not None:
            mine = [(place, facts) for place, facts in self._places_of(device) if facts["enabled"]]
            if any(self._in_tables.get(place) != facts["base"] for place, facts in mine):
                self._not_listed(type(device).__name__)

    def _not_listed(self, name: str, what: str = "do not list") -> None:
        warnings.warn(
            NotListedWarning(
                f"the guest's ACPI tables {what} {name}: they were written by load()",
                hint="attach a device with an acpi_hid before load(), and do not move it; reset() writes the tables anew",
            ),
            stacklevel=3,
        )

    def _enable(self, device: object, windows: tuple[str, ...], on: bool) -> None:
        with self._placing:
            mine = self._places_of(device)
            known = {facts["window"] for _, facts in mine}
            for name in windows:
                if name not in known:
                    hint = f"attached windows: {', '.join(filter(None, known)) or 'none'}"
                    raise DeviceError(
                        f"window of {type(device).__name__} is not attached: {name!r}", hint=hint
                    )
            wanted = [(place, facts) for place, facts in mine if not windows or facts["window"] in windows]
            left = self._change({place: (facts, None, on) for place, facts in wanted})
        self._wait_until_left(left)

    def _places_of(self, device: object) -> list[tuple[Place, dict[str, Any]]]:
        """Where a device is attached, and the facts of each place."""
        mine = [(place, facts) for place, (other, facts) in list(self._attached.items()) if other is device]
        if not mine:
            raise DeviceError(
                f"device is not attached to {self.name}: {device!r}", hint="`m.map` shows what is"
            )
        return mine

    def _only(self, device: object, is_pio: bool, window: str | None) -> tuple[Place, dict[str, Any]]:
        """The one place of a window, or of a device without."""
        of = [
            (place, facts)
            for place, facts in self._places_of(device)
            if place[0] == is_pio and (window is None or facts["window"] == window)
        ]
        if len(of) != 1:
            what = type(device).__name__ if window is None else f"window {window} of {type(device).__name__}"
            problem = f"at {len(of)} places of" if of else "not on"
            raise DeviceError(
                f"{what} is {problem} the {'pio' if is_pio else 'mmio'} bus",
                hint="a place is moved on its bus; else detach and attach",
            )
        return of[0]

    def _change(
        self, changes: Mapping[Place, tuple[dict[str, Any], int | None, bool | None]]
    ) -> _hyperpy.Left:
        """Make changes as one: facts of the place, new address, whether it is enabled; what vcpus may still be in."""
        left = _hyperpy.change(
            self._native, [(place[1], base, on) for place, (_, base, on) in changes.items()]
        )
        for facts, base, on in changes.values():
            facts["base"] = facts["base"] if base is None else base
            facts["enabled"] = facts["enabled"] if on is None else on
        return left

    def _take_off(self, places: Iterable[Place], then: Callable[[], None] = lambda: None) -> None:
        """Detach places, wait until no vcpu is in them, and take the memory from their devices; `then` comes even if not."""
        with self._placing:
            taken = list(places)
            left = _hyperpy.detach(self._native, [number for _, number in taken])
            gone = [self._attached.pop(place, (None, {}))[1] for place in taken]
        try:
            self._wait_until_left(left)
        finally:
            for facts in gone:
                if (memory := facts.get("memory")) is not None:
                    memory._native.revoke()
            then()

    def _wait_until_left(self, left: _hyperpy.Left) -> None:
        """Wait for vcpus, and have devices told what was written before: by methods that may want the places themselves."""
        _hyperpy.wait_until_left(self._native, left)


def check_range(is_pio: bool, base: int, size: int) -> None:
    """Refuse what is not even a number of a bus."""
    if not 0 <= base < (_PORTS if is_pio else 1 << 64) or not 0 <= size < 1 << 64:
        hint = "ports go from 0 to 0xffff, addresses to 2**64 - 1"
        raise DeviceError(f"device region leaves the bus: {base:#x} + {size:#x}", hint=hint)
