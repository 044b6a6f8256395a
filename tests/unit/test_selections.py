"""Methods for some registers of an array, or of what is behind a port: they alone are called, and the others cost no Python."""

from __future__ import annotations

from typing import Any

import pytest
from tests.declared import play

from hyperpy import Block, DeclarationError, Device, Indexed, Register, Stop
from hyperpy.testing import DeviceBench


class Cmos(Device):
    """Logs which method is called with what."""

    index = Register(0x0, width=1)
    data = Indexed(0x1, index=index, count=16, width=1, reset=7)
    lights = Register(0x10, width=2, count=4)

    def __init__(self) -> None:
        self.log: list[tuple[Any, ...]] = []

    @data[3].on_read
    def _three(self) -> int:
        self.log.append(("three",))
        return 0x33

    @data[3].on_write
    @data[4].on_write
    def _one(self, value: int) -> None:
        self.log.append(("one", value))

    @data[8:12].on_read
    @data[5, 6].on_write
    def _some(self, index: int, value: int | None = None) -> int | None:
        self.log.append(("some", index, value))
        return index if value is None else None

    @data[15].on_write_if(0x80)
    def _top(self, value: int) -> Stop | None:
        self.log.append(("top", value))
        return Stop("top") if value == 0xFF else None

    @lights.on_write
    def _lights(self, index: int, value: int) -> None:
        self.log.append(("lights", index, value))

    @lights[2].on_write
    def _light(self, value: int) -> None:
        self.log.append(("light", value))


@pytest.fixture
def bench() -> DeviceBench[Cmos]:
    return DeviceBench(Cmos())


def at(bench: DeviceBench[Cmos], number: int, value: int | None = None) -> int:
    bench.write8(0x0, number)
    if value is None:
        return bench.read8(0x1)
    bench.write8(0x1, value)
    return bench.device.data[number]


def test_methods_of_some_numbers_are_called_for_these_alone(bench: DeviceBench[Cmos]) -> None:
    reads = [at(bench, number) for number in range(16)]
    assert reads == [7, 7, 7, 0x33, 7, 7, 7, 7, 8, 9, 10, 11, 7, 7, 7, 7]
    assert bench.device.log == [("three",), *(("some", number, None) for number in range(8, 12))]
    bench.device.log.clear()
    assert [at(bench, number, 0x40) for number in range(16)] == [0x40] * 16
    assert bench.device.log == [("one", 0x40), ("one", 0x40), ("some", 5, 0x40), ("some", 6, 0x40)]


def test_numbers_without_a_method_call_no_python(bench: DeviceBench[Cmos]) -> None:
    for number in (0, 1, 2, 7, 12, 13, 14):
        assert (at(bench, number, 5), at(bench, number)) == (5, 5)
    at(bench, 15, 0x7F)
    assert bench.device.log == []
    assert sum(use.calls for use in bench.device.explain()) == 0
    assert bench.device.explain()["data[0…15]"].rung == "register"


def test_writes_of_bits_that_one_number_looks_for_are_told_of_that_number(bench: DeviceBench[Cmos]) -> None:
    at(bench, 14, 0x80)
    at(bench, 15, 0x80)
    assert bench.device.log == [("top", 0x80)]


def test_method_of_one_register_goes_before_that_of_its_array(bench: DeviceBench[Cmos]) -> None:
    for number in range(4):
        bench.write16(0x10 + 2 * number, 0x100 + number)
    assert bench.device.log == [
        ("lights", 0, 0x100),
        ("lights", 1, 0x101),
        ("light", 0x102),
        ("lights", 3, 0x103),
    ]
    assert bench.device.lights[:] == [0x100, 0x101, 0x102, 0x103]


def test_index_and_data_in_one_access_reach_the_method_of_the_index_that_is_just_written(
    bench: DeviceBench[Cmos],
) -> None:
    bench.write16(0x0, 0x2204)
    assert bench.device.log == [("one", 0x22)]
    assert (bench.device.index, bench.device.data[4]) == (4, 0x22)
    bench.write16(0x0, 0x2201)
    assert (bench.device.log, bench.device.data[1]) == ([("one", 0x22)], 0x22)


def test_rows_of_registers_with_a_method_of_their_own_are_told_alone(bench: DeviceBench[Cmos]) -> None:
    at(bench, 3)
    at(bench, 1)
    said = bench.device.explain()
    assert [(use.register, use.rung, use.reads) for use in said if use.reads] == [
        ("data[0…15]", "register", 1),
        ("data[3]", "python", 1),
    ]
    assert said["data[15]"].rung == "register/python"


def test_port_that_moves_on_moves_once_for_each_access_whoever_answers() -> None:
    class Moving(Device):
        index = Register(0x0, width=1)
        data = Indexed(0x1, index=index, count=4, width=1, step=1, reset=1)

        @data[2].on_read
        def _two(self) -> int:
            return 0x22

    assert play(Moving(), *[("r", 1, 1)] * 5, ("r", 0, 1)) == [1, 1, 0x22, 1, 0, 5]


def test_subclass_marks_a_method_for_one_register_of_its_base() -> None:
    class Base(Device):
        lights = Register(0x0, width=1, count=2)

        @lights.on_read
        def _read(self, index: int) -> int:
            return 0x10 + index

    class Derived(Base):
        @Base.lights[1].on_read
        def _one(self) -> int:
            return 0x99

    assert play(Base(), ("r", 0, 2)) == [0x1110]
    assert play(Derived(), ("r", 0, 2)) == [0x9910]


def test_selection_in_a_block_is_of_that_block() -> None:
    class Channel(Block):
        slots = Register(0x0, width=1, count=2)

        @slots[1].on_read
        def _one(self) -> int:
            return int(0xA0 + self.index)

    class Card(Device):
        channels = Channel.at(0x0, count=2)

    assert play(Card(), ("r", 0, 4)) == [0xA100A000]


@pytest.mark.parametrize(
    ("select", "match"),
    [
        (lambda: Cmos.data[16], "the array has no such register: 16"),
        (lambda: Cmos.data[-1], "the array has no such register: -1"),
        (lambda: Cmos.data[1, 16], "the array has no such register: 16"),
        (lambda: Cmos.data["one"], "the array has no such register: 'o'"),  # type: ignore[index]
        (lambda: Cmos.data[1.5], "the array has no such register: 1.5"),  # type: ignore[index]
        (lambda: Cmos.data[3:3], "no register of the array: slice"),
        (lambda: Cmos.index[0], "not an array of registers: index"),
        (lambda: Cmos.data[3].on_write_if(0x100), "no bits to look for: 0x100"),
        (lambda: Cmos.data[3].on_read(3), "not a method: 3"),  # type: ignore[type-var]
    ],
)
def test_selection_that_cannot_be_is_refused(select: Any, match: str) -> None:
    with pytest.raises(DeclarationError, match=match) as caught:
        select()
    assert caught.value.hint


@pytest.mark.parametrize("second", [3, (1, 3), slice(2, 5)])
def test_one_register_of_an_array_that_marks_two_methods_is_refused(second: Any) -> None:
    with pytest.raises(DeclarationError, match=r"accesses are told twice: lights\[3\]\.on_read"):

        class Twice(Device):
            lights = Register(0x0, count=8)

            @lights[3].on_read
            def _first(self) -> None: ...

            @lights[second].on_read
            def _second(self, *index: int) -> None: ...


def test_array_in_a_class_body_is_not_gone_through() -> None:
    with pytest.raises(TypeError):
        iter(Cmos.data)  # type: ignore[call-overload]
