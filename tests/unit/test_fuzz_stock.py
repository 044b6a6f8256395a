"""hyperpy's own devices in Rust under the device fuzzer: each by its name, with its time and its events."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from hyperpy.fuzz import STOCK, DeviceFuzzer, FuzzError, stock
from hyperpy.testing import DeviceBench

# Registers of a 16550A.
DATA, LSR = 0, 5


def never(device: Any) -> bool:
    return device.size != 8


@pytest.mark.parametrize("name", STOCK)
def test_stock_device_is_fuzzed_by_its_name_and_the_same_in_one_run_as_in_many(name: str) -> None:
    found = []
    for slices in ([300], [1] * 300):
        fuzzer = DeviceFuzzer(stock(name), seed=5)
        for count in slices:
            report = fuzzer.run(executions=count)
        assert report.crashes == ()
        assert report.reset_us is not None
        found.append((fuzzer.inputs, report.executions, report.operations))
    assert found[0] == found[1]
    assert found[0][0]


@pytest.mark.parametrize("name", STOCK)
def test_stock_device_with_an_invariant_does_what_it_does_without(name: str) -> None:
    found = []
    for has_invariant in (False, True):
        fuzzer = DeviceFuzzer(stock(name), seed=5)
        if has_invariant:
            fuzzer.invariant(lambda device: device.size)
        data = bytes(range(256)) * 4
        found.append(fuzzer._native.replay(fuzzer._host, data))
    assert found[0] == found[1]
    assert found[0][0]


def test_stock_device_has_the_time_of_its_bench() -> None:
    bench = DeviceBench(stock("acpi-timer")())
    before = bench.read32(0)
    bench.clock.step(1_000_000_000)
    assert bench.read32(0) - before == 3_579_545
    clock = DeviceBench(stock("rtc")())
    clock.write8(0, 0)
    assert clock.read8(1) == 0
    clock.clock.step(7_000_000_000)
    clock.write8(0, 0)
    assert clock.read8(1) == 7


def test_bytes_that_arrive_at_the_uart_are_an_event_of_one_input() -> None:
    fuzzer = DeviceFuzzer(stock("uart"), seed=1)
    reads = [("read", LSR, 1, 0, b""), ("read", DATA, 1, 0, b"")]
    received = fuzzer._native.encode([("event", 0, 0, 0, b"x"), *reads])
    for _ in range(2):
        assert fuzzer._native.replay(fuzzer._host, fuzzer._native.encode(reads))[0][0] & 1 == 0
        status, data = fuzzer._native.replay(fuzzer._host, received)[0]
        assert (status & 1, data) == (1, ord("x"))
    waiting = fuzzer._native.encode([("event", 0, 0, 0, b"waits")])
    fuzzer._native.replay(fuzzer._host, waiting)
    assert fuzzer._native.replay(fuzzer._host, fuzzer._native.encode(reads))[0][0] & 1 == 0


def test_power_button_is_an_event() -> None:
    fuzzer = DeviceFuzzer(stock("acpi-event"), seed=1)
    data = fuzzer._native.encode([("event", 0, 0, 0, b""), ("read", 0, 2, 0, b"")])
    assert fuzzer._native.replay(fuzzer._host, data)[0] == [0x100]


def test_crash_of_a_stock_device_reproduces_by_a_script(tmp_path: Path) -> None:
    fuzzer = DeviceFuzzer(stock("uart"), seed=1)
    fuzzer.invariant(never)
    crash = fuzzer.run(executions=50).crashes[0].minimize()
    crash.write_script(tmp_path / "again.py")
    assert "hyperpy._fuzz_stock" in crash.script()
    done = subprocess.run(
        [sys.executable, tmp_path / "again.py"], capture_output=True, text=True, check=False
    )
    assert "AssertionError" in done.stderr


def test_stock_device_that_is_not_there_is_refused_with_the_names_of_those_that_are() -> None:
    with pytest.raises(FuzzError, match="no such device: floppy") as raised:
        stock("floppy")
    assert "uart" in str(raised.value)
