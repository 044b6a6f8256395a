"""Recording a device's traffic, in a machine or on a bench, and driving a device of the same class from it.

Public as `hyperpy.testing.record` and `replay`; the recording itself is in `hyperpy._recording`. What is kept, and how time stands
still while it is, is in the core (crates/hyperpy-core/src/record.rs).
"""

from __future__ import annotations

import contextlib
import operator
import weakref
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hyperpy import _hyperpy
from hyperpy._device_bench import DeviceBench, benches
from hyperpy._ending import live
from hyperpy._legal import Reach
from hyperpy._recording import Event, Recording, RecordingError
from hyperpy.clock import Clock
from hyperpy.device import Device
from hyperpy.errors import DeviceError, StateError
from hyperpy.line import take_back
from hyperpy.window import end_of

if TYPE_CHECKING:
    from hyperpy.machine import Machine

__all__ = ["LIMIT", "Divergence", "record", "record_bench", "replay"]

LIMIT = 1_000_000
# Devices whose recordings go on.
_open: set[int] = set()
# Events that a divergence shows before its own.
_SHOWN = 3


def record(device: object, *, limit: int = LIMIT) -> Recording:
    """Keep what guests ask of a device and what it answers, from now on; see `Recording`.

    It is kept of a device that is attached to a machine, under KVM too, or that is on a `DeviceBench`: each access with its time, its
    value and its vcpu, its timers as they fire, its line `irq`, stops, the classes of exceptions, resets. What the script does to
    the device's registers and attributes is not, nor what it reads from the guest's memory. While an access or a timer is
    served, `clock.now` and counters stand still for it, so that a replay finds them the same. An access costs some 100 ns
    more; a device that is not recorded nothing.

    Of its lines `irq` alone is kept; other ones, and messages, are not. In a machine it is recorded at all its places, also where
    it is moved to, until it is detached; what it is attached to later is not recorded.

    Arguments:
        device: the device, attached wherever it shall be recorded; or its bench.
        limit: how many events and changes of its line are kept at most: the first ones, since they can be replayed. `dropped`
            counts the others.

    Raises:
        DeviceError: it is on no machine and no bench, or is recorded already.
        StateError: its machine runs: what it holds at the beginning could not be told.
        ValueError: the limit is below 1.

    Example:
        >>> from hyperpy import Device, Register
        >>> from hyperpy.testing import DeviceBench, record, replay
        >>> class Adder(Device):
        ...     total = Register(0x0, access="ro")
        ...     add = Register(0x4, access="wo")
        ...
        ...     @add.on_write
        ...     def _add(self, value: int) -> None:
        ...         self.total += value
        >>> bench = DeviceBench(Adder())
        >>> bench.write32(0x4, 40)
        >>> with record(bench.device) as recording:
        ...     bench.write32(0x4, 2)
        ...     bench.read32(0x0)
        42
        >>> for event in recording.events:
        ...     print(event)
        0 ns: write of 0x2 to 0x4, 4 bytes
        0 ns: read of 0x0, 4 bytes: 0x2a
        >>> print(replay(recording, Adder()))
        None
    """
    if isinstance(device, DeviceBench):
        return record_bench(device, limit)
    for machine in live:
        if any(attached is device for attached, _ in list(machine._attached.values())):
            return _record_attached(machine, device, limit)
    for bench in benches:
        if bench.device is device:
            return record_bench(bench, limit)
    hint = "attach it first, or put it on a bench: DeviceBench(device).record()"
    raise DeviceError(f"device is on no machine and no bench: {device!r}", hint=hint)


def record_bench(bench: DeviceBench[Any], limit: int = LIMIT) -> Recording:
    """Record what is on a bench."""
    has_line = getattr(bench.device, "irq", None) is bench.irq
    level = bench.irq.level if has_line else None
    recording, recorder = _made(bench.device, bench.size, bench.clock, level, limit)
    with contextlib.ExitStack() as undo:
        undo.callback(recorder.stop)
        undo.callback(_let_go, weakref.ref(bench))
        bench._watch(recorder)
        _record_timers(bench.clock, recorder, undo)
        return _begun(recording, recorder, bench.device, undo.pop_all())


def _let_go(reference: weakref.ref[DeviceBench[Any]]) -> None:
    bench = reference()
    if bench is not None:
        bench._watch(None)


def _let_go_of_places(reference: weakref.ref[Machine], numbers: list[int]) -> None:
    machine = reference()
    if machine is not None:
        with machine._placing:
            _hyperpy.end_record(machine._native, numbers)


def _record_attached(machine: Machine, device: Any, limit: int) -> Recording:
    if machine.state == "running":
        raise StateError("cannot record: the machine is running", hint="pause() it, or begin before it runs")
    places = machine._places_of(device)
    numbers = [number for (_, number), _ in places]
    line, clock = getattr(device, "irq", None), getattr(device, "clock", None)
    line = line if isinstance(line, _hyperpy.IrqLine) else None
    # Of one with windows: its own range, which has all of them.
    parts = getattr(type(device), "_windows", ())
    size = end_of(parts) if parts else max(facts["size"] for _, facts in places)
    level = None if line is None else line.level
    recording, recorder = _made(device, size, machine.clock, level, limit)
    with contextlib.ExitStack() as undo:
        undo.callback(recorder.stop)
        undo.callback(_let_go_of_places, weakref.ref(machine), numbers)
        with machine._placing:
            _hyperpy.record(machine._native, numbers, recorder)
        if line is not None:
            undo.callback(line._record, None)
            line._record(recorder)
        if isinstance(clock, Clock) and clock._of == (machine._native.id, id(device)):
            _record_timers(clock, recorder, undo)
        return _begun(recording, recorder, device, undo.pop_all())


def _made(
    device: object, size: int, clock: Clock, level: bool | None, limit: int
) -> tuple[Recording, _hyperpy.Recorder]:
    if operator.index(limit) < 1:
        raise ValueError(f"limit is out of range: {limit}\n\nhint: a number of events, from 1")
    if id(device) in _open:
        hint = "stop() the other recording; it is what `record` returned"
        raise DeviceError(f"device is recorded already: {device!r}", hint=hint)
    save = getattr(device, "save", None)
    recording = Recording(
        device=f"{type(device).__module__}.{type(device).__qualname__}",
        size=size,
        begin=clock.now,
        level=level,
        state=None if save is None else save(),
        schema=getattr(type(device), "schema", None),
    )
    return recording, _hyperpy.Recorder(clock._native, limit, bool(level))


def _record_timers(clock: Clock, recorder: _hyperpy.Recorder, undo: contextlib.ExitStack) -> None:
    undo.callback(clock._native.record, None)
    clock._native.record(recorder)


def _begun(
    recording: Recording, recorder: _hyperpy.Recorder, device: object, undo: contextlib.ExitStack
) -> Recording:
    """Have `stop`, or the collector, end it, whichever is first."""
    _open.add(id(device))
    undo.callback(_open.discard, id(device))
    end = weakref.finalize(recording, undo.close)
    end.atexit = False
    recording._recorder, recording._end, recording._is_over = recorder, end, False
    return recording


# -- replay --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Divergence:
    """Where a device that is driven from a recording first does something else.

    Attributes:
        index: number of the event in the recording, from 0.
        event: the event.
        register: names of the registers that an access touches, or "".
        what: in what it differs: "value" of a read, "irq" (how the line changed), "stop", "raised", or "timer" (when the next
            one is due; None: none is set).
        expected: what is recorded of that.
        got: what came of it now.
        error: what was raised now, with its traceback.
        before: events before it, the last one last.
    """

    index: int
    event: Event
    register: str
    what: str
    expected: Any
    got: Any
    error: Exception | None = None
    before: tuple[Event, ...] = ()

    def __str__(self) -> str:
        of = f" ({self.register})" if self.register else ""
        shown = (_shown(self.what, self.expected), _shown(self.what, self.got))
        width = len(self.what)
        lines = [
            f"event {self.index}, {self.event}{of}",
            f"  {self.what} recorded: {shown[0]}",
            f"  {'':{width}} replayed: {shown[1]}",
        ]
        if self.error is not None:
            lines.append(f"  raised: {self.error!r}")
        return "\n".join(
            [*lines, *(["before it:", *(f"  {event}" for event in self.before)] if self.before else [])]
        )


def _shown(what: str, value: Any) -> str:
    match what, value:
        case "irq", _:
            return ", ".join("high" if level else "low" for level in value) or "no change"
        case "value", int():
            return f"{value:#x}"
        case "timer", int():
            return f"{value} ns"
        case _, None:
            return "none"
    return str(value)


def replay(recording: Recording, device: object, *, memory: int | str = "1M") -> Divergence | None:
    """Drive a device from a recording, on a bench, and return where it first does something else; None: nowhere.

    It is given the state from which the recording begins, and the same accesses, resets and changes of its line from elsewhere at
    the same times; its timers fire when they fired. What it may not depend on is what a recording does not have: the guest's
    memory, other threads, chance.

    Arguments:
        recording: from `record`, or `Recording.load`.
        device: a fresh one, of the class that was recorded or one that shall do the same.
        memory: size of the guest memory on the bench, which is empty.

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
        bench.irq.level = bool(recording.level)
        if recording.level is None:
            take_back(device, {"irq": bench.irq})
        if recording.state is not None:
            device.load(recording.state)  # type: ignore[attr-defined]
        bench.irq.history.clear()
        return _Player(bench, recording.events).play()


class _Player:
    """A bench that is driven by events."""

    def __init__(self, bench: DeviceBench[Any], events: tuple[Event, ...]) -> None:
        self._bench, self._events = bench, events
        self._clock = bench.clock._native

    def play(self) -> Divergence | None:
        for index, event in enumerate(self._events):
            found = self._differs(event)
            if found is not None:
                what, expected, got, error = found
                before = self._events[max(0, index - _SHOWN) : index]
                return Divergence(index, event, self._name(event), what, expected, got, error, before)
        return None

    def _differs(self, event: Event) -> tuple[str, Any, Any, Exception | None] | None:
        """Do it; in what it differs, what was expected, what came, and what was raised."""
        bench, error, value = self._bench, None, None
        if event.kind == "reset":
            bench.irq.clear()
        changes = len(bench.irq.history)
        self._clock.move_to(event.time)
        if event.kind == "timer" and self._clock.first_deadline() != event.value:
            return "timer", event.value, self._clock.first_deadline(), None
        try:
            value = self._do(event)
        except Exception as raised:
            error = raised
        name = None if error is None else type(error).__qualname__
        if name != event.raised:
            return "raised", event.raised, name, error
        if event.kind == "read" and error is None and value != event.value:
            return "value", event.value, value, None
        stop = None if bench.stopped is None else bench.stopped.reason
        # Who steps a clock hears of no stop.
        if event.kind != "timer" and stop != event.stop:
            return "stop", event.stop, stop, error
        irq = tuple(change.level for change in bench.irq.history[changes:])
        if event.kind != "line" and irq != event.irq:
            return "irq", event.irq, irq, error
        return None

    def _do(self, event: Event) -> int | None:
        bench = self._bench
        bench.stopped = None
        match event.kind:
            case "read":
                return bench.read(event.offset, event.size)
            case "write":
                bench.write(event.offset, event.size, event.value)
            case "timer":
                self._clock.fire_first()
            case "line":
                bench.irq.set(bool(event.value))
            case _:
                bench.reset()
        return None

    def _name(self, event: Event) -> str:
        if event.kind not in ("read", "write") or not isinstance(self._bench.device, Device):
            return ""
        return Reach(type(self._bench.device), self._bench.size).names(event.offset, event.size)
