"""`replay`: the same device does the same, and where another one first does something else."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from tests.recorded import TRAFFIC, Nic, drove

from hyperpy import (
    Device,
    Exit,
    Register,
)
from hyperpy.testing import (
    DeviceBench,
    Event,
    Read,
    RecordingError,
    ScriptedMachine,
    Write,
    record,
    replay,
)

RUN = 10.0
MMIO = 0xFE00_0000


def test_reset_is_kept_and_begins_time_anew() -> None:
    class Wakes(Nic):
        def reset(self) -> None:
            super().reset()
            self.irq.pulse()

    bench = DeviceBench(Wakes())
    with bench.record() as recording:
        bench.play(TRAFFIC)
        bench.reset()
        bench.play(TRAFFIC)
    at = recording.events.index(Event(0, "reset", did=drove(True, False)))
    assert recording.events[at + 1 :][:3] == recording.events[:3]
    assert replay(recording, Wakes()) is None
    found = replay(recording, Nic())
    assert found is not None
    assert (found.index, found.what, found.expected, found.got) == (at, "did", drove(True)[0], None)


def test_timers_of_a_machine_are_replayed_when_they_fired_however_late_that_was() -> None:
    class Late(Nic):
        """Waits inside an access until its timer has fired, which cannot be before the time goes on for others."""

        fired = 0

        def __init__(self) -> None:
            self.done = threading.Event()

        @Nic.control.on_write
        def _control(self, value: int) -> None:
            if value == 1:
                assert self.done.wait(RUN)
            self.log = self.fired

        def expire(self) -> None:
            self.fired = self.clock.now  # type: ignore[union-attr]
            super().expire()
            self.clock.after(1, self.done.set)  # type: ignore[union-attr]

    script = [Write(1, mmio=MMIO + 0xC), Write(1, mmio=MMIO), Write(2, mmio=MMIO), Read(mmio=MMIO + 4)]
    with ScriptedMachine(script) as m:
        device = m.attach(Late(), mmio=MMIO, irq=5)
        with record(device) as recording:
            assert m.run(RUN) == Exit.Halt(0)
    timers = [event for event in recording.events if event.kind == "timer"]
    assert len(timers) == 2
    assert timers[0].value == recording.events[0].time + 1
    assert timers[0].time >= timers[0].value
    assert timers[0].irq == (True,)
    assert timers[1].value == timers[0].time + 1

    class Again(Late):
        def __init__(self) -> None:
            super().__init__()
            self.done.set()

    again = Again()
    assert replay(recording, again) is None
    assert again.fired == timers[0].time


def test_exception_is_kept_by_its_class_and_must_come_again() -> None:
    with ScriptedMachine([Write(0xBAD, mmio=MMIO + 8), Read(mmio=MMIO + 4)]) as m:
        nic = m.attach(Nic(), mmio=MMIO)
        recording = record(nic)
        with pytest.raises(ZeroDivisionError):
            m.run(RUN)
        m.run(RUN)
        recording.stop()
    assert recording.events[0].raised == "ZeroDivisionError"
    assert replay(recording, Nic()) is None

    class Fixed(Nic):
        @Nic.data.on_write
        def _data(self, value: int) -> None:
            self.status = 1
            self.show()

    found = replay(recording, Fixed())
    assert found is not None
    assert (found.what, found.expected, found.got, found.error) == ("raised", "ZeroDivisionError", None, None)


def test_exception_of_a_timer_is_kept_too() -> None:
    class Breaks(Nic):
        def expire(self) -> None:
            raise KeyError("late")

    bench = DeviceBench(Breaks())
    with bench.record() as recording:
        bench.write32(0xC, 5)
        with pytest.raises(KeyError):
            bench.clock.step(10)
    assert recording.events[-1] == Event(5, "timer", value=5, raised="KeyError")
    assert replay(recording, Breaks()) is None
    found = replay(recording, Nic())
    assert found is not None
    assert (found.index, found.what, found.got) == (1, "raised", None)


class Other(Nic):
    """Each subclass does one thing otherwise."""


class Answers(Other):
    @Nic.log.on_read
    def _log(self) -> int:
        return 1


class Silent(Other):
    def expire(self) -> None:
        self.status = 2


class Hasty(Other):
    @Nic.delay.on_write
    def _delay(self, value: int) -> None:
        self.clock.after(value - 1, self.expire)  # type: ignore[union-attr]


class Patient(Other):
    @Nic.delay.on_write
    def _delay(self, value: int) -> None: ...


class Endless(Other):
    @Nic.data.on_write
    def _data(self, value: int) -> None:
        super()._data(value)


class Raises(Other):
    @Nic.status.on_write
    def _status(self, value: int) -> None:
        raise LookupError("no status")


@pytest.mark.parametrize(
    ("device", "index", "register", "what", "expected", "got"),
    [
        (Answers, 8, "log", "value", 1010, 1),
        (Silent, 5, "", "did", drove(True)[0], None),
        (Hasty, 5, "", "timer", 510, 509),
        (Patient, 5, "", "timer", 510, None),
        (Endless, 11, "data", "stop", "off", None),
        (Raises, 3, "status", "raised", None, "LookupError"),
    ],
)
def test_first_divergence_is_pointed_at(
    device: type[Nic], index: int, register: str, what: str, expected: Any, got: Any
) -> None:
    bench = DeviceBench(Nic())
    with bench.record() as recording:
        bench.play(TRAFFIC)
    found = replay(recording, device())
    assert found is not None
    assert (found.index, found.register, found.what, found.expected, found.got) == (
        index, register, what, expected, got,
    )  # fmt: skip
    assert found.event == recording.events[index]
    assert found.before == recording.events[index - 3 : index]
    assert (found.error is None) == (device is not Raises)


def test_divergence_is_shown_with_what_was_before() -> None:
    bench = DeviceBench(Nic())
    with bench.record() as recording:
        bench.play(TRAFFIC)
    assert str(replay(recording, Silent())) == (
        "event 5, 510 ns: timer, due at 510 ns\n"
        "  did recorded: irq high\n"
        "      replayed: nothing more\n"
        "before it:\n"
        "  10 ns: read of 0x4, 4 bytes: 0x1\n"
        "  10 ns: write of 0x1 to 0x4, 4 bytes\n"
        "  10 ns: write of 0x1f4 to 0xc, 4 bytes"
    )
    assert str(replay(recording, Raises())).splitlines()[:4] == [
        "event 3, 10 ns: write of 0x1 to 0x4, 4 bytes (status)",
        "  raised recorded: none",
        "         replayed: LookupError",
        "  raised: LookupError('no status')",
    ]
    assert "  timer recorded: 510 ns\n        replayed: 509 ns\n" in str(replay(recording, Hasty()))


def test_line_that_is_driven_from_elsewhere_is_an_input_of_the_replay() -> None:
    class Echo(Device):
        level = Register(0x0, access="ro")

        @level.on_read
        def _level(self) -> int:
            return self.irq.level  # type: ignore[union-attr, return-value]

    bench = DeviceBench(Echo())
    with bench.record() as recording:
        thread = threading.Thread(target=bench.irq.set, args=(True,))
        thread.start()
        thread.join(RUN)
        assert bench.read32(0) == 1
        bench.irq.set(True)
    assert recording.events == (Event(0, "line", did=drove(True)), Event(0, "read", 0, 4, 1))
    assert replay(recording, Echo()) is None


def test_replay_of_another_device_is_refused() -> None:
    bench = DeviceBench(Nic())
    with bench.record() as recording:
        bench.read32(0)

    class Newer(Nic):
        schema = 2

    class Larger(Nic):
        size = 0x80

    class More(Nic):
        size = 0x40
        extra = Register(0x30)

    with pytest.raises(RecordingError, match=r"recording is of a device of schema 1, not 2: .*Nic\n\nhint: "):
        replay(recording, Newer())
    with pytest.raises(RecordingError, match="recording is of a device of 0x40 bytes, not 0x80"):
        replay(recording, Larger())
    with pytest.raises(Exception, match="state of More has other registers: extra"):
        replay(recording, More())
    with pytest.raises(TypeError, match="not a device but a class"):
        replay(recording, Nic)
    device = Nic()
    assert replay(recording, device) is None
    assert not device.irq
    assert not device.clock
