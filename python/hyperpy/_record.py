"""Recording a device's traffic, in a machine or on a bench. Public as `hyperpy.testing.record`.

The recording itself is in `hyperpy._recording`, and what drives a device from it in `hyperpy._replay`. What is kept, and how time
stands still while it is, is in the core (crates/hyperpy-core/src/record.rs).
"""

from __future__ import annotations

import contextlib
import operator
import weakref
from typing import TYPE_CHECKING, Any

from hyperpy import _hyperpy
from hyperpy._bench_lines import BenchLine
from hyperpy._device_bench import DeviceBench, benches
from hyperpy._dma_layers import tell
from hyperpy._ending import live
from hyperpy._recording import Recording
from hyperpy.clock import Clock
from hyperpy.dma import DmaMemory
from hyperpy.errors import DeviceError, StateError
from hyperpy.line import Line, Messages, declared
from hyperpy.window import end_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from hyperpy.machine import Machine

__all__ = ["record", "record_bench"]

LIMIT = 1_000_000
# Devices whose recordings go on.
_open: set[int] = set()


def record(device: object, *, limit: int = LIMIT) -> Recording:
    """Keep what guests ask of a device and what it answers, from now on; see `Recording`.

    It is kept of a device that is attached to a machine, under KVM too, or that is on a `DeviceBench`: each access with its time, its
    value and its vcpu, its timers as they fire, stops, the classes of exceptions, resets; and what the device does meanwhile, in
    order: to its lines, by messages, and to guest memory (`dma = True`), with the bytes. What the script does to
    the device's registers and attributes is not. While an access or a timer is
    served, `clock.now` and counters stand still for it, so that a replay finds them the same. An access costs some 100 ns
    more, one to guest memory about a microsecond and a copy; a device that is not recorded nothing.

    In a machine it is recorded at all its places, also where it is moved to, until it is detached, with the lines that it has
    now; what it is attached to later is not recorded.

    Arguments:
        device: the device, attached wherever it shall be recorded; or its bench.
        limit: how many events and deeds are kept at most: the first ones, since they can be replayed. Each range of guest
            memory, and each 64 bytes of it, counts as one. `dropped` counts what came when it was reached, and is 0 before.

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
    wires = {name: wire for name, wire in bench._given.items() if getattr(bench.device, name, None) is wire}
    recording, recorder = _made(bench.device, bench.size, bench.clock, wires, bench._lent, limit)
    with contextlib.ExitStack() as undo:
        undo.callback(recorder.stop)
        undo.callback(_let_go, weakref.ref(bench))
        bench._watch(recorder, wires.values())
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
    of = machine._native.id, id(device)
    wires = _wires(device, [name for _, facts in places for name in facts["lines"]])
    memory, clock = getattr(device, "memory", None), getattr(device, "clock", None)
    memory = memory if isinstance(memory, DmaMemory) and memory._of == of else None
    # Of one with windows: its own range, which has all of them.
    parts = getattr(type(device), "_windows", ())
    size = end_of(parts) if parts else max(facts["size"] for _, facts in places)
    recording, recorder = _made(device, size, machine.clock, wires, memory, limit)
    with contextlib.ExitStack() as undo:
        undo.callback(recorder.stop)
        undo.callback(_let_go_of_places, weakref.ref(machine), numbers)
        with machine._placing:
            _hyperpy.record(machine._native, numbers, recorder)
        for number, wire in enumerate(wires.values()):
            undo.callback(wire._record, None, 0)
            wire._record(recorder, number)
        if memory is not None:
            undo.callback(tell, memory, None)
            tell(memory, recorder)
        if isinstance(clock, Clock) and clock._of == of:
            undo.callback(clock._native.record, None)
            clock._native.record(recorder)
        return _begun(recording, recorder, device, undo.pop_all())


def _wires(device: Any, names: Iterable[str]) -> dict[str, Any]:
    """The lines that a device can drive now, and what it can send messages by."""
    kind = type(device)
    every = dict.fromkeys(["irq", *declared(kind, Line), *declared(kind, Messages), *names])
    held = {name: getattr(device, name, None) for name in every}
    return {
        name: wire
        for name, wire in held.items()
        if isinstance(wire, _hyperpy.IrqLine | _hyperpy.MessageSender)
    }


def _made(
    device: object, size: int, clock: Clock, wires: Mapping[str, Any], memory: object, limit: int
) -> tuple[Recording, _hyperpy.Recorder]:
    if operator.index(limit) < 1:
        raise ValueError(f"limit is out of range: {limit}\n\nhint: a number of events, from 1")
    if id(device) in _open:
        hint = "stop() the other recording; it is what `record` returned"
        raise DeviceError(f"device is recorded already: {device!r}", hint=hint)
    save = getattr(device, "save", None)
    lines = {
        name: wire.level for name, wire in wires.items() if isinstance(wire, _hyperpy.IrqLine | BenchLine)
    }
    fixed = {name: getattr(wires[name], "_message", None) for name in lines}
    messages = {name: fixed.get(name) for name in wires if name not in lines or fixed[name] is not None}
    recording = Recording(
        device=f"{type(device).__module__}.{type(device).__qualname__}",
        size=size,
        begin=clock.now,
        lines=lines,
        messages=messages,
        memory=memory is not None,
        state=None if save is None else save(),
        schema=getattr(type(device), "schema", None),
    )
    recording._names = tuple(wires)
    told = [(lines.get(name, False), messages.get(name)) for name in wires]
    return recording, _hyperpy.Recorder(clock._native, limit, told)


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
