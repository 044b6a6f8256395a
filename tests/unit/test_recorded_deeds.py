"""What a recorded device does itself, which a replay feeds it and compares. Ways to guest memory: test_recorded_memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.recorded import drove
from tests.recorded_disk import MMIO, NOWHERE, RUN, SENT, Disk, asked, header, moved, recorded

from hyperpy import Device, Line, MemoryAccessError, Msi, Register
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


def test_bench_keeps_what_a_device_does_in_its_order() -> None:
    recording = recorded()
    assert (recording.lines, recording.messages) == ({"irq": False, "done": False}, {"msi": None})
    assert (recording.memory, recording.dropped) == (True, 0)
    told = (*drove(True), *drove(True, False, name="done"), SENT)
    refused = recording.events[2].did[4].refused
    assert refused is not None
    assert "no memory at 0x80000000" in refused[0]
    assert refused[1:] == (NOWHERE, 2)
    assert recording.events == (
        Event(0, "write", 0x0, 4, 0x100, did=(
            *header(0x100, 0x1000, 0x2000, 4), moved("read", 0x1000, bytes(range(4))),
            moved("write", 0x2000, bytes(range(4))), moved("write", 0x10C, b"\0\1"), *told,
        )),
        Event(0, "write", 0x4, 4, 0, did=drove(False)),
        Event(0, "write", 0x0, 4, 0x200, did=(
            *header(0x200, 0x1000, NOWHERE, 2), moved("read", 0x1000, b"\0\1"),
            moved("write", NOWHERE, b"\0\1")._replace(refused=refused), *told,
        )),
        Event(0, "read", 0xC, 4, 2),
        Event(0, "write", 0x8, 4, 7),
        Event(7, "timer", value=7, did=(
            moved("write", 0x40, (7).to_bytes(8, "little")), *drove(True, False, name="done"),
        )),
        # The line is high already.
        Event(10, "write", 0x0, 4, 0x300, did=(
            *header(0x300, 0x1000, 0x3000, 256), moved("read", 0x1000, bytes(range(256))),
            moved("write", 0x3000, bytes(range(256))), moved("write", 0x30C, b"\0\1"), *told[1:],
        )),
        Event(0, "reset", did=(moved("write", 0x50, b"reset"),)),
    )  # fmt: skip
    assert recording.events[0].irq == (True,)


def test_replay_feeds_guest_memory_from_the_recording_and_its_file(tmp_path: Path) -> None:
    recording, disk = recorded(), Disk()
    assert replay(recording, disk, memory="4K") is None
    assert not disk.memory
    recording.save(tmp_path / "disk.jsonl")
    again = Recording.load(tmp_path / "disk.jsonl")
    assert again == recording
    assert replay(again, Disk()) is None


class Other(Disk):
    """Each subclass does one thing otherwise."""

    @Disk.request.on_write
    def _request(self, at: int) -> None:
        self.asked(at)
        self.irq.set(True)
        self.done.pulse()
        self.send()

    def asked(self, at: int) -> None:
        try:
            self.copy(*(self.memory.read_int(at + 4 * index, 4) for index in range(3)))
            self.memory.write_int(at + 12, 2, 1, "big")
        except MemoryAccessError as error:
            self.failed = error.size

    def copy(self, source: int, target: int, length: int) -> None:
        self.memory.write(target, self.memory.read(source, length))

    def send(self) -> None:
        self.msi.send(0xFEE0_0000, 0x41)


class Elsewhere(Other):
    def copy(self, source: int, target: int, length: int) -> None:
        self.memory.write(target, self.memory.read(source + 1, length))


class Short(Other):
    def copy(self, source: int, target: int, length: int) -> None:
        self.memory.write(target, self.memory.read(source, length)[: min(length, 255)])


class Flips(Other):
    def copy(self, source: int, target: int, length: int) -> None:
        data = bytearray(self.memory.read(source, length))
        data[200:201] = b"!" if length > 200 else b""
        self.memory.write(target, data)


class Early(Other):
    def asked(self, at: int) -> None:
        self.irq.set(True)
        super().asked(at)


class Forgets(Other):
    def send(self) -> None: ...


class Twice(Other):
    def send(self) -> None:
        super().send()
        super().send()


class Vector(Other):
    def send(self) -> None:
        self.msi.send(0xFEE0_0000, 0x42)


class Careless(Other):
    def copy(self, source: int, target: int, length: int) -> None:
        if target == NOWHERE:
            return
        super().copy(source, target, length)


class Greedy(Other):
    def send(self) -> None:
        super().send()
        self.memory.read(0x7000, 1)


class Sleepy(Other):
    def expire(self) -> None:
        self.done.pulse()


class Swallows(Other):
    """Asks again whatever happens."""

    def copy(self, source: int, target: int, length: int) -> None:
        while True:
            try:
                self.memory.read(source + 1, length)
            except Exception:
                continue


@pytest.mark.parametrize(
    ("device", "index", "expected", "got", "where"),
    [
        (Elsewhere, 0, moved("read", 0x1000, b"\0\1\2\3"), moved("read", 0x1001, b"\0\0\0\0")._replace(data=b""), "copy"),
        (Short, 6, moved("write", 0x3000, bytes(range(256))), moved("write", 0x3000, bytes(range(255))), "copy"),
        (Flips, 6, moved("write", 0x3000, bytes(range(256))),
         moved("write", 0x3000, bytes(range(200)) + b"!" + bytes(range(201, 256))), "copy"),
        (Early, 0, header(0x100, 0x1000)[0], drove(True)[0], "asked"),
        (Forgets, 0, SENT, None, ""),
        (Twice, 0, None, SENT, "send"),
        (Vector, 0, SENT, SENT._replace(value=0x42), "send"),
        (Careless, 2, moved("read", 0x1000, b"\0\1"), moved("write", 0x20C, b"\0\1"), "asked"),
        (Greedy, 0, None, Deed("read", ranges=((0x7000, 1),)), "send"),
        (Sleepy, 5, moved("write", 0x40, b"\7" + bytes(7)), drove(True, name="done")[0], "expire"),
        (Swallows, 0, moved("read", 0x1000, b"\0\1\2\3"), Deed("read", ranges=((0x1001, 4),)), "copy"),
    ],
)  # fmt: skip
def test_first_deed_that_differs_is_pointed_at(
    device: type[Disk], index: int, expected: Deed | None, got: Deed | None, where: str
) -> None:
    recording = recorded()
    found = replay(recording, device())
    assert found is not None
    assert (found.index, found.what, found.expected, found.got) == (index, "did", expected, got)
    assert (found.event, found.error) == (recording.events[index], None)
    file, _, function = found.where.rpartition(", in ")
    assert function == where
    assert (file.rpartition(":")[0] == __file__) == bool(where)


def test_deed_that_differs_is_shown_from_where_it_does() -> None:
    text = str(replay(recorded(), Flips())).splitlines()
    assert text[:3] == [
        "event 6, 10 ns: write of 0x300 to 0x0, 4 bytes (request)",
        "  did recorded: write of 256 bytes at 0x3000, from byte 0xc0: c0c1c2c3c4c5c6c7c8c9cacbcccdcecf...",
        "      replayed: write of 256 bytes at 0x3000, from byte 0xc0: c0c1c2c3c4c5c6c721c9cacbcccdcecf...",
    ]
    assert text[3].startswith(f"  at {__file__}:")
    assert "  did recorded: nothing more\n      replayed: msi sends 0x41 to 0xfee00000\n" in str(
        replay(recorded(), Twice())
    )
    assert str(recorded().events[2].did[4]) == (
        "write of 2 bytes at 0x80000000: refused: dma reaches no memory at 0x80000000 for 0x2 bytes"
    )
    lost = Deed("message", "msi", 0x41, 0xFEE0_0000, is_taken=False)
    many = Deed("read", ranges=((0, 1), (2, 2), (4, 1), (6, 0)), data=b"abcd")
    assert (str(lost), str(many)) == (
        "msi sends 0x41 to 0xfee00000, which reached nobody",
        "read of 1 byte at 0x0, 2 bytes at 0x2, 1 byte at 0x4, 1 more: 61626364",
    )


def test_machine_keeps_the_same_with_the_messages_of_lines_and_who_took_them() -> None:
    script = [
        Write(0x100, mmio=MMIO),
        Write(0, mmio=MMIO + 4),
        Write(0x200, mmio=MMIO),
        Read(mmio=MMIO + 0xC),
    ]
    with ScriptedMachine(script) as m:
        disk = m.attach(Disk(), mmio=MMIO, irq={"irq": 5, "done": Msi(0xFEE0_0000, 0x30)})
        asked(m.memory, 0x100, 0x1000, 0x2000, 4)
        asked(m.memory, 0x200, MMIO, 0x2000, 4)
        m.memory.write(0x1000, b"data")
        with record(disk) as recording:
            assert m.run(RUN) == Exit.Halt(0)
        assert m.memory.read(0x2000, 4) == b"data"
        assert not disk.irq.level or disk.memory.limit
    assert recording.lines == {"irq": False, "done": False}
    assert recording.messages == {"msi": None, "done": (0xFEE0_0000, 0x30)}
    did = recording.events[0].did
    assert did[:7] == (
        *header(0x100, 0x1000, 0x2000, 4), moved("read", 0x1000, b"data"), moved("write", 0x2000, b"data"),
        moved("write", 0x10C, b"\0\1"), *drove(True),
    )  # fmt: skip
    assert did[7] == Deed("message", "done", 0x30, 0xFEE0_0000)
    assert did[8:] == (SENT._replace(is_taken=bool(did[8].is_taken)),)
    assert recording.events[2].did[3].refused is not None
    found: list[Disk] = [Disk()]
    assert replay(recording, found[0]) is None
    assert found[0].lost == int(not did[8].is_taken)


class Silent(Disk):
    """Its line is a message, which is sent at each rise, whatever was before."""

    go = Register(0x20, access="wo")

    @go.on_write
    def _go(self, value: int) -> None:
        for _ in range(value):
            self.done.raise_()


def test_line_that_is_a_message_sends_it_as_often_as_it_is_raised() -> None:
    with ScriptedMachine([Write(2, mmio=MMIO + 0x20), Write(1, mmio=MMIO + 0x20)]) as m:
        device = m.attach(Silent(), mmio=MMIO, irq={"done": Msi(0xFEE0_0000, 0x30)})
        with record(device) as recording:
            m.run(RUN)
            device.done.lower()
            device.done.raise_()
    sent = Deed("message", "done", 0x30, 0xFEE0_0000)
    assert [event.did for event in recording.events] == [
        (sent, sent),
        (sent,),
        drove(False, name="done"),
        (sent,),
    ]
    assert [event.kind for event in recording.events[2:]] == ["line", "message"]
    assert replay(recording, Silent()) is None

    class Once(Silent):
        @Silent.go.on_write
        def _go(self, value: int) -> None:
            self.done.raise_()

    found = replay(recording, Once())
    assert found is not None
    assert (found.index, found.expected, found.got) == (0, sent, None)


def test_lines_that_were_not_connected_are_not_in_the_replay_and_undeclared_ones_are() -> None:
    class Odd(Device):
        size = 4
        sent = Line()
        extra: Any = None

        def read(self, offset: int, size: int, /) -> int:
            if self.extra:
                self.extra.pulse()
            return 2 * bool(self.sent) + bool(self.irq)

    with ScriptedMachine([Read(pio=0x80, size=1)]) as m:
        odd = m.attach(Odd(), pio=0x80, irq={"extra": 5})
        with record(odd) as recording:
            m.run(RUN)
        assert m.reads == [0]
    assert recording.lines == {"extra": False}
    assert recording.events[0].did == drove(True, False, name="extra")
    assert replay(recording, Odd()) is None
    bench = DeviceBench(Odd())
    with bench.record() as other:
        assert bench.read8(0) == 3
    assert other.lines == {"irq": False, "sent": False}
    assert replay(other, Odd()) is None
