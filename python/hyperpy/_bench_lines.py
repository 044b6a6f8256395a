"""What stands in for a device's interrupt lines and messages on a `DeviceBench`, and keeps what the device did to them."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from hyperpy.line import Line, Messages, declared

if TYPE_CHECKING:
    from collections.abc import Callable

    from hyperpy import _hyperpy
    from hyperpy.clock import Clock

__all__ = ["BenchLine", "BenchSender", "IrqChange", "MessageSent", "lend_lines"]


class IrqChange(NamedTuple):
    """A change of an interrupt line.

    Arguments:
        time: nanoseconds of the bench's clock.
        level: True when the line was asserted.
    """

    time: int
    level: bool


class MessageSent(NamedTuple):
    """A message that the device sent.

    Arguments:
        time: nanoseconds of the bench's clock.
        address: where to: which local APIC.
        data: the vector, and how it is delivered.
    """

    time: int
    address: int
    data: int


class BenchLine:
    """What stands in for a device's interrupt line on a bench, and keeps what the device did to it.

    `level` is where the line is now, `history` every change as an `IrqChange`; `rises` counts those to True: what an
    edge-triggered input counts as interrupts.
    """

    gsi = 0

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._tap: Callable[[bool], object] | None = None
        self.level = False
        self.history: list[IrqChange] = []

    def raise_(self) -> None:
        """Assert it, as `IrqLine.raise_`."""
        self.set(True)

    def lower(self) -> None:
        """Take it down, as `IrqLine.lower`."""
        self.set(False)

    def set(self, level: bool) -> None:
        """Drive the line, as `IrqLine.set`."""
        if self._tap is not None:
            self._tap(bool(level))
        if bool(level) != self.level:
            self.level = bool(level)
            self.history.append(IrqChange(self._clock.now, self.level))

    def pulse(self) -> None:
        """Drive it up and down, as `IrqLine.pulse`."""
        self.set(True)
        self.set(False)

    @property
    def rises(self) -> int:
        """How often it went up."""
        return sum(change.level for change in self.history)

    def _record(self, recorder: _hyperpy.Recorder | None, number: int) -> None:
        """As `IrqLine._record`."""
        self._tap = None if recorder is None else partial(recorder.line, number)

    def clear(self) -> None:
        """Forget what was, and take the line down."""
        self.level = False
        self.history.clear()

    def __repr__(self) -> str:
        return f"<line of a bench, {'high' if self.level else 'low'}, {self.rises} rises>"


class BenchSender:
    """What stands in for a `MessageSender`."""

    def __init__(self, clock: Clock, sent: list[MessageSent]) -> None:
        self._clock, self._sent = clock, sent
        self._tap: Callable[[int, int], object] | None = None

    def send(self, address: int, data: int) -> bool:
        """Keep the message, as if it had reached a local APIC; in a replay, whether it had."""
        is_taken = self._tap is None or self._tap(address, data) is not False
        self._sent.append(MessageSent(self._clock.now, address, data))
        return is_taken

    def _record(self, recorder: _hyperpy.Recorder | None, number: int) -> None:
        """As `MessageSender._record`."""
        self._tap = (
            None if recorder is None else lambda address, data: recorder.message(number, address, data, True)
        )


def lend_lines(
    device: Any, clock: Clock, sent: list[MessageSent]
) -> tuple[dict[str, BenchLine], dict[str, Any]]:
    """Make a line for each of a device; the lines by name, and all that the device was given."""
    lines = {name: BenchLine(clock) for name in {"irq": None, **declared(type(device), Line)}}
    given: dict[str, Any] = dict(lines)
    given |= {name: BenchSender(clock, sent) for name in declared(type(device), Messages)}
    for name, thing in list(given.items()):
        try:
            if not hasattr(device, name):
                raise AttributeError(name)  # it wants none
            setattr(device, name, thing)
        except AttributeError:  # nor does a class that has no place for it
            del given[name]
    return lines, given
