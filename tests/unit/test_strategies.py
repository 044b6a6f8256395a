"""`hyperpy.testing.accesses` and `sequences`: what each kind draws, against tables that are written by hand and the core's own rule."""

from __future__ import annotations

import subprocess
import sys
from enum import IntEnum
from typing import Any

import pytest
from hypothesis import find, given, settings
from tests.declared import Dma, Link, Timer
from tests.devices import Notes

from hyperpy import Block, Counter, Device, DeviceError, Field, Fifo, Indexed, Ram, Register, testing
from hyperpy.testing import Access, DeviceBench, Step, accesses, sequences

steady = settings(deadline=None, derandomize=True, database=None, max_examples=200)
find_settings = settings(derandomize=True, database=None, max_examples=5000)


def drawn(strategy: Any, count: int) -> list[Any]:
    """What is drawn, so many times."""
    found = []

    @settings(steady, max_examples=count)
    @given(one=strategy)
    def collect(one: Any) -> None:
        found.append(one)

    collect()
    return found


def least(strategy: Any, wanted: Any) -> Any:
    """The smallest thing that is drawn of what is wanted."""
    return find(strategy, wanted, settings=find_settings)


class Mode(IntEnum):
    IDLE = 0
    RUN = 2


class Strict(Device):
    """Refuses whatever is no access to one of its registers at its width."""

    access_rule = "refuse"
    size = 0x40
    control = Register(0x00, mode=Field(0, 2, enum=Mode), go=Field(4), done=Field(8, access="ro"))
    ident = Register(0x04, access="ro", reset=0x1234)
    key = Register(0x08, access="wo", mask=0x0FF0)
    bank = Register(0x0C, width=1, high=Field(7), flags=Field(0, 4))
    low = Register(0x0D, width=1, access="ro")
    extra = Register(0x0D, width=1, access="wo", when=bank.high)
    index = Register(0x0E, width=1)
    data = Indexed(0x0F, index=index, count=3, width=1, mask=0x0F, step=1)
    sent = Fifo(0x10, depth=3, access="wo", width=2)
    ticks = Counter(0x18, hz=1000)
    wide = Register(0x20, order="big", mask=0x0000_00FF)
    window = Ram(0x30, 16, access="ro")


# By hand: offset, size: bits that can be written, or None; whether it is read.
PLACES: dict[tuple[int, int], tuple[int | None, bool]] = {
    (0x00, 4): (0x13, True),
    (0x04, 4): (None, True),
    (0x08, 4): (0x0FF0, False),
    (0x0C, 1): (0x8F, True),
    (0x0D, 1): (0xFF, True),
    (0x0E, 1): (0xFF, True),
    (0x0F, 1): (0xFF, True),
    (0x10, 2): (0xFFFF, False),
    (0x18, 8): (None, True),
    (0x20, 4): (0xFF00_0000, True),
}


def broken(access: Access) -> list[str]:
    """The rules that an access to `Strict` breaks."""
    offset, size, value = access
    if offset >= 0x30:
        is_in = offset + size <= 0x40
        return ["read-only"] * (value is not None and is_in) + ["offset"] * (not is_in)
    if (offset, size) not in PLACES:
        return ["size" if any(offset == place for place, _ in PLACES) else "offset"]
    bits, is_read = PLACES[offset, size]
    if value is None:
        return ["write-only"] * (not is_read)
    if bits is None:
        return ["read-only"]
    rules = []
    if value & ~bits & ~(0x100 if offset == 0 else 0):  # `done` exists: a driver leaves it 0
        rules.append("reserved")
    if offset == 0 and value & 3 not in (0, 2):
        rules.append("enum")
    return rules


@steady
@given(access=accesses(Strict))
def test_legal_access_breaks_no_rule(access: Access) -> None:
    assert broken(access) == []
    assert not access.value or access.offset != 0 or not access.value & 0x100


@steady
@given(sequence=sequences(Strict))
def test_legal_sequence_is_taken_by_a_device_that_refuses_all_else(sequence: list[Access | Step]) -> None:
    bench = DeviceBench(Strict())
    bench.play(sequence)
    assert [step for step in sequence if isinstance(step, Access) and broken(step)] == []


@steady
@given(sequence=sequences(Strict))
def test_legal_sequence_never_reads_behind_the_ports_last_number_nor_a_bank_that_is_not_there(
    sequence: list[Access | Step],
) -> None:
    bench = DeviceBench(Strict())
    for step in sequence:
        if isinstance(step, Access) and step.offset == 0x0F:
            assert bench.device.index & 0x0F < 3
        if isinstance(step, Access) and step.offset == 0x0D and step.value is not None:
            assert bench.device.bank.high
        bench.play([step])


@steady
@given(access=accesses(Strict, "nearly"))
def test_nearly_legal_access_breaks_one_rule(access: Access) -> None:
    assert len(broken(access)) == 1, broken(access)


@steady
@given(sequence=sequences(Strict, "nearly"))
def test_nearly_legal_sequence_breaks_one_or_two_rules_and_fills_queues(
    sequence: list[Access | Step],
) -> None:
    rules = [rule for step in sequence if isinstance(step, Access) for rule in broken(step)]
    device = Strict()
    bench = DeviceBench(device)
    bad_numbers = refused = 0
    for step in sequence:
        at_port = isinstance(step, Access) and (step.offset, step.size) == (0x0F, 1)
        bad_numbers += at_port and device.index & 0x0F >= 3
        try:
            bench.play([step])
        except DeviceError:
            refused += 1
    assert refused <= len(rules) <= 2
    assert len(rules) + bad_numbers + device.sent.lost >= 1


def test_each_rule_is_broken_by_some_access() -> None:
    rules = {broken(access)[0] for access in drawn(accesses(Strict, "nearly"), 500)}
    assert rules == {"offset", "size", "reserved", "read-only", "write-only", "enum"}


def test_one_item_too_many_and_a_number_of_nothing_come_in_sequences() -> None:
    def lost(sequence: Any) -> bool:
        bench = DeviceBench(Link())
        bench.play(sequence)
        return bench.device.sent.lost > 0

    assert least(sequences(Link, "nearly"), lost) == [Access(0x0, 1, 0x0)] * 3

    def misses(sequence: Any) -> bool:
        bench = DeviceBench(Link())
        for step in sequence:
            if isinstance(step, Access) and step[:2] == (0x4, 1) and bench.device.index & 0x0F > 3:
                return True
            bench.play([step])
        return False

    found = least(sequences(Link, "nearly"), misses)
    assert len(found) == 2
    assert found[0][:2] == (0x3, 1)
    assert found[0].value > 3


def test_register_in_a_bank_is_selected_before_and_only_when_it_must_be() -> None:
    class Banked(Device):
        control = Register(0x0, bank=Field(0, 2), other=Field(4))
        plain = Register(0x4)
        hidden = Register(0x4, when=control.bank == 2)

    def reaches_both(sequence: Any) -> bool:
        bench = DeviceBench(Banked())
        bench.play(sequence)
        return bool(bench.device.plain and bench.device.hidden)

    select, put = Access(0x0, 4, 0x2), Access(0x4, 4, 0x1)
    assert least(sequences(Banked), reaches_both) in (
        [put, select, put],
        [select, put, Access(0x0, 4, 0x0), put],
    )

    class Hidden(Device):
        control = Register(0x0, bank=Field(0, 2))
        hidden = Register(0x4, when=control.bank == 2)

    read = Access(0x4, 4)
    assert least(sequences(Hidden), lambda it: it.count(read) == 2) == [select, read, read]


def test_sequence_shrinks_to_the_accesses_that_matter() -> None:
    class Fragile(Device):
        armed = Register(0x0, on=Field(3))
        fire = Register(0x4, access="wo")
        idle = Register(0x8, count=2)

        @fire.on_write
        def _fire(self, value: int) -> None:
            if self.armed.on and value > 100:
                raise ZeroDivisionError

    def fails(sequence: Any) -> bool:
        try:
            DeviceBench(Fragile()).play(sequence)
        except ZeroDivisionError:
            return True
        return False

    assert least(sequences(Fragile), fails) == [Access(0x0, 4, 0x8), Access(0x4, 4, 101)]


def test_hostile_access_has_any_size_and_offset_in_and_around_the_device() -> None:
    found = drawn(accesses(Timer, "hostile"), 2000)
    assert {access.size for access in found} == set(range(1, 9))
    assert {access.offset for access in found} == set(range(-8, Timer.size + 8))
    assert {access.value is None for access in found} == {True, False}
    assert any(access.size == 8 and (access.value or 0) >> 60 for access in found)
    assert least(accesses(Timer, "hostile"), lambda it: it.offset < 0) == Access(-1, 1)


@steady
@given(sequence=sequences(Dma, "hostile"))
def test_hostile_sequence_is_survived_by_what_is_declared(sequence: list[Access | Step]) -> None:
    DeviceBench(Dma()).play(sequence)


@steady
@given(sequence=sequences(Link, "hostile"))
def test_what_is_drawn_can_be_pasted_into_a_test(sequence: list[Access | Step]) -> None:
    assert eval(repr(sequence)) == sequence


def test_steps_of_the_clock_are_among_the_accesses_and_can_be_left_out() -> None:
    steps = [
        step.ns for it in drawn(sequences(Link, max_step=500), 200) for step in it if isinstance(step, Step)
    ]
    assert min(steps) == 1
    assert max(steps) == 500
    quiet = drawn(sequences(Link, max_step=0), 200)
    assert [step for it in quiet for step in it if isinstance(step, Step)] == []
    assert max(map(len, quiet)) > 5


def test_device_without_a_declaration_is_hostile_ground_alone() -> None:
    assert max(map(len, drawn(sequences(Notes(), "hostile"), 100))) > 5
    for kind in ("legal", "nearly"):
        with pytest.raises(TypeError, match="Notes declares no registers\n\nhint: "):
            accesses(Notes, kind)  # type: ignore[arg-type]


def test_what_has_no_size_or_kind_is_refused() -> None:
    with pytest.raises(TypeError, match="size of Device is not known\n\nhint: "):
        accesses(Device, "hostile")
    with pytest.raises(ValueError, match="no such kind of accesses: 'evil'\n\nhint: "):
        sequences(Timer, "evil")  # type: ignore[arg-type]


def test_registers_of_blocks_are_reached_where_the_block_is() -> None:
    class Channel(Block):
        mode = Register(0x0, width=1, bank=Field(0))
        banked = Register(0x1, width=1, when=mode.bank)

    class Two(Device):
        channels = Channel.at(0x10, count=2, stride=8)

    found = least(sequences(Two), lambda it: any(step[0] == 0x19 for step in it))
    assert found == [Access(0x18, 1, 0x1), Access(0x19, 1)]


def test_without_hypothesis_the_rest_works_and_strategies_name_the_extra() -> None:
    code = """
import sys
sys.modules["hypothesis"] = None
from hyperpy import testing
from hyperpy.testing import Access, DeviceBench
try:
    from hyperpy.testing import accesses
except ModuleNotFoundError as error:
    print(error.name, error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == (
        "hypothesis hypothesis is not installed, of which accesses is made\n\nhint: pip install hypothesis\n"
    )


def test_play_is_as_on_a_bus_beyond_the_device() -> None:
    bench = DeviceBench(Timer())
    assert bench.play([Access(-1, 4), Access(0x26, 4, 7), (0x28, 1), Step(5), Access(0x0, 4)]) == [  # type: ignore[list-item]
        0xFFFF_FFFF, 0xFF, 0x1234,
    ]  # fmt: skip
    assert bench.clock.now == 5
    with pytest.raises(ValueError, match="access leaves the device"):
        bench.play([Access(0, 9)])


def test_name_that_the_module_lacks_is_told() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'acesses'\n\nhint: "):
        testing.acesses  # noqa: B018
