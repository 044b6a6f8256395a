"""Declared registers at work: what guests, attributes and marked methods see of each kind, and the access rules."""

from __future__ import annotations

from typing import Any

import pytest
from tests.declared import BASE, Bell, Dma, Link, Mode, Queues, Timer, play

from hyperpy import Device, DeviceError, Field, Indexed, Register
from hyperpy.exits import Exit
from hyperpy.testing import Read, ScriptedMachine, Write

# -- what guests see -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("accesses", "expected"),
    [
        ([("w", 0x00, 4, 1), ("r", 0x00, 4)], [0x1234]),
        ([("w", 0x04, 4, 0xFFFF_FFFF), ("r", 0x04, 4)], [0x31]),
        ([("w", 0x08, 4, 7), ("r", 0x08, 4)], [0]),
        ([("w", 0x0C, 4, 0x0F), ("r", 0x0C, 4)], [0xF0]),
        ([("w", 0x10, 4, 0x0F), ("r", 0x10, 4)], [0x0F]),
        ([("w", 0x14, 4, 5), ("w", 0x14, 4, 2), ("r", 0x14, 4)], [7]),
        ([("r", 0x18, 4), ("r", 0x18, 4)], [0xAA, 0]),
        ([("r", 0x1C, 4), ("r", 0x1C, 4)], [0, 0x0F]),
        ([("w", 0x20, 4, 0xFFFF), ("r", 0x20, 4)], [0x0FF0]),
        ([("w", 0x24, 4, 0x11223344), ("r", 0x24, 4), ("r", 0x24, 1)], [0x11223344, 0x44]),
        ([("r", 0x28, 4)], [0xFFFF_FFFF]),  # outside of the device: nobody
        ([("w", 0x21, 1, 0xAB), ("r", 0x20, 4)], [0x0B00]),
        ([("r", 0x00, 8)], [0x1234]),
    ],
)
def test_accesses_do_to_registers_what_their_access_says(accesses: Any, expected: list[int]) -> None:
    device = Timer()
    script = [
        Write(v[0], mmio=BASE + o, size=s) if k == "w" else Read(mmio=BASE + o, size=s)
        for k, o, s, *v in accesses
    ]
    with ScriptedMachine(script, unclaimed="ones") as m:
        m.attach(device, mmio=BASE)
        assert m.run(timeout=10.0) == Exit.Halt(0)
        assert m.reads == expected


def test_accesses_to_declared_registers_call_no_python() -> None:
    script = [Write(1, mmio=BASE + 4, times=100), Read(mmio=BASE, times=100)]
    with ScriptedMachine(script) as m:
        m.attach(Timer(), mmio=BASE)
        m.run(timeout=10.0)
        assert m.stats.hits == {"kernel": 0, "rust": 0, "register": 200, "python": 0, "unclaimed": 0}
        assert m.map.rows[-1].rung == "register"


def test_device_stores_big_endian_as_the_guest_reads_it() -> None:
    device = Timer()
    assert play(device, ("w", 0x24, 1, 0x12), ("w", 0x27, 1, 0x34)) == []
    assert device.big == 0x12000034


def test_reset_of_the_machine_restores_registers_without_a_method_of_the_class() -> None:
    with ScriptedMachine([Write(1, mmio=BASE + 4)]) as m:
        device = m.attach(Timer(), mmio=BASE)
        m.run(timeout=10.0)
        assert device.control == 1
        m.reset()
        assert device.control == 0


# -- attributes ------------------------------------------------------------------------------------------------------


def test_attribute_is_the_value_that_guests_see_and_can_be_set_whatever_they_can() -> None:
    device = Timer()
    device.ident = 0x77
    device.status = 0x03
    assert play(device, ("r", 0x00, 4), ("r", 0x0C, 4)) == [0x77, 3]
    assert (device.ident, device.key, device.once) == (0x77, 0, 0xAA)  # looking does nothing


def test_fields_read_and_set_bits_and_enums_read_as_members() -> None:
    device = Timer()
    device.control.mode = Mode.RUN
    device.control.enable = 1
    assert device.control == 0x11
    assert device.control.mode is Mode.RUN
    device.control.mode = 3
    assert device.control.mode == 3  # no member: the number
    assert {"mode", "enable"} <= set(dir(device.control))


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda d: setattr(d, "narrow", 1), ValueError),
        (lambda d: setattr(d, "ident", -1), ValueError),
        (lambda d: setattr(d, "ident", 1 << 32), ValueError),
        (lambda d: setattr(d, "ident", "1"), TypeError),
        (lambda d: setattr(d.control, "mode", 4), ValueError),
        (lambda d: setattr(d.control, "speed", 1), AttributeError),
        (lambda d: d.control.speed, AttributeError),
    ],
)
def test_attribute_that_cannot_be_is_refused_and_changes_nothing(change: Any, error: type[Exception]) -> None:
    device = Timer()
    before = device.save()
    with pytest.raises(error):
        change(device)
    assert device.save() == before


def test_instances_have_registers_of_their_own() -> None:
    one, two = Timer(), Timer()
    one.raised = 5
    assert (one.raised, two.raised) == (5, 0)


# -- methods ---------------------------------------------------------------------------------------------------------


def test_on_write_gets_the_value_after_the_register_holds_it() -> None:
    bell = Bell()
    play(bell, ("w", 0x4, 4, 0x11223344), ("w", 0x5, 1, 0xAA))
    assert bell.log == [(0x11223344, 0x11223344), (0x1122AA44, 0x1122AA44)]


def test_on_write_of_narrow_access_gets_a_value_that_leaves_the_other_bits_alone() -> None:
    bell = Bell()
    play(bell, ("w", 0xD, 1, 0x30))
    assert bell.log == [("flags", 0x3000, 0xC0F0)]


def test_on_write_if_calls_only_for_its_bits() -> None:
    bell = Bell()
    with ScriptedMachine([Write(v, mmio=BASE + 8) for v in (1, 0x100, 0x2FF, 0x1FF)]) as m:
        m.attach(bell, mmio=BASE)
        m.run(timeout=10.0)
        assert bell.log == [("go", 0x100), ("go", 0x1FF)]
        assert (m.stats.hits["register"], m.stats.hits["python"]) == (2, 2)


def test_on_read_answers_or_leaves_what_the_register_holds() -> None:
    bell = Bell()
    bell.count = 50
    assert play(bell, ("r", 0, 4), ("r", 0, 4)) == [50, 2]


def test_on_write_of_an_array_gets_the_index() -> None:
    bell = Bell()
    play(bell, ("w", 0x14, 2, 7), ("w", 0x16, 2, 8), ("w", 0x10, 4, 0x0002_0001))
    assert bell.log == [(2, 7), (3, 8), (0, 1), (1, 2)]
    assert bell.lights[:] == [1, 2, 7, 8]


def test_stop_from_on_write_stops_the_machine() -> None:
    with ScriptedMachine([Write(99, mmio=BASE + 4)]) as m:
        m.attach(Bell(), mmio=BASE)
        assert m.run(timeout=10.0) == Exit.Stopped(0, "enough", None)


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        ("text", DeviceError),
        (-1, DeviceError),
        (1 << 32, DeviceError),
        (1.5, DeviceError),
        (ZeroDivisionError("mine"), ZeroDivisionError),
    ],
)
def test_on_read_that_answers_no_number_is_raised_by_run_and_reads_all_ones(
    answer: Any, error: type[Exception]
) -> None:
    class Wrong(Device):
        value = Register(0x0)

        @value.on_read
        def _value(self) -> Any:
            if isinstance(answer, Exception):
                raise answer
            return answer

    with ScriptedMachine([Read(mmio=BASE), Read(mmio=BASE + 0)]) as m:
        m.attach(Wrong(), mmio=BASE)
        with pytest.raises(error) as caught:
            m.run(timeout=10.0)
        assert "device Wrong: read of mmio 0xfe000000, 4 bytes" in caught.value.__notes__[0]
        assert m.state == "paused"
        assert m.reads[0] == 0xFFFF_FFFF


def test_on_write_that_raises_keeps_the_value_and_is_raised_by_run() -> None:
    class Wrong(Device):
        value = Register(0x0)

        @value.on_write
        def _value(self, value: int) -> None:
            raise RuntimeError("mine")

    with ScriptedMachine([Write(5, mmio=BASE)]) as m:
        device = m.attach(Wrong(), mmio=BASE)
        with pytest.raises(RuntimeError, match="mine") as caught:
            m.run(timeout=10.0)
        assert "write of 0x5" in caught.value.__notes__[0]
        assert device.value == 5
        assert m.run(timeout=10.0) == Exit.Halt(0)


# -- other kinds -----------------------------------------------------------------------------------------------------


def test_queue_takes_several_items_in_order_and_says_whether_all_fitted() -> None:
    link = Link()
    assert link.received.extend(b"ab")
    assert not link.received.extend([3])
    assert (list(link.received), link.received.lost) == ([0x61, 0x62], 1)


def test_queues_of_both_directions_share_an_offset() -> None:
    link = Link()
    assert (link.received.push(1), link.received.push(2), link.received.push(3)) == (True, True, False)
    assert (link.received.level, link.received.lost, list(link.received)) == (2, 1, [1, 2])
    assert play(
        link, ("w", 0, 1, 0x41), ("r", 0, 1), ("r", 0, 1), ("r", 0, 1), ("w", 0, 1, 0x42), ("w", 0, 1, 0x43)
    ) == [
        1,
        2,
        0xEE,
    ]
    assert (link.sent.pop(), link.sent.peek(), link.sent.pop(), link.sent.pop()) == (0x41, 0x42, 0x42, None)
    assert (link.sent.lost, bool(link.sent), link.sent.depth) == (1, False, 2)


def test_queue_calls_its_method_at_the_threshold_alone_and_shows_guests_its_level() -> None:
    device = Queues()
    for item in (1, 2, 3, 4):
        device.received.push(item)
    script = [
        *(Read(mmio=BASE + at, size=1) for at in (1, 0, 0, 1, 0, 0, 0)),
        *(Write(item, mmio=BASE, size=1) for item in (5, 6, 7, 8, 9)),
        Read(mmio=BASE + 2, size=2),
    ]
    with ScriptedMachine(script) as m:
        m.attach(device, mmio=BASE)
        m.run(timeout=10.0)
        assert m.reads == [4, 1, 2, 2, 3, 4, 0, 4]
        assert (m.stats.hits["register"], m.stats.hits["python"]) == (7, 6)
    assert device.log == [
        ("drained", 1), ("drained", 0), ("drained", 0),
        (7, [5, 6, 7]), (8, [5, 6, 7, 8]), (9, [6, 7, 8, 9]),
    ]  # fmt: skip
    assert (device.waiting, device.to_send, device.sent.lost) == (0, 4, 1)


def test_threshold_of_a_queue_can_be_set_in_its_range_until_the_reset() -> None:
    device = Queues()
    device.sent.threshold = 1
    play(device, ("w", 0, 1, 5))
    assert device.log == [(5, [5])]
    for wrong in (-1, 5):
        with pytest.raises(ValueError, match="threshold is out of range"):
            device.sent.threshold = wrong
    device.reset()
    assert (device.sent.threshold, device.received.threshold) == (3, 1)
    for name in ("waiting", "sent"):
        with pytest.raises(AttributeError, match="push"):
            setattr(device, name, 1)


def test_index_can_count_down_and_be_the_upper_bits_of_its_register() -> None:
    class Down(Device):
        select = Register(0x0, width=1, other=Field(0, 4), number=Field(4, 3))
        data = Indexed(0x1, index=select, count=4, width=1, mask=0x70, step=-1)

    device = Down()
    for index in range(4):
        device.data[index] = 0x10 + index
    reads = play(device, ("w", 0, 1, 0x2F), *[("r", 1, 1)] * 4, ("r", 0, 1))
    assert reads == [0x12, 0x11, 0x10, 0, 0x6F]


def test_port_to_registers_that_only_a_method_answers_can_be_read() -> None:
    class Computed(Device):
        select = Register(0x0, width=1)
        data = Indexed(0x1, index=select, count=4, width=1, access="wo")

        @data.on_read
        def _data(self, index: int) -> int:
            return index * 3

    assert play(Computed(), ("w", 0, 1, 2), ("r", 1, 1)) == [6]


def test_when_puts_another_register_at_the_place() -> None:
    assert play(Link(), ("r", 2, 1), ("w", 1, 1, 0x80), ("r", 2, 1), ("w", 1, 1, 0), ("r", 2, 1)) == [1, 2, 1]


def test_registers_behind_a_port_are_reached_by_number_and_others_read_as_zeros() -> None:
    link = Link()
    link.data[3] = 0x33
    reads = play(
        link,
        ("w", 3, 1, 3),
        ("r", 4, 1),
        ("r", 3, 1),
        ("r", 4, 1),
        ("w", 3, 1, 1),
        ("w", 4, 1, 9),
        ("w", 4, 1, 8),
    )
    assert reads == [0x33, 4, 0]
    assert link.log == [(1, 9), (2, 8)]
    assert link.data[:] == [0, 9, 8, 0x33]


def test_window_is_accessed_at_any_width_and_offset() -> None:
    link = Link()
    link.buffer[0:4] = b"abcd"
    assert play(link, ("r", 0x11, 2), ("w", 0x1D, 3, 0x030201), ("r", 0x18, 8)) == [
        0x6362,
        0x0302010000000000,
    ]
    assert (link.buffer[13], bytes(link.buffer)[:4], len(link.buffer)) == (1, b"abcd", 16)
    with pytest.raises(ValueError, match="a window keeps its length"):
        link.buffer[0:2] = b"abc"
    with pytest.raises(IndexError):
        link.buffer[16]


def test_counter_can_be_set_by_guest_and_device() -> None:
    link = Link()
    assert play(link, ("w", 8, 8, 1000), ("r", 8, 8))[0] >= 1000
    link.ticks = 5
    assert link.ticks == 5  # its machine is gone: the time stands still


def test_blocks_have_registers_methods_and_attributes_of_their_own() -> None:
    dma = Dma()
    dma.channels[1].address = 0x8000
    play(dma, ("w", 0x128, 4, 1), ("w", 0x28, 4, 1), ("w", 0x108, 4, 2))
    assert dma.log == [(1, 0x8000), (0, 0)]
    assert [channel.runs for channel in dma.channels] == [0, 1, 0]
    assert (dma.channels[1].control, dma.extra.runs, dma.size) == (0, 1, 0x14C)


def test_access_over_index_and_data_is_served_in_ascending_order() -> None:
    link = Link()
    link.data[2] = 0x22
    assert play(link, ("w", 3, 2, 0xAA01), ("r", 3, 2)) == [0x2202]
    assert link.data[:] == [0, 0xAA, 0x22, 0]


# -- access rules -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("split", [0x34, 0x56781234, 0x00005678]),
        ("widen", [0x34, 0x56781234, 0x00005678]),
        ("exact", [0, 0, 0]),
    ],
)
def test_access_rule_decides_on_narrow_wide_and_straddling_accesses(rule: Any, expected: list[int]) -> None:
    class Pair(Device):
        access_rule = rule
        size = 8
        one = Register(0x0, width=2, reset=0x1234)
        two = Register(0x2, width=2, reset=0x5678)

    assert play(Pair(), ("r", 0, 1), ("r", 0, 4), ("r", 2, 4)) == expected


def test_access_rule_refuse_is_raised_by_run_and_names_the_access() -> None:
    class Strict(Device):
        access_rule = "refuse"
        value = Register(0x0)

    with ScriptedMachine([Read(mmio=BASE, size=2), Write(7, mmio=BASE)]) as m:
        device = m.attach(Strict(), mmio=BASE)
        with pytest.raises(DeviceError, match="device Strict: no register takes this read: 0x0, 2 bytes"):
            m.run(timeout=10.0)
        assert m.run(timeout=10.0) == Exit.Halt(0)
        assert device.value == 7
