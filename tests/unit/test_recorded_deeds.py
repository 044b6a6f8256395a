"""What a recorded device does itself: its lines, its messages, and guest memory, which a replay feeds it and compares."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
from tests.recorded import drove

from hyperpy import Device, Line, MemoryAccessError, Messages, Msi, Register
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
NOWHERE = 0x8000_0000


class Disk(Device):
    """Copies what a request says, tells how it went where that says, and drives a line and sends a message."""

    dma = True
    irq_level = True
    done = Line()
    msi = Messages()
    request = Register(0x0)
    ack = Register(0x4, access="wo")
    later = Register(0x8, access="wo")
    failed = Register(0xC, access="ro")
    lost = Register(0x10, access="ro")

    @request.on_write
    def _request(self, at: int) -> None:
        try:
            source, target, length = (self.memory.read_int(at + 4 * index, 4) for index in range(3))
            self.memory.write(target, self.memory.read(source, length))
            self.memory.write_int(at + 12, 2, 1, "big")
        except MemoryAccessError as error:
            self.failed = error.size
        self.irq.set(True)
        self.done.pulse()
        self.lost = int(not self.msi.send(0xFEE0_0000, 0x41))

    @ack.on_write
    def _ack(self, value: int) -> None:
        self.irq.set(False)

    @later.on_write
    def _later(self, value: int) -> None:
        self.clock.after(value, self.expire)  # type: ignore[union-attr]

    def expire(self) -> None:
        self.memory.write_int(0x40, 8, self.clock.now)  # type: ignore[union-attr]
        self.done.pulse()

    def reset(self) -> None:
        super().reset()
        if self.memory:
            self.memory.write(0x50, b"reset")


def asked(memory: Any, at: int, source: int, target: int, length: int) -> None:
    for index, number in enumerate((source, target, length)):
        memory.write(at + 4 * index, number.to_bytes(4, "little"))


def moved(kind: Any, gpa: int, data: bytes) -> Deed:
    return Deed(kind, ranges=((gpa, len(data)),), data=data)


def recorded() -> Recording:
    """Of three requests, the second one of which is wrong, an acknowledgement, a timer and a reset."""
    bench = DeviceBench(Disk())
    asked(bench.memory, 0x100, 0x1000, 0x2000, 4)
    asked(bench.memory, 0x200, 0x1000, NOWHERE, 2)
    asked(bench.memory, 0x300, 0x1000, 0x3000, 256)
    bench.memory.write(0x1000, bytes(range(256)))
    with bench.record() as recording:
        bench.write32(0x0, 0x100)
        bench.write32(0x4, 0)
        bench.write32(0x0, 0x200)
        assert bench.read32(0xC) == 2
        bench.write32(0x8, 7)
        bench.clock.step(10)
        bench.write32(0x0, 0x300)
        bench.reset()
    return recording


def header(at: int, *numbers: int) -> tuple[Deed, ...]:
    return tuple(
        moved("read", at + 4 * index, number.to_bytes(4, "little")) for index, number in enumerate(numbers)
    )


SENT = Deed("message", "msi", 0x41, 0xFEE0_0000)


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


def test_every_way_to_memory_is_recorded_and_fed() -> None:
    class Ways(Device):
        size, dma = 4, True
        got: Any = ()

        def read(self, offset: int, size: int, /) -> int:
            memory, into = self.memory, bytearray(3)
            assert memory is not None
            self.got = [
                memory.read(0x10, 2), memory.read_into(0x20, into), bytes(into), memory.read_int(0x30, 4),
                memory.read_int(0x40, 2, "big"), memory.gather([(0x50, 1), (0x60, 2)]), memory.gather([]),
            ]  # fmt: skip
            memory.write(0x70, memoryview(bytearray(b"abcd"))[1:3])
            memory.write_int(0x80, 4, 0x1234)
            memory.write_int(0x90, 4, 0x1234, "big")
            self.got.append(memory.scatter([(0xA0, 1), (0xB0, 5)], b"xyz"))
            for wrong in (
                lambda: memory.read(-1, 1), lambda: memory.read_int(0, 9), lambda: memory.read_into(0, b"abc"),
                lambda: memory.write(0, memoryview(b"abcd")[::2]), lambda: memory.write(1 << 64, b""),
                lambda: memory.read_into(1 << 40, into), lambda: memory.scatter([(0, 1)], b"ab"),
                lambda: memory.read(0, 1 << 40), lambda: memory.write_int(1 << 40, 1, 0),
                lambda: memory.read_int(1 << 40, 1), lambda: memory.write(0, 5),  # type: ignore[arg-type]
            ):  # fmt: skip
                try:
                    wrong()
                except Exception as error:
                    self.got.append(
                        (type(error), getattr(error, "address", 0), str(error).partition("\n")[0])
                    )
            return len(self.got)

    bench = DeviceBench(Ways())
    bench.memory.write(0, bytes(range(256)))
    with bench.record() as recording:
        bench.read8(0)
    got = bench.device.got
    assert len(got) == 8 + 11
    assert [(deed.kind, deed.data) for deed in recording.events[0].did if deed.refused is None] == [
        ("read", b"\x10\x11"), ("read", b"\x20\x21\x22"), ("read", b"\x30\x31\x32\x33"), ("read", b"\x40\x41"),
        ("read", b"\x50\x60\x61"), ("read", b""), ("write", b"bc"), ("write", b"\x34\x12\0\0"), ("write", b"\0\0\x12\x34"),
        ("write", b"xyz"),
    ]  # fmt: skip
    ways = Ways()
    assert replay(recording, ways) is None
    assert ways.got == got
    # It is itself again.
    before = bench.memory.read(0, 256)
    bench.read8(0)
    assert (len(recording), bench.memory.read(0, 256)) == (1, before)


def test_memory_that_another_thread_reaches_stands_alone_and_is_not_replayed() -> None:
    class Threaded(Disk):
        start = Register(0x20, access="wo")

        @start.on_write
        def _start(self, value: int) -> None:
            for work in (
                lambda: self.memory.write(0x100, b"x"),
                self.done.pulse,
                lambda: self.msi.send(1, 2),
            ):
                thread = threading.Thread(target=work)
                thread.start()
                thread.join(RUN)
            self.memory.read(0x100, 1)

    bench = DeviceBench(Threaded())
    with bench.record() as recording:
        bench.write32(0x20, 1)
        bench.device.memory.write(0x200, b"script")  # type: ignore[union-attr]
    assert [event.kind for event in recording.events] == [
        "write", "memory", "line", "line", "message", "memory",
    ]  # fmt: skip
    assert recording.events[0].did == (moved("read", 0x100, b"x"),)
    assert replay(recording, Threaded()) is None

    class Alone(Threaded):
        @Threaded.start.on_write
        def _start(self, value: int) -> None:
            self.memory.read(0x100, 1)

    assert replay(recording, Alone()) is None


def test_limit_counts_bytes_of_memory_and_says_when_it_was_reached() -> None:
    bench = DeviceBench(Disk())
    asked(bench.memory, 0x100, 0x1000, 0x2000, 640)
    with bench.record(limit=60) as recording:
        bench.write32(
            0x0, 0x100
        )  # an event, 3 numbers, 640 bytes twice, a result, 3 changes of lines, a message: 31
        assert (len(recording), recording.dropped) == (1, 0)
        bench.write32(0x0, 0x100)  # 30, since the line is high, of which 29 fit
        bench.write32(0x4, 0)
    # The message, the event without it, the access after it and what that did.
    assert (len(recording), recording.dropped) == (1, 4)
    assert replay(recording, Disk()) is None


def test_device_without_memory_in_the_recording_has_that_of_the_bench() -> None:
    recording = Recording(
        device="a.B",
        size=0x14,
        schema=1,
        messages={},
        events=(Event(0, "write", 0x0, 4, 0x100), Event(0, "read", 0xC, 4, 9)),
    )

    class Quiet(Disk):
        @Disk.request.on_write
        def _request(self, at: int) -> None:
            self.failed = self.memory.read_int(at, 1) + 9

    assert replay(recording, Quiet()) is None


def test_memory_is_the_devices_own_again_when_the_recording_ends_and_goes_when_it_is_detached() -> None:
    with ScriptedMachine([Write(0x100, mmio=MMIO)]) as m:
        disk = m.attach(Disk(), mmio=MMIO, irq={"irq": 5, "done": 6})
        asked(m.memory, 0x100, 0x1000, 0x2000, 4)
        plain = disk.memory._native  # type: ignore[union-attr]
        recording = record(disk)
        assert disk.memory._native is not plain  # type: ignore[union-attr]
        recording.stop()
        assert disk.memory._native is plain  # type: ignore[union-attr]
        recording, memory = record(disk), disk.memory
        assert memory is not None
        m.run(RUN)
        m.detach(disk)
        with pytest.raises(Exception, match="detached"):
            memory.read(0, 1)
        assert "detached" in repr(memory)
        recording.stop()
    assert [event.kind for event in recording.events] == ["write", "line"]  # which detaching takes down
    assert recording.events[0].did[0] == header(0x100, 0x1000)[0]
