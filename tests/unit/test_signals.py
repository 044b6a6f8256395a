"""Signals while a machine runs: heard in time without asking the interpreter, and by whoever else listens to them."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from tests.signals import (
    BOUND,
    LONG,
    MMIO,
    PORT,
    SENDERS,
    SIGNALS,
    TICK,
    Caller,
    Handler,
    beside,
    computing,
    machine,
    restored,  # noqa: F401 - for every test
)

from hyperpy import Exit
from hyperpy.testing import Read, ScriptedMachine


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
