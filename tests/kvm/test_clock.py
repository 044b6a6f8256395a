"""Timers beside guests: an interrupt when the time has come, pauses, and processes that end."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest
from tests.scripts import run

from hyperpy import Device, Exit, IrqLine, Stop

RUN = 20.0
MS = 1_000_000
LOOP = "again: jmp again"
# Interrupts of input 5 come to `handler`, which writes port 0x80.
HEARS = """
    xor ax, ax
    mov ds, ax
    mov word ptr [0x94], offset handler
    mov word ptr [0x96], 0
    mov al, 0x11
    out 0x20, al
    mov al, 0x20
    out 0x21, al
    mov al, 4
    out 0x21, al
    mov al, 1
    out 0x21, al
    mov al, 0xdf
    out 0x21, al
    out 0x81, al
    sti
wait:
    hlt
    jmp wait
handler:
    out 0x80, al
    mov al, 0x20
    out 0x20, al
    iret
"""


class Ticks(Device):
    """Interrupts every `period` nanoseconds from the write of port 1 on; stops the machine at `count` writes of port 0.

    That write is what stops it: an edge that the timer had left in the interrupt controller is not heard any more.
    """

    size = 2
    irq: IrqLine

    def __init__(self, period: int, count: int) -> None:
        self.period, self.count = period, count
        self.heard: list[int] = []

    def write(self, offset: int, size: int, value: int, /) -> Stop | None:
        assert self.clock is not None
        if offset == 1:
            self.begin = self.clock.now
            self.timer = self.clock.every(self.period, self.irq.pulse)
            return None
        self.heard.append(self.clock.now)
        if len(self.heard) < self.count:
            return None
        self.timer.cancel()
        return Stop("heard")


@pytest.mark.core
def test_guest_that_waits_is_interrupted_by_a_timer_each_time(boot: Any) -> None:
    m = boot(HEARS, irqchip=True)
    ticks = m.attach(Ticks(2 * MS, 10), pio=0x80, irq=5)
    assert m.run(RUN) == Exit.Stopped(vcpu=0, reason="heard")
    assert len(ticks.heard) == 10
    # None came before its time.
    assert all(at >= ticks.begin + n * 2 * MS for n, at in enumerate(ticks.heard, start=1))
    assert not ticks.timer.active


def test_clock_stands_still_while_the_machine_does(boot: Any) -> None:
    m = boot(LOOP)
    assert m.clock.now == 0
    m.start()
    while m.clock.now < MS:
        time.sleep(0)
    m.pause()
    stands, began = m.clock.now, time.monotonic_ns()
    while time.monotonic_ns() - began < 5 * MS:
        assert m.clock.now == stands
    m.clock.scale = 1000
    m.resume()
    while m.clock.now < stands + 1000 * MS:
        time.sleep(0)
    m.pause()
    m.reset()
    assert (m.clock.now, m.clock.scale) == (0, 1000)


def test_clock_that_is_stopped_goes_by_steps_and_fires(boot: Any) -> None:
    m = boot(LOOP)
    m.clock.scale = 0
    m.clock.after(3600 * 1000 * MS, lambda: Stop("an hour"))
    assert m.run(0.02) == Exit.Timeout()
    assert m.clock.now == 0
    m.start()
    m.clock.step(3600 * 1000 * MS)
    assert m.wait(RUN) == Exit.Stopped(vcpu=None, reason="an hour")
    assert m.clock.now == 3600 * 1000 * MS


def test_pause_returns_when_the_callback_has(boot: Any) -> None:
    m, inside, go = boot(LOOP), threading.Event(), threading.Event()
    left: list[int] = []

    def slow() -> None:
        inside.set()
        assert go.wait(RUN)
        left.append(1)

    m.clock.after(0, slow)
    m.start()
    assert inside.wait(RUN)
    paused = threading.Thread(target=m.pause)
    paused.start()
    paused.join(0.15)  # longer than a vcpu takes to leave
    assert paused.is_alive()
    assert m.state == "running"
    go.set()
    paused.join(RUN)
    assert (m.state, left) == ("paused", [1])


def test_detach_returns_when_the_callback_of_that_device_has(boot: Any) -> None:
    m, inside, go = boot(LOOP), threading.Event(), threading.Event()
    device = m.attach(Ticks(MS, 1), pio=0x80, irq=None)

    def slow() -> None:
        inside.set()
        assert go.wait(RUN)
        device.clock.after(0, slow)

    device.clock.after(0, slow)
    m.start()
    assert inside.wait(RUN)
    detached = threading.Thread(target=m.detach, args=(device,))
    detached.start()
    detached.join(0.15)
    assert detached.is_alive()
    inside.clear()
    go.set()
    detached.join(RUN)
    assert not detached.is_alive()
    assert not inside.is_set()


def test_stop_during_a_flood_of_timers_comes_within_the_bound(boot: Any) -> None:
    m = boot(LOOP, vcpus=2)
    calls: list[int] = []
    m.clock.every(1, lambda: calls.append(1))
    m.start()
    while len(calls) < 100:
        time.sleep(0)
    m.pause()
    count = len(calls)
    m.memory.read(0, 16)
    assert len(calls) == count
    m.resume()
    m.stop("enough")
    assert m.wait(RUN) == Exit.Stopped(vcpu=None, reason="enough")


@pytest.mark.fault(33)
@pytest.mark.parametrize("held", ["while True: time.sleep(0.01)", "never.acquire()", "pass"])
def test_interpreter_that_ends_while_a_callback_does_not_return_ends(held: str) -> None:
    begin = time.monotonic()
    status, out, errors = run(
        f"""
        never = threading.Lock()
        never.acquire()
        reached = threading.Event()
        def stuck():
            reached.set()
            {held}
        m = machine(STORM)
        Ready.write = lambda *access: None
        m.clock.every(1000, stuck)
        m.start()
        assert reached.wait(10)
        sys.exit(3)
        """
    )
    assert (status, out, errors) == (3, "", "")
    assert time.monotonic() - begin < 5


@pytest.mark.fault(33)
def test_ctrl_c_while_a_callback_does_not_return_ends_run_and_the_machine_closes_when_it_has() -> None:
    status, out, errors = run(
        """
        go = threading.Event()
        def stuck():
            os.kill(os.getpid(), signal.SIGINT)
            go.wait(10)
        m = Machine(memory="1M")
        m.load(Flat(LOOP[2:], mode="real"))  # without a device, in which the signal could be heard
        m.clock.after(1000, stuck)
        try:
            m.run()
        except KeyboardInterrupt:
            print("interrupted", m.state)
        go.set()
        m.close()
        print(m.state)
        """
    )
    assert (status, out, errors) == (0, "interrupted running\nclosed\n", "")
