"""Time that goes back, jumps to its end, or has a million timers, beside a guest that runs and devices that count it."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from typing import Any

import pytest

from hyperpy import Counter, Device, Exit, Register, Stop

RUN = 20.0
MS = 1_000_000
LOOP = "again: jmp again"
MANY = 1_000_000
END = 2**64 - 1


class Watch(Device):
    """Counts, and rings at the times that the guest asks for; remembers when it did."""

    time = Counter(0x0, hz=1_000_000_000)
    at = Register(0x8, width=8, access="wo")

    def __init__(self) -> None:
        self.rang: list[int] = []

    @at.on_write
    def _at(self, value: int) -> None:
        assert self.clock is not None
        self.clock.at(value, self.ring)

    def ring(self) -> None:
        assert self.clock is not None
        self.rang.append(self.clock.now)


@pytest.mark.fault(45)
def test_a_million_timers_beside_a_guest_all_fire_once_and_a_pause_among_them_is_heard(boot: Any) -> None:
    m = boot(LOOP)
    fired: list[int] = []
    reached = threading.Event()

    class Tick:
        def __call__(self) -> Stop | None:
            fired.append(1)
            if len(fired) == MANY // 100:
                reached.set()
            return Stop("all") if len(fired) == MANY else None

    tick = Tick()
    m.clock.step(500)
    for ns in range(MANY):
        m.clock.at(ns % 1000, tick)  # half of them are over
    m.start()
    assert reached.wait(RUN)
    begin = time.monotonic()
    m.pause()
    assert time.monotonic() - begin < 2  # what takes a tenth of a second takes more beside other processes
    stood = len(fired)
    assert MANY // 100 <= stood < MANY
    m.resume()
    assert m.wait(RUN) == Exit.Stopped(vcpu=None, reason="all")
    assert len(fired) == MANY
    gone = weakref.ref(tick)
    del tick
    gc.collect()
    assert gone() is None


@pytest.mark.fault(45)
def test_a_million_timers_that_never_fire_go_with_their_machine(boot: Any) -> None:
    m = boot("hlt")

    class Tick:
        def __call__(self) -> None: ...

    tick = Tick()
    timers = [m.clock.at(END - ns, tick) for ns in range(MANY)]
    assert m.run(RUN) == Exit.Halt(0)
    m.close()
    assert not any(timer.active for timer in timers)
    gone = weakref.ref(tick)
    del tick, timers
    gc.collect()
    assert gone() is None


@pytest.mark.fault(45)
def test_time_that_goes_back_at_a_reset_is_followed_by_counters_and_timers(boot: Any) -> None:
    # Twice: asks for 1 ms from the start, which is over the second time round, then reads the counter.
    guest = "mov dx, 0x108\n mov eax, 1000000\n out dx, eax\n mov dx, 0x100\n in eax, dx\n again: jmp again"
    m = boot(guest)
    watch = m.attach(Watch(), pio=0x100)
    m.clock.step(1000 * MS)
    m.clock.every(MS, lambda: Stop("rang") if watch.rang else None)
    assert m.run(RUN) == Exit.Stopped(vcpu=None, reason="rang")
    late = watch.rang.pop()
    assert late > 1000 * MS
    assert m.vcpus[0].regs.rax >= 1000 * MS
    stale = m.clock.at(late + MS, watch.ring)
    m.reset()
    assert (m.clock.now, watch.time, stale.active) == (0, 0, False)
    m.clock.every(MS, lambda: Stop("rang") if watch.rang else None)
    assert m.run(RUN) == Exit.Stopped(vcpu=None, reason="rang")
    # Some way behind its time, but in the time that began anew.
    assert MS <= watch.rang[0] < late
    assert m.vcpus[0].regs.rax < late


@pytest.mark.fault(45)
def test_time_that_jumps_to_its_end_fires_what_is_due_once_and_stands_there(boot: Any) -> None:
    m = boot(LOOP)
    watch = m.attach(Watch(), pio=0x100)
    often: list[int] = []
    m.clock.every(MS, lambda: often.append(m.clock.now))
    last = m.clock.at(END, lambda: Stop("the end"))
    m.start()
    while not often:
        time.sleep(0)
    m.clock.step(END)
    assert m.wait(RUN) == Exit.Stopped(vcpu=None, reason="the end")
    assert (m.clock.now, watch.time, last.active) == (END, END, False)
    assert often[-1] == END
    assert often.count(END) == 1
    m.clock.step(5)
    with pytest.raises(ValueError, match="not a number of nanoseconds"):
        m.clock.step(END + 1)
    assert m.clock.now == END
