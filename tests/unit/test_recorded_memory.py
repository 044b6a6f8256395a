"""Guest memory of a recorded device: every way to it is kept and fed, within a limit."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from tests.recorded_disk import MMIO, RUN, Disk, asked, header, moved

from hyperpy import Device, Register
from hyperpy.testing import (
    DeviceBench,
    Event,
    Recording,
    ScriptedMachine,
    Write,
    record,
    replay,
)


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
