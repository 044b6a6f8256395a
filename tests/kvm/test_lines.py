"""Several lines of a device, and its messages, seen by the guest that gets them (docs/faults.md, row 46)."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from tests.guests import guest

from hyperpy import Device, Exit, Flat, Line, Machine, Messages, Msi

RUN = 10.0
ADDRESS, VECTOR = 0xFEE0_0000, 0x40


class Source(Device):
    """The device of pic.S and msi.S: lowers its level when it is served, and says how often that was."""

    size = 3
    rx = Line(level=True)
    tx = Line()
    msi = Messages()

    def __init__(self) -> None:
        self.ready = threading.Event()
        self.served = threading.Semaphore(0)

    def read(self, offset: int, size: int, /) -> int:
        self.rx.lower()
        self.served.release()
        return 0

    def write(self, offset: int, size: int, value: int, /) -> None:
        if offset == 2:
            self.ready.set()
        elif offset == 0:
            self.served.release()


def started(m: Machine, name: str, mode: Any, times: int, irq: Any, trigger: int = 0) -> Source:
    m.load(Flat(guest(name, mode), mode=mode))
    m.memory.write(0x3000, bytes([times, 0, trigger]))
    source = m.attach(Source(), pio=0x300, irq=irq)
    m.start()
    assert source.ready.wait(RUN)
    return source


def test_lines_of_a_device_reach_the_inputs_that_they_are_attached_to(boot: Any) -> None:
    m = boot()
    source = started(m, "pic", "real", 2, {"rx": 5, "tx": 7}, trigger=0x20)
    for _ in range(2):
        source.tx.pulse()  # an input that the guest has masked
        source.rx.raise_()
        assert source.served.acquire(timeout=RUN)
    assert m.wait(RUN) == Exit.Halt(0)
    assert not source.rx.level
    assert not source.served.acquire(blocking=False)


@pytest.mark.core
@pytest.mark.parametrize("how", ["line", "route", "sent"])
def test_message_of_a_device_reaches_the_local_apic(boot: Any, how: str) -> None:
    m = boot(irqchip=True)
    message = Msi(ADDRESS, VECTOR)
    m.route(24, message)
    source = started(m, "msi", "long", 5, {"line": {"tx": message}, "route": {"tx": 24}, "sent": None}[how])
    for _ in range(5):
        if how == "sent":
            assert source.msi.send(ADDRESS, VECTOR)
        else:
            source.tx.pulse()
        assert source.served.acquire(timeout=RUN)
    assert m.wait(RUN) == Exit.Halt(0)
    assert m.vcpus[0].regs.rbx == 5


@pytest.mark.fault(46)
def test_message_that_reaches_nobody_is_lost_and_told(boot: Any) -> None:
    m = boot(irqchip=True)
    source = started(m, "msi", "long", 1, None)
    for address, data in [(0, VECTOR), (2**64 - 1, VECTOR), (ADDRESS, 0xF), (ADDRESS, 2**64 - 1)]:
        assert not source.msi.send(address, data)
    assert not source.msi.send(ADDRESS | 0x7 << 12, VECTOR)  # no such APIC
    assert source.msi.send(ADDRESS, VECTOR)
    assert m.wait(RUN) == Exit.Halt(0)
    m.close()
    assert not source.msi.send(ADDRESS, VECTOR)


@pytest.mark.fault(46)
def test_line_that_is_high_when_its_device_is_detached_is_taken_down(boot: Any) -> None:
    m = boot()
    gone = m.attach(Source(), pio=0x310, irq={"rx": 5})
    gone.rx.raise_()
    m.detach(gone)
    # Left high, it would leave the edge of another device on the same input unseen.
    source = started(m, "pic", "real", 1, {"tx": 5})
    source.tx.pulse()
    assert m.wait(RUN) == Exit.Halt(0)


@pytest.mark.fault(46)
def test_irqfd_that_is_closed_early_by_a_reset_or_a_close_harms_nobody(boot: Any) -> None:
    m = boot(irqchip=True)
    m.route(24, Msi(ADDRESS, VECTOR))
    source = started(m, "msi", "long", 2, {"tx": 24})
    for _ in range(2):
        source.tx.pulse()
        assert source.served.acquire(timeout=RUN)
    assert m.wait(RUN) == Exit.Halt(0)
    m.reset()
    source.tx.pulse()  # there are no controllers
    source.ready.clear()
    m.memory.write(0x3000, bytes([1, 0, 0]))
    m.start()
    assert source.ready.wait(RUN)
    source.tx.pulse()
    assert m.wait(RUN) == Exit.Halt(0)
    assert m.vcpus[0].regs.rbx == 1
    m.close()
    source.tx.pulse()
