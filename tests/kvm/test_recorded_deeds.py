"""Devices of guests under KVM that reach memory, send messages and are told of writes later: recorded, and replayed on a bench."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.guests import interruptible

from hyperpy import Device, Exit, Line, MemoryAccessError, Messages, Msi, Register
from hyperpy.testing import Deed, Recording, record, replay

RUN = 30.0
MMIO = 0xFE00_0000
ADDRESS, VECTOR = 0xFEE0_0000, 0x40


class Engine(Device):
    """Adds the numbers of a request in memory, leaves the sum there, and tells by a line, a fixed message and a chosen one."""

    dma = True
    request = Register(0x0)
    seen = Register(0x4)
    lost = Register(0x8, access="ro")
    done = Line()
    msi = Messages()

    @request.on_write
    def _request(self, at: int) -> None:
        assert self.memory is not None
        try:
            count, where = self.memory.read_int(at, 4), self.memory.read_int(at + 4, 4)
            numbers = memoryview(self.memory.read(where, 8 * count)).cast("Q")
            self.memory.write_int(at + 8, 8, self.added(numbers))
        except MemoryAccessError:
            self.memory.write_int(at + 8, 8, 0)
        self.irq.set(not self.irq.level)
        self.done.pulse()
        self.lost = self.lost + (not self.msi.send(ADDRESS, VECTOR))

    def added(self, numbers: memoryview) -> int:
        return sum(numbers)


# A hundred requests: of the numbers up to a hundred, then fewer; each tenth one is of where there is no memory.
REQUESTS = f"""
    mov rbx, {MMIO}
    mov rcx, 100
fill:
    mov [0x3000 + rcx * 8], rcx
    loop fill
    mov rcx, 100
again:
    mov dword ptr [0x2000], ecx
    mov dword ptr [0x2004], 0x3008
    mov eax, ecx
    xor edx, edx
    mov esi, 10
    div esi
    test edx, edx
    jnz there
    mov dword ptr [0x2004], 0x80000000
there:
    mov dword ptr [rbx], 0x2000
    mov eax, [0x2008]
    mov [rbx + 4], eax
    dec rcx
    jnz again
    cli
    hlt
"""


def test_dma_and_messages_of_a_guests_device_are_replayed_alone(boot: Any, tmp_path: Path) -> None:
    m = boot(REQUESTS, "long")
    engine = m.attach(Engine(), mmio=MMIO, irq={"irq": 5, "done": Msi(ADDRESS, VECTOR)})
    with record(engine) as recording:
        assert m.run(RUN) == Exit.Halt(0)
    assert (len(recording), recording.dropped) == (200, 0)
    assert (engine.seen, engine.lost) == (1, 100)  # the guest has not enabled its local APIC
    sums = [event.value for event in recording.events[1::2]]
    assert sums == [0 if it % 10 == 0 else it * (it + 1) // 2 for it in range(100, 0, -1)]
    numbers = b"".join(number.to_bytes(8, "little") for number in range(1, 100))
    assert recording.events[2].did == (
        Deed("read", ranges=((0x2000, 4),), data=(99).to_bytes(4, "little")),
        Deed("read", ranges=((0x2004, 4),), data=(0x3008).to_bytes(4, "little")),
        Deed("read", ranges=((0x3008, 792),), data=numbers),
        Deed("write", ranges=((0x2008, 8),), data=(4950).to_bytes(8, "little")),
        Deed("line", "irq", 0),
        Deed("message", "done", VECTOR, ADDRESS),
        Deed("message", "msi", VECTOR, ADDRESS, is_taken=False),
    )
    assert sum(deed.refused is not None for event in recording.events for deed in event.did) == 10
    alone = Engine()
    assert replay(recording, alone, memory="4K") is None
    assert (alone.seen, alone.lost) == (1, 100)
    recording.save(tmp_path / "engine.jsonl")

    class Wrong(Engine):
        def added(self, numbers: memoryview) -> int:
            return sum(numbers) ^ (len(numbers) == 42)

    found = replay(Recording.load(tmp_path / "engine.jsonl"), Wrong())
    assert found is not None
    assert (found.index, found.register, found.what) == (2 * 58, "request", "did")
    assert (found.expected.data, found.got.data) == ((903).to_bytes(8, "little"), (902).to_bytes(8, "little"))


class Late(Device):
    """A register whose method is told later, a stream, and a doorbell; each has a line and leaves something in memory."""

    dma = True
    tail = Register(0x0, posted=True)
    head = Register(0x4, access="ro")
    text = Register(0x8, access="wo", stream=True)
    kick = Register(0xC, access="wo", doorbell=True)
    kicks = Register(0x10, access="ro")
    length = Register(0x14)
    done = Line()

    def __init__(self) -> None:
        self.at = 0

    @tail.on_write
    def _tail(self, value: int) -> None:
        self.leave(0x4000, value)
        self.head = value
        self.irq.set(bool(value & 1))

    @text.on_write
    def _text(self, value: int) -> None:
        self.at += 1
        self.leave(0x4000 + 8 * self.at, value)

    @kick.on_write
    def _kick(self, value: None) -> None:
        self.kicks = self.kicks + 1
        self.done.pulse()
        self.leave(0x5000, self.kicks)

    @length.on_read
    def _length(self) -> int:
        return self.at

    def leave(self, gpa: int, value: int) -> None:
        self.memory.write_int(gpa, 4, value)  # type: ignore[union-attr]

    def save(self) -> dict[str, Any]:
        return {**super().save(), "at": self.at}

    def load(self, state: dict[str, Any]) -> None:
        super().load(state)
        self.at = state["at"]


# Writes to each register and looks, by reads that call no method and in memory, until it was told.
LATER = f"""
    mov ebx, {MMIO}
    {interruptible()}
    mov ecx, 4
again:
    mov [ebx], ecx
wait:
    mov eax, [ebx]
    mov eax, [ebx + 4]
    cmp eax, ecx
    jne wait
    mov [ebx + 8], ecx
    mov [ebx + 8], esi
    mov [ebx + 0xc], ecx
    mov esi, 5
    sub esi, ecx
rings:
    cmp [0x5000], esi
    jne rings
    loop again
    mov [ebx + 8], ecx
    mov eax, [ebx + 0x14]
    mov [ebx], ecx
    cli
    hlt
"""


def test_writes_that_a_device_is_told_of_later_are_replayed_with_their_times(
    boot: Any, tmp_path: Path
) -> None:
    m = boot(LATER, "protected")
    late = m.attach(Late(), mmio=MMIO, irq={"irq": 5, "done": 6})
    with record(late) as recording:
        assert m.run(RUN) == Exit.Halt(0)
    assert (late.at, late.head, late.kicks, recording.dropped) == (9, 0, 4, 0)
    kinds = [(event.kind, event.offset) for event in recording.events]
    assert (kinds.count(("told", 0x0)), kinds.count(("told", 0x8))) == (5, 9)
    assert sum(event.later for event in recording.events) == 14
    # The guest has looked before the method was told: what differs on a bench, where it is told at once.
    first, then = kinds.index(("write", 0x0)), kinds.index(("told", 0x0))
    assert ("read", 0x4) in kinds[first:then]
    rings = [event for event in recording.events if event.offset == 0xC]
    assert [deed.kind for deed in rings[0].did] == ["line", "line", "write"]
    assert len(rings) == 4
    assert replay(recording, Late()) is None
    recording.save(tmp_path / "late.jsonl")
    assert replay(Recording.load(tmp_path / "late.jsonl"), Late()) is None

    class Wrong(Late):
        def leave(self, gpa: int, value: int) -> None:
            super().leave(gpa + 4 * (gpa == 0x4000 and value == 2), value)

    found = replay(recording, Wrong())
    assert found is not None
    assert (found.event.kind, found.register, found.event.value) == ("told", "tail", 2)
    assert (found.expected.ranges, found.got.ranges) == (((0x4000, 4),), ((0x4004, 4),))


@pytest.mark.parametrize("limit", [40, 1000])
def test_limit_of_a_recording_under_kvm_ends_it_at_whole_events(boot: Any, limit: int) -> None:
    m = boot(REQUESTS, "long")
    engine = m.attach(Engine(), mmio=MMIO, irq={"irq": 5, "done": 6})
    with record(engine, limit=limit) as recording:
        assert m.run(RUN) == Exit.Halt(0)
    assert 0 < len(recording) < 200
    assert recording.dropped > 0
    assert replay(recording, Engine()) is None
