"""`Device.explain` and the devices of `Machine.stats`: what is counted, what is timed, and how it reads."""

from __future__ import annotations

import time

import pytest

from hyperpy import Block, Counter, Device, DeviceError, Field, Fifo, Indexed, Ram, Register
from hyperpy.explain import Explanation, RegisterUse
from hyperpy.testing import DeviceBench, Read, ScriptedMachine, Write

BASE = 0xFE00_0000


class Lamp(Device):
    """Two registers that Rust serves, and three that Python has to do with."""

    size = 0x20
    level = Register(0x0)
    state = Register(0x4, access="ro", reset=5)
    switch = Register(0x8, access="wo")
    age = Register(0xC, access="ro")
    both = Register(0x10)

    @switch.on_write
    def _switch(self, value: int) -> None:
        self.state = value

    @age.on_read
    def _age(self) -> int:
        return 7

    @both.on_write
    def _both(self, value: int) -> None:
        if value == 99:
            raise RuntimeError("too much")


def uses(device: Device) -> dict[str, tuple[str, int, int, int]]:
    """What guests have accessed."""
    rows = [row for row in device.explain() if row.reads or row.writes]
    return {row.register: (row.rung, row.reads, row.writes, row.calls) for row in rows}


def test_explain_of_a_declared_device_counts_accesses_by_register_and_rung() -> None:
    bench = DeviceBench(Lamp())
    assert uses(bench.device) == {}
    bench.batch([(0x0, 4, 1), (0x0, 4, 2), (0x0, 4), (0x4, 4), (0x8, 4, 3), (0xC, 4), (0xC, 4)])
    bench.batch([(0x10, 4), (0x10, 4), (0x10, 4, 5), (0x4, 4, 9), (0x1C, 4)])
    assert uses(bench.device) == {
        "level": ("register", 1, 2, 0),
        "state": ("register", 1, 0, 0),
        "switch": ("python", 0, 1, 1),
        "age": ("python", 2, 0, 2),
        "both": ("register/python", 2, 1, 1),
        "(no register)": ("unclaimed", 1, 1, 0),
    }
    explanation = bench.device.explain()
    assert [(row.register, row.offset, row.width) for row in explanation][:2] == [
        ("level", 0, 4),
        ("state", 4, 4),
    ]
    assert explanation["age"].timed == 2
    with pytest.raises(KeyError):
        explanation["nothing"]


def test_explain_of_an_access_to_several_registers_counts_it_for_each() -> None:
    bench = DeviceBench(Lamp())
    bench.read64(0x0)
    bench.write64(0x8, 1)
    assert uses(bench.device) == {
        "level": ("register", 1, 0, 0),
        "state": ("register", 1, 0, 0),
        "switch": ("python", 0, 1, 1),
    }


def test_explain_times_calls_with_what_they_wait_for() -> None:
    class Slow(Device):
        value = Register(0x0, access="ro")
        naps = (0.001, 0.005, 0.002)
        calls = 0

        @value.on_read
        def _value(self) -> int:
            time.sleep(self.naps[self.calls])
            self.calls += 1
            return 0

    bench = DeviceBench(Slow())
    bench.batch([(0x0, 4)] * 3)
    use = bench.device.explain()["value"]
    assert use.mean_ns is not None
    assert use.worst_ns is not None
    assert (use.calls, use.timed) == (3, 3)
    assert use.mean_ns * 3 >= 8e6
    assert 5e6 <= use.worst_ns <= use.mean_ns * 3 - 3e6


def test_explain_times_the_first_calls_and_then_one_in_32() -> None:
    bench = DeviceBench(Lamp())
    bench.batch([(0xC, 4)] * 320)
    use = bench.device.explain()["age"]
    assert (use.reads, use.calls, use.timed) == (320, 320, 32 + 9)


def test_explain_of_a_method_that_raises_counts_the_call() -> None:
    bench = DeviceBench(Lamp())
    with pytest.raises(RuntimeError):
        bench.write32(0x10, 99)
    assert uses(bench.device) == {"both": ("register/python", 0, 1, 1)}


def test_explain_of_methods_that_want_some_writes_counts_those_as_calls() -> None:
    class Picky(Device):
        control = Register(0x0, go=Field(0), rest=Field(1, 7))

        @control.on_write_if(1)
        def _go(self, value: int) -> None:
            pass

    bench = DeviceBench(Picky())
    bench.batch([(0x0, 4, value) for value in (0, 2, 1, 4)])
    assert uses(bench.device) == {"control": ("register/python", 0, 4, 1)}


def test_explain_of_every_kind_of_declaration_counts_it_under_its_name() -> None:
    class Channel(Block):
        count = Register(0x0)

    class Many(Device):
        index = Register(0x00)
        data = Indexed(0x04, index=index, count=4)
        lights = Register(0x10, width=2, count=4)
        queue = Fifo(0x18, depth=2, access="ro")
        ticks = Counter(0x20, hz=10)
        window = Ram(0x40, size=0x40)
        channels = Channel.at(0x80, count=2)

    bench = DeviceBench(Many())
    bench.batch([(0x00, 4, 2), (0x04, 4, 9), (0x12, 2), (0x16, 2, 1), (0x18, 4), (0x20, 8), (0x50, 8, 1)])
    bench.batch([(0x00, 4, 4), (0x04, 4), (0x84, 4, 1)])
    told = bench.device.explain()
    assert told["data"] == told["data[0…3]"]
    with pytest.raises(KeyError, match="Many has no such register: ticsk; hint: did you mean ticks"):
        told["ticsk"]
    assert uses(bench.device) == {
        "index": ("register", 0, 2, 0),
        "data[0…3]": ("register", 0, 1, 0),
        "lights[0…3]": ("register", 1, 1, 0),
        "queue": ("register", 1, 0, 0),
        "ticks": ("register", 1, 0, 0),
        "window": ("register", 0, 1, 0),
        "channels[1].count": ("register", 0, 1, 0),
        "(no register)": ("unclaimed", 1, 0, 0),
    }
    assert bench.device.explain()["data[0…3]"].offset is None
    window = bench.device.explain()["window"]
    assert (window.offset, window.width, window.writes) == (0x40, 0x40, 1)


def test_explain_of_a_device_that_refuses_counts_what_it_refuses() -> None:
    class Strict(Device):
        access_rule = "refuse"
        value = Register(0x0)

    bench = DeviceBench(Strict())
    for access in (lambda: bench.read16(0x0), lambda: bench.write8(0x1, 1), lambda: bench.write8(0x1, 1)):
        with pytest.raises(DeviceError, match="no register takes this"):
            access()
    assert uses(bench.device) == {"(refused)": ("unclaimed", 1, 2, 0)}


class Plain(Device):
    """Its own methods."""

    size = 4

    def read(self, offset: int, size: int, /) -> int:
        return 1


def test_explain_of_a_device_without_registers_is_one_row() -> None:
    bench = DeviceBench(Plain())
    bench.batch([(0, 1), (0, 4), (2, 1, 5)])
    (use,) = bench.device.explain()
    assert (use.register, use.offset, use.width, use.rung) == ("(read, write)", 0, 4, "python")
    assert (use.reads, use.writes, use.calls, use.timed, use.hint) == (2, 1, 3, 3, "")


def test_explain_of_registers_beside_own_methods_counts_both() -> None:
    class Mixed(Plain):
        size = 8
        value = Register(0x4)

    bench = DeviceBench(Mixed())
    bench.batch([(0, 1), (4, 4)])
    assert uses(bench.device) == {
        "value": ("register", 1, 0, 0),
        "(read, write)": ("python", 1, 0, 1),
    }


def test_explain_goes_on_over_machines_resets_and_closing() -> None:
    lamp = Lamp()
    with ScriptedMachine([Write(1, mmio=BASE), Read(mmio=BASE + 0xC)]) as m:
        m.attach(lamp, mmio=BASE)
        m.run(timeout=10.0)
        before = uses(lamp)
        m.reset()
        assert uses(lamp) == before == {"level": ("register", 0, 1, 0), "age": ("python", 1, 0, 1)}
    DeviceBench(lamp).write32(0x0, 1)
    assert uses(lamp) == {"level": ("register", 0, 2, 0), "age": ("python", 1, 0, 1)}


def test_explain_in_text_shows_what_was_accessed_and_tells_the_rest() -> None:
    rows = (
        RegisterUse("level", 0, 4, "register", 1000, 2),
        RegisterUse("switch", 8, 4, "register/python", 0, 12, 12, 12, 410.4, 9120, "do less"),
        RegisterUse("age", 12, 4, "python"),
        RegisterUse("(no register)", None, None, "unclaimed", 0, 3),
    )
    assert str(Explanation("Lamp", rows, 7.2)).splitlines() == [
        "Lamp: 1,017 accesses, 12 calls to Python",
        "register       offset  bytes  rung             reads  writes  calls  mean ns  worst ns",
        "level             0x0      4  register          1000       2      0",
        "switch            0x8      4  register/python      0      12     12      410      9120",
        "(no register)                 unclaimed            0       3      0",
        "not accessed: 1 register",
        "a read that Rust serves takes 7 ns here, beside the exit",
        "hint: switch: do less",
    ]
    assert str(Lamp().explain()) == "Lamp: 0 accesses, 0 calls to Python\nnot accessed: 5 registers"
    assert str(Plain().explain()) == "Plain: 0 accesses, 0 calls to Python"


def test_explain_in_a_notebook_is_a_table_that_escapes_names() -> None:
    shown = Explanation("<Lamp>", (RegisterUse("a&b", 0, 4, "register", 1, hint="<less>"),))._repr_html_()
    assert "<caption>&lt;Lamp&gt;: 1 access, 0 calls to Python</caption>" in shown
    assert "<td>a&amp;b</td><td>0x0</td>" in shown
    assert "<p>hint: a&amp;b: &lt;less&gt;</p>" in shown


def test_explain_that_measures_tells_what_a_read_takes_and_counts_none_of_it() -> None:
    lamp = Lamp()
    assert lamp.explain().register_ns is None
    measured = lamp.explain(measure=True)
    assert measured.register_ns is not None
    assert 0 < measured.register_ns < 1e6
    assert uses(lamp) == {}
    assert Plain().explain(measure=True).register_ns is None


# -- hints -----------------------------------------------------------------------------------------------------------


def test_explain_hints_at_a_counter_only_where_a_method_tells_the_time() -> None:
    class Clocked(Device):
        us = Register(0x0, access="ro")
        shifted = Register(0x4, access="ro")
        start = 5

        @us.on_read
        def _us(self) -> int:
            return self.clock.now // 1000 & 0xFFFF_FFFF  # type: ignore[union-attr] # attached

        @shifted.on_read
        def _shifted(self) -> int:
            return (self.clock.now + self.start) & 0xFFFF_FFFF  # type: ignore[union-attr] # attached

    bench = DeviceBench(Clocked())
    assert bench.device.explain()["us"].hint == ""  # nobody has read it
    bench.batch([(0x0, 4), (0x4, 4)])
    assert "Counter" in bench.device.explain()["us"].hint
    assert bench.device.explain()["shifted"].hint == ""


def test_explain_hints_at_registers_where_many_accesses_call_methods() -> None:
    bench = DeviceBench(Plain())
    batch = bench.compile([(0, 1)] * 999)
    batch.run()
    assert bench.device.explain()["(read, write)"].hint == ""
    bench.read8(0)
    assert "Register" in bench.device.explain()["(read, write)"].hint


@pytest.mark.parametrize(
    ("posted", "writes", "reads", "hinted"),
    [(False, 1000, 100, True), (False, 999, 0, False), (False, 1000, 101, False), (True, 1000, 0, False)],
)
def test_explain_hints_at_posted_writes_only_where_they_are_possible_and_most_are_followed_by_no_read(
    posted: bool, writes: int, reads: int, hinted: bool
) -> None:
    class Sink(Device):
        out = Register(0x0, access="wo", posted=posted)
        state = Register(0x4)

        @out.on_write
        def _out(self, value: int) -> None:
            pass

    bench = DeviceBench(Sink())
    bench.batch([(0x0, 4, 1)] * writes + [(0x4, 4)] * reads)
    assert ("posted" in bench.device.explain()["out"].hint) is hinted


# -- the machine's statistics ----------------------------------------------------------------------------------------


class Duck:
    """Not derived from `Device`."""

    def read(self, offset: int, size: int, /) -> int:
        return 0

    def write(self, offset: int, size: int, value: int, /) -> None:
        pass


def test_stats_tell_accesses_of_each_python_device_by_rung_also_after_close() -> None:
    script = [
        Read(mmio=BASE, times=5),
        Write(1, mmio=BASE + 8),
        Read(mmio=BASE + 0x1C),
        Read(pio=0x80, size=1),
    ]
    with ScriptedMachine([*script, Read(pio=0x90, size=1)]) as m:
        lamp = m.attach(Lamp(), mmio=BASE, name="lamp")
        m.attach(lamp, mmio=BASE + 0x1000, name="the same again")
        m.attach(Duck(), pio=0x80, size=1)
        m.attach(Duck(), pio=0x90, size=1, name="two")
        m.run(timeout=10.0)
        stats = m.stats
        assert {device.name: tuple(device.hits.values()) for device in stats.devices} == {
            "lamp": (0, 5, 1, 1),
            "Duck": (0, 0, 1, 0),
            "two": (0, 0, 1, 0),
        }
        assert [*stats.devices[0].hits] == ["kernel", "register", "python", "unclaimed"]
    assert m.stats.devices == stats.devices
    assert str(stats).splitlines()[4:6] == [
        "device  kernel  register  python  unclaimed",
        "lamp         0         5       1          1",
    ]
