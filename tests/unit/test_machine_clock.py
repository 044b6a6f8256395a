"""The clock and the timers of a machine without KVM: beside vcpus that play a script, devices, threads and forks."""

from __future__ import annotations

import gc
import os
import threading
import weakref
from collections.abc import Callable
from typing import Any

import pytest

from hyperpy import Clock, Device, DeviceError, Exit, StateError, Stop, Timer
from hyperpy.testing import Read, ScriptedMachine, Write

RUN = 10.0
PORT = 0x80


class Ticker(Device):
    """A write arms `tick` and waits until it has been called, as long as the guest is."""

    size = 4

    def __init__(self, tick: Callable[[Ticker], Any]) -> None:
        self.ticked = threading.Event()
        self.tick = tick
        self.thread = ""
        self.timer: Timer | None = None

    def write(self, offset: int, size: int, value: int, /) -> None:
        assert self.clock is not None
        self.timer = self.clock.after(value, self.called)
        assert self.ticked.wait(RUN)

    def called(self) -> Any:
        self.thread = threading.current_thread().name
        try:
            return self.tick(self)
        finally:
            self.ticked.set()


def test_timer_of_a_device_fires_beside_its_vcpu_on_the_machines_thread() -> None:
    times: list[int] = []
    with ScriptedMachine([Write(1000, pio=PORT)]) as m:
        ticker = m.attach(Ticker(lambda it: times.append(it.clock.now)), pio=PORT)  # type: ignore[union-attr]
        assert ticker.clock is not m.clock
        assert m.run(RUN) == Exit.Halt(0)
        assert ticker.thread == "hyperpy-timers"
        assert ticker.timer is not None
        assert ticker.timer.deadline <= times[0] <= m.clock.now
        stands = m.clock.now
        assert (m.clock.now, m.clock.step(7), m.clock.now) == (stands, None, stands + 7)


def test_timer_that_raises_is_raised_by_run_with_a_note_of_device_and_timer() -> None:
    def broken(ticker: Ticker) -> None:
        raise ValueError("broken")

    with ScriptedMachine([Write(0, pio=PORT), Read(pio=PORT)]) as m:
        ticker = m.attach(Ticker(broken), pio=PORT, name="tick-tock")
        with pytest.raises(ValueError, match="broken") as caught:
            m.run(RUN)
        assert ticker.timer is not None
        assert caught.value.__notes__ == [
            f"device tick-tock: timer Ticker.called, due at {ticker.timer.deadline} ns"
        ]
        assert caught.traceback[-1].name == "broken"
        assert (m.state, m.errors) == ("paused", [caught.value])
        assert m.run(RUN) == Exit.Halt(0)


@pytest.mark.parametrize("verb", ["run", "pause", "close", "wait", "resume", "reset"])
def test_verb_that_would_wait_for_the_callback_is_refused_in_it(verb: str) -> None:
    with ScriptedMachine([Write(0, pio=PORT)]) as m:
        m.attach(Ticker(lambda _: getattr(m, verb)()), pio=PORT)
        with pytest.raises(StateError, match=f"cannot {verb} inside a device callback"):
            m.run(RUN)


def test_callback_may_stop_use_memory_and_set_timers() -> None:
    with ScriptedMachine([Write(0, pio=PORT), *[Read(pio=PORT)] * 4]) as m:

        def tick(ticker: Ticker) -> Stop:
            m.memory.write(0x1000, b"tick")
            assert m.clock.after(1 << 40, print).cancel()
            return Stop("ticked")

        m.attach(Ticker(tick), pio=PORT)
        assert m.run(RUN) == Exit.Stopped(vcpu=None, reason="ticked")
        assert (m.state, m.memory.read(0x1000, 4)) == ("paused", b"tick")
    with ScriptedMachine([Write(0, pio=PORT), Read(pio=PORT)]) as m:
        m.attach(Ticker(lambda _: m.stop("for good")), pio=PORT)
        assert m.run(RUN) == Exit.Stopped(vcpu=None, reason="for good")
        assert m.state == "stopped"


def test_callback_may_detach_its_own_device() -> None:
    with ScriptedMachine([Write(0, pio=PORT)]) as m:
        ticker = m.attach(Ticker(m.detach), pio=PORT)
        m.run(RUN)
        assert ticker.ticked.is_set()
        with pytest.raises(DeviceError, match="not attached"):
            m.detach(ticker)


def test_reset_sets_the_clock_to_0_takes_timers_off_and_devices_set_theirs_again() -> None:
    class Resets(Device):
        size = 1

        def reset(self) -> None:
            assert self.clock is not None
            self.timer = self.clock.after(50, print)

    with ScriptedMachine([]) as m:
        device = m.attach(Resets(), pio=PORT)
        m.clock.step(1000)
        mine = m.clock.after(5, print)
        m.reset()
        assert (m.clock.now, mine.active, device.timer.active, device.timer.deadline) == (0, False, True, 50)


def test_clock_is_given_where_it_is_asked_for() -> None:
    class Own(Device):
        size = 1
        clock = "mine"  # type: ignore[assignment]

    class Bare:
        size = 1
        clock: Clock | None
        read = write = lambda *_: 0

    class Asks(Bare):
        clock = None

    class Fixed:
        __slots__ = ()
        size = 1
        clock = None
        read = write = lambda *_: 0

    with ScriptedMachine([]) as m, ScriptedMachine([]) as other:
        assert m.attach(Own(), pio=0).clock == "mine"
        assert not hasattr(m.attach(Bare(), pio=1), "clock")
        assert m.attach(Fixed(), pio=2).clock is None
        asks = m.attach(Asks(), pio=3)
        first = asks.clock
        assert isinstance(first, Clock)
        m.attach(asks, pio=4)
        assert asks.clock is first
        other.attach(asks, pio=5)
        other.clock.step(5)
        assert (asks.clock.now, first.now) == (5, 0)
        device = Device()
        with pytest.raises(Exception, match="overlaps"):
            m.attach(device, pio=3, size=1)
        assert not device.clock


def test_detach_takes_timers_of_that_device_off() -> None:
    with ScriptedMachine([]) as m:
        gone, stays = m.attach(Ticker(print), pio=PORT), m.attach(Ticker(print), pio=PORT + 8)
        assert gone.clock is not None
        assert stays.clock is not None
        timers = [clock.after(5, print) for clock in (gone.clock, stays.clock, m.clock)]
        m.detach(gone)
        assert [timer.active for timer in timers] == [False, True, True]


def test_closed_machine_has_its_time_and_no_timers() -> None:
    with ScriptedMachine([]) as m:
        m.clock.step(9)
        device = m.attach(Ticker(print), pio=PORT)
        timer = m.clock.after(1, print)
    assert (m.clock.now, timer.active, timer.cancel()) == (9, False, False)
    clock, clock_of_device = m.clock, device.clock
    del m
    gc.collect()
    for left in (clock, clock_of_device):
        assert left is not None
        with pytest.raises(StateError, match="cannot set a timer: the machine is closed"):
            left.every(1, print)


def _timer_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "hyperpy-timers"]


def test_one_thread_serves_a_machine_and_ends_with_it() -> None:
    before = len(_timer_threads())
    with ScriptedMachine([]) as m:
        assert len(_timer_threads()) == before
        for ns in range(1000):
            m.clock.after(ns, print)
        assert len(_timer_threads()) == before + 1
        assert _timer_threads()[-1].daemon
    for thread in _timer_threads()[before:]:
        thread.join(RUN)
    assert len(_timer_threads()) == before


def test_thread_that_cannot_be_made_is_an_error_and_sets_no_timer(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with ScriptedMachine([Write(0, pio=PORT)]) as m:
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", fails)
            with pytest.raises(RuntimeError, match="can't start new thread"):
                m.clock.after(0, print)
        ticker = m.attach(Ticker(lambda _: None), pio=PORT)
        assert m.run(RUN) == Exit.Halt(0)
        assert ticker.ticked.is_set()


@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
def test_abandoned_machines_whose_timers_refer_to_them_are_collected() -> None:
    def abandoned() -> weakref.ref[ScriptedMachine]:
        m = ScriptedMachine([])
        device = m.attach(Ticker(print), pio=PORT)
        device.machine = m  # type: ignore[attr-defined]
        assert device.clock is not None
        m.clock.every(10, m.stop)
        device.timer = device.clock.after(10, device.called)
        return weakref.ref(m)

    before = set(_timer_threads())
    alive = [abandoned() for _ in range(100)]
    threads = [thread for thread in _timer_threads() if thread not in before]
    gc.collect()
    assert [reference() for reference in alive] == [None] * 100
    for thread in threads:
        thread.join(RUN)
        assert not thread.is_alive()


@pytest.mark.fault(35)
def test_timers_set_and_cancelled_by_eight_threads_while_the_machine_runs_and_closes() -> None:
    errors: list[BaseException] = []
    began = threading.Barrier(9)

    def work(m: ScriptedMachine) -> None:
        began.wait(RUN)
        try:
            for ns in range(1_000_000):
                timers = [m.clock.after(ns % 7, int), m.clock.every(1000, int), m.clock.at(1 << 60, int)]
                m.clock.step(1)
                timers[1].cancel()
        except StateError as error:
            if "closed" not in str(error):
                errors.append(error)
        except BaseException as error:
            errors.append(error)

    with ScriptedMachine([Read(pio=PORT, size=1, times=1000)] * 50, unclaimed="ones") as m:
        threads = [threading.Thread(target=work, args=(m,)) for _ in range(8)]
        for thread in threads:
            thread.start()
        began.wait(RUN)
        m.start()
        m.wait(RUN)
    for thread in threads:
        thread.join(RUN)
        assert not thread.is_alive()
    assert errors == []


@pytest.mark.fault(34)
def test_clock_in_the_child_of_a_fork_is_refused_and_a_manual_one_works() -> None:
    manual = Clock.manual()
    with ScriptedMachine([]) as m:
        timer = m.clock.after(1, print)
        child = os.fork()
        if child == 0:
            refused = 0
            for verb in (
                lambda: m.clock.now,
                lambda: m.clock.scale,
                lambda: m.clock.step(1),
                lambda: m.clock.after(1, print),
                timer.cancel,
            ):
                try:
                    verb()
                except StateError as error:
                    refused += "forked" in str(error)
            manual.step(5)
            m.close()
            os._exit(refused * 10 + manual.now)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 55
        assert timer.active
