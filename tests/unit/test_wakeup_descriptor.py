"""The descriptor that Python's signals are written to, while a machine runs: hyperpy's, and the program's own again after it."""

from __future__ import annotations

import itertools
import os
import resource
import signal
import threading
import time
from collections.abc import Iterator

import pytest
from tests.signals import (
    BOUND,
    LONG,
    MMIO,
    PORT,
    SENDERS,
    TICK,
    Caller,
    Handler,
    beside,
    computing,
    machine,
    restored,  # noqa: F401 - for every test
)

from hyperpy import Exit
from hyperpy.testing import Read


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
    short = 0
    with machine() as m:
        while short < 20:
            began = time.monotonic()
            assert m.run(TICK / 5) == Exit.Timeout()
            if time.monotonic() - began < TICK:
                assert calls == []
                short += 1
            calls.clear()  # of a run that the host held up, and the tick came


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
