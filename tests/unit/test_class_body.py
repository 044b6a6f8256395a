"""Class bodies of which Python alone would say nothing: names that are taken, marked methods that nobody would call, and
what is nearly an argument."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest

from hyperpy import Block, DeclarationError, Device, Field, Indexed, Register, Window
from hyperpy._made import OWN
from hyperpy.testing import DeviceBench

OF_DEVICES = [
    *(
        "access_rule",
        "explain",
        "irq",
        "load",
        "markdown",
        "read",
        "reset",
        "save",
        "schema",
        "size",
        "write",
    ),
]


# -- names -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", OF_DEVICES)
def test_register_called_as_what_every_device_has_is_refused_with_its_line(name: str) -> None:
    with pytest.raises(
        DeclarationError, match=rf"Card: nothing can be declared under this name: {name} \(.*:\d+\)"
    ) as caught:
        type("Card", (Device,), {name: Register(0x0)})
    assert caught.value.hint == f"every device has it; call it {name}_, say"


def test_window_called_as_what_every_device_has_is_refused() -> None:
    with pytest.raises(DeclarationError, match="Card: nothing can be declared under this name: reset"):
        type("Card", (Device,), {"reset": Window(0x10)})


@pytest.mark.parametrize("name", ["at", "device", "index"])
def test_register_of_a_block_called_as_what_every_block_has_is_refused(name: str) -> None:
    with pytest.raises(DeclarationError, match=f"nothing can be declared under this name: {name}") as caught:
        type("Channel", (Block,), {name: Register(0x0)})
    assert "every block has it" in str(caught.value.hint)


@pytest.mark.parametrize("name", ["clock", "memory", "dma", "index", "at", "name"])
def test_register_under_another_name_serves_guests(name: str) -> None:
    card = type("Card", (Device,), {name: Register(0x0, reset=7)})()
    assert DeviceBench(card).read32(0x0) == getattr(card, name) == 7


# -- marks -----------------------------------------------------------------------------------------------------------


def _two_methods() -> None:
    class Two(Device):
        go = Register(0x0)

        @go.on_write
        def _first(self, value: int) -> None: ...

        @go.on_write_if(1)
        def _second(self, value: int) -> None: ...


def _twice_the_same() -> None:
    class Two(Device):
        go = Register(0x0)

        @go.on_write_if(1)
        @go.on_write_if(2)
        def _go(self, value: int) -> None: ...


def _two_of_a_block() -> None:
    class Two(Block):
        go = Register(0x0)

        @go.on_read
        def _first(self) -> None: ...

        @go.on_read
        def _second(self) -> None: ...


def _one_name() -> None:
    class Lost(Device):
        first, second = Register(0x0), Register(0x4)

        @first.on_write
        def _changed(self, value: int) -> None: ...

        @second.on_write
        def _changed(self, value: int) -> None: ...


def _one_name_behind_a_port() -> None:
    class Lost(Device):
        number = Register(0x0, width=1)
        data = Indexed(0x1, index=number, count=4)

        @data.on_write
        def _changed(self, number: int, value: int) -> None: ...

        _changed = None  # type: ignore[assignment]


def _one_name_of_windows() -> None:
    class Lost(Device):
        low, high = Window(0x10), Window(0x10)

        @low.on_read
        def _read(self, offset: int, size: int) -> int:
            return 1

        @high.on_read
        def _read(self, offset: int, size: int) -> int:
            return 2


class Lane(Block):
    """Of another class's registers."""

    go = Register(0x0)


def _of_a_block() -> None:
    class Lost(Device):
        lanes = Lane.at(0x0, count=2)

        @Lane.go.on_write
        def _go(self, value: int) -> None: ...


def _replaced() -> None:
    class Lost(Copied):
        go = Register(0x0, reset=1)  # type: ignore[assignment]

        @Copied.go.on_write
        def _mine(self, value: int) -> None: ...


class Copied(Device):
    """Whose register is replaced in a subclass, where its own mark is of no use any more."""

    go = Register(0x0)

    @go.on_write
    def _go(self, value: int) -> None: ...


class Replacing(Copied):
    go = Register(0x0, reset=1)  # type: ignore[assignment]


@pytest.mark.parametrize(
    ("declare", "match"),
    [
        (_of_a_block, r"method is marked by what the class does not have: _go, of go\.on_write \(.*:\d+\)"),
        (_replaced, r"method is marked by what the class does not have: _mine, of go\.on_write"),
        (_two_methods, r"accesses are told twice: go\.on_write \(.*:\d+\) marks _first and _second"),
        (_twice_the_same, r"accesses are told twice: go\.on_write \(.*:\d+\) marks _go and _go"),
        (_two_of_a_block, r"accesses are told twice: go\.on_read \(.*:\d+\) marks _first and _second"),
        (_one_name, r"marked method is not there: _changed, of first\.on_write \(.*:\d+\)"),
        (_one_name_behind_a_port, r"marked method is not there: _changed, of data\.on_write"),
        (_one_name_of_windows, r"marked method is not there: _read, of low\.on_read"),
    ],
)
def test_marked_method_that_would_not_be_called_is_refused(declare: Callable[[], None], match: str) -> None:
    with pytest.raises(DeclarationError, match=match) as caught:
        declare()
    assert caught.value.hint


def test_method_marked_by_several_registers_and_wrapped_or_replaced_in_a_subclass_is_called() -> None:
    told: list[Any] = []

    def loud(method: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(method)
        def called(self: Device, value: int) -> None:
            told.append("loud")
            method(self, value)

        return called

    class Base(Device):
        first, second = Register(0x0), Register(0x4)

        @loud
        @first.on_write
        @second.on_write
        def _changed(self, value: int) -> None:
            told.append(value)

        also = _changed

    class Derived(Base):
        @Base.second.on_write
        def _other(self, value: int) -> None:
            told.append(("other", value))

    class Moved(Base):
        first = Register(0x10)
        first.on_write(Base._changed)

    DeviceBench(Derived()).batch([(0x0, 4, 1), (0x4, 4, 2)])
    DeviceBench(Moved()).batch([(0x10, 4, 3), (0x4, 4, 4)])
    assert told == ["loud", 1, ("other", 2), "loud", 3, "loud", 4]


# -- arguments -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["reset", "mask", "doc", "posted", "count", "match", "width", "order"])
def test_field_under_the_name_of_an_argument_is_refused_with_the_way_to_give_it(name: str) -> None:
    with pytest.raises(DeclarationError, match=f"field has the name of an argument: {name}") as caught:
        Register(0x0, **{name: Field(3)})  # type: ignore[arg-type]
    assert caught.value.hint == f'give it in a mapping: fields={{"{name}": Field(3)}}'


def test_field_with_the_name_of_an_argument_works_in_a_mapping() -> None:
    class Card(Device):
        control = Register(0x0, fields={"reset": Field(1), "mask": Field(4, 2)})

    card = Card()
    card.control.reset = 1
    card.control.mask = 3
    assert (card.control, card.control.reset, card.control.mask) == (0x32, 1, 3)


@pytest.mark.parametrize(
    ("wrong", "meant"),
    [("acess", "access"), ("widht", "width"), ("fileds", "fields"), ("dorbell", "doorbell")],
)
def test_argument_that_is_misspelt_is_told_what_was_meant(wrong: str, meant: str) -> None:
    with pytest.raises(DeclarationError, match=f"not a field or an argument: {wrong}=1") as caught:
        Register(0x0, **{wrong: 1})  # type: ignore[arg-type]
    assert str(caught.value.hint).startswith(f"did you mean {meant}?")


@pytest.mark.parametrize(
    ("wrong", "hint"),
    [
        ("onwrite", "did you mean on_write?"),
        ("on_reads", "did you mean on_read?"),
        ("enabel", "did you mean enable?"),
        ("zzz", "its fields: enable"),
    ],
)
def test_attribute_that_a_register_has_not_is_told_what_was_meant_and_where(wrong: str, hint: str) -> None:
    with pytest.raises(
        AttributeError, match=rf"register has no field '{wrong}': .*test_class_body\.py:\d+\n\nhint: "
    ) as caught:
        getattr(Register(0x0, enable=Field(0)), wrong)
    assert str(caught.value).endswith(f"hint: {hint}")


def test_register_of_a_class_that_is_no_device_is_told_with_its_line() -> None:
    class NoDevice:
        kept = Register(0x0)

    with pytest.raises(AttributeError, match=r"NoDevice has nothing declared as kept \(.*:\d+\)\n\nhint: "):
        _ = NoDevice().kept

    class Late(Device):
        kept = Register(0x0)

    Late.more = Register(0x4)  # type: ignore[attr-defined]
    with pytest.raises(AttributeError, match="Late has nothing declared as"):
        _ = Late().more  # type: ignore[attr-defined]


# -- arrays ----------------------------------------------------------------------------------------------------------


def test_slice_of_an_array_is_set_as_one_of_a_list_of_fixed_length() -> None:
    class Nic(Device):
        mac = Register(0x0, width=1, count=6)

    nic = Nic()
    nic.mac[:] = bytes.fromhex("525400123456")
    nic.mac[4:] = [1, 2]
    nic.mac[::3] = [7, 8]
    assert nic.mac[:] == [7, 0x54, 0, 8, 1, 2]
    for wrong, match in (
        ([1], "mac keeps its length: 1 values for 6"),
        ([0] * 5 + [256], "mac has no such bits: 0x100"),
    ):
        with pytest.raises(ValueError, match=match):
            nic.mac[:] = wrong
        assert nic.mac[:] == [7, 0x54, 0, 8, 1, 2]


@pytest.mark.parametrize("name", sorted(OWN))
@pytest.mark.parametrize("value", [[], {}, 0])
def test_attribute_of_an_instance_called_as_one_of_hyperpys_is_refused_and_named(
    name: str, value: object
) -> None:
    class Disk(Device):
        go = Register(0x0)

        def __init__(self) -> None:
            setattr(self, name, value)

    class Plain(Disk):
        size = 8
        go = None  # type: ignore[assignment]

    for device in (Disk(), Plain()):
        with pytest.raises(
            DeclarationError, match=f"attribute has the name of one of hyperpy's: {name}\n\nhint: "
        ):
            DeviceBench(device)


@pytest.mark.parametrize(
    "registers", [[Register(0x0), Register(0x4)], (Register(0x0),), {"a": Register(0x0)}]
)
@pytest.mark.parametrize("base", [Device, Block])
def test_registers_in_a_list_of_a_class_are_refused_since_nobody_would_serve_them(
    registers: Any, base: type
) -> None:
    with pytest.raises(DeclarationError, match=r"Card: registers in a \w+ are not declared: lanes\n\nhint: "):
        type("Card", (base,), {"lanes": registers})


def test_second_name_of_a_register_is_the_same_register() -> None:
    class Card(Device):
        control = Register(0x0)
        ctrl = control
        state = Register(0x4, reset=9)

    class Derived(Card):
        again = Card.control
        last = Register(0x8, reset=3)

    card = Derived()
    card.ctrl = 5
    assert (card.control, card.again, card.state, card.last) == (5, 5, 9, 3)
    assert card.save()["registers"] == {"control": 5, "state": 9, "last": 3}
    assert DeviceBench(card).batch([(0x0, 4), (0x4, 4), (0x8, 4)]) == [5, 9, 3]


def test_function_that_two_classes_mark_is_called_for_both() -> None:
    told: list[int] = []

    def note(self: Device, value: int) -> None:
        told.append(value)

    class One(Device):
        go = Register(0x0)
        _go = go.on_write(note)

    class Two(Device):
        go = Register(0x4)
        _go = go.on_write(note)

    DeviceBench(One()).write32(0x0, 1)
    DeviceBench(Two()).write32(0x4, 2)
    assert told == [1, 2]
