"""`record`: what is kept of a device on a bench and in a machine without KVM, and for how long."""

from __future__ import annotations

import gc
import os
import threading
import time
import weakref
from typing import Any

import pytest
from tests.devices import Notes, Plain
from tests.recorded import TRAFFIC, Nic, drove

from hyperpy import (
    Clock,
    DebugExit,
    Device,
    DeviceError,
    Exit,
    Line,
    Ram,
    Register,
    StateError,
    Stop,
    Window,
    _record,
)
from hyperpy.testing import (
    Access,
    DeviceBench,
    Event,
    Read,
    ScriptedMachine,
    Write,
    record,
    replay,
)

RUN = 10.0
MMIO = 0xFE00_0000


def test_bench_keeps_accesses_times_lines_timers_and_stops() -> None:
    bench = DeviceBench(Nic())
    with bench.record() as recording:
        assert not recording.is_over
        bench.play(TRAFFIC)
    bench.write32(0x0, 9)
    assert list(recording.events) == [
        Event(0, "write", 0x0, 4, 5),
        Event(0, "write", 0x8, 4, 1, did=drove(True)),
        Event(10, "read", 0x4, 4, 1),
        Event(10, "write", 0x4, 4, 1, did=drove(False)),
        Event(10, "write", 0xC, 4, 500),
        Event(510, "timer", value=510, did=drove(True)),
        Event(1010, "read", 0x4, 4, 2),
        Event(1010, "read", 0x10, 8, 1010),
        Event(1010, "read", 0x18, 8, 1010),
        Event(1010, "write", 0x22, 2, 0xABCD),
        Event(1010, "read", 0x20, 8, 0xABCD_0000),
        Event(1010, "write", 0x8, 4, 0xDEAD, stop="off"),
    ]
    assert (recording.dropped, recording.is_over, len(recording)) == (0, True, 12)
    assert recording.state["registers"]["control"] == 0
    assert repr(recording) == "<recording of tests.recorded.Nic: 12 events>"
    assert replay(recording, Nic()) is None


def test_recording_in_the_middle_begins_with_the_state_the_time_and_the_line() -> None:
    bench = DeviceBench(Nic())
    bench.play(TRAFFIC)
    bench.device.slots[0:3] = b"abc"
    with bench.record() as recording:
        bench.play([*TRAFFIC, Access(0x4, 4, 3)])
    assert (recording.begin, recording.lines, recording.state["packets"]) == (1010, {"irq": True}, 2)
    assert recording.events[-1].irq == (False,)
    assert replay(recording, Nic()) is None


def test_machine_keeps_the_same_of_a_device_wherever_it_is_attached() -> None:
    script = [
        Write(5, mmio=MMIO), Write(1, pio=0x108), Read(mmio=MMIO + 4), Write(1, mmio=MMIO + 4), Write(2, pio=0x108),
        Read(mmio=MMIO + 0x10, size=8), Read(mmio=MMIO + 0x18, size=8), Read(mmio=MMIO + 0x10, size=8), Read(pio=0x500),
        Write(0xDEAD, mmio=MMIO + 8),
    ]  # fmt: skip
    with ScriptedMachine(script, unclaimed="ones") as m:
        nic = m.attach(Nic(), mmio=MMIO, irq=5)
        m.attach(nic, pio=0x100)
        m.attach(Notes(), pio=0x80)
        with record(nic) as recording:
            assert m.run(RUN) == Exit.Stopped(0, "off")
        assert m.run(RUN) == Exit.Halt(0)
        assert m.reads[0] == 1
    kinds = [(event.kind, event.offset, event.irq) for event in recording.events]
    assert kinds == [
        ("write", 0x0, ()), ("write", 0x8, (True,)), ("read", 0x4, ()), ("write", 0x4, (False,)), ("write", 0x8, (True,)),
        ("read", 0x10, ()), ("read", 0x18, ()), ("read", 0x10, ()), ("write", 0x8, ()),
    ]  # fmt: skip
    times = [event.time for event in recording.events]
    assert times == sorted(times)
    # What a device reads off the clock in an access is the time of that access, to the nanosecond.
    assert [event.value for event in recording.events[5:8]] == times[5:8]
    assert recording.events[-1].stop == "off"
    assert replay(recording, Nic()) is None


def test_batches_are_recorded_and_benches_go_on_as_before_afterwards() -> None:
    bench = DeviceBench(Nic())
    batch = bench.compile([(0x0, 4, 7), (0x0, 4)])
    plain = bench._native
    with bench.record() as recording:
        assert bench._native is not plain
        batch.run()
    assert bench._native is plain
    assert batch.run() == [7]
    assert [event.kind for event in recording.events] == ["write", "read"]


def test_what_is_more_than_the_limit_is_counted_and_the_first_ones_are_kept() -> None:
    bench = DeviceBench(Nic())
    with bench.record(limit=3) as recording:
        bench.batch([(0x0, 4, value) for value in range(10)])
    assert [event.value for event in recording.events] == [0, 1, 2]
    assert (recording.dropped, replay(recording, Nic())) == (7, None)
    assert "3 events, 7 dropped" in repr(recording)
    with pytest.raises(ValueError, match="limit is out of range: 0"):
        bench.record(limit=0)


def test_stop_inside_of_an_access_is_before_the_next_one() -> None:
    class Ends(Notes):
        recording: Any = None

        def write(self, offset: int, size: int, value: int, /) -> None:
            self.recording.stop()

    bench = DeviceBench(Ends())
    bench.device.recording = bench.record()
    bench.read8(1)
    bench.write8(0, 1)
    bench.read8(2)
    assert [event.offset for event in bench.device.recording.events] == [1, 0]
    assert bench.device.recording.dropped == 0


def test_devices_without_a_declaration_are_recorded_too() -> None:
    with ScriptedMachine([Read(pio=0x80, size=1), Write(3, pio=0x84, size=1), Write(3, pio=0xF4)]) as m:
        plain = m.attach(Plain(), pio=0x80, size=16)
        stock = m.attach(DebugExit(), pio=0xF4)
        recordings = [record(plain), record(stock)]
        assert m.run(RUN) == Exit.Stopped(0, "debug exit", 7)
        for recording in recordings:
            recording.stop()
    assert [recording.state for recording in recordings] == [None, None]
    assert [len(recording) for recording in recordings] == [2, 1]
    assert recordings[1].events[0].stop == "debug exit, status 7"
    assert replay(recordings[0], Plain()) is None
    assert replay(recordings[1], DebugExit()) is None


def test_device_that_is_nowhere_or_recorded_already_or_runs_is_refused() -> None:
    with pytest.raises(DeviceError, match="device is on no machine and no bench: <Nic .*\n\nhint: "):
        record(Nic())
    bench = DeviceBench(Nic())
    with record(bench):
        with pytest.raises(DeviceError, match="device is recorded already"):
            bench.record()
        with pytest.raises(DeviceError, match="device is recorded already"):
            record(bench.device)
    with record(bench.device) as recording:
        pass
    assert recording.is_over
    with ScriptedMachine([Read(pio=0x500)], unclaimed="ones") as m:
        nic = m.attach(Nic(), pio=0x80)
        hold = threading.Event()
        m.clock.after(0, lambda: hold.wait(RUN))
        m.start()
        with pytest.raises(StateError, match="cannot record: the machine is running\n\nhint: "):
            record(nic)
        hold.set()
        m.wait(RUN)


def test_state_that_cannot_be_saved_leaves_no_recording_behind() -> None:
    class Unsaved(Nic):
        def save(self) -> dict[str, Any]:
            raise OSError("disk")

    bench = DeviceBench(Unsaved())
    plain = bench._native
    for _ in range(2):
        with pytest.raises(OSError, match="disk"):
            bench.record()
    assert bench._native is plain


def test_recording_that_is_abandoned_ends_and_lets_go_of_the_device() -> None:
    bench = DeviceBench(Nic())
    plain = bench._native
    recording = bench.record()
    device, gone = weakref.ref(bench.device), weakref.ref(recording)
    del recording
    gc.collect()
    assert gone() is None
    assert bench._native is plain
    bench.record().stop()
    bench.device.recording = bench.record()  # type: ignore[attr-defined]
    bench.device.bench = bench  # type: ignore[attr-defined]
    del bench, plain
    gc.collect()
    assert device() is None
    assert not _record._open


def test_recorded_device_of_a_machine_is_collected_with_it() -> None:
    with ScriptedMachine([Write(1, mmio=MMIO), Write(1, mmio=MMIO + 0xC)]) as m:
        nic = m.attach(Nic(), mmio=MMIO, irq=5)
        nic.recording = record(nic)  # type: ignore[attr-defined]
        nic.machine = m  # type: ignore[attr-defined]
        m.run(RUN)
    gone = weakref.ref(nic)
    del nic, m
    gc.collect()
    assert gone() is None


def test_recorded_device_that_is_detached_is_recorded_no_more() -> None:
    with ScriptedMachine([Write(1, pio=0x80), Write(2, pio=0x80)], unclaimed="exit") as m:

        class Leaves(Notes):
            def write(self, offset: int, size: int, value: int, /) -> None:
                m.detach(self)

        device = m.attach(Leaves(), pio=0x80)
        recording = record(device)
        assert m.run(RUN) == Exit.Pio(0, 0x80, 4, True, 2)
        recording.stop()
        assert [event.value for event in recording.events] == [1]
        record(m.attach(device, pio=0x80)).stop()


@pytest.mark.fault(34)
def test_recording_of_a_machine_in_the_child_of_a_fork_is_the_parents() -> None:
    with ScriptedMachine([Write(1, pio=0x80), Write(2, pio=0x80)]) as m:
        device = m.attach(Notes(), pio=0x80)
        recording, bench = record(device), DeviceBench(Notes())
        own = bench.record()
        child = os.fork()
        if child == 0:
            refused = 0
            try:
                len(recording)
            except StateError as error:
                refused = "forked" in str(error)
            recording.stop()
            del recording
            gc.collect()
            bench.write8(0, 1)
            own.stop()
            os._exit(10 * refused + len(own))
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 11
        assert m.run(RUN) == Exit.Halt(0)
        recording.stop()
        own.stop()
    assert (len(recording), len(own)) == (2, 0)


class Card(Device):
    """Two windows; what is written to the ports ends the run."""

    ports, regs = Window(8), Window(0x100)
    sent = Line()
    go = Register(ports[0x0], width=1)
    total = Register(regs[0x10])
    slots = Ram(regs[0x20], 8)

    @go.on_write
    def _go(self, value: int) -> Stop:
        self.sent.pulse()
        self.irq.set(bool(value & 1))
        return Stop("next")

    @total.on_write
    def _total(self, value: int) -> None:
        self.total = value + self.go


def test_recording_goes_with_the_windows_of_a_device_wherever_they_are() -> None:
    script = [
        Write(1, mmio=MMIO + 0x10), Write(1, pio=0x300, size=1),
        Write(2, mmio=MMIO + 0x10), Write(3, mmio=MMIO + 0x1010), Write(2, pio=0x308, size=1),
        Write(4, mmio=MMIO + 0x1010), Write(5, pio=0x308, size=1),
        Write(6, mmio=MMIO + 0x2010), Read(mmio=MMIO + 0x2010), Write(7, mmio=MMIO + 0x2020), Write(8, pio=0x308, size=1),
        Write(9, mmio=MMIO + 0x10), Write(10, pio=0x300, size=1),
        Read(mmio=MMIO + 0x10),
    ]  # fmt: skip
    with ScriptedMachine(script, unclaimed="ones") as m:
        card = m.attach(Card(), mmio={"regs": MMIO}, pio={"ports": 0x300}, irq={"irq": 5, "sent": 6})
        after = [
            lambda: m.move(card, mmio={"regs": MMIO + 0x1000}, pio={"ports": 0x308}),
            lambda: m.disable(card, "regs"),
            lambda: (m.move(card, mmio={"regs": MMIO + 0x2000}), m.enable(card)),
        ]
        with record(card) as recording:
            for change in after:
                assert m.run(RUN) == Exit.Stopped(0, "next")
                change()
            assert m.run(RUN) == Exit.Stopped(0, "next")
        # Where it is now it is the device itself again, and so it is when it is moved.
        m.move(card, mmio={"regs": MMIO}, pio={"ports": 0x300})
        assert m.run(RUN) == Exit.Stopped(0, "next")
        assert m.run(RUN) == Exit.Halt(0)
        assert m.reads == [11, 17]
        with record(card) as again:
            pass
    assert [(event.offset, event.value, event.irq) for event in recording.events] == [
        (0x1010, 1, ()), (0x0, 1, (True,)),
        (0x1010, 3, ()), (0x0, 2, (False,)),
        (0x0, 5, (True,)),
        (0x1010, 6, ()), (0x1010, 11, ()), (0x1020, 7, ()), (0x0, 8, (False,)),
    ]  # fmt: skip
    assert (recording.size, recording.state["registers"]["total"], again.events) == (0x1100, 0, ())
    assert replay(recording, Card()) is None


def test_statistics_and_maps_are_what_they_were() -> None:
    with ScriptedMachine([Write(1, mmio=MMIO), Read(mmio=MMIO), Write(1, mmio=MMIO + 8)]) as m:
        nic = m.attach(Nic(), mmio=MMIO)
        before = str(m.map)
        with record(nic):
            assert str(m.map) == before
            m.run(RUN)
        assert (m.stats.hits["register"], m.stats.hits["python"]) == (2, 1)


def test_clock_of_others_goes_on_while_an_access_is_recorded() -> None:
    class Slow(Notes):
        clock: Clock | None = None

        def read(self, offset: int, size: int, /) -> int:
            assert self.clock is not None
            first, others = self.clock.now, list[int]()

            def look() -> None:
                begin = m.clock.now
                while m.clock.now == begin:
                    time.sleep(0)
                others.append(m.clock.now)

            thread = threading.Thread(target=look)
            thread.start()
            thread.join(RUN)
            assert others[0] > first
            return int(self.clock.now == first)

    with ScriptedMachine([Read(pio=0x80, size=1)]) as m:
        device = m.attach(Slow(), pio=0x80)
        with record(device) as recording:
            m.run(RUN)
    assert recording.events[0].value == 1
