"""`hyperpy.testing.state_machine`: it finds what is wrong with a device, and nothing in one that is right."""

from __future__ import annotations

import re
import unittest
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import rule, run_state_machine_as_test
from tests.devices import Notes

from hyperpy import (
    Block,
    Counter,
    Device,
    Field,
    Fifo,
    Line,
    MemoryAccessError,
    Messages,
    Ram,
    Register,
    Stop,
    Timer,
)
from hyperpy.testing import Access, DeviceBench, DeviceMachine, state_machine

# The default ones, but that nothing is kept, what was found is not made shorter, and a busy machine may be slow. Hypothesis
# has one seed for all searches where it sees `CI` in the environment: six of them would miss the same things there.
plain = settings(
    database=None,
    derandomize=False,
    phases=[Phase.generate],
    suppress_health_check=[HealthCheck.too_slow],
    deadline=None,
)


def search(machine: type[DeviceMachine[Any]], **more: Any) -> None:
    run_state_machine_as_test(machine, settings=settings(plain, **more))


def search_on(machine: type[DeviceMachine[Any]], **more: Any) -> None:
    """As `search`, where something is to be found: what one misses once in six times, six do not miss."""
    for _ in range(6):
        search(machine, **more)


class Ring(Block):
    head = Register(0x0, width=2)
    used = Register(0x2, width=2, access="ro")

    @head.on_write
    def _head(self, value: int) -> None:
        self.used = value % 8


class Nic(Device):
    """As it should be: nothing that it knows is lost by `save` or kept by `reset`."""

    irq_level = True
    size = 0x40
    control = Register(0x0, enable=Field(0), loop=Field(1))
    status = Register(0x4, access="w1c", sent=Field(0), late=Field(1))
    data = Fifo(0x8, depth=4, width=4, access="wo")
    timeout = Register(0xC, mask=0x0FFF)
    rings = Ring.at(0x10, count=2, stride=8)
    uptime = Counter(0x20, hz=1000)
    slots = Ram(0x28, 8)

    def __init__(self) -> None:
        self.packets = 0
        self.deadline: int | None = None
        self.timer: Timer | None = None

    @data.on_write
    def _data(self, value: int) -> None:
        if self.control.enable:
            self.data.clear()
            self.packets += 1
            self.status.sent = 1
            self.show()

    @status.on_write
    def _status(self, value: int) -> None:
        self.show()

    @timeout.on_read
    def _timeout(self) -> int:
        return self.packets & 0x0FFF

    @timeout.on_write
    def _arm(self, value: int) -> None:
        self.arm(None if value == 0 else self.clock.now + 1000 * value)  # type: ignore[union-attr]

    def arm(self, deadline: int | None) -> None:
        if self.timer is not None:
            self.timer.cancel()
        self.deadline = deadline
        if deadline is not None:
            self.timer = self.clock.at(deadline, self.expire)  # type: ignore[union-attr]

    def expire(self) -> None:
        self.deadline = None
        self.status.late = 1
        self.show()

    def show(self) -> None:
        self.irq.set(bool(self.status))

    def reset(self) -> None:
        super().reset()
        self.packets = 0
        self.arm(None)

    def save(self) -> dict[str, Any]:
        return {**super().save(), "packets": self.packets, "deadline": self.deadline}

    def load(self, state: dict[str, Any]) -> None:
        super().load(state)
        self.packets = state["packets"]
        self.arm(state["deadline"])


def test_right_device_passes() -> None:
    search(state_machine(Nic))


def test_test_case_is_a_unittest_that_runs() -> None:
    case = state_machine(Nic).TestCase
    case.settings = settings(plain, max_examples=5)
    result = unittest.TestResult()
    unittest.defaultTestLoader.loadTestsFromTestCase(case).run(result)
    assert (result.testsRun, result.failures, result.errors) == (1, [], [])


class TrustsAnIndex(Nic):
    index = Register(0x30)

    def __init__(self) -> None:
        super().__init__()
        self.table = [0] * 64

    @index.on_write
    def _index(self, value: int) -> None:
        self.table[value] = 1


class SaysTooMuch(Nic):
    answer = Register(0x30, width=1)

    @answer.on_read
    def _answer(self) -> int:
        return self.control * 0x100


class ForgetsInReset(Nic):
    def reset(self) -> None:
        Device.reset(self)
        self.arm(None)


class ForgetsInSave(Nic):
    def save(self) -> dict[str, Any]:
        return {**super().save(), "packets": 0}


class ForgetsInLoad(Nic):
    def load(self, state: dict[str, Any]) -> None:
        super().load(state)
        self.packets = 0


class LosesItsTimer(Nic):
    def load(self, state: dict[str, Any]) -> None:
        Device.load(self, state)
        self.packets, self.deadline = state["packets"], state["deadline"]


class TimerRaises(Nic):
    def expire(self) -> None:
        raise ZeroDivisionError


class LeavesTheLine(Nic):
    def load(self, state: dict[str, Any]) -> None:
        super().load(state)
        self.muted = True

    def show(self) -> None:
        if not getattr(self, "muted", False):
            super().show()


class LeavesAnotherLine(Nic):
    sent = Line()

    def load(self, state: dict[str, Any]) -> None:
        super().load(state)
        self.muted = True

    def show(self) -> None:
        super().show()
        if not getattr(self, "muted", False):
            self.tell()

    def tell(self) -> None:
        self.sent.pulse()


class LeavesMessages(LeavesAnotherLine):
    msi = Messages()

    def tell(self) -> None:
        self.msi.send(0xFEE0_0000, 0x41)


class PowersUpOtherwise(Nic):
    def __init__(self) -> None:
        super().__init__()
        self.control = 2


class MindsItsNeighbours(Nic):
    """Only what no driver does brings it down."""

    def write(self, offset: int, size: int, value: int, /) -> None:
        raise NotImplementedError(offset)


@pytest.mark.parametrize(
    ("device", "raised", "message"),
    [
        (TrustsAnIndex, IndexError, "list assignment index out of range"),
        (SaysTooMuch, Exception, "read returned"),
        (ForgetsInReset, AssertionError, r"after a reset: packets: 0x\w+, not 0x0"),
        (ForgetsInSave, AssertionError, "the device reads .*; one that was loaded with its state: reads"),
        (ForgetsInLoad, AssertionError, r"saved, loaded and saved again: packets: 0x0, not 0x\w+"),
        (
            LosesItsTimer,
            AssertionError,
            # By its line, or where that is not enabled by its status.
            "the device .*(drives irq high|reads 0x).*; one that was loaded with its state: ",
        ),
        (TimerRaises, ZeroDivisionError, None),
        (LeavesTheLine, AssertionError, "one that was loaded with its state"),
        (
            LeavesAnotherLine,
            AssertionError,
            "the device .*drives sent high, low.*; one that was loaded with its state: ",
        ),
        (
            LeavesMessages,
            AssertionError,
            "the device .*sends 0x41 to 0xfee00000.*; one that was loaded with its state: ",
        ),
        (PowersUpOtherwise, AssertionError, "after a reset: control: 0x0, not 0x2"),
        (MindsItsNeighbours, NotImplementedError, None),
    ],
)
def test_planted_mistake_is_found(device: type[Nic], raised: type[Exception], message: str | None) -> None:
    with pytest.raises(raised, match=message):
        search_on(state_machine(device))


def test_what_is_found_is_shown_as_what_can_be_pasted() -> None:
    with pytest.raises(IndexError) as caught:
        search_on(state_machine(TrustsAnIndex), phases=[Phase.generate, Phase.shrink])
    shown = "\n".join(caught.value.__notes__)
    assert "state = TrustsAnIndexMachine()" in shown
    steps = re.findall(r"^state.\w+\(sequence=(.*)\)$", shown, re.MULTILINE)
    assert len(steps) == 1
    with pytest.raises(IndexError):
        DeviceBench(TrustsAnIndex()).play(eval(steps[0], {"Access": Access}))
    assert "device TrustsAnIndex: write of " in shown


def test_invariant_that_does_not_hold_is_named() -> None:
    def at_most_three(bench: DeviceBench[Nic]) -> bool:
        return bench.device.packets <= 3

    with pytest.raises(AssertionError, match="invariant 0, at_most_three, does not hold: <Nic control=0x"):
        search_on(state_machine(Nic, invariants=[at_most_three]))
    hold = [lambda bench: bench.device.packets >= 0, lambda bench: None]
    search(state_machine(Nic, invariants=hold), max_examples=30)


def test_what_a_device_may_raise_is_allowed_and_its_twins_raise_it_too() -> None:
    class Copier(Device):
        dma = True
        source = Register(0x0, width=8)
        copied = Register(0x8, access="ro")

        @source.on_write
        def _source(self, value: int) -> None:
            self.copied = self.memory.read(value, 1)[0] + 1

    search(state_machine(Copier, allowed=(MemoryAccessError,)))
    with pytest.raises(MemoryAccessError):
        search_on(state_machine(Copier, memory="64K"))


def test_rules_can_be_left_out() -> None:
    search(state_machine(ForgetsInReset, resets=False), max_examples=30)
    search(state_machine(ForgetsInSave, saves=False), max_examples=30)
    search(state_machine(TimerRaises, max_step=0), max_examples=30)


def test_device_that_refuses_what_it_does_not_declare_is_right() -> None:
    class Strict(Device):
        access_rule = "refuse"
        value = Register(0x0)

    search(state_machine(Strict))


def test_subclass_adds_rules_that_reach_the_twins() -> None:
    class Inbox(Device):
        size = 4
        received = Fifo(0x0, depth=2, access="ro")
        level = Register(0x1, width=1, access="ro")

        @level.on_read
        def _level(self) -> int:
            assert len(self.received) < 2
            return self.received.level

    class InboxMachine(state_machine(Inbox)):  # type: ignore[misc]
        @rule()
        def arrive(self) -> None:
            for bench in self.benches:
                bench.device.received.push(7)

    with pytest.raises(AssertionError, match="assert"):
        search_on(InboxMachine)
    search(state_machine(Inbox))


def test_devices_that_declare_nothing_are_hostile_ground_alone() -> None:
    class Short(Notes):
        """Stops at a write of 0xff, as all of its twins do."""

        table = [0] * 16

        def read(self, offset: int, size: int, /) -> int:
            return self.table[offset]

    search(state_machine(Short), max_examples=30)

    class Duck:
        def read(self, offset: int, size: int, /) -> int:
            return [1, 2][offset]

        def write(self, offset: int, size: int, value: int, /) -> Stop | None:
            return None

    search(state_machine(Duck, size=2), max_examples=30)
    with pytest.raises(IndexError):
        search_on(state_machine(Duck, size=3))


@pytest.mark.parametrize("make", [partial(Nic), Nic])
def test_machine_is_named_after_the_device_and_makes_it_fresh(make: Callable[[], Nic]) -> None:
    kind = state_machine(make)
    assert (kind.__name__, kind.__module__) == ("NicMachine", __name__)
    one, other = kind(), kind()
    assert one.device is not other.device
    assert one.benches == [one.bench]


def test_what_is_no_device_is_refused() -> None:
    with pytest.raises(TypeError, match="size of Device is not known"):
        state_machine(Device)
    with pytest.raises(TypeError, match="device is made already: Nic\n\nhint: give its class, Nic"):
        state_machine(Nic())  # type: ignore[arg-type]
