"""Signals while a machine runs: heard in time without asking the interpreter, and by whoever else listens to them."""

from __future__ import annotations

import _thread
import asyncio
import itertools
import os
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from hyperpy import DebugExit, Device, Exit
from hyperpy.testing import Read, ScriptedMachine

PORT, MMIO = 0xF4, 0xFE00_0000
BOUND = 0.1
LONG = 60.0
ENDLESS = 1 << 40
SIGNALS = 20
TICK = 0.05


class Caller(Device):
    """Calls a function at each read."""

    size = 1

    def __init__(self, function: Callable[[], object]) -> None:
        self.function = function

    def read(self, offset: int, size: int, /) -> int:
        self.function()
        return 0


def machine(*before: Read) -> ScriptedMachine:
    """Makes these accesses, and then reads a port without end that Rust answers: the interpreter is not needed for that."""
    m = ScriptedMachine([*before, Read(pio=PORT, size=1, times=ENDLESS)], keep_reads=False)
    m.attach(DebugExit(), pio=PORT)
    return m


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    """Leaves handlers, the wake-up descriptor and what is open as they were."""
    before = signal.getsignal(signal.SIGUSR1)
    opened = sorted(os.listdir("/proc/self/fd"))
    yield
    signal.signal(signal.SIGUSR1, before)
    assert signal.set_wakeup_fd(-1) == -1
    assert sorted(os.listdir("/proc/self/fd")) == opened


@pytest.fixture
def own() -> Iterator[tuple[int, int]]:
    """A pipe of the program's own as wake-up descriptor."""
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer)
    yield reader, writer
    assert signal.set_wakeup_fd(-1) == writer
    os.close(reader)
    os.close(writer)


def descriptor_now() -> int:
    """The wake-up descriptor."""
    now = signal.set_wakeup_fd(-1)
    signal.set_wakeup_fd(now)
    return now


def beside(m: ScriptedMachine, run: Callable[[], object], other: Callable[[], object]) -> None:
    """Runs a function on another thread once `run`, on this one, has seen some ticks and so hears of signals."""
    raised: list[BaseException] = []

    def target() -> None:
        try:
            while m.stats.wall_seconds < 4 * TICK:
                time.sleep(0.001)
            other()
        except BaseException as error:  # told below
            raised.append(error)

    thread = threading.Thread(target=target)
    thread.start()
    try:
        run()
    finally:
        thread.join()
    assert raised == []


def computing(seconds: float) -> None:
    """Keeps the interpreter as long as it is let."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass


class Handler:
    """Counts signals, and tells when one has come."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self.came = threading.Event()
        signal.signal(signal.SIGUSR1, self)

    def __call__(self, number: int, frame: object) -> None:
        self.times.append(time.monotonic())
        self.came.set()

    def delay(self, send: Callable[[], object]) -> float:
        """Seconds from a signal to its handler."""
        self.came.clear()
        begin = time.monotonic()
        send()
        assert self.came.wait(LONG)
        return self.times[-1] - begin


@pytest.fixture
def clinging() -> Iterator[None]:
    """A thread that computes keeps the interpreter: nobody else gets it for longer than a test lasts."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1000)
    yield
    sys.setswitchinterval(before)


def _exits(m: ScriptedMachine) -> int:
    return m._native.readings()[0][0][1]  # m.stats reads files, and so gives the interpreter up


@pytest.mark.usefixtures("clinging")
@pytest.mark.parametrize("is_main", [True, False])
def test_run_beside_a_thread_that_keeps_the_interpreter_goes_on(is_main: bool) -> None:
    seen: list[int] = []
    with machine() as m:

        def other() -> None:
            # By a run's first tick it either listens, or knows that signals are of no concern on its thread.
            while m.stats.wall_seconds < 4 * TICK:
                time.sleep(0.001)
            before = _exits(m)
            while _exits(m) == before:  # it may still be at that
                time.sleep(0.001)
            for _ in range(4):
                computing(2 * TICK)
                seen.append(_exits(m))
            m.stop("seen")

        def run() -> None:
            assert m.run(LONG) == Exit.Stopped(None, "seen")

        here, there = (run, other) if is_main else (other, run)
        thread = threading.Thread(target=there)
        thread.start()
        here()
        thread.join()
    assert seen[0] < seen[1] < seen[2] < seen[3]


def test_signal_in_wait_of_the_main_thread_beside_a_busy_thread_is_handled_in_time() -> None:
    handler = Handler()
    delays: list[float] = []
    with machine() as m:
        m.start()

        def other() -> None:
            delays.extend(handler.delay(SENDERS["to the process"]) for _ in range(SIGNALS))
            m.stop("told")

        beside(m, lambda: m.wait(LONG), other)
    assert len(handler.times) == SIGNALS
    assert max(delays) < BOUND


SENDERS: dict[str, Callable[[], object]] = {
    "to the process": lambda: os.kill(os.getpid(), signal.SIGUSR1),
    # CPython's C handler runs there, and nothing interrupts the main thread.
    "to another thread": lambda: signal.pthread_kill(threading.get_ident(), signal.SIGUSR1),
    # No signal of the host's at all.
    "by Python": lambda: _thread.interrupt_main(signal.SIGUSR1),
}


@pytest.mark.fault(33)
@pytest.mark.parametrize("busy", [False, True])
@pytest.mark.parametrize("sender", SENDERS)
def test_signal_during_a_run_is_handled_in_time(sender: str, busy: bool) -> None:
    handler = Handler()
    delays: list[float] = []
    ended = threading.Event()

    def compute() -> None:
        while not ended.is_set():
            computing(0.001)

    computer = threading.Thread(target=compute)
    if busy:
        computer.start()
    with machine() as m:

        def other() -> None:
            delays.extend(handler.delay(SENDERS[sender]) for _ in range(SIGNALS))
            ended.set()
            m.stop("told")

        beside(m, lambda: m.run(LONG), other)
    if busy:
        computer.join()
    assert len(handler.times) == SIGNALS
    assert max(delays) < BOUND


def test_handler_that_raises_ends_the_run_with_its_exception() -> None:
    def raising(number: int, frame: object) -> None:
        raise ZeroDivisionError

    signal.signal(signal.SIGUSR1, raising)
    with machine() as m, pytest.raises(ZeroDivisionError):
        beside(m, lambda: m.run(LONG), SENDERS["to another thread"])


def test_descriptor_of_the_programs_own_is_fed_during_a_run_and_in_place_after_it(
    own: tuple[int, int],
) -> None:
    reader, writer = own
    handler = Handler()
    fed: list[bytes] = []
    with machine() as m:

        def other() -> None:
            for sender in SENDERS.values():
                handler.delay(sender)
            while len(b"".join(fed)) < len(SENDERS):  # fed before a handler runs
                fed.append(os.read(reader, 100))
            m.stop("told")

        beside(m, lambda: m.run(LONG), other)
    assert b"".join(fed) == bytes([signal.SIGUSR1] * len(SENDERS))
    assert descriptor_now() == writer
    os.kill(os.getpid(), signal.SIGUSR1)
    assert os.read(reader, 100) == bytes([signal.SIGUSR1])


def test_callback_finds_the_programs_own_descriptor_and_what_it_sets_stays(own: tuple[int, int]) -> None:
    _, writer = own
    found: list[int] = []
    with machine(Read(pio=PORT, size=1, times=1 << 24), Read(mmio=MMIO, size=1)) as m:

        def callback() -> None:
            found.append(signal.set_wakeup_fd(-1))

        m.attach(Caller(callback), mmio=MMIO)
        handler = Handler()

        def other() -> None:
            while not found:
                time.sleep(0.001)
            assert handler.delay(SENDERS["to another thread"]) < BOUND
            m.stop("told")

        beside(m, lambda: m.run(LONG), other)
    assert found == [writer]
    assert signal.set_wakeup_fd(writer) == -1


def test_handler_that_sets_a_descriptor_keeps_it_and_later_signals_are_heard(own: tuple[int, int]) -> None:
    reader, writer = own
    turns = itertools.cycle((-1, writer))
    handled = threading.Event()

    def handler(number: int, frame: object) -> None:
        signal.set_wakeup_fd(next(turns))
        handled.set()

    signal.signal(signal.SIGUSR1, handler)
    with machine() as m:

        def other() -> None:
            for _ in range(4):
                handled.clear()
                begin = time.monotonic()
                SENDERS["to another thread"]()
                assert handled.wait(LONG)
                assert time.monotonic() - begin < BOUND
            m.stop("told")

        beside(m, lambda: m.run(LONG), other)
    # The second and the fourth came while there was none.
    assert os.read(reader, 100) == bytes([signal.SIGUSR1] * 2)
    assert descriptor_now() == writer


def test_descriptor_that_is_closed_during_a_run_is_not_put_back() -> None:
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer)
    with machine() as m:

        def other() -> None:
            os.close(writer)
            m.stop("closed")

        beside(m, lambda: m.run(LONG), other)
    assert descriptor_now() == -1
    # Nobody keeps it open.
    assert os.read(reader, 1) == b""
    os.close(reader)


def test_descriptor_that_is_full_costs_no_signal(own: tuple[int, int]) -> None:
    _, writer = own
    while True:
        try:
            os.write(writer, bytes(4096))
        except BlockingIOError:
            break
    handler = Handler()
    with machine() as m:

        def other() -> None:
            assert handler.delay(SENDERS["to another thread"]) < BOUND
            m.stop("told")

        beside(m, lambda: m.run(LONG), other)
    assert len(handler.times) == 1


def test_handler_that_runs_another_machine_leaves_both_hearing(own: tuple[int, int]) -> None:
    reader, writer = own
    inner_runs = threading.Event()
    handled: list[str] = []
    inner = machine()
    heard = threading.Event()

    def handler(number: int, frame: object) -> None:
        if not handled:
            handled.append("outer")
            inner_runs.set()
            inner.run(LONG)
        else:
            handled.append("inner" if inner.state == "running" else "after")
            heard.set()

    signal.signal(signal.SIGUSR1, handler)
    with inner, machine() as m:

        def send() -> None:
            heard.clear()
            begin = time.monotonic()
            SENDERS["to another thread"]()
            assert heard.wait(LONG)
            assert time.monotonic() - begin < BOUND

        def other() -> None:
            SENDERS["to another thread"]()
            inner_runs.wait(LONG)
            send()
            send()
            inner.stop("enough")
            inner_has_ended = time.monotonic() + LONG
            while inner.state == "running":
                assert time.monotonic() < inner_has_ended
            send()
            m.stop("told")

        beside(m, lambda: m.run(LONG), other)
    assert handled == ["outer", "inner", "inner", "after"]
    assert os.read(reader, 100) == bytes([signal.SIGUSR1] * 4)
    assert descriptor_now() == writer


def test_signal_when_no_descriptor_is_left_is_handled_in_time() -> None:
    handler = Handler()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    stopped = threading.Event()
    with machine() as m:

        def other() -> None:
            while m.state != "running":
                time.sleep(0.001)
            computing(3 * TICK)
            for _ in range(5):
                assert handler.delay(SENDERS["to another thread"]) < BOUND
            stopped.set()
            m.stop("told")

        thread = threading.Thread(target=other)
        m.run(0.0)
        resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) - 1, hard))
        try:
            thread.start()
            assert m.run(LONG) == Exit.Stopped(None, "told")
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            thread.join()
    assert stopped.is_set()


def test_run_that_is_shorter_than_a_tick_leaves_the_descriptor_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor does it ask the interpreter when its time is over: the caller has its thread back then."""
    calls: list[int] = []
    real = signal.set_wakeup_fd
    monkeypatch.setattr(
        signal, "set_wakeup_fd", lambda fd, **options: calls.append(fd) or real(fd, **options)
    )
    with machine() as m:
        for _ in range(20):
            assert m.run(TICK / 5) == Exit.Timeout()
    assert calls == []


@pytest.mark.fault(34)
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_child_that_is_forked_in_a_callback_has_the_programs_own_descriptor() -> None:
    status: list[int] = []

    def callback() -> None:
        child = os.fork()
        if child == 0:
            os._exit(0 if signal.set_wakeup_fd(-1) == -1 else 1)
        status.append(os.waitpid(child, 0)[1])

    with machine(Read(pio=PORT, size=1, times=1 << 24), Read(mmio=MMIO, size=1)) as m:
        m.attach(Caller(callback), mmio=MMIO)

        def other() -> None:
            while not status:
                time.sleep(0.001)
            m.stop("forked")

        beside(m, lambda: m.run(LONG), other)
    assert status == [0]


def test_asyncio_hears_a_signal_that_came_while_the_main_thread_was_in_run() -> None:
    heard: list[str] = []

    async def main(m: ScriptedMachine) -> None:
        loop = asyncio.get_running_loop()
        event = asyncio.Event()

        def callback() -> None:
            heard.append("signal")
            event.set()

        loop.add_signal_handler(signal.SIGUSR1, callback)

        def other() -> None:
            SENDERS["to another thread"]()
            m.pause()

        beside(m, lambda: m.run(LONG), other)  # blocks the loop, as any call does
        await asyncio.wait_for(event.wait(), LONG)
        # And on another thread, while the loop turns.
        event.clear()
        running = loop.run_in_executor(None, m.run, LONG)
        while m.state != "running":
            assert not running.done()
            await asyncio.sleep(0.001)
        os.kill(os.getpid(), signal.SIGUSR1)
        await asyncio.wait_for(event.wait(), LONG)
        m.stop("heard")
        await running
        loop.remove_signal_handler(signal.SIGUSR1)

    with machine() as m:
        asyncio.run(main(m))
    assert heard == ["signal", "signal"]


def test_run_raises_what_a_device_raises_while_signals_come() -> None:
    handler = Handler()

    def callback() -> Any:
        raise ZeroDivisionError

    with machine(Read(pio=PORT, size=1, times=1 << 24), Read(mmio=MMIO, size=1)) as m:
        m.attach(Caller(callback), mmio=MMIO)

        def other() -> None:
            handler.delay(SENDERS["to another thread"])

        def run() -> None:
            with pytest.raises(ZeroDivisionError):
                m.run(LONG)

        beside(m, run, other)
    assert len(handler.times) == 1
