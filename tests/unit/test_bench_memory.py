"""Guests that change their mind, faults and made-up memory: DMA on a bench, and what its hooks are asked."""

from __future__ import annotations

import gc
import itertools
import sys
import threading
import warnings
import weakref

import pytest
from tests.declared import BASE
from tests.devices import Card

from hyperpy import DmaMemory, MemoryAccessError
from hyperpy.testing import DeviceBench, ScriptedMachine

MIB = 1 << 20


class Header(Card):
    """Takes a message whose length a header says, up to 64 bytes: reads the header once."""

    def work(self, memory: DmaMemory) -> bytes | None:  # type: ignore[override]
        length = memory.read_int(0x1000, 4)
        if length > 64:
            return None
        return memory.read(0x1004, length)

    def __init__(self) -> None:
        self.accesses, self.result = 0, None


@pytest.mark.fault(16)
def test_header_that_another_thread_flips_is_taken_as_it_was_read() -> None:
    bench = DeviceBench(Header())
    ended = threading.Event()

    def flip() -> None:
        for value in itertools.cycle((16, 0xFFFF_FFF0)):
            if ended.is_set():
                return
            bench.memory.write(0x1000, value.to_bytes(4, "little"))

    thread = threading.Thread(target=flip)
    thread.start()
    seen = set()
    try:
        for _ in range(3000):
            bench.write32(0, 1)
            got = bench.device.result
            seen.add(None if got is None else len(got))
    finally:
        ended.set()
        thread.join()
    assert seen <= {None, 0, 16}  # 0: before the first flip


@pytest.mark.fault(16)
def test_bench_answers_a_second_read_differently_and_so_finds_a_double_fetch() -> None:
    class Careless(Header):
        def work(self, memory: DmaMemory) -> bytes | None:  # type: ignore[override]
            if memory.read_int(0x1000, 4) > 64:
                return None
            return memory.read(0x1004, memory.read_int(0x1000, 4))

    for device, length in ((Header(), 16), (Careless(), 4000)):
        bench = DeviceBench(device)
        lengths = iter([16, 4000])
        bench.memory.answer_reads(0x1000, 4, lambda gpa, size: next(lengths).to_bytes(4, "little"))  # noqa: B023
        bench.write32(0, 1)
        assert len(device.result) == length


def test_answer_gets_the_part_of_its_range_and_none_leaves_what_is_there() -> None:
    bench = DeviceBench(Card())
    memory, asked = bench.device.memory, []
    assert memory is not None
    bench.memory.write(0x1000, b"0123456789")

    def answer(gpa: int, size: int) -> bytes | None:
        asked.append((gpa, size))
        return None if len(asked) == 2 else b"*" * size

    bench.memory.answer_reads(0x1002, 4, answer)
    assert memory.read(0x1000, 4) == b"01**"
    assert memory.read(0x1000, 10) == b"0123456789"
    into = bytearray(3)
    memory.read_into(0x1005, into)
    assert into == b"*67"
    assert memory.gather([(0x1000, 3), (0x1006, 2)]) == b"01*67"
    assert memory.read(0x1006, 2) == b"67"
    assert bench.memory.read(0x1000, 4) == b"0123"
    assert asked == [(0x1002, 2), (0x1002, 4), (0x1005, 1), (0x1002, 1)]
    bench.memory.clear_hooks()
    assert memory.read_int(0x1002, 1) == ord("2")
    bench.memory.answer_reads(0x1000, 1, lambda gpa, size: b"too long")
    with pytest.raises(ValueError, match="answer to a read of 1 bytes has 8"):
        memory.read(0x1000, 1)


def test_range_that_is_to_fail_refuses_the_device_and_not_the_test() -> None:
    bench = DeviceBench(Card())
    memory = bench.device.memory
    assert memory is not None
    bench.memory.fail(0x1004, 4)
    for use in (
        lambda: memory.read(0x1000, 5),
        lambda: memory.write(0x1007, b"xx"),
        lambda: memory.scatter([(0x100, 1), (0x1004, 1)], b"xx"),
    ):
        with pytest.raises(MemoryAccessError, match="no memory at"):
            use()
    memory.write(0x1000, b"four")
    memory.write(0x1008, b"four")
    bench.memory.write(0x1004, b"test")
    assert bench.memory.read(0x100, 1) == b"\0"
    bench.memory.clear_hooks()
    assert memory.read(0x1000, 12) == b"fourtestfour"
    for wrong in (lambda: bench.memory.fail(0, 0), lambda: bench.memory.fail(-1, 1)):
        with pytest.raises(ValueError, match="range has no bytes|not a guest-physical address"):
            wrong()


def test_first_touch_fills_each_page_once_of_memory_that_is_huge_and_sparse() -> None:
    bench = DeviceBench(Card(), memory="64G")
    memory, touched = bench.device.memory, []
    assert memory is not None

    def fill(gpa: int) -> None:
        touched.append(gpa)
        bench.memory.write(gpa, bytes([len(touched)]) * 4096)

    bench.memory.on_first_touch(fill)
    far = 0xF_0000_0000
    assert memory.read(far + 4095, 2) == b"\1\2"
    memory.write(far + 4096, b"x")
    with pytest.raises(MemoryAccessError):
        memory.read(1 << 40, 1)
    assert touched == [far, far + 4096]
    assert memory.read(0x5000, 0) == b""
    assert bench.memory.committed < 16 * MIB
    for wrong in (
        lambda: bench.memory.on_first_touch(5),  # type: ignore[arg-type]
        lambda: bench.memory.answer_reads(0, 1, None),  # type: ignore[arg-type]
    ):
        with pytest.raises(TypeError, match="not to be called"):
            wrong()


def test_memory_of_the_bench_is_taken_back_and_a_machines_comes_in_its_place() -> None:
    card = Card()
    with DeviceBench(card) as bench:
        assert isinstance(card.memory, DmaMemory)
        lent = card.memory
        bench.memory.write(0, b"bench")
    assert not card.memory
    assert lent.read(0, 5) == b"bench"
    DeviceBench(card)
    with ScriptedMachine([]) as m:
        m.attach(card, mmio=BASE)
        assert card.memory.read(0, 5) == bytes(5)


def test_bench_with_memory_that_the_collector_finds_inside_of_a_device_goes_without_a_word(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Collects(Card):
        def work(self, memory: DmaMemory) -> None:  # type: ignore[override]
            gc.collect()

        def __init__(self) -> None:
            self.accesses, self.result = 0, None

    told: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", told.append)
    other = DeviceBench(Card())
    other.itself = other  # type: ignore[attr-defined]
    gone = weakref.ref(other)
    bench = DeviceBench(Collects())
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        gc.disable()
        try:
            del other
            bench.write32(0, 1)
        finally:
            gc.enable()
    assert gone() is None
    assert told == warned == []
