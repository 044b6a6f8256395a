"""Writes that a recorded device is told of later: a replay tells it when it was told, and a difference in time alone is none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.recorded import drove

from hyperpy import Device, Register, Stop
from hyperpy.exits import Exit
from hyperpy.testing import (
    Deed,
    DeviceBench,
    Event,
    Read,
    Recording,
    ScriptedMachine,
    Write,
    record,
    replay,
)

RUN = 10.0
MMIO = 0xFE00_0000


class Ring(Device):
    """A posted tail, whose method moves the head, raises the line and writes memory."""

    dma = True
    tail = Register(0x0, posted=True)
    head = Register(0x4, access="ro")
    sync = Register(0x8)
    log = Register(0xC)

    @tail.on_write
    def _tail(self, value: int) -> Stop | None:
        self.head = value
        self.memory.write_int(0x1000, 4, value)  # type: ignore[union-attr]
        self.irq.set(bool(value & 1))
        if value == 0xBAD:
            raise KeyError("no such tail")
        return Stop("full") if value == 0xFF else None

    @sync.on_write
    def _sync(self, value: int) -> None:
        self.irq.set(False)


def recorded(*script: Read | Write, device: Device | None = None) -> tuple[Recording, list[int]]:
    with ScriptedMachine(script) as m:
        ring = m.attach(device or Ring(), mmio=MMIO, irq=5)
        with record(ring) as recording:
            for _ in script:
                try:
                    if isinstance(m.run(RUN), Exit.Halt):
                        break
                except KeyError:
                    continue
        return recording, m.reads


def at(offset: int) -> int:
    return MMIO + offset


SCRIPT = (
    Write(1, mmio=at(0)), Read(mmio=at(4)), Write(3, mmio=at(0)), Read(mmio=at(0)), Read(mmio=at(4)), Write(7, mmio=at(12)),
    Write(9, mmio=at(8)), Read(mmio=at(4)), Write(4, mmio=at(0)),
)  # fmt: skip


def told(value: int, *levels: bool) -> tuple[Any, ...]:
    memory = Deed("write", ranges=((0x1000, 4),), data=value.to_bytes(4, "little"))
    return "told", 0x0, value, False, (memory, *drove(*levels))


def test_machine_keeps_when_a_method_was_told_of_a_posted_write_and_replay_tells_it_then(
    tmp_path: Path,
) -> None:
    recording, reads = recorded(*SCRIPT)
    assert reads == [0, 3, 0, 3]  # the method has not been told before the write to `sync`
    assert [(it.kind, it.offset, it.value, it.later, it.did) for it in recording.events] == [
        ("write", 0x0, 1, True, ()), ("read", 0x4, 0, False, ()), ("write", 0x0, 3, True, ()), ("read", 0x0, 3, False, ()),
        ("read", 0x4, 0, False, ()), ("write", 0xC, 7, False, ()), told(1, True), told(3),
        ("write", 0x8, 9, False, drove(False)), ("read", 0x4, 3, False, ()), ("write", 0x0, 4, True, ()), told(4),
    ]  # fmt: skip
    assert replay(recording, Ring()) is None
    recording.save(tmp_path / "ring.jsonl")
    again = Recording.load(tmp_path / "ring.jsonl")
    assert (again, replay(again, Ring())) == (recording, None)
    assert "told of the write of 0x3 to 0x0, 4 bytes" in str(recording.events[7])


def test_device_that_is_told_at_once_is_told_when_the_recorded_one_was() -> None:
    recording, _ = recorded(*SCRIPT)

    class AtOnce(Device):
        """Declares the same, and nothing is posted."""

        dma = True
        tail, head, sync, log = (
            Register(0x0),
            Register(0x4, access="ro"),
            Register(0x8),
            Register(0xC),
        )
        _tail = tail.on_write(Ring._tail)  # type: ignore[arg-type]
        _sync = sync.on_write(Ring._sync)  # type: ignore[arg-type]

    # What it does is the same at the same times; but a register that is not posted does not hold what it was not told of.
    found = replay(recording, AtOnce())
    assert found is not None
    assert (found.index, found.what, found.register) == (3, "value", "tail")
    without = [it for it in SCRIPT if it != Read(mmio=at(0))]
    assert replay(recorded(*without)[0], AtOnce()) is None


def test_device_without_a_declaration_is_told_when_the_declared_one_was() -> None:
    class Plain:
        """Does the same by hand."""

        size, dma, dma_limit, schema = 0x10, True, 64, 1
        irq: Any = None
        memory: Any = None

        def __init__(self) -> None:
            self.head = 0

        def load(self, state: Any) -> None: ...

        def read(self, offset: int, size: int, /) -> int:
            return self.head

        def write(self, offset: int, size: int, value: int, /) -> None:
            if offset == 0:
                self.head = value
                self.memory.write_int(0x1000, 4, value)
            if offset in (0, 8):
                self.irq.set(bool(offset == 0 and value & 1))

    recording, _ = recorded(*(it for it in SCRIPT if it != Read(mmio=at(0))))
    assert replay(recording, Plain()) is None

    class Fewer(Plain):
        def write(self, offset: int, size: int, value: int, /) -> None:
            super().write(offset, size, value & ~2)

    found = replay(recording, Fewer())
    assert found is not None
    assert (found.event.kind, found.event.value) == ("told", 3)


def test_recording_of_a_bench_where_all_is_told_at_once_is_replayed_so() -> None:
    bench = DeviceBench(Ring())
    with bench.record() as recording:
        for value in (1, 2):
            bench.write32(0x0, value)
            assert bench.read32(0x4) == value
    assert [(event.kind, event.later) for event in recording.events] == [
        ("write", False),
        ("read", False),
    ] * 2
    assert recording.events[0].irq == (True,)
    assert replay(recording, Ring()) is None


class Skips(Ring):
    @Ring.tail.on_write
    def _tail(self, value: int) -> None:
        self.head = value
        self.memory.write_int(0x1000, 4, value + (value == 3))  # type: ignore[union-attr]
        self.irq.set(bool(value & 1))


class Deaf(Ring):
    @Ring.tail.on_write
    def _tail(self, value: int) -> None: ...


@pytest.mark.parametrize(
    ("device", "index", "what", "expected"),
    [
        (Skips, 7, "did", told(3)[4][0]),
        (Deaf, 6, "did", told(1)[4][0]),
    ],
)
def test_first_divergence_of_a_method_that_is_told_later_is_where_it_was_told(
    device: type[Ring], index: int, what: str, expected: Deed
) -> None:
    recording, _ = recorded(*SCRIPT)
    found = replay(recording, device())
    assert found is not None
    assert (found.index, found.what, found.expected) == (index, what, expected)
    assert (found.event.kind, found.register) == ("told", "tail")


def test_stop_and_exception_of_a_method_that_is_told_later_are_kept_with_when_it_was_told() -> None:
    script = Write(0xBAD, mmio=at(0)), Write(1, mmio=at(8)), Write(0xFF, mmio=at(0)), Write(2, mmio=at(8))
    recording, _ = recorded(*script)
    events = {(event.kind, event.value): event for event in recording.events}
    assert (events["told", 0xBAD].raised, events["told", 0xFF].stop) == ("KeyError", "full")
    assert (events["write", 0xBAD].raised, events["write", 0xFF].stop) == (None, None)
    assert replay(recording, Ring()) is None

    class Fixed(Ring):
        @Ring.tail.on_write
        def _tail(self, value: int) -> None:
            self.head = value
            self.memory.write_int(0x1000, 4, value)  # type: ignore[union-attr]
            self.irq.set(bool(value & 1))

    found = replay(recording, Fixed())
    assert found is not None
    assert (found.event, found.what) == (events["told", 0xBAD], "raised")


def test_recording_that_ends_before_a_write_was_told_is_replayed_without() -> None:
    recording, _ = recorded(*SCRIPT)
    first = recording.events.index(next(event for event in recording.events if event.kind == "told"))
    short = Recording(
        device="ring", size=0x10, schema=1, lines={"irq": False}, messages={}, memory=True, events=recording.events[:first]
    )  # fmt: skip
    assert replay(short, Ring()) is None


def test_told_without_a_write_is_no_harm() -> None:
    odd = Recording(device="ring", size=0x10, schema=1, messages={}, events=(Event(0, "told", 0x0, 4, 1),))
    assert replay(odd, Ring()) is None


def test_reset_forgets_what_was_not_told_in_the_replay_too() -> None:
    events = (
        Event(0, "write", 0x0, 4, 1, later=True), Event(0, "reset"), Event(0, "write", 0x0, 4, 2, later=True),
        Event(0, "told", 0x0, 4, 2, did=told(2)[4]), Event(0, "read", 0x4, 4, 2),
    )  # fmt: skip
    recording = Recording(
        device="ring", size=0x10, schema=1, lines={"irq": False}, messages={}, memory=True, events=events
    )
    assert replay(recording, Ring()) is None
