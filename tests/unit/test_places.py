"""Moving, disabling and enabling devices: what accesses find then, inside callbacks too, and what is refused."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
from tests.declared import BASE

from hyperpy import Device, DeviceError, Register, StateError, Window, _hyperpy
from hyperpy.exits import Exit
from hyperpy.testing import Read, ScriptedMachine, Write

RUN = 10.0


class Card(Device):
    """Two windows on ports and one in memory; does `work` at a write to `low`, and keeps what came where."""

    low, high, far = Window(4), Window(4), Window(0x10)
    kept = Register(far[0x0], reset=0x77)

    def __init__(self, work: Callable[[Any], object] = lambda card: None) -> None:
        self.work = work
        self.log: list[tuple[str, int]] = []

    @low.on_write
    def _low(self, offset: int, size: int, value: int) -> None:
        self.log.append(("low", value))
        self.work(self)

    @high.on_write
    def _high(self, offset: int, size: int, value: int) -> None:
        self.log.append(("high", value))


class Plain(Device):
    """Without windows."""

    size = 4

    def __init__(self) -> None:
        self.writes: list[int] = []

    def write(self, offset: int, size: int, value: int, /) -> None:
        self.writes.append(value)


def _out(port: int, value: int) -> Write:
    return Write(value, pio=port, size=1)


def _places(m: ScriptedMachine) -> dict[str, int]:
    return {row.name: row.base for row in m.map.rows if row.space != "memory" and row.rung != "disabled"}


def test_moved_device_is_found_at_its_new_place_alone_and_keeps_what_it_has() -> None:
    with ScriptedMachine([_out(0x80, 1), _out(0x90, 2)], unclaimed="ones") as m:
        plain = m.attach(Plain(), pio=0x80)
        clock = plain.clock
        m.move(plain, pio=0x90)
        assert m.run(timeout=RUN) == Exit.Halt(0)
        assert (plain.writes, plain.clock is clock, _places(m)) == ([2], True, {"Plain": 0x90})
        m.move(plain, pio=0x90)
        m.move(plain, pio=0x91)  # over a part of itself
        assert _places(m) == {"Plain": 0x91}


def test_windows_change_places_with_each_other_in_one_move() -> None:
    script = [_out(0x80, 1), _out(0x90, 2), Read(mmio=BASE + 0x100)]
    with ScriptedMachine(script) as m:
        card = m.attach(Card(), pio={"low": 0x80, "high": 0x90}, mmio={"far": BASE})
        m.move(card, pio={"low": 0x90, "high": 0x80}, mmio={"far": BASE + 0x100})
        assert m.run(timeout=RUN) == Exit.Halt(0)
        assert (card.log, m.reads) == ([("high", 1), ("low", 2)], [0x77])


def test_disabled_windows_are_nobodys_until_they_are_enabled_again() -> None:
    script = [_out(0x80, 1), _out(0x90, 2), _out(0x80, 3), _out(0x90, 4), _out(0x80, 5), _out(0x90, 6)]
    with ScriptedMachine(script, unclaimed="exit") as m:
        card = m.attach(Card(), pio={"low": 0x80, "high": 0x90})
        m.disable(card, "low")
        m.disable(card, "low")
        assert m.run(timeout=RUN) == Exit.Pio(0, 0x80, 1, True, 1)
        m.disable(card)
        assert m.run(timeout=RUN) == Exit.Pio(0, 0x90, 1, True, 2)
        m.enable(card, "high")
        assert m.run(timeout=RUN) == Exit.Pio(0, 0x80, 1, True, 3)
        m.enable(card)
        assert m.run(timeout=RUN) == Exit.Halt(0)
        assert card.log == [("high", 4), ("low", 5), ("high", 6)]


def test_disabled_device_keeps_its_clock_its_memory_and_its_reset() -> None:
    class Engine(Plain):
        dma = True
        resets = 0

        def reset(self) -> None:
            self.resets += 1

    with ScriptedMachine([]) as m:
        engine = m.attach(Engine(), mmio=BASE)
        m.disable(engine)
        assert engine.memory is not None
        assert engine.memory.read(0, 1) == b"\0"
        engine.clock.after(1, lambda: None)  # type: ignore[union-attr]
        m.move(engine, mmio=BASE + 0x100)
        assert _places(m) == {}
        m.attach(Plain(), mmio=BASE)
        m.enable(engine)
        assert _places(m) == {"Plain": BASE, "Engine": BASE + 0x100}
        m.disable(engine)
        m.detach(engine)
        with pytest.raises(DeviceError, match="not attached"):
            m.enable(engine)


@pytest.mark.fault(40)
def test_move_to_where_something_else_is_names_it_and_moves_nothing() -> None:
    with ScriptedMachine([], irqchip=True) as m:
        card = m.attach(Card(), pio={"low": 0x80, "high": 0x90}, mmio={"far": BASE})
        m.attach(Plain(), pio=0x300, name="other")
        before = m.map
        for where, told in (
            ({"pio": {"low": 0x2FE}}, "overlaps other at 0x300: 0x2fe"),
            ({"pio": {"low": 0x92}}, r"overlaps Card\.high at 0x90: 0x92"),
            ({"pio": {"low": 0x100, "high": 0x102}}, r"overlaps Card\.low at 0x100: 0x102"),
            ({"pio": {"low": 0x100}, "mmio": {"far": 0x1000}}, "lies over memory ram"),
            ({"pio": {"low": 0x100}, "mmio": {"far": 0xFEC0_0000}}, "lies over I/O APIC"),
            ({"pio": {"low": 0xFFFE}}, "leaves the bus"),
            ({"pio": {"low": 1 << 16}}, "leaves the bus"),
            ({"mmio": {"far": -1}}, "leaves the bus"),
            ({"mmio": {"far": 2**64 - 8}}, "leaves the bus"),
        ):
            with pytest.raises(DeviceError, match=told):
                m.move(card, **where)  # type: ignore[arg-type]
            assert m.map == before


@pytest.mark.fault(40)
def test_enable_where_something_else_is_by_now_names_it_and_enables_nothing() -> None:
    with ScriptedMachine([]) as m:
        card = m.attach(Card(), pio={"low": 0x80, "high": 0x90})
        m.disable(card)
        other = m.attach(Plain(), pio=0x92, name="other")
        with pytest.raises(DeviceError, match="overlaps other at 0x92: 0x90"):
            m.enable(card)
        assert _places(m) == {"other": 0x92}
        m.detach(other)
        m.enable(card)
        assert _places(m) == {"Card.low": 0x80, "Card.high": 0x90}


def test_move_of_what_is_not_there_or_not_one_place_is_refused() -> None:
    with ScriptedMachine([]) as m:
        card, twice = Card(), Plain()
        for verb in (
            lambda: m.move(card, pio={"low": 0x80}),
            lambda: m.disable(card),
            lambda: m.enable(card),
        ):
            with pytest.raises(DeviceError, match="device is not attached to machine"):
                verb()
        m.attach(card, pio={"low": 0x80})
        m.attach(m.attach(twice, pio=0x300), pio=0x310)
        for verb, error, told in (
            (
                lambda: m.move(card, pio={"high": 0x90}),
                DeviceError,
                "window high of Card is not on the pio bus",
            ),
            (
                lambda: m.move(card, mmio={"low": BASE}),
                DeviceError,
                "window low of Card is not on the mmio bus",
            ),
            (lambda: m.move(card, pio=0x90), TypeError, "has several windows"),
            (lambda: m.move(card, pio={"lower": 0x90}), TypeError, "no window 'lower'"),
            (lambda: m.move(card), TypeError, "no place is given"),
            (lambda: m.move(twice, pio=0x320), DeviceError, "Plain is at 2 places of the pio bus"),
            (lambda: m.move(twice, mmio=BASE), DeviceError, "Plain is not on the mmio bus"),
            (lambda: m.disable(card, "high"), DeviceError, "window of Card is not attached: 'high'"),
        ):
            with pytest.raises(error, match=told):
                verb()
        assert _places(m) == {"Card.low": 0x80, "Plain": 0x310}
        m.disable(twice)  # everywhere
        assert _places(m) == {"Card.low": 0x80}


@pytest.mark.fault(17)
def test_device_that_moves_its_own_window_in_its_callback_is_found_there_next() -> None:
    with ScriptedMachine([_out(0x80, 1), _out(0x80, 2), _out(0xA0, 3)], unclaimed="ones") as m:
        card = m.attach(Card(lambda card: m.move(card, pio={"low": 0xA0})), pio={"low": 0x80})
        assert m.run(timeout=RUN) == Exit.Halt(0)
        assert card.log == [("low", 1), ("low", 3)]


@pytest.mark.fault(17)
def test_device_that_disables_itself_in_its_callback_is_nobodys_next() -> None:
    with ScriptedMachine([_out(0x80, 1), _out(0x80, 2), _out(0x90, 3)]) as m:
        card = m.attach(Card(lambda card: m.disable(card, "low")), pio={"low": 0x80, "high": 0x90})
        assert m.run(timeout=RUN) == Exit.Pio(0, 0x80, 1, True, 2)
        m.enable(card)
        assert m.run(timeout=RUN) == Exit.Halt(0)
        assert card.log == [("low", 1), ("high", 3)]


@pytest.mark.fault(17)
def test_device_that_detaches_itself_and_attaches_another_in_its_place_in_its_callback() -> None:
    other = Plain()

    def replace(card: Card) -> None:
        m.detach(card)
        m.attach(other, pio=0x80)

    with ScriptedMachine([_out(0x80, 1), _out(0x80, 2), _out(0x90, 3)], unclaimed="ones") as m:
        card = m.attach(Card(replace), pio={"low": 0x80, "high": 0x90})
        assert m.run(timeout=RUN) == Exit.Halt(0)
        assert (card.log, other.writes, _places(m)) == ([("low", 1)], [2], {"Plain": 0x80})


@pytest.mark.fault(17)
def test_window_moved_over_the_one_in_whose_callback_it_is_done_serves_next() -> None:
    def swap(card: Card) -> None:
        m.move(card, pio={"low": 0x90, "high": 0x80})

    with ScriptedMachine([_out(0x80, 1), _out(0x80, 2), _out(0x90, 3), _out(0x90, 4)]) as m:
        card = m.attach(Card(swap), pio={"low": 0x80, "high": 0x90})
        assert m.run(timeout=RUN) == Exit.Halt(0)
        assert card.log == [("low", 1), ("high", 2), ("low", 3), ("low", 4)]


@pytest.mark.fault(17)
def test_timer_that_moves_a_device_does_not_wait_for_the_vcpu() -> None:
    moved = threading.Event()

    def wait(card: Card) -> None:
        assert moved.wait(RUN)  # the vcpu is inside until the timer has done it

    def move() -> None:
        m.move(card, pio={"low": 0xA0})
        moved.set()

    with ScriptedMachine([_out(0x80, 1)]) as m:
        card = m.attach(Card(wait), pio={"low": 0x80})
        m.clock.at(0, move)
        assert m.run(timeout=RUN) == Exit.Halt(0)
        assert (card.log, _places(m)) == ([("low", 1)], {"Card.low": 0xA0})


@pytest.mark.fault(17)
@pytest.mark.parametrize(
    "verb",
    [
        lambda m, card: m.move(card, pio={"low": 0xA0}),
        lambda m, card: m.disable(card),
        lambda m, card: m.detach(card),
    ],
    ids=["move", "disable", "detach"],
)
def test_verb_from_outside_returns_when_the_vcpu_has_left_the_old_place(verb: Any) -> None:
    inside, go_on, done = threading.Event(), threading.Event(), threading.Event()
    left = []

    def stay(card: Card) -> None:
        inside.set()
        assert go_on.wait(RUN)
        left.append("left")

    def call() -> None:
        verb(m, card)
        left.append("done")
        done.set()

    with ScriptedMachine([_out(0x80, 1)]) as m:
        card = m.attach(Card(stay), pio={"low": 0x80})
        m.start()
        assert inside.wait(RUN)
        thread = threading.Thread(target=call)
        thread.start()
        while _places(m).get("Card.low") == 0x80:
            pass  # it is off the bus before the vcpu has left
        assert not done.is_set()
        go_on.set()
        thread.join(RUN)
        assert left == ["left", "done"]
        assert m.wait(RUN) == Exit.Halt(0)


def test_move_of_one_window_does_not_wait_for_a_vcpu_in_another() -> None:
    inside, go_on = threading.Event(), threading.Event()

    def stay(card: Card) -> None:
        inside.set()
        assert go_on.wait(RUN)

    with ScriptedMachine([_out(0x80, 1)]) as m:
        card = m.attach(Card(stay), pio={"low": 0x80, "high": 0x90})
        m.start()
        assert inside.wait(RUN)
        m.move(card, pio={"high": 0xA0})
        m.disable(card, "high")
        assert _places(m) == {"Card.low": 0x80}
        go_on.set()
        assert m.wait(RUN) == Exit.Halt(0)


class Streaming(Device):
    """Keeps writes, and does `work` at each that it is told of."""

    data = Register(0x0, access="wo", stream=True)
    tail = Register(0x4, posted=True)
    dma = True

    def __init__(self, work: Callable[[Any], object] = lambda device: None) -> None:
        self.work = work
        self.log: list[int] = []

    @tail.on_write
    def _tail(self, value: int) -> None:
        self.log.append(value)
        self.work(self)


@pytest.mark.fault(17)
def test_move_of_a_device_with_streams_waits_for_no_callback_of_another_one() -> None:
    threads: list[threading.Thread] = []

    def move_on_another_thread(card: Card) -> None:
        thread = threading.Thread(target=lambda: m.move(streaming, mmio=BASE + 0x100))
        threads.append(thread)
        thread.start()
        thread.join(0.5)  # half of what it would wait
        card.log.append(("alive", thread.is_alive()))
        m.move(card, pio={"low": 0xA0})

    with ScriptedMachine([_out(0x80, 1), _out(0xA0, 2)]) as m:
        streaming = m.attach(Streaming(), mmio=BASE)
        card = m.attach(Card(), pio={"low": 0x80})
        card.work = lambda card: None if card.log[1:] else move_on_another_thread(card)
        assert m.run(timeout=RUN) == Exit.Halt(0)
        assert card.log == [("low", 1), ("alive", False), ("low", 2)]
        assert _places(m) == {"Card.low": 0xA0, "Streaming": BASE + 0x100}
    threads[0].join()


def test_device_that_is_told_of_writes_in_a_detach_has_its_memory_and_may_move_others() -> None:
    read: list[bytes] = []

    def work(device: Any) -> None:
        read.append(device.memory.read(0x10, 2))
        m.move(plain, pio=0x90)

    with ScriptedMachine([Write(7, mmio=BASE + 4), _out(0x80, 1), _out(0x90, 2)]) as m:
        m.memory.write(0x10, b"hi")
        streaming, plain = m.attach(Streaming(work), mmio=BASE), m.attach(Plain(), pio=0x90)
        m.attach(Card(lambda card: m.detach(streaming)), pio={"low": 0x80})
        m.move(plain, pio=0x91)
        assert m.run(timeout=RUN) == Exit.Halt(0)
        assert (streaming.log, read, plain.writes) == ([7], [b"hi"], [2])
        with pytest.raises(StateError):
            streaming.memory.read(0x10, 2)  # type: ignore[union-attr]


def test_detach_that_is_interrupted_takes_lines_and_timers_away_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Engine(Plain):
        dma = True
        irq: Any = None
        clock: Any = None

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with ScriptedMachine([], irqchip=True) as m:
        engine = m.attach(Engine(), mmio=BASE, irq=5)
        line, memory = engine.irq, engine.memory  # type: ignore[attr-defined]
        line.raise_()
        timer = engine.clock.after(1_000, lambda: None)
        monkeypatch.setattr(_hyperpy, "wait_until_left", interrupted)
        with pytest.raises(KeyboardInterrupt):
            m.detach(engine)
        assert not line.level
        assert not timer.active
        with pytest.raises(StateError):
            memory.read(0, 1)


def test_reset_of_a_machine_resets_a_device_that_is_disabled_once() -> None:
    class Resets(Card):
        resets = 0

        def reset(self) -> None:
            self.resets += 1

    with ScriptedMachine([]) as m:
        half, off = Resets(), Resets()
        m.attach(half, pio={"low": 0x80, "high": 0x90})
        m.attach(off, pio={"low": 0x180, "high": 0x190}, mmio={"far": BASE})
        off.kept = 5
        m.disable(half, "low")
        m.disable(off)
        m.reset()
        assert (half.resets, off.resets, off.kept) == (1, 1, 0x77)
