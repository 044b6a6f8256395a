"""Devices in Python saved, put back and copied, on a bench: registers, attributes, timers and their own `save` and `load`."""

from __future__ import annotations

import functools
import gc
import inspect
import weakref
from typing import Any, ClassVar, Self

import pytest

from hyperpy import Counter, Device, DeviceError, Fifo, Identity, Line, Ram, Register, SnapshotError
from hyperpy._cloning import copy_of
from hyperpy.testing import DeviceBench


class Nic(Device):
    """Registers of every kind, attributes, a timer, and a line."""

    control = Register(0x0)
    received = Fifo(0x8, depth=4, access="ro")
    buffer = Ram(0x10, size=10)
    ms = Counter(0x20, hz=1000)
    sent = Line()
    saved_attributes = ("packets", "timer", "table")

    def __init__(self, name: str, *, table: Any = None) -> None:
        self.name, self.helper, self.mac = name, object(), bytes(6)
        self.packets: int | None = 0
        self.timer: Any = None
        self.table: Any = {} if table is None else table

    @control.on_write
    def _control(self, value: int) -> None:
        assert self.packets is not None
        self.packets += 1
        if self.timer is not None:
            self.timer.cancel()
        assert self.clock is not None
        self.timer = self.clock.after(1000, self.expire)

    def expire(self) -> None:
        self.packets = 100
        self.irq.raise_()

    def forked(self, parent: Nic, identity: Identity, /) -> None:  # type: ignore[override]
        self.name, self.mac = f"{parent.name}'", identity.mac()


def busy() -> DeviceBench[Nic]:
    bench = DeviceBench(Nic("eth0"))
    bench.write32(0x0, 5)
    bench.device.received.push(3)
    bench.device.buffer[0:3] = b"abc"
    bench.clock.step(500)
    return bench


def test_bench_put_back_has_registers_attributes_timers_lines_and_time_of_then() -> None:
    bench = busy()
    nic, timer = bench.device, bench.device.timer
    nic.sent.set(True)
    base = bench.snapshot()
    for _ in range(3):
        bench.write32(0x0, 9)
        bench.clock.step(5_000_000)
        nic.received.pop()
        nic.buffer[0:3] = b"xyz"
        nic.sent.set(False)
        assert (nic.packets, bench.irq.level, nic.timer is timer) == (100, True, False)
        bench.restore(base)
        assert (nic.packets, nic.control, list(nic.received), bytes(nic.buffer)[:3]) == (1, 5, [3], b"abc")
        assert (bench.clock.now, bench.read64(0x20), bench.irq.level, bench.lines["sent"].level) == (
            500,
            0,
            False,
            True,
        )
        assert nic.timer.active
        assert nic.timer.deadline == 1000
    bench.clock.step(500)
    assert (nic.packets, bench.irq.level, timer.active) == (100, True, False)


def test_timer_that_was_put_back_is_cancelled_by_the_handle_of_then() -> None:
    bench = busy()
    base = bench.snapshot()
    bench.write32(0x0, 1)  # another timer, and another handle
    bench.restore(base)
    assert bench.device.timer.cancel()
    bench.clock.step(10_000)
    assert bench.device.packets == 1


def test_copy_has_state_time_and_timers_of_its_own_and_an_identity() -> None:
    bench = busy()
    bench.clock.after(100, functools.partial(print, "not a method of the device"))
    copy = bench.fork()
    assert (copy.device.name, copy.device.packets, copy.device.control) == ("eth0'", 1, 5)
    assert len(copy.lost_timers) == 1
    assert copy.lost_timers[0].startswith("timer partial, due at 600 ns")
    assert copy.device.timer.active
    assert copy.device.timer.deadline == 1000
    assert copy.device.timer.cancel()
    assert bench.device.timer.active
    bench.device.received.push(4)
    assert list(copy.device.received) == [3]
    # Of the seed that the test gives.
    assert copy.device.mac == bench.fork().device.mac == Identity("any", 0).mac()
    assert bench.fork(name="second", seed=1).device.mac == Identity("second", 1).mac() != copy.device.mac
    # A copy of a copy.
    again = bench.fork().fork()
    again.clock.step(500)
    assert (again.device.name, again.device.packets, bench.device.packets) == ("eth0''", 100, 1)
    assert again.irq.level
    assert not bench.irq.level


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        -5,
        (1 << 127) - 1,
        0.5,
        "text ü",
        b"bytes",
        bytearray(b"more"),
        [1, [2, (3, "x")]],
        (),
        {"a": {"b": None}},
        {1: "int key", "text": 2},
        {"tuple": [1]},
        {"set": 1},
        {1, 2},
        frozenset({"x"}),
    ],
)
def test_attribute_of_plain_data_comes_back_as_what_it_was_and_shares_nothing(value: Any) -> None:
    bench = DeviceBench(Nic("x"))
    bench.device.table = value
    base = bench.snapshot()
    bench.device.table = "other"
    bench.restore(base)
    back = bench.device.table
    assert back == value
    assert type(back) is type(value)
    assert back is not value or not isinstance(value, list | dict | set | bytearray)
    assert base.state["attributes"]["table"] == value
    bench.restore(base)
    assert bench.device.table is back, "what has not changed is left alone"
    other = Nic("y")
    other.load(bench.device.save())
    assert other.table == value
    assert other.save() == bench.device.save()


def nested() -> list[Any]:
    whole: list[Any] = []
    whole.append(whole)
    return whole


@pytest.mark.parametrize(
    ("value", "error", "match"),
    [
        (object(), TypeError, r"no plain data: Nic.table is a object"),
        ({"a": [1, print]}, TypeError, r"no plain data: Nic.table\[\"a\"\]\[1\] is a builtin"),
        (1 << 128, ValueError, "too large: Nic.table"),
        (nested(), ValueError, "nested too deep: Nic.table"),
        ("\udc80", ValueError, "no Unicode: Nic.table"),
    ],
)
def test_attribute_that_is_no_plain_data_is_an_error_that_names_its_path(
    value: Any, error: type[Exception], match: str
) -> None:
    bench = DeviceBench(Nic("x", table=value))
    with pytest.raises(error, match=match) as raised:
        bench.snapshot()
    assert raised.value.__notes__ == ["device Nic: save"]


class Bare(Device):
    size = 4


class Undecided(Device):
    value = Register(0x0)

    def __init__(self) -> None:
        self.rings = 0


class Later(Device):
    value = Register(0x0)
    rings = 0

    @value.on_write
    def _value(self, value: int) -> None:
        self.rings += 1


class Misnamed(Device):
    value = Register(0x0)
    saved_attributes = ("nothing",)


class Plain:
    size = 4

    def read(self, offset: int, size: int) -> int:
        return 0

    def write(self, offset: int, size: int, value: int) -> None:
        pass


@pytest.mark.parametrize(
    ("make", "match", "hint"),
    [
        (Bare, "device Bare at bench cannot be saved", "define save"),
        (Plain, "device Plain at bench cannot be saved", "stateless = True"),
        (Undecided, "whether this is state: rings", "saved_attributes = "),
        (Misnamed, "it has no attribute nothing", "saved_attributes"),
    ],
)
def test_device_that_does_not_say_what_its_state_is_is_refused_by_name(
    make: Any, match: str, hint: str
) -> None:
    with pytest.raises(SnapshotError, match=match) as raised:
        DeviceBench(make()).snapshot()
    assert hint in (raised.value.hint or "")


def test_attribute_that_came_since_is_refused_before_anything_changes() -> None:
    bench = DeviceBench(Later())
    base = bench.snapshot()
    bench.write32(0x0, 7)
    with pytest.raises(SnapshotError, match="it is new: rings"):
        bench.restore(base)
    assert bench.read32(0x0) == 7


def test_device_that_says_none_of_its_attributes_is_state_keeps_them() -> None:
    class Collector(Undecided):
        saved_attributes: ClassVar = ()

    bench = DeviceBench(Collector())
    base = bench.snapshot()
    bench.device.rings, bench.device.value = 5, 1
    bench.restore(base)
    assert (bench.device.rings, bench.device.value) == (5, 0)


def test_device_of_attributes_alone_is_saved_by_them() -> None:
    class Doorbell(Device):
        size = 4
        rings = 0
        saved_attributes: ClassVar = ("rings",)

        def write(self, offset: int, size: int, value: int, /) -> None:
            self.rings += 1

    bench = DeviceBench(Doorbell())
    base = bench.snapshot()
    bench.write32(0x0, 1)
    bench.restore(base)
    assert bench.device.rings == 0
    assert base.state == {"schema": 1, "registers": {}, "attributes": {"rings": 0}}


def test_stateless_device_is_saved_by_nothing() -> None:
    class Dice(Bare):
        stateless = True

    class Other(Plain):
        stateless = True

    for bench in (DeviceBench[Any](Dice()), DeviceBench[Any](Other())):
        base = bench.snapshot()
        bench.restore(base)
        assert base.state is None
        assert type(bench.fork().device) is type(bench.device)


class Own(Plain):
    """Not a `Device`, with both methods."""

    def __init__(self) -> None:
        self.held: Any = {"a": [1, (2, 3)]}
        self.given: list[Any] = []

    def save(self) -> Any:
        return self.held

    def load(self, state: Any) -> None:
        self.given.append(state)
        self.held = state


def test_own_save_and_load_get_what_was_saved_and_never_the_same_object() -> None:
    bench = DeviceBench(Own())
    base = bench.snapshot()
    bench.device.held["a"].append("later")
    bench.restore(base)
    bench.device.held["a"].append("later still")
    bench.restore(base)
    assert bench.device.given[1] == {"a": [1, (2, 3)]}
    assert bench.device.given[0] is not bench.device.given[1]
    copy = bench.fork()
    assert copy.device.held == {"a": [1, (2, 3)]}
    assert copy.device is not bench.device


def test_what_own_save_and_load_raise_is_raised_with_a_note() -> None:
    class Raises(Own):
        def save(self) -> Any:
            if self.held is None:
                raise ZeroDivisionError("no")
            return 1

        def load(self, state: Any) -> None:
            raise KeyError("bad")

    bench = DeviceBench(Raises())
    base = bench.snapshot()
    with pytest.raises(KeyError) as raised:
        bench.restore(base)
    assert raised.value.__notes__ == ["device Raises: load"]
    bench.device.held = None
    with pytest.raises(ZeroDivisionError) as failed:
        bench.snapshot()
    assert failed.value.__notes__ == ["device Raises: save"]


def test_subclass_that_overrides_save_adds_to_what_is_declared() -> None:
    class More(Nic):
        def save(self) -> dict[str, Any]:
            return {**super().save(), "name": self.name}

        def load(self, state: dict[str, Any]) -> None:
            super().load(state)
            self.name = state["name"]

    bench = DeviceBench(More("eth0"))
    bench.device.control = 3
    base = bench.snapshot()
    bench.device.name, bench.device.control, bench.device.packets = "eth1", 4, None
    bench.restore(base)
    assert (bench.device.name, bench.device.control, bench.device.packets) == ("eth0", 3, 0)


def test_state_of_another_class_is_refused_or_read_by_names() -> None:
    class Two(Nic):
        schema = 2

    class Same(Nic):
        pass

    base = busy().snapshot()
    bench = DeviceBench(Two("x"))
    with pytest.raises(SnapshotError, match="of schema 1, not 2"):
        bench.restore(base)
    assert bench.device.packets == 0
    same = DeviceBench(Same("x"))
    same.restore(base)
    assert (same.device.control, same.device.packets, list(same.device.received)) == (5, 1, [3])
    with pytest.raises(SnapshotError, match="other attributes: packets"):
        DeviceBench(Later()).restore(base)


@pytest.mark.parametrize("change", [{"attributes": {}}, {"attributes": {"more": 1}}, {"attributes": 1}])
def test_saved_attributes_that_do_not_fit_are_refused_and_change_nothing(change: Any) -> None:
    nic = busy().device
    before = nic.save()
    with pytest.raises(SnapshotError, match="attributes|not a saved state"):
        nic.load({**before, **change})
    assert nic.save() == before


def test_copy_of_a_device_whose_class_takes_other_arguments_is_refused() -> None:
    class Odd(Device):
        value = Register(0x0)

        def __new__(cls, *arguments: Any) -> Self:
            return Device.__new__(cls)

        def __init__(self, number: int) -> None:
            self.number = number

    with pytest.raises(DeviceError, match=r"cannot be copied: Odd: .*number"):
        Odd(1).clone()
    with pytest.raises(DeviceError, match="cannot be copied: Plain"):
        copy_of(Plain())

    class Cloned(Plain):
        def clone(self) -> Any:
            return 7

    assert copy_of(Cloned()) == 7


def test_device_without_an_init_takes_no_arguments() -> None:
    with pytest.raises(TypeError, match=r"Bare\(\) takes no arguments"):
        Bare(1)  # type: ignore[call-arg]
    assert str(inspect.signature(Bare)) == "()"
    assert str(inspect.signature(Nic)) == "(name: 'str', *, table: 'Any' = None) -> 'None'"


def test_bench_and_its_snapshots_are_collected_with_timers_that_have_fired() -> None:
    bench = busy()
    bench.device.helper = bench.snapshot()  # a cycle by way of the timer's callback
    bench.clock.step(1_000)
    gone = weakref.ref(bench.device)
    del bench
    gc.collect()
    assert gone() is None


def test_snapshot_alone_keeps_no_device() -> None:
    bench = busy()
    base, gone = bench.snapshot(), weakref.ref(bench.device)
    del bench
    gc.collect()
    assert gone() is None
    assert base.state["registers"]["control"] == 5
