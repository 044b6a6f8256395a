"""Devices that lie to a driver: `InputDevice.of` has registers of any device answer from the input."""

from __future__ import annotations

from typing import Any

import pytest

from hyperpy import Device, Register
from hyperpy.declare import Ram
from hyperpy.errors import DeclarationError
from hyperpy.fuzz import InputDevice
from hyperpy.testing import DeviceBench


class Card(Device):
    status = Register(0x0, access="ro", reset=1)
    length = Register(0x4, width=2, access="ro", reset=60)
    order = Register(0x6, width=2, access="ro", order="big", reset=1)
    slots = Register(0x8, width=1, count=2, access="ro")
    go = Register(0xC, access="wo")
    buffer = Ram(0x10, 16)

    @length.on_read
    def _length(self) -> int:
        return 61

    @slots[1].on_read
    def _second(self) -> int:
        return 22

    @go.on_write
    def _go(self, value: int) -> None:
        self.status = value


class Given:
    """An input, as the native one is read."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def read(self, most: int) -> bytes:
        taken, self._data = self._data[:most], self._data[most:]
        return taken


def bench_of(data: bytes, *registers: str) -> DeviceBench[Any]:
    bench = DeviceBench(InputDevice.of(Card, *registers)())
    bench.device.fuzz_input = Given(data)
    return bench


def test_register_that_is_named_reads_from_the_input_and_all_else_is_as_in_the_device() -> None:
    bench = bench_of(b"\x34\x12\xff", "length")
    assert bench.read16(0x4) == 0x1234
    bench.write32(0xC, 7)
    assert bench.read32(0x0) == 7
    # One byte is not enough for the register: it tells the truth.
    assert bench.read16(0x4) == 61


def test_without_names_every_register_that_can_be_read_lies() -> None:
    bench = bench_of(bytes([1, 2, 3, 4, 5, 6, 7, 8, 9, 10]))
    assert bench.read32(0x0) == 0x04030201
    assert bench.read16(0x4) == 0x0605
    assert bench.device.status == 1
    assert [bench.read8(0x8), bench.read8(0x9), bench.read8(0x8)] == [7, 8, 9]
    assert bench.read64(0x10) == 0


def test_before_a_fuzzer_is_told_of_it_a_hostile_device_tells_the_truth() -> None:
    bench = DeviceBench(InputDevice.of(Card)())
    assert (bench.read32(0x0), bench.read16(0x4), bench.read16(0x6)) == (1, 61, 0x0100)
    assert (bench.read8(0x8), bench.read8(0x9)) == (0, 22)


def test_hostile_device_is_saved_and_put_back_as_the_device_is() -> None:
    bench = bench_of(bytes(100))
    before = bench.snapshot()
    bench.write32(0xC, 9)
    bench.restore(before)
    assert bench.device.status == 1


def test_what_cannot_lie_is_refused() -> None:
    with pytest.raises(TypeError, match="not a class of devices"):
        InputDevice.of(Card())  # type: ignore[type-var,arg-type] # that is the test
    for name in ("speed", "buffer", "_go"):
        with pytest.raises(DeclarationError, match=f"has no such register: {name}"):
            InputDevice.of(Card, name)

    class Plain(Device):
        size = 4

    with pytest.raises(DeclarationError, match="no register that a guest can read"):
        InputDevice.of(Plain)
