"""Driving a device from a recording, and where it first does something else. Public as `hyperpy.testing.replay`.

A recording is made by `hyperpy._record`. The device is on a bench, whose lines, senders and memory lead here: what it does by them
is compared as it does it, and what it reads is what is recorded.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import partial
from threading import get_ident
from typing import TYPE_CHECKING, Any

from hyperpy._bench_lines import BenchLine, BenchSender
from hyperpy._deed import Deed, alike, first_difference, text
from hyperpy._device_bench import DeviceBench
from hyperpy._dma_layers import feed
from hyperpy._legal import Reach
from hyperpy._recording import Event, Recording, RecordingError
from hyperpy.device import Device
from hyperpy.line import take_back

if TYPE_CHECKING:
    from types import FrameType

__all__ = ["Divergence", "replay"]

# Events that a divergence shows before its own.
_SHOWN = 3
# What is no line, though a device may have none.
_TAKEN = ("clock", "memory")
# Deeds that are done by lines and what sends messages.
_WIRES = ("line", "message")


@dataclass(frozen=True, slots=True)
class Divergence:
    """Where a device that is driven from a recording first does something else.

    Attributes:
        index: number of the event in the recording, from 0.
        event: the event.
        register: names of the registers that an access touches, or "".
        what: in what it differs: "value" of a read, "did" (to its lines, by messages, to guest memory), "stop", "raised", or
            "timer" (when the next one is due; None: none is set).
        expected: what is recorded of that; of "did" a `Deed`, or None if there is none any more.
        got: what came of it now; of "did" a `Deed`, or None if it did less.
        error: what was raised now, with its traceback.
        before: events before it, the last one last.
        where: of "did": file, line and function in which the device did it.
    """

    index: int
    event: Event
    register: str
    what: str
    expected: Any
    got: Any
    error: Exception | None = None
    before: tuple[Event, ...] = ()
    where: str = ""

    def __str__(self) -> str:
        of = f" ({self.register})" if self.register else ""
        shown = _shown(self.what, self.expected, self.got), _shown(self.what, self.got, self.expected)
        width = len(self.what)
        lines = [
            f"event {self.index}, {self.event}{of}",
            f"  {self.what} recorded: {shown[0]}",
            f"  {'':{width}} replayed: {shown[1]}",
        ]
        if self.where:
            lines.append(f"  at {self.where}")
        if self.error is not None:
            lines.append(f"  raised: {self.error!r}")
        return "\n".join(
            [*lines, *(["before it:", *(f"  {event}" for event in self.before)] if self.before else [])]
        )


def _shown(what: str, value: Any, other: Any) -> str:
    match what, value:
        case "did", Deed():
            # Where they differ is shown, however far behind.
            is_alike = isinstance(other, Deed) and (value.kind, value.ranges) == (other.kind, other.ranges)
            return text(value, first_difference(value, other) if is_alike else 0)
        case "did", None:
            return "nothing more"
        case "value", int():
            return f"{value:#x}"
        case "timer", int():
            return f"{value} ns"
        case _, None:
            return "none"
    return str(value)


def replay(recording: Recording, device: object, *, memory: int | str = "1M") -> Divergence | None:
    """Drive a device from a recording, on a bench, and return where it first does something else; None: nowhere.

    It is given the state from which the recording begins, and the same accesses, resets and changes of its lines from elsewhere at
    the same times; its timers fire when they fired, and the method of a posted register is told when it was told. What it reads
    from guest memory is what was read, and so is what it is refused; what it writes there, which lines it drives and what
    messages it sends is compared, in order. What it may not depend on is what a recording does not have: other threads, chance.

    Arguments:
        recording: from `record`, or `Recording.load`.
        device: a fresh one, of the class that was recorded or one that shall do the same.
        memory: size of the guest memory on the bench, which is empty; for what a recording has no guest memory of.

    Raises:
        RecordingError: it is of a device of another size or schema.
        SnapshotError: the device does not take the state.
        TypeError: it is no device.

    Example:
        >>> from hyperpy import Device, Field, Register
        >>> from hyperpy.testing import DeviceBench, replay
        >>> class Lamp(Device):
        ...     control = Register(0x0, lit=Field(0), dim=Field(1))
        >>> class Fixed(Lamp):
        ...     @Lamp.control.on_read
        ...     def _control(self) -> int:
        ...         return self.control & 1
        >>> bench = DeviceBench(Lamp())
        >>> with bench.record() as recording:
        ...     answers = bench.batch([(0, 4, 1), (0, 4), (0, 4, 3), (0, 4)])
        >>> print(replay(recording, Fixed()))
        event 3, 0 ns: read of 0x0, 4 bytes: 0x3 (control)
          value recorded: 0x3
                replayed: 0x1
        before it:
          0 ns: write of 0x1 to 0x0, 4 bytes
          0 ns: read of 0x0, 4 bytes: 0x1
          0 ns: write of 0x3 to 0x0, 4 bytes
    """
    bench = DeviceBench(device, size=recording.size, memory=memory)
    own, schema = getattr(device, "size", None), getattr(type(device), "schema", None)
    if (isinstance(own, int) and own > recording.size) or schema != recording.schema:
        is_size = schema == recording.schema
        what = f"{recording.size:#x} bytes" if is_size else f"schema {recording.schema}"
        mine = f"{own:#x}" if is_size else schema
        raise RecordingError(
            f"recording is of a device of {what}, not {mine}: {recording.device}",
            hint="give a device of the class that was recorded",
        )
    with bench:
        bench.clock._native.move_to(recording.begin)
        _connect(bench, recording)
        if recording.state is not None:
            device.load(recording.state)  # type: ignore[attr-defined]
        for line in bench.lines.values():
            line.history.clear()
        bench.messages.clear()
        return _Player(bench, recording).play()


def _connect(bench: DeviceBench[Any], recording: Recording) -> None:
    """Give the device the lines that the recorded one had, as they were, and no other."""
    device, is_old = bench.device, recording.messages is None
    for name in recording.lines:
        # One that its class does not declare, and has a place for; a file may name anything.
        if name not in bench.lines and name not in _TAKEN and getattr(device, name, name) is None:
            bench.lines[name] = bench._given[name] = BenchLine(bench.clock)
            setattr(device, name, bench.lines[name])
    for name, line in bench.lines.items():
        if name in recording.lines:
            line.level = recording.lines[name]
        elif name == "irq" or not is_old:
            take_back(device, {name: line})


class _Diverged(BaseException):
    """Ends a method of the device that asked for other memory than is recorded: nothing could be answered."""


class _Player:
    """A bench that is driven by a recording."""

    def __init__(self, bench: DeviceBench[Any], recording: Recording) -> None:
        self._bench, self._recording, self._events = bench, recording, recording.events
        self._clock, self._thread = bench.clock._native, get_ident()
        self._kept: list[Event] = []
        """Writes that the device, which keeps none itself, is not told of yet."""
        self._expected: tuple[Deed, ...] | None = None
        """What the event that is played has of deeds; None: none is."""
        self._done = 0
        self._wrong: tuple[Deed | None, Deed | None, str] | None = None
        """The first deed that differs: what was expected, what came, and where."""
        self._listen()

    def _listen(self) -> None:
        bench, is_old = self._bench, self._recording.messages is None
        for name, thing in bench._given.items():
            if isinstance(thing, BenchLine) and (name == "irq" or not is_old):
                thing._tap = partial(self._line, name)
            elif isinstance(thing, BenchSender) and not is_old:
                thing._tap = partial(self._message, name)
        if bench._lent is not None and self._recording.memory:
            feed(bench._lent, self._did)

    def _line(self, name: str, level: bool) -> None:
        message = (self._recording.messages or {}).get(name)
        if message is None:
            if level != self._bench.lines[name].level:
                self._did(Deed("line", name, int(level)))
        elif level:
            self._did(Deed("message", name, message[1], message[0]))

    def _message(self, name: str, address: int, data: int) -> bool:
        deed = self._did(Deed("message", name, data, address))
        return deed is None or deed.is_taken

    def _did(self, deed: Deed) -> Deed | None:
        """The device does something; what is recorded of that, or None if nobody looks."""
        if self._expected is None or get_ident() != self._thread:
            return None
        if self._wrong is None:
            expected = self._expected[self._done] if self._done < len(self._expected) else None
            if expected is not None and alike(expected, deed):
                self._done += 1
                return expected
            self._wrong = expected, deed, _place(sys._getframe(1))
        if deed.kind not in _WIRES:
            raise _Diverged
        return None

    def play(self) -> Divergence | None:
        try:
            return self._play()
        finally:
            self._listen_no_more()

    def _listen_no_more(self) -> None:
        """So that the bench goes at once, and not with a cycle that the collector finds."""
        for thing in self._bench._given.values():
            thing._tap = None
        if self._bench._lent is not None:
            feed(self._bench._lent, None)

    def _play(self) -> Divergence | None:
        for index, event in enumerate(self._events):
            found = self._differs(event)
            if found is not None:
                what, expected, got, error = found
                before = self._events[max(0, index - _SHOWN) : index]
                where = self._wrong[2] if self._wrong is not None and what == "did" else ""
                name = self._name(event)
                return Divergence(index, event, name, what, expected, got, error, before, where)
        return None

    def _differs(self, event: Event) -> tuple[str, Any, Any, Exception | None] | None:
        """Do it; in what it differs, what was expected, what came, and what was raised."""
        bench, error, value = self._bench, None, None
        self._clock.move_to(event.time)
        if event.kind == "timer" and self._clock.first_deadline() != event.value:
            return "timer", event.value, self._clock.first_deadline(), None
        # What it does elsewhere it is given, or is of no concern to it.
        is_input = event.kind in (*_WIRES, "memory")
        self._expected, self._done = (None if is_input else event.did), 0
        try:
            value = self._do(event)
        except Exception as raised:
            error = raised
        except _Diverged:
            pass
        finally:
            self._expected = None
        name = None if error is None else type(error).__qualname__
        if self._wrong is not None:
            expected, got, _ = self._wrong
            # One that went on where it had raised did more because of that.
            went_on = event.raised is not None and name is None and expected is None
            if not went_on or got is None or got.kind not in _WIRES:
                return "did", expected, got, error
        if name != event.raised:
            return "raised", event.raised, name, error
        if event.kind == "read" and error is None and value != event.value:
            return "value", event.value, value, None
        stop = None if bench.stopped is None else bench.stopped.reason
        # Who steps a clock hears of no stop.
        if event.kind != "timer" and stop != event.stop:
            return "stop", event.stop, stop, error
        if not is_input and self._done < len(event.did):
            return "did", event.did[self._done], None, error
        return None

    def _do(self, event: Event) -> int | None:
        bench = self._bench
        bench.stopped = None
        match event.kind:
            case "read":
                return bench.read(event.offset, event.size)
            case "write" if event.later:
                # One that keeps no writes sees nothing of them before it is told.
                if not bench._native.defer(event.offset, event.size, event.value):
                    self._kept.append(event)
            case "write":
                bench.write(event.offset, event.size, event.value)
            case "told":
                self._tell(event)
            case "timer":
                self._clock.fire_first()
            case "reset":
                self._kept.clear()
                bench.reset()
            case _:
                self._give(event.did)
        return None

    def _tell(self, event: Event) -> None:
        place = event.offset, event.size
        write = next((kept for kept in self._kept if (kept.offset, kept.size) == place), None)
        if write is not None:
            self._kept.remove(write)
            self._bench.write(write.offset, write.size, write.value)
        elif (reason := self._bench._native.tell()) is not None:
            self._bench._stop(reason)

    def _give(self, did: tuple[Deed, ...]) -> None:
        """What the device did elsewhere is there when it looks at its lines."""
        for deed in did:
            line = self._bench.lines.get(deed.name)
            if line is not None and deed.kind in _WIRES:
                line.set(deed.kind == "message" or bool(deed.value))

    def _name(self, event: Event) -> str:
        if event.kind not in ("read", "write", "told") or not isinstance(self._bench.device, Device):
            return ""
        return Reach(type(self._bench.device), self._bench.size).names(event.offset, event.size)


def _place(frame: FrameType | None) -> str:
    """Where the device is: the innermost line that is none of hyperpy's own."""
    while frame is not None and frame.f_code is not _Player._play.__code__:
        if not frame.f_globals.get("__name__", "").startswith("hyperpy."):
            return f"{frame.f_code.co_filename}:{frame.f_lineno}, in {frame.f_code.co_name}"
        frame = frame.f_back
    return ""
