"""Manual clocks and their timers: time that only steps move."""

from __future__ import annotations

import gc
import random
import threading
import weakref
from collections.abc import Callable
from typing import Any

import pytest

from hyperpy import Clock, Stop

RUN = 10.0
PORT = 0x80


class Log:
    """What was called on a manual clock, and when."""

    def __init__(self) -> None:
        self.clock = Clock.manual()
        self.seen: list[tuple[Any, int]] = []

    def called(self, what: Any) -> Callable[[], None]:
        return lambda: self.seen.append((what, self.clock.now))

    def step(self, ns: int) -> list[tuple[Any, int]]:
        self.seen.clear()
        self.clock.step(ns)
        return self.seen


def test_manual_clock_fires_in_order_on_the_thread_that_steps_it() -> None:
    log = Log()
    for name, ns in [("c", 30), ("a", 10), ("b", 10), ("late", 61)]:
        log.clock.after(ns, log.called(name))
    threads: set[int] = set()
    log.clock.every(20, lambda: threads.add(threading.get_ident()))
    assert log.step(60) == [("a", 10), ("b", 10), ("c", 30)]
    assert (log.clock.now, threads) == (60, {threading.get_ident()})
    assert log.step(1) == [("late", 61)]


def test_timer_tells_its_deadline_and_is_cancelled_once() -> None:
    log = Log()
    log.clock.step(5)
    once, often = log.clock.after(10, log.called(1)), log.clock.every(4, log.called(2))
    past = log.clock.at(1, log.called(3))
    assert [timer.deadline for timer in (once, often, past)] == [15, 9, 1]
    assert log.step(0) == [(3, 5)]
    assert (past.active, often.cancel(), often.cancel(), often.active) == (False, True, False, False)
    assert log.step(100) == [(1, 15)]
    assert (once.active, once.cancel(), once.deadline) == (False, False, 15)
    assert repr(once) == "<Timer at 15 ns, not active>"
    assert repr(log.clock) == "<Clock at 105 ns>"


def test_callback_that_sets_and_cancels_timers_changes_the_step_that_runs() -> None:
    log = Log()
    victim = log.clock.after(20, log.called("victim"))

    def change() -> None:
        victim.cancel()
        log.clock.after(5, log.called("new"))
        again.cancel()

    again = log.clock.every(10, change)
    assert log.step(100) == [("new", 15)]


def test_callback_that_raises_ends_the_step_with_a_note_and_the_rest_comes_later() -> None:
    log = Log()

    def broken() -> None:
        raise ValueError("broken")

    log.clock.after(10, broken)
    log.clock.after(10, log.called("next"))
    with pytest.raises(ValueError, match="broken") as caught:
        log.clock.step(50)
    assert caught.value.__notes__ == [f"timer {broken.__qualname__}, due at 10 ns"]
    assert (log.clock.now, log.step(0)) == (10, [("next", 10)])


def test_callback_that_is_interrupted_is_not_hidden() -> None:
    clock = Clock.manual()

    def interrupted() -> None:
        raise KeyboardInterrupt

    clock.after(1, interrupted)
    with pytest.raises(KeyboardInterrupt) as caught:
        clock.step(1)
    assert not hasattr(caught.value, "__notes__")
    clock.after(1, lambda: Stop("nobody is there to stop"))
    clock.step(1)


@pytest.mark.parametrize("ns", [-1, 1 << 64])
def test_times_out_of_range_are_refused(ns: int) -> None:
    clock = Clock.manual()
    for verb in (clock.after, clock.every, clock.at):
        with pytest.raises(ValueError, match=f"not a number of nanoseconds: {ns}\n\nhint: "):
            verb(ns, print)
    with pytest.raises(ValueError, match="not a number of nanoseconds"):
        clock.step(ns)
    with pytest.raises(TypeError):
        clock.after(1.5, print)  # type: ignore[arg-type]


def test_what_is_no_callback_or_period_or_scale_is_refused() -> None:
    clock = Clock.manual()
    with pytest.raises(TypeError, match="not to be called: 5\n\nhint: "):
        clock.after(1, 5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="period of a timer is 0 ns\n\nhint: "):
        clock.every(0, print)
    for scale in (-1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="scale of a clock is out of range: "):
            clock.scale = scale
    with pytest.raises(TypeError, match="hint: m.clock is a machine's"):
        Clock()
    assert (clock.scale, clock.now) == (1.0, 0)


@pytest.mark.fault(45)
def test_a_million_timers_fire_in_order_and_the_past_fires_at_once() -> None:
    """Half of them are cancelled."""
    clock, order = Clock.manual(), random.Random(45)
    clock.step(1000)
    fired: list[int] = []
    deadlines = [order.randrange(1 << 24) for _ in range(1_000_000)]

    def tick() -> None:
        fired.append(clock.now)

    timers = [clock.at(ns, tick) for ns in deadlines]
    assert all(timer.cancel() for timer in timers[::2])
    clock.step(0)
    past = len(fired)
    assert fired == [1000] * past
    assert past == sum(ns <= 1000 for ns in deadlines[1::2])
    clock.step(1 << 24)
    assert fired[past:] == sorted(ns for ns in deadlines[1::2] if ns > 1000)
    assert not any(timer.active for timer in timers)


def test_manual_clock_in_a_cycle_is_collected() -> None:
    class Keeps:
        def __init__(self) -> None:
            self.clock = Clock.manual()
            self.timer = self.clock.every(10, self.tick)

        def tick(self) -> None: ...

    alive = [weakref.ref(Keeps()) for _ in range(10)]
    gc.collect()
    assert [reference() for reference in alive] == [None] * 10


def test_callback_is_let_go_when_it_has_fired_or_is_cancelled() -> None:
    class Ticks:
        def __call__(self) -> None: ...

    clock = Clock.manual()
    fires, cancelled = Ticks(), Ticks()
    alive = [weakref.ref(fires), weakref.ref(cancelled)]
    timers = [clock.after(1, fires), clock.after(1, cancelled)]
    del fires, cancelled
    timers[1].cancel()
    assert [reference() is None for reference in alive] == [False, True]
    clock.step(1)
    assert alive[0]() is None
