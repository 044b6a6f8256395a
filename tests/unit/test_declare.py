"""Declared registers: what a class body may say, what it comes to, and what guests and methods then see of it."""

from __future__ import annotations

from enum import IntEnum
from typing import Any

import pytest

from hyperpy import (
    Block,
    Counter,
    DeclarationError,
    Device,
    DeviceError,
    Field,
    Fifo,
    Indexed,
    Ram,
    Register,
    Stop,
)
from hyperpy.exits import Exit
from hyperpy.testing import Read, ScriptedMachine, Write

BASE = 0xFE00_0000


def play(device: Device, *accesses: tuple[str, int, int] | tuple[str, int, int, int]) -> list[int]:
    """Make accesses to a device, ("r", offset, size) and ("w", offset, size, value), and return what the reads gave."""
    script: list[Read | Write] = []
    for kind, offset, size, *value in accesses:
        place = {"mmio": BASE + offset, "size": size}
        script.append(Write(value[0], **place) if kind == "w" else Read(**place))
    with ScriptedMachine(script) as m:
        m.attach(device, mmio=BASE)
        assert m.run(timeout=10.0) == Exit.Halt(0)
        m.detach(device)
        return m.reads


class Mode(IntEnum):
    """Values of a field."""

    IDLE = 0
    RUN = 1


class Timer(Device):
    """Every kind of access."""

    ident = Register(0x00, access="ro", reset=0x1234)
    control = Register(0x04, enable=Field(0), mode=Field(4, 2, enum=Mode), done=Field(8, access="w1c"))
    key = Register(0x08, access="wo")
    status = Register(0x0C, access="w1c", reset=0xFF)
    low = Register(0x10, access="w0c", reset=0xFF)
    raised = Register(0x14, access="w1s")
    once = Register(0x18, access="rc", reset=0xAA)
    seen = Register(0x1C, access="rs", mask=0x0F)
    narrow = Register(0x20, mask=0x0FF0)
    big = Register(0x24, order="big")


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


class Bell(Device):
    """Wants to know."""

    def __init__(self) -> None:
        self.log: list[Any] = []

    count = Register(0x0, access="ro")
    ring = Register(0x4)
    go = Register(0x8, access="wo")
    flags = Register(0xC, access="w1c", reset=0xF0F0)
    lights = Register(0x10, width=2, count=4)

    @count.on_read
    def _count(self) -> int | None:
        self.log.append("read")
        return len(self.log) if len(self.log) > 1 else None

    @ring.on_write
    def _ring(self, value: int) -> Stop | None:
        self.log.append((value, self.ring))
        return Stop("enough") if value == 99 else None

    @go.on_write_if(0x100)
    def _go(self, value: int) -> None:
        self.log.append(("go", value))

    @flags.on_write
    def _flags(self, value: int) -> None:
        self.log.append(("flags", value, self.flags))

    @lights.on_write
    def _lights(self, index: int, value: int) -> None:
        self.log.append((index, value))


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


class Link(Device):
    """Queues, windows, ports, banks."""

    received = Fifo(0x0, depth=2, access="ro", empty=0xEE)
    sent = Fifo(0x0, depth=2, access="wo")
    control = Register(0x1, width=1, bank=Field(7))
    low = Register(0x2, width=1, reset=1)
    divisor = Register(0x2, width=1, reset=2, when=control.bank)
    index = Register(0x3, width=1)
    data = Indexed(0x4, index=index, count=4, width=1, mask=0x0F, step=1)
    ticks = Counter(0x8, hz=1_000_000, access="rw")
    buffer = Ram(0x10, 16)

    def __init__(self) -> None:
        self.log: list[Any] = []

    @data.on_write
    def _data(self, index: int, value: int) -> None:
        self.log.append((index, value))


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


class Channel(Block):
    """A block with a method."""

    address = Register(0x0, width=8)
    control = Register(0x8, go=Field(0))

    def __init__(self) -> None:
        self.runs = 0

    @control.on_write_if(1)
    def _go(self, value: int) -> None:
        self.runs += 1
        self.device.log.append((self.index, self.address))
        self.control.go = 0


class Dma(Device):
    """Blocks."""

    def __init__(self) -> None:
        self.log: list[Any] = []

    channels = Channel.at(0x100, count=3, stride=0x20)
    extra = Channel.at(0x20)


def test_blocks_have_registers_methods_and_attributes_of_their_own() -> None:
    dma = Dma()
    dma.channels[1].address = 0x8000
    play(dma, ("w", 0x128, 4, 1), ("w", 0x28, 4, 1), ("w", 0x108, 4, 2))
    assert dma.log == [(1, 0x8000), (0, 0)]
    assert [channel.runs for channel in dma.channels] == [0, 1, 0]
    assert (dma.channels[1].control, dma.extra.runs, dma.size) == (0, 1, 0x14C)


# -- classes ---------------------------------------------------------------------------------------------------------


def test_subclass_adds_replaces_and_overrides() -> None:
    class Loud(Bell):
        extra = Register(0x20, reset=3)
        count = Register(0x0, access="ro", reset=8)  # type: ignore[assignment]

        def _ring(self, value: int) -> None:
            self.log.append(f"loud {value}")

        @Bell.go.on_write
        def _every_go(self, value: int) -> None:
            self.log.append(("every", value))

    loud = Loud()
    assert play(loud, ("r", 0, 4), ("r", 0x20, 4), ("w", 4, 4, 1), ("w", 8, 4, 1)) == [8, 3]
    assert loud.log == ["loud 1", ("every", 1)]
    bell = Bell()
    play(bell, ("w", 8, 4, 1))
    assert bell.log == []  # the base has stayed as it was


def test_size_that_a_class_says_holds_for_its_subclasses_and_one_that_was_computed_grows() -> None:
    class Wide(Device):
        size = 0x10
        one = Register(0x0)

    class Wider(Wide):
        two = Register(0x4)

    class Grown(Bell):
        more = Register(0x20)

    assert (Wider.size, Wide.size, Grown.size, Bell.size) == (0x10, 0x10, 0x24, 0x18)


def test_function_that_makes_classes_parametrises_a_device() -> None:
    def bank(count: int) -> type[Device]:
        class Bank(Device):
            values = Register(0x0, count=count)

        return Bank

    assert [bank(n)().size for n in (1, 5)] == [4, 20]


def test_device_with_declarations_and_plain_methods_gets_what_touches_no_register() -> None:
    class Mixed(Device):
        size = 0x10
        value = Register(0x0, reset=5)

        def read(self, offset: int, size: int, /) -> int:
            return offset

    assert play(Mixed(), ("r", 0, 4), ("r", 8, 4), ("r", 2, 4)) == [5, 8, 0]


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


def _bad(name: str) -> Any:
    match name:
        case "overlap":

            class Overlap(Device):
                one = Register(0x0)
                two = Register(0x2)

        case "small":

            class Small(Device):
                size = 4
                one = Register(0x4)

        case "foreign":

            class Foreign(Device):
                data = Indexed(0x0, index=Link.index, count=2)

        case "rule":

            class Rule(Device):
                access_rule = "guess"  # type: ignore[assignment]
                one = Register(0x0)


@pytest.mark.parametrize(
    ("name", "match"),
    [
        (
            "overlap",
            r"Overlap: registers overlap at 0x2: one \(0x0, .*test_declare.py:\d+\) and two \(0x2, .*:\d+\)",
        ),
        ("small", r"Small: register leaves the device: 0x4 \+ 0x4 is above 0x4: one \(0x4, .*:\d+\)"),
        ("foreign", r"data \(.*:\d+\) refers to a register of another class: index"),
        ("rule", "no such rule: 'guess'"),
    ],
)
def test_class_that_cannot_be_is_refused_when_it_is_made_and_names_the_lines(name: str, match: str) -> None:
    with pytest.raises(DeclarationError, match=match):
        _bad(name)


@pytest.mark.parametrize(
    ("declare", "match"),
    [
        (lambda: Register(0, width=3), "no register has this width: 3"),
        (lambda: Register(-1), "offset is out of range"),
        (lambda: Register(0, access="read"), "no such access: 'read'"),
        (lambda: Register(0, width=1, reset=0x100), "reset value has bits outside the mask: 0x100 of 0xff"),
        (lambda: Register(0, mask=0xF0, reset=1), "reset value has bits outside the mask"),
        (lambda: Register(0, width=1, wide=Field(4, 5)), "field leaves the register: wide, bits 4 to 8"),
        (lambda: Register(0, one=Field(0, 2), two=Field(1)), "field overlaps another: two, bit 1"),
        (lambda: Register(0, mask=1, one=Field(1)), "mask is wider than the register, or lacks a field"),
        (lambda: Register(0, acess="ro"), "not a field or an argument: acess='ro'"),
        (lambda: Register(0, count=0), "number of registers is out of range: 0"),
        (lambda: Register(0, count=2, stride=2), "registers of the array overlap: stride 2"),
        (lambda: Register(0, order="middle"), "no such byte order"),
        (lambda: Register(0, when=1), "not a condition: 1"),
        (lambda: Field(-1), "no such bits"),
        (lambda: Field(0, 2, reset=4), "reset value is wider than its 2 bits: 0x4"),
        (lambda: Fifo(0, depth=0, access="ro"), "depth is out of range: 0"),
        (lambda: Fifo(0, depth=1, access="rw"), "a queue has no such access: 'rw'"),
        (lambda: Fifo(0, depth=1, access="ro", empty=256), "value of the empty queue is too wide"),
        (lambda: Counter(0, hz=0), "rate is out of range: 0"),
        (lambda: Indexed(0, index=3, count=1), "not a register: 3"),
        (lambda: Register(0).on_write_if(0), "no bits to look for"),
        (lambda: Register(0).on_write(3), "not a method: 3"),
    ],
)
def test_declaration_that_cannot_be_is_refused(declare: Any, match: str) -> None:
    with pytest.raises(DeclarationError, match=match) as caught:
        declare()
    assert caught.value.hint


# -- without a further word ------------------------------------------------------------------------------------------


def test_saved_state_loads_into_another_instance() -> None:
    link = Link()
    link.received.push(0x41)
    link.buffer[2:4] = b"xy"
    link.data[1] = 7
    link.control.bank = 1
    other = Link()
    other.load(link.save())
    assert other.save() == link.save()
    assert (list(other.received), bytes(other.buffer)[2:4], other.data[1], other.control.bank) == (
        [0x41],
        b"xy",
        7,
        1,
    )


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda s: s | {"schema": 2}, "is of schema 2, not 1"),
        (lambda s: s["registers"].pop("low") and s, "has other registers: low"),
        (lambda s: s["registers"].update(more=1) or s, "has other registers: more"),
        (lambda s: s["registers"].update(low=256) or s, "low cannot hold: 256"),
        (lambda s: s["registers"].update(low="1") or s, "low cannot hold"),
        (lambda s: s["registers"].update(buffer=b"short") or s, "buffer cannot hold"),
        (lambda s: s["registers"].update(sent={"items": [1] * 3, "lost": 0}) or s, "sent cannot hold"),
        (lambda s: [], "not a saved state of Link"),
    ],
)
def test_state_that_does_not_fit_is_refused_and_changes_nothing(change: Any, match: str) -> None:
    from hyperpy import SnapshotError

    link = Link()
    state = change(Link().save())
    link.low = 9
    before = link.save()
    with pytest.raises(SnapshotError, match=match):
        link.load(state)
    assert link.save() == before


def test_repr_html_and_markdown_show_every_register() -> None:
    timer = Timer()
    timer.control = 0x11
    assert repr(timer).startswith("<Timer ident=0x1234, control=0x11 (enable mode=0x1), key=0x0")
    assert repr(timer).endswith("and 2 more>")
    page = timer._repr_html_()
    assert page is not None
    assert page.count("<tr>") == 11
    text = Timer.markdown()
    assert "| `0x4` | `control` | 4 | by field | 0x0 |  |" in text
    assert "| 5:4 | `mode` | rw | 0x0 | 0 IDLE, 1 RUN |" in text
    assert "| behind the port | `data[0…3]` | 1 | rw | 0x0 |  |" in Link.markdown()
