"""What the tests of signals share: a machine that needs no interpreter, and whoever sends and handles signals."""

from __future__ import annotations

import _thread
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from hyperpy import DebugExit, Device
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


SENDERS: dict[str, Callable[[], object]] = {
    "to the process": lambda: os.kill(os.getpid(), signal.SIGUSR1),
    # CPython's C handler runs there, and nothing interrupts the main thread.
    "to another thread": lambda: signal.pthread_kill(threading.get_ident(), signal.SIGUSR1),
    # No signal of the host's at all.
    "by Python": lambda: _thread.interrupt_main(signal.SIGUSR1),
}
