"""Declarations: what a class body may say, what its subclasses make of it, and what comes from it without a further word."""

from __future__ import annotations

from enum import Enum
from typing import Any

import pytest
from tests.declared import Bell, Channel, Link, Queues, Timer, play

from hyperpy import Counter, DeclarationError, Device, Field, Fifo, FifoLevel, Indexed, Register
from hyperpy.errors import SnapshotError

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

        case "array":

            class Array(Device):
                banks = Register(0x0, count=2, bank=Field(0))
                data = Register(0x8, when=banks.bank)

        case "unheard":

            class Unheard(Device):
                data = Fifo(0x0, depth=2, access="ro")

                @data.on_write
                def _data(self, value: int) -> None:
                    pass

        case "far":

            class Far(Device):
                one = Register(1 << 62, count=3, stride=1 << 62)

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
        ("array", r"data \(.*:\d+\) refers to an array of registers: banks"),
        (
            "unheard",
            r"Unheard: register contradicts itself: a method is told of accesses that guests cannot make: data \(0x0, .*:\d+\)",
        ),
        ("far", "Far: registers reach beyond every device"),
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
        (
            lambda: Register(0, when=Register(0, fields={"mask": Field(0)}).mask),  # type: ignore[arg-type]
            "not a condition: 1",
        ),
        (lambda: Register(0, count=2, stride=2), "registers of the array overlap: stride 2"),
        (lambda: Register(0, order="middle"), "no such byte order"),
        (lambda: Register(0, when=1), "not a condition: 1"),
        (lambda: Field(-1), "no such bits"),
        (lambda: Field(0, 2, reset=4), "reset value is wider than its 2 bits: 0x4"),
        (lambda: Fifo(0, depth=0, access="ro"), "depth is out of range: 0"),
        (lambda: Fifo(0, depth=1, access="rw"), "a queue has no such access: 'rw'"),
        (lambda: Fifo(0, depth=1, access="ro", empty=256), "value of the empty queue is too wide"),
        (lambda: Fifo(0, depth=4, access="wo", threshold=5), "threshold is out of range: 5"),
        (lambda: Fifo(0, depth=4, access="ro", threshold=-1), "threshold is out of range: -1"),
        (
            lambda: Fifo(0, depth=4, access="ro", stream=True),
            "register with stream=True is not write-only: ro",
        ),
        (lambda: FifoLevel(0, Register(0)), "not a queue"),  # type: ignore[arg-type]
        (
            lambda: FifoLevel(0, Fifo(0, depth=256, access="ro"), width=1),
            "level of a queue of 256 does not fit",
        ),
        (lambda: Channel.at(0, count=2, stride=-4), "stride is below 0: -4"),
        (lambda: Register(0, width=1).on_write_if(0x100), "no bits to look for: 0x100"),
        (lambda: Register(0, fields={"real": Field(0)}), "field cannot be called so: real"),
        (lambda: Counter(0, hz=0), "rate is out of range: 0"),
        (lambda: Indexed(0, index=3, count=1), "not a register: 3"),
        (lambda: Register(0).on_write_if(0), "no bits to look for"),
        (lambda: Register(0).on_write(3), "not a method: 3"),
        (lambda: Register(0).on_write_if(print), "on_write_if marks without a mask"),
        (lambda: Register(0, fields={"go": Field(0)}, go=Field(1)), "field is given twice: go"),
        (lambda: Register("0x4"), "not a number: offset='0x4'"),
        (lambda: Register(0, width=4.0), "no register has this width: 4.0"),
        (lambda: Register(0, width=True), "no register has this width: True"),
        (lambda: Register(0, reset=1.5), "not a number: reset=1.5"),
        (lambda: Register(0, mask="0xff"), "not a number: mask='0xff'"),
        (lambda: Field("0"), "not a number: low='0'"),
        (lambda: Field(0, enum={"IDLE": 0}), "not an IntEnum: {'IDLE': 0}"),
        (lambda: Field(0, enum=Enum("Plain", "A B")), "not an IntEnum: <enum 'Plain'>"),
        (lambda: Register(0, bank=Field(0)).bank == 2, "field never has this value: 0x2"),
        (lambda: Register(0, bank=Field(0)).bank == -1, "field never has this value: -0x1"),
        (lambda: Fifo(0, depth="16", access="ro"), "not a number: depth='16'"),
        (lambda: Counter(0, hz=1e6), "not a number: hz=1000000.0"),
        (lambda: Channel(0x100), "a block is not made by its class: Channel"),
    ],
)
def test_declaration_that_cannot_be_is_refused(declare: Any, match: str) -> None:
    with pytest.raises(TypeError, match=match) as caught:
        declare()
    assert "\n\nhint: " in str(caught.value)


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


def test_saved_queue_keeps_its_threshold_and_levels_are_not_saved() -> None:
    device = Queues()
    device.received.threshold = 4
    device.received.push(7)
    assert device.save()["registers"]["received"] == {"items": [7], "lost": 0, "threshold": 4}
    assert "waiting" not in device.save()["registers"]
    other = Queues()
    other.load(device.save())
    assert (other.received.threshold, list(other.received), other.waiting) == (4, [7], 1)
    assert "| `0x1` | `waiting` | 1 | ro |" in Queues.markdown()
    assert "waiting=0x1" in repr(other)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda s: s | {"schema": 2}, "is of schema 2, not 1"),
        (lambda s: s["registers"].pop("low") and s, "has other registers: low"),
        (lambda s: s["registers"].update(more=1) or s, "has other registers: more"),
        (lambda s: s["registers"].update(low=256) or s, "low cannot hold: 256"),
        (lambda s: s["registers"].update(low="1") or s, "low cannot hold"),
        (lambda s: s["registers"].update(buffer=b"short") or s, "buffer cannot hold"),
        (
            lambda s: s["registers"].update(sent={"items": [1] * 3, "lost": 0, "threshold": 0}) or s,
            "sent cannot hold",
        ),
        (lambda s: s["registers"].update(sent={"items": [], "lost": 0}) or s, "sent cannot hold"),
        (
            lambda s: s["registers"].update(sent={"items": [], "lost": 0, "threshold": 3}) or s,
            "sent cannot hold",
        ),
        (lambda s: s["registers"].update(control=1) or s, "control cannot hold: 1"),
        (lambda s: [], "not a saved state of Link"),
    ],
)
def test_state_that_does_not_fit_is_refused_and_changes_nothing(change: Any, match: str) -> None:
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
