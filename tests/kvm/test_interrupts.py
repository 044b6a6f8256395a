"""Interrupt lines of devices, seen by the guest that gets them (docs/faults.md, row 46)."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest
from tests.guests import guest

from hyperpy import Device, Exit, Flat, StateError

pytestmark = pytest.mark.core

RUN = 10.0
BOUND = 0.1


class Source(Device):
    """The device of pic.S: raises its line, lowers it when it is served, and says how often that was."""

    size = 3

    def __init__(self, level: bool) -> None:
        self.level = level
        self.served = 0
        self.total = -1
        self.ready = threading.Event()
        self.was_served = threading.Semaphore(0)

    def read(self, offset: int, size: int) -> int:
        self.served += 1
        if self.level:
            self.irq.lower()
        self.was_served.release()
        return 0

    def write(self, offset: int, size: int, value: int) -> None:
        if offset == 1:
            self.total = value
        else:
            self.ready.set()


@pytest.mark.parametrize("level", [False, True])
def test_interrupt_line_reaches_the_handler_of_the_guest(boot: Any, level: bool) -> None:
    m = boot()
    m.load(Flat(guest("pic"), mode="real"))
    m.memory.write(0x3000, bytes([3, 0, 0x20 if level else 0]))
    source = m.attach(Source(level), pio=0x300, irq=5)
    assert source.irq.gsi == 5
    m.start()
    assert source.ready.wait(RUN)
    for _ in range(3):
        if level:
            source.irq.raise_()
        else:
            source.irq.pulse()
        assert source.was_served.acquire(timeout=RUN)
    assert m.wait(RUN) == Exit.Halt(0)
    assert (source.total, source.served) == (3, 3)


@pytest.mark.fault(46)
def test_level_line_that_is_never_lowered_interrupts_again_and_can_be_stopped(boot: Any) -> None:
    m = boot()
    m.load(Flat(guest("pic"), mode="real"))
    m.memory.write(0x3000, bytes([255, 0, 0x20]))
    source = m.attach(Source(level=False), pio=0x300, irq=5)
    m.start()
    assert source.ready.wait(RUN)
    source.irq.raise_()
    for _ in range(5):
        assert source.was_served.acquire(timeout=RUN)
    began = time.monotonic()
    m.stop()
    assert m.wait(RUN) == Exit.Stopped(None, "stop")
    assert time.monotonic() - began < BOUND


@pytest.mark.fault(46)
def test_line_driven_before_the_first_run_and_after_close_is_harmless(boot: Any) -> None:
    m = boot()
    device = m.attach(Device(), pio=0x300, size=1, irq=5)
    device.irq.set(True)
    m.run(0)
    device.irq.set(False)
    m.close()
    device.irq.pulse()


def test_irq_asked_for_after_the_vcpus_exist_is_an_error_that_says_so(boot: Any) -> None:
    m = boot()
    m.run(0)
    device = Device()
    with pytest.raises(StateError, match="already exist"):
        m.attach(device, pio=0x300, size=1, irq=5)
    assert not device.irq
    assert len(m.map.rows) == 1
