"""Guest memory for devices: what is reached, what is refused and changes nothing, lists, and when it is there."""

from __future__ import annotations

import contextlib
import gc
import itertools
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from tests.declared import BASE
from tests.devices import Card

from hyperpy import Device, DeviceError, DmaMemory, MemoryAccessError, Register, StateError
from hyperpy.exits import Exit
from hyperpy.testing import DeviceBench, Read, ScriptedMachine, Write

MIB = 1 << 20
ROM, DEVICES = 0xF000_0000, 0xE000_0000


def _machine(*script: Read | Write, **options: Any) -> ScriptedMachine:
    """With rom, a place for devices, and by default ram up to 2 MiB in two regions."""
    m = ScriptedMachine(script, **options)
    if not options:
        m.memory.add(MIB, MIB)
    m.memory.add(ROM, "4K", kind="rom")
    m.memory.add(DEVICES, "4K", kind="mmio")
    return m


@pytest.fixture
def card() -> Iterator[Card]:
    """On a machine, which is `card.machine`."""
    with _machine() as m:
        card = m.attach(Card(), mmio=BASE)
        card.machine = m  # type: ignore[attr-defined]
        yield card


def test_memory_is_there_from_attach_to_detach_and_not_without_dma() -> None:
    card = Card()
    assert not card.memory
    with _machine() as m:
        m.attach(card, mmio=BASE)
        first = card.memory
        assert isinstance(first, DmaMemory)
        m.attach(card, pio=0x80)
        assert card.memory is first  # one for all its places
        m.detach(card)
        with pytest.raises(StateError, match="the device is detached"):
            first.read(0, 1)
        m.attach(card, mmio=BASE)
        again = card.memory
        assert again is not first
        assert again.read(0, 1) == b"\0"
        plain = m.attach(Device(), mmio=BASE + 0x100, size=4)
        assert not plain.memory
    for kept in (first, again):
        for use in (
            lambda: kept.read(0, 1),  # noqa: B023 - called at once
            lambda: kept.write(0, b"x"),  # noqa: B023
            lambda: kept.read_into(0, bytearray(1)),  # noqa: B023
            lambda: kept.gather([]),  # noqa: B023
            lambda: kept.scatter([], b""),  # noqa: B023
            lambda: kept.read_int(0, 1),  # noqa: B023
            lambda: kept.write_int(0, 1, 1),  # noqa: B023
        ):
            with pytest.raises(StateError, match="detached|closed"):
                use()
    assert "detached" in repr(first)


def test_attach_that_is_refused_leaves_no_memory() -> None:
    with _machine() as m:
        m.attach(Device(), mmio=BASE, size=4)
        card = Card()
        with pytest.raises(DeviceError, match="overlaps"):
            m.attach(card, mmio=BASE)
        assert not card.memory
        m.attach(card, mmio=BASE + 0x100)
        kept = card.memory
        with pytest.raises(DeviceError, match="overlaps"):
            m.attach(card, mmio=BASE)
        assert card.memory is kept
        assert kept is not None
        assert kept.read(0, 1) == b"\0"


def test_device_with_dma_is_of_one_machine_at_a_time() -> None:
    card = Card()
    with _machine() as one, _machine() as other:
        one.attach(card, mmio=BASE)
        one.memory.write(0x1000, b"one")
        with pytest.raises(DeviceError, match="attached to another machine"):
            other.attach(card, mmio=BASE)
        assert card.memory is not None
        assert card.memory.read(0x1000, 3) == b"one"
        one.detach(card)
        other.attach(card, mmio=BASE)
        assert card.memory.read(0x1000, 3) == b"\0\0\0"
    with _machine() as third:  # the other one is closed
        third.attach(card, mmio=BASE)


def test_class_that_has_no_room_for_memory_is_refused() -> None:
    class Slotted:
        __slots__ = ()
        dma = True
        dma_limit = 4096
        size = 4

        def read(self, offset: int, size: int, /) -> int:
            return 0

        def write(self, offset: int, size: int, value: int, /) -> None:
            pass

    class Taken(Device):
        dma = True
        memory = Register(0x0)  # type: ignore[assignment]

    class Odd(Card):
        dma_limit = 0

    with _machine() as m:
        for device, told in (
            (Slotted(), "takes no attribute"),
            (Taken(), "another `memory`"),
            (Odd(), "limit"),
        ):
            with pytest.raises(TypeError, match=told):
                m.attach(device, mmio=BASE)
        assert not any(row.space == "mmio" for row in m.map.rows)


def test_register_called_dma_asks_for_no_memory() -> None:
    class Engine(Device):
        dma = Register(0x0, reset=1)  # type: ignore[assignment]

    with _machine() as m:
        assert not m.attach(Engine(), mmio=BASE).memory


def test_reads_and_writes_cross_regions_and_mark_pages(card: Any) -> None:
    memory, m = card.memory, card.machine
    with m.memory.track_dirty():
        memory.write(MIB - 2, b"four")
        memory.write_int(0x3000, 4, 0x01020304)
        assert m.memory.dirty() == [(0x3000, 4096), (MIB - 4096, 8192)]
        assert memory.read(MIB - 2, 4) == b"four"
        into = bytearray(6)
        assert memory.read_into(MIB - 3, into) == 6
        assert into == b"\0four\0"
        assert m.memory.dirty() == []
    assert memory.read_int(0x3000, 4) == 0x01020304
    assert memory.read_int(0x3000, 4, "big") == 0x04030201
    memory.write_int(0x3000, 3, 0xABCDEF, "big")
    assert memory.read(0x3000, 4) == b"\xab\xcd\xef\x01"
    assert [memory.read_int(0x3000, size) for size in (1, 2, 8)] == [0xAB, 0xCDAB, 0x01EFCDAB]
    assert (memory.read(0, 0), memory.gather([]), memory.scatter([], b"")) == (b"", b"", 0)


def test_rom_and_protected_ram_are_read_and_not_written(card: Any) -> None:
    memory, m = card.memory, card.machine
    m.memory.write(ROM, b"rom")
    m.memory.protect(MIB, writable=False)
    assert memory.read(ROM, 3) == b"rom"
    for gpa in (ROM, MIB, MIB - 1):
        with pytest.raises(MemoryAccessError, match="read-only memory") as caught:
            memory.write(gpa, b"xyz")
        assert (caught.value.address, caught.value.size) == (gpa, 3)
    assert m.memory.read(MIB - 1, 3) == bytes(3)
    m.memory.protect(MIB, writable=True)
    memory.write(MIB - 1, b"xyz")


HOSTILE = [
    (2 * MIB - 1, 2),
    (2 * MIB, 1),
    (DEVICES, 4),
    (BASE, 4),
    (ROM - 1, 2),
    (2**64 - 1, 1),
    (2**64 - 1, 2),
    (2**64 - 4, 8),
    (2**64, 4),
    (2**65, 4),
    (-1, 4),
]


@pytest.mark.fault(15)
@pytest.mark.parametrize(("gpa", "size"), HOSTILE)
def test_dma_to_what_is_no_memory_is_refused_and_changes_nothing(card: Any, gpa: int, size: int) -> None:
    memory, m = card.memory, card.machine
    other = m.attach(Card(), mmio=DEVICES)
    uses: list[Callable[[], object]] = [
        lambda: memory.read(gpa, size),
        lambda: memory.read_into(gpa, bytearray(size)),
        lambda: memory.write(gpa, b"x" * size),
        lambda: memory.read_int(gpa, min(size, 8)),
        lambda: memory.write_int(gpa, min(size, 8), 1),
        lambda: memory.gather([(0x1000, 4), (gpa, size)]),
        lambda: memory.scatter([(0x1000, 4), (gpa, size)], b"x" * (4 + size)),
    ]
    for use in uses:
        with pytest.raises(MemoryAccessError) as caught:
            use()
        assert (caught.value.address, caught.value.size) == (gpa, size)
        assert caught.value.hint
    assert m.memory.read(0x1000, 4) == bytes(4)
    assert m.memory.read(2 * MIB - 1, 1) == b"\0"
    assert (card.accesses, other.accesses) == (0, 0)


@pytest.mark.fault(15)
def test_dma_to_its_own_registers_inside_its_own_write_does_not_enter_it_again() -> None:
    def aim(memory: DmaMemory) -> str:
        for target in (BASE, DEVICES):
            for use in (lambda: memory.write(target, b"\1\0\0\0"), lambda: memory.read(target, 4)):  # noqa: B023
                with pytest.raises(MemoryAccessError):
                    use()
        return "refused"

    with _machine(Write(1, mmio=BASE)) as m:
        card, other = m.attach(Card(aim), mmio=BASE), m.attach(Card(), mmio=DEVICES)
        assert m.run(timeout=10.0) == Exit.Halt(0)
        assert (card.accesses, other.accesses, card.result) == (1, 0, "refused")


def test_lengths_above_the_limit_are_refused_before_anything_is_allocated() -> None:
    class Small(Card):
        dma_limit = 64 << 10

    with _machine(memory="16M") as m:
        memory = m.attach(Small(), mmio=BASE).memory
        assert memory is not None
        assert memory.limit == 64 << 10
        assert len(memory.read(0, 64 << 10)) == 64 << 10
        for use in (
            lambda: memory.read(0, (64 << 10) + 1),
            lambda: memory.read(0, 2**63),
            lambda: memory.read(0, 2**64 - 1),
            lambda: memory.gather([(0, 32 << 10)] * 3),
            lambda: memory.gather([(0, 2**63), (0, 2**63)]),
        ):
            with pytest.raises(MemoryAccessError, match="more than 0x10000 bytes at once"):
                use()
        for size in (2**64, -1):
            with pytest.raises(MemoryAccessError, match="no memory"):
                memory.read(0, size)
        into = bytearray(128 << 10)  # the host has chosen that
        assert memory.read_into(0, into) == 128 << 10


def test_scatter_list_that_never_ends_is_cut_off(card: Any) -> None:
    links = {0x1000: 0x2000, 0x2000: 0x1000}

    def chain(gpa: int) -> Iterator[tuple[int, int]]:
        while True:
            yield gpa, 0
            gpa = links[gpa]

    with pytest.raises(MemoryAccessError, match="more than 65536 ranges"):
        card.memory.gather(chain(0x1000))
    with pytest.raises(MemoryAccessError, match="more than 65536 ranges"):
        card.memory.scatter(itertools.repeat((0, 1)), b"x")
    assert card.memory.gather([(0x1000, 1)] * 65_536) == bytes(65_536)


def test_scatter_writes_as_far_as_the_data_go_and_refuses_a_list_that_is_too_short(card: Any) -> None:
    memory = card.memory
    assert memory.scatter([(0x1000, 2), (0x3000, 0), (0x2000, 10)], bytearray(b"abcde")) == 5
    assert memory.gather([(0x2000, 4), (0x1000, 2)]) == b"cde\0ab"
    with pytest.raises(MemoryAccessError, match="has 0x3 bytes for data of 0x4"):
        memory.scatter([(0x1000, 2), (0x2000, 1)], b"wxyz")
    assert memory.read(0x1000, 2) == b"ab"


@pytest.mark.parametrize("size", [0, 9, -1])
def test_integer_of_no_such_size_is_a_mistake_of_the_device(card: Any, size: int) -> None:
    with pytest.raises(ValueError, match="not a size of an integer"):
        card.memory.read_int(0, size)
    with pytest.raises(ValueError, match="not a size of an integer"):
        card.memory.write_int(0, size, 0)


def test_arguments_that_are_no_numbers_or_bytes_are_type_errors(card: Any) -> None:
    memory = card.memory
    for use in (
        lambda: memory.read("0", 1),
        lambda: memory.read(0, 1.5),
        lambda: memory.write(0, "text"),
        lambda: memory.gather([(0,)]),
        lambda: memory.gather(5),
        DmaMemory,
    ):
        with pytest.raises((TypeError, ValueError)):
            use()
    for value in (-1, 1 << 16):
        with pytest.raises(ValueError, match="too wide"):
            memory.write_int(0, 2, value)
    with pytest.raises(ValueError, match="no such byte order"):
        memory.read_int(0, 2, "middle")
    with pytest.raises(BufferError):
        memory.read_into(0, b"read-only")


def test_what_a_refused_dma_raises_names_the_access_that_led_to_it() -> None:
    with _machine(Write(1, mmio=BASE)) as m:
        m.attach(Card(lambda memory: memory.read(1 << 40, 4)), mmio=BASE)
        with pytest.raises(MemoryAccessError, match="no memory at 0x10000000000 for 0x4") as caught:
            m.run(timeout=10.0)
        assert "device Card: write of 0x1 to mmio 0xfe000000" in caught.value.__notes__[0]


def test_dma_works_in_timers_and_in_other_threads_while_the_machine_runs() -> None:
    def begin(memory: DmaMemory) -> None:
        thread = threading.Thread(target=lambda: memory.write(0x1000, b"thread"))
        thread.start()
        thread.join()

    with _machine(Write(1, mmio=BASE)) as m:
        card = m.attach(Card(begin), mmio=BASE)
        m.clock.at(0, lambda: card.memory.write(0x2000, b"timer"))
        assert m.run(timeout=10.0) == Exit.Halt(0)
        assert m.memory.read(0x1000, 6) == b"thread"
    clocked = DeviceBench(Card())
    clocked.device.clock.after(5, lambda: clocked.device.memory.write(0, b"due"))  # type: ignore[union-attr]
    clocked.clock.step(5)
    assert clocked.memory.read(0, 3) == b"due"


def test_memory_stays_with_a_device_over_a_reset_of_its_machine(card: Any) -> None:
    card.memory.write(0x1000, b"before")
    kept = card.memory
    card.machine.reset()
    assert card.memory is kept
    assert kept.read(0x1000, 6) == bytes(6)
    kept.write(0x1000, b"after")
    assert card.machine.memory.read(0x1000, 5) == b"after"


def test_detach_inside_a_callback_takes_the_memory_at_once() -> None:
    def leave(memory: DmaMemory) -> str:
        m.detach(card)
        with pytest.raises(StateError, match="detached"):
            memory.write(0, b"late")
        return "left"

    with _machine(Write(1, mmio=BASE), Write(1, mmio=BASE), unclaimed="ones") as m:
        card = m.attach(Card(leave), mmio=BASE)
        assert m.run(timeout=10.0) == Exit.Halt(0)
        assert (card.accesses, card.result) == (1, "left")


def test_detach_while_another_thread_copies_returns_when_nothing_is_written_any_more() -> None:
    with _machine(memory="8M") as m:
        card = m.attach(Card(), mmio=BASE)
        memory, wrote = card.memory, threading.Event()
        assert memory is not None

        def copy() -> None:
            with contextlib.suppress(StateError):
                while True:
                    memory.write(MIB * 3, b"\xff" * (4 * MIB))
                    wrote.set()

        thread = threading.Thread(target=copy)
        thread.start()
        assert wrote.wait(10.0)
        m.detach(card)
        m.memory.write(MIB * 3, bytes(4 * MIB))
        thread.join(10.0)
        assert not thread.is_alive()
        assert m.memory.read(MIB * 3, 4 * MIB) == bytes(4 * MIB)


def test_memory_of_a_device_keeps_no_machine() -> None:
    card = Card()
    gc.disable()
    try:
        m = _machine()
        m.attach(card, mmio=BASE)
        m.close()
        native, gone = weakref.ref(m._native), weakref.ref(m)
        del m
        assert gone() is None
        assert native() is None
    finally:
        gc.enable()
    assert card.memory is not None
    with pytest.raises(StateError, match="machine is closed"):
        card.memory.read(0, 1)
