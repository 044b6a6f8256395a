"""Signals while machines are made, when KVM gives up and hyperpy tries again; and while they run on the main thread, which
learns of them without the interpreter."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections.abc import Iterator

import pytest

from hyperpy import Device, Exit, Flat, Machine


@pytest.fixture
def alarms() -> Iterator[None]:
    """A signal with a Python handler every 0.3 ms."""
    before = signal.signal(signal.SIGALRM, lambda *_: None)
    signal.setitimer(signal.ITIMER_REAL, 0.0003, 0.0003)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.fault(37)
@pytest.mark.usefixtures("alarms")
def test_machine_made_while_signals_come_runs() -> None:
    for _ in range(300):
        with Machine(memory="1M") as m:
            m.load(Flat(b"\xf4", at=0x1000, mode="real"))
            assert isinstance(m.run(timeout=5), Exit.Halt)


SPIN = Flat(b"\xeb\xfe", at=0x1000, mode="real")  # again: jmp again


def test_run_asks_the_interpreter_once_and_not_at_every_tick(monkeypatch: pytest.MonkeyPatch) -> None:
    real, calls = signal.set_wakeup_fd, []

    def counted(descriptor: int, **options: bool) -> int:
        calls.append(descriptor)
        return real(descriptor, **options)

    monkeypatch.setattr(signal, "set_wakeup_fd", counted)
    with Machine(memory="1M") as m:
        m.load(SPIN)
        assert m.run(1.0) == Exit.Timeout()
    # At the first of some 20 ticks, there once more to see that no signal slipped in, and to give it back.
    descriptor = calls[0]
    assert calls == [descriptor, descriptor, -1]


class Noted(Exception):
    """Raised by a handler."""


@pytest.fixture
def noted() -> Iterator[list[float]]:
    """When handlers of SIGUSR1 ran; each raises."""
    times: list[float] = []

    def handler(*_: object) -> None:
        times.append(time.monotonic())
        raise Noted

    before = signal.signal(signal.SIGUSR1, handler)
    yield times
    signal.signal(signal.SIGUSR1, before)


def _signal_another_thread(m: Machine, sent: list[float], after: float = 0.2) -> threading.Thread:
    """A thread that gets SIGUSR1 itself, `after` seconds of the machine's time from now: the run is not interrupted."""

    def target() -> None:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGUSR1])
        while m.stats.wall_seconds < after:
            time.sleep(0.001)
        sent.append(time.monotonic())
        signal.pthread_kill(threading.get_ident(), signal.SIGUSR1)

    thread = threading.Thread(target=target)
    thread.start()
    return thread


def test_signal_that_another_thread_gets_is_handled_within_100_ms(noted: list[float]) -> None:
    sent: list[float] = []
    with Machine(memory="1M") as m:
        m.load(SPIN)
        thread = _signal_another_thread(m, sent)
        with pytest.raises(Noted):
            m.run(20.0)
        thread.join()
    assert 0 <= noted[0] - sent[0] < 0.1


def test_device_that_takes_the_wakeup_descriptor_away_delays_no_signal(noted: list[float]) -> None:
    sent: list[float] = []

    class Thief(Device):
        size = 1

        def read(self, offset: int, size: int, /) -> int:
            signal.set_wakeup_fd(-1)
            return 0

    # in al, 0x80; mov ecx, 0x3000; again: loop again; jmp to the beginning
    code = bytes.fromhex("e480 66b900300000 67e2fd ebf3")
    with Machine(memory="1M") as m:
        m.attach(Thief(), pio=0x80)
        m.load(Flat(code, at=0x1000, mode="real"))
        thread = _signal_another_thread(m, sent)
        with pytest.raises(Noted):
            m.run(20.0)
        thread.join()
        assert m.stats.hits["python"] > 1
    assert 0 <= noted[0] - sent[0] < 0.1
    assert signal.set_wakeup_fd(-1) == -1


def test_asyncio_hears_the_signals_that_came_during_a_run() -> None:
    heard: list[float] = []

    async def main(m: Machine) -> None:
        loop = asyncio.get_running_loop()
        sent: list[float] = []
        loop.add_signal_handler(signal.SIGUSR1, lambda: heard.append(time.monotonic()))
        descriptor = signal.set_wakeup_fd(-1)
        signal.set_wakeup_fd(descriptor)
        thread = _signal_another_thread(m, sent)
        assert m.run(0.5) == Exit.Timeout()
        thread.join()
        for _ in range(3):
            await asyncio.sleep(0)
        assert heard
        assert signal.set_wakeup_fd(descriptor) == descriptor
        loop.remove_signal_handler(signal.SIGUSR1)

    with Machine(memory="1M") as m:
        m.load(SPIN)
        asyncio.run(main(m))


def test_runs_of_any_thread_leave_no_descriptor_behind() -> None:
    with Machine(memory="1M") as m:
        m.load(SPIN)
        m.run(0.12)
        before = os.listdir("/proc/self/fd")
        for _ in range(5):
            m.run(0.06)
        results: list[object] = []
        thread = threading.Thread(target=lambda: results.append(m.run(0.12)))
        thread.start()
        thread.join()
        assert results == [Exit.Timeout()]
        assert os.listdir("/proc/self/fd") == before
        assert signal.set_wakeup_fd(-1) == -1


def test_run_inside_a_handler_leaves_the_signals_to_the_run_around_it(noted: list[float]) -> None:
    sent: list[float] = []
    with Machine(memory="1M") as inner, Machine(memory="1M") as m:
        inner.load(SPIN)
        m.load(SPIN)
        runs: list[object] = []
        before = signal.signal(signal.SIGUSR2, lambda *_: runs.append(inner.run(0.12)))
        os.kill(os.getpid(), signal.SIGUSR2)  # before the run
        other = threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGUSR2))
        other.start()
        thread = _signal_another_thread(m, sent, after=0.4)
        with pytest.raises(Noted):
            m.run(20.0)
        thread.join()
        other.join()
        signal.signal(signal.SIGUSR2, before)
    assert runs == [Exit.Timeout()] * 2
    assert 0 <= noted[0] - sent[0] < 0.1
    assert signal.set_wakeup_fd(-1) == -1


def test_child_of_a_fork_has_a_pair_of_its_own(noted: list[float]) -> None:
    with Machine(memory="1M") as m:
        m.load(SPIN)
        m.run(0.12)  # the pair exists
    child = os.fork()
    if child == 0:
        status = 1
        try:
            sent: list[float] = []
            with Machine(memory="1M") as m:
                m.load(SPIN)
                thread = _signal_another_thread(m, sent)
                try:
                    m.run(20.0)
                except Noted:
                    thread.join()
                    status = 0 if noted[-1] - sent[0] < 0.1 else 2
        finally:
            os._exit(status)
    with Machine(memory="1M") as m:
        m.load(SPIN)
        assert m.run(0.4) == Exit.Timeout()
    assert os.waitpid(child, 0)[1] == 0
    assert noted == []
