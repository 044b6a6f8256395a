"""`hyperpy.testing.DeviceBench`: accesses, stops, exceptions, and what stands in for a machine."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest
from tests.devices import Notes

from hyperpy import Counter, DebugExit, Device, DeviceError, MemoryAccessError, Register, Stop
from hyperpy._hyperpy import StockDevice
from hyperpy.device import _Stock
from hyperpy.testing import Access, DeviceBench, IrqChange


class Timer(Device):
    """A limit, a command, a status that a read clears, and the time."""

    limit = Register(0x0, reset=5)
    command = Register(0x4, access="wo")
    status = Register(0x8, width=2, access="rc")
    now = Counter(0x10, hz=1000)
    resets = 0

    @command.on_write
    def _command(self, value: int) -> Stop | None:
        if value > self.limit:
            return Stop("too much")
        self.status = value
        self.irq.set(True)
        return None

    @status.on_read
    def _status(self) -> None:
        self.irq.set(False)

    def reset(self) -> None:
        self.resets += 1


def test_declared_registers_are_accessed_as_a_guest_does() -> None:
    bench = DeviceBench(Timer())
    assert bench.read32(0x0) == 5
    assert bench.write16(0x2, 0x1234) is None
    assert (bench.device.limit, bench.read8(0x3), bench.read64(0x0)) == (0x1234_0005, 0x12, 0x1234_0005)
    bench.device.limit = 9
    assert bench.read(0x0, 3) == 9


def test_plain_device_gets_every_access_as_it_was_made() -> None:
    bench = DeviceBench(Notes())
    assert [bench.read8(1), bench.read16(2), bench.read32(4), bench.read64(8), bench.read(3, 5)] == [
        1, 2, 4, 8, 3,
    ]  # fmt: skip
    bench.write8(1, 1)
    bench.write16(2, 2)
    bench.write32(4, 3)
    bench.write64(8, 4)
    bench.write(3, 5, 5)
    assert bench.device.seen == [
        (1, 1), (2, 2), (4, 4), (8, 8), (3, 5), (1, 1, 1), (2, 2, 2), (4, 4, 3), (8, 8, 4), (3, 5, 5),
    ]  # fmt: skip


def test_object_that_is_no_device_class_is_tested_with_a_size() -> None:
    class Duck:
        def read(self, offset: int, size: int, /) -> int:
            return 0xA5

        def write(self, offset: int, size: int, value: int, /) -> None:
            pass

    assert DeviceBench(Duck(), size="4K").read8(0xFFF) == 0xA5


def test_stock_device_is_tested_too() -> None:
    bench = DeviceBench(DebugExit())
    assert bench.write32(0, 3) == Stop("debug exit, status 7")
    assert bench.stopped == Stop("debug exit, status 7")


def test_stop_is_returned_and_kept_until_the_reset() -> None:
    bench = DeviceBench(Timer())
    assert bench.write32(0x4, 1) is None
    assert bench.stopped is None
    assert bench.write32(0x4, 6) == Stop("too much")
    bench.write32(0x4, 1)
    assert bench.stopped == Stop("too much")
    bench.reset()
    assert bench.stopped is None


def test_line_keeps_every_change_with_its_time() -> None:
    bench = DeviceBench(Timer())
    bench.clock.step(100)
    bench.write32(0x4, 3)
    bench.write32(0x4, 4)
    bench.clock.step(50)
    assert (bench.irq.level, bench.read16(0x8), bench.irq.level) == (True, 4, False)
    assert bench.irq.history == [IrqChange(100, True), IrqChange(150, False)]
    bench.device.irq.pulse()
    assert bench.irq.rises == 2


def test_counter_counts_the_clock_of_the_bench() -> None:
    bench = DeviceBench(Timer())
    assert bench.read64(0x10) == 0
    bench.clock.step(2_500_000)
    assert (bench.read64(0x10), bench.clock.now, bench.device.now) == (2, 2_500_000, 2)


def test_timers_of_the_device_fire_when_the_clock_is_stepped_and_are_gone_after_a_reset() -> None:
    class Watchdog(Device):
        limit = Register(0x0, access="wo")

        @limit.on_write
        def _limit(self, value: int) -> None:
            assert self.clock is not None
            self.clock.after(value, self.irq.pulse)

    with DeviceBench(Watchdog()) as bench:
        bench.write32(0x0, 100)
        bench.clock.step(99)
        assert bench.irq.rises == 0
        bench.clock.step(7)
        assert bench.irq.history == [IrqChange(100, True), IrqChange(100, False)]
        bench.write32(0x0, 100)
        bench.reset()
        bench.clock.step(1000)
        assert bench.irq.history == []
    assert not bench.device.clock


def test_reset_is_that_of_a_machine() -> None:
    bench = DeviceBench(Timer())
    bench.write32(0x0, 77)
    bench.clock.step(5_000_000)
    bench.write32(0x4, 1)
    bench.reset()
    assert (bench.read32(0), bench.read64(0x10), bench.clock.now) == (5, 0, 0)
    assert (bench.irq.level, bench.irq.history, bench.device.resets) == (False, [], 1)


def test_reset_that_raises_is_raised_and_named() -> None:
    class Broken(Notes):
        def reset(self) -> None:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError) as caught:
        DeviceBench(Broken()).reset()
    assert caught.value.__notes__ == ["device Broken: reset"]


def test_memory_is_lent_to_a_device_that_wants_it() -> None:
    class Dma(Device):
        dma = True
        source = Register(0x0, access="wo")

        @source.on_write
        def _source(self, value: int) -> None:
            assert self.memory is not None
            self.memory.write(0x2000, self.memory.read(value, 4))

    bench = DeviceBench(Dma(), memory="64K")
    bench.memory.write(0x1000, b"copy")
    bench.write32(0, 0x1000)
    assert bench.memory.read(0x2000, 4) == b"copy"
    with pytest.raises(MemoryAccessError):
        bench.write32(0, 0x1_0000)


def test_what_was_lent_is_taken_back_at_the_end_of_the_block() -> None:
    device = Timer()
    with DeviceBench(device) as bench:
        assert device.irq is bench.irq  # type: ignore[comparison-overlap]
    assert not device.irq


def test_bench_and_its_device_are_collected_together() -> None:
    class Looped(Notes):
        bench: Any = None

    bench = DeviceBench(Looped())
    bench.device.bench = bench
    bench.memory.write(0, b"x")
    gone = weakref.ref(bench.device)
    del bench
    gc.collect()
    assert gone() is None


def test_batch_gives_what_the_reads_gave_and_can_be_run_again() -> None:
    bench = DeviceBench(Timer())
    batch = bench.compile([Access(0x0, 4), (0x0, 4, 9), (0x0, 1), Access(0x4, 4, 10), (0x2, 2, None)])
    assert len(batch) == 5
    assert batch.run() == [5, 9, 0]
    assert bench.stopped == Stop("too much")
    assert batch.run() == [9, 9, 0]
    assert bench.batch([(0x0, 8)]) == [9]


def test_batch_ends_at_the_access_that_raises_and_names_it() -> None:
    class Broken(Notes):
        def write(self, offset: int, size: int, value: int, /) -> Stop | None:
            raise ZeroDivisionError

    bench = DeviceBench(Broken())
    with pytest.raises(ZeroDivisionError) as caught:
        bench.batch([(0, 1), (8, 4, 0xAB), (1, 1)])
    assert caught.value.__notes__ == [
        "device Broken: write of 0xab to offset 0x8, 4 bytes",
        "access 1 of the batch",
    ]
    assert bench.device.seen == [(0, 1)]


def test_batch_of_another_bench_is_refused_where_it_does_not_fit() -> None:
    batch = DeviceBench(Timer()).compile([(0x10, 8)])
    other = DeviceBench(Notes())
    batch._bench = other
    with pytest.raises(ValueError, match="batch is of a larger device"):
        batch.run()


@pytest.mark.fault(13)
@pytest.mark.parametrize("rule", ["exact", "split", "widen", "refuse"])
def test_declared_registers_under_each_rule_take_every_access_as_documented(rule: Any) -> None:
    class Some(Device):
        access_rule = rule
        size = 24
        first = Register(0x0)
        second = Register(0x8, width=2)
        third = Register(0xA, width=1)
        last = Register(0x10, width=8)

    places = {(0, 4), (8, 2), (10, 1), (16, 8)}
    taken = {at for offset, width in places for at in range(offset, offset + width)}
    for size in range(1, 9):
        for offset in range(24 - size + 1):
            bench = DeviceBench(Some())
            before = bytes(at + 1 if at in taken else 0 for at in range(24))
            for place, width in places:
                bench.write(place, width, int.from_bytes(before[place : place + width], "little"))
            is_exact = (offset, size) in places
            if rule == "refuse" and not is_exact:
                with pytest.raises(DeviceError, match="no register takes this read"):
                    bench.read(offset, size)
                with pytest.raises(DeviceError, match="no register takes this write"):
                    bench.write(offset, size, 0)
                given = before
            else:
                shown = before[offset : offset + size] if rule != "exact" or is_exact else bytes(size)
                assert bench.read(offset, size) == int.from_bytes(shown, "little"), (offset, size)
                bench.write(offset, size, (1 << 8 * size) - 1)
                reached = range(offset, offset + size) if rule != "exact" or is_exact else range(0)
                given = bytes(0xFF if at in reached and at in taken else old for at, old in enumerate(before))
            for place, width in places:
                assert bench.read(place, width) == int.from_bytes(given[place : place + width], "little")


@pytest.mark.fault(13)
@pytest.mark.parametrize(
    ("offset", "size"), [(0x17, 2), (0x18, 1), (0x11, 8), (0, 0), (0, 9), (2**63, 1), (2**64 - 1, 8)]
)
def test_access_that_leaves_the_device_is_refused(offset: int, size: int) -> None:
    bench = DeviceBench(Timer())
    for access in (
        lambda: bench.read(offset, size),
        lambda: bench.write(offset, size, 0),
        lambda: bench.compile([(offset, size)]),
    ):
        with pytest.raises(ValueError, match="access leaves the device"):
            access()


@pytest.mark.fault(14)
def test_read_only_and_write_only_registers_give_and_take_nothing_at_every_access() -> None:
    class Sides(Device):
        shown = Register(0x0, width=8, access="ro", reset=0x0807060504030201)
        hidden = Register(0x8, width=8, access="wo")

    for size in range(1, 9):
        for offset in range(16 - size + 1):
            bench = DeviceBench(Sides())
            bench.write(offset, size, (1 << 8 * size) - 1)
            assert bench.device.shown == 0x0807060504030201
            whole = bytes(range(1, 9)) + bytes(8)
            assert bench.read(offset, size) == int.from_bytes(whole[offset : offset + size], "little")


class _Sullen:
    def __index__(self) -> int:
        raise OSError("no number")


@pytest.mark.fault(31)
@pytest.mark.parametrize("answer", [None, "7", -1, 1 << 32, 1.0, [], b"\1", _Sullen()], ids=repr)
@pytest.mark.parametrize("is_declared", [True, False])
def test_read_that_answers_something_unusable_is_raised_and_named(answer: Any, is_declared: bool) -> None:
    class Declared(Device):
        value = Register(0x0, reset=7)

        @value.on_read
        def _value(self) -> Any:
            return answer

    class Plain(Device):
        size = 4

        def read(self, offset: int, size: int, /) -> Any:
            return answer

    bench = DeviceBench(Declared(), name="it") if is_declared else DeviceBench(Plain(), name="it")
    if answer is None and is_declared:
        assert bench.read32(0) == 7  # what the register holds
        return
    expected = OSError if isinstance(answer, _Sullen) else DeviceError
    with pytest.raises(expected) as caught:
        bench.read32(0)
    assert caught.value.__notes__ == ["device it: read of offset 0x0, 4 bytes"]
    assert expected is OSError or "device it: read returned" in str(caught.value)


@pytest.mark.fault(31)
@pytest.mark.parametrize("answer", [0, True, "stop", Stop])
def test_write_that_answers_something_unusable_is_raised_and_named(answer: Any) -> None:
    class Odd(Notes):
        def write(self, offset: int, size: int, value: int, /) -> Any:
            return answer

    with pytest.raises(DeviceError, match="write returned") as caught:
        DeviceBench(Odd()).write8(3, 9)
    assert caught.value.__notes__ == ["device Odd: write of 0x9 to offset 0x3, 1 bytes"]


@pytest.mark.fault(31)
def test_exceptions_of_several_registers_of_one_access_are_the_first_with_the_others() -> None:
    class Both(Device):
        one = Register(0x0)
        two = Register(0x4)

        @one.on_write
        def _one(self, value: int) -> None:
            raise KeyError("one")

        @two.on_write
        def _two(self, value: int) -> None:
            raise ValueError("two")

    bench = DeviceBench(Both())
    with pytest.raises(KeyError) as caught:
        bench.write64(0, 0)
    assert caught.value.__notes__ == [
        "device Both: write of 0x0 to offset 0x0, 8 bytes",
        "also raised: ValueError('two')",
    ]
    assert bench.read64(0) == 0  # it has been told


def test_exception_shows_the_line_of_the_device_and_the_bench_goes_on() -> None:
    class Broken(Notes):
        def read(self, offset: int, size: int, /) -> int:
            raise KeyboardInterrupt

    bench = DeviceBench(Broken())
    with pytest.raises(KeyboardInterrupt) as caught:
        bench.read8(0)
    assert caught.traceback[-1].name == "read"
    assert bench.write8(0, 1) is None


def test_device_in_rust_that_panics_is_a_device_error() -> None:
    bench = DeviceBench(_Stock(StockDevice.panicking()), name="it")
    with pytest.raises(DeviceError, match="it"):
        bench.read8(0)
    with pytest.raises(DeviceError, match="it"):
        bench.write8(0, 0)


@pytest.mark.parametrize("value", [-1, 256, 1 << 64])
def test_value_that_does_not_fit_is_refused(value: int) -> None:
    bench = DeviceBench(Timer())
    with pytest.raises((ValueError, OverflowError)):
        bench.write8(0, value)
    assert bench.read32(0) == 5


@pytest.mark.parametrize("thing", [object(), Timer, None])
def test_bench_of_what_is_no_device_is_refused(thing: Any) -> None:
    with pytest.raises(TypeError, match="not a device"):
        DeviceBench(thing)


def test_bench_of_a_device_without_a_size_is_refused() -> None:
    with pytest.raises(TypeError, match="size of Device is not known"):
        DeviceBench(Device())


def test_access_that_is_none_is_refused() -> None:
    with pytest.raises(TypeError, match="not an access"):
        DeviceBench(Timer()).batch([7])  # type: ignore[list-item]
