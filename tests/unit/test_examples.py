"""Devices of the examples as their drivers probe them, without a guest; and that each example is short."""

from __future__ import annotations

import importlib.util
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hyperpy import Stop
from hyperpy.testing import DeviceBench

EXAMPLES = Path(__file__).parents[2] / "examples"
SECOND = 10**9


def example(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("python_*.py")), ids=lambda path: path.stem)
def test_example_of_a_device_has_less_than_80_lines(path: Path) -> None:
    assert len(path.read_text().splitlines()) < 80


Registers = tuple[Callable[[int], int], Callable[[int, int], None], DeviceBench]


@pytest.fixture
def uart() -> Registers:
    bench = DeviceBench(example("python_uart").Uart())
    return lambda at: bench.read(at, 1), lambda at, value: bench.write(at, 1, value) and None, bench


def test_uart_probed_as_linux_does_is_a_16550a_without_bugs(uart: Registers) -> None:
    """The steps of drivers/tty/serial/8250/8250_port.c: autoconfig, then the two tests of startup."""
    read, write, _ = uart
    write(1, 0)
    assert read(1) & 0x0F == 0
    write(1, 0x0F)
    assert read(1) & 0x0F == 0x0F
    write(1, 0)
    write(4, 0x1A)  # loop, OUT2, RTS
    assert read(6) & 0xF0 == 0x90  # DCD, CTS
    write(4, 0)
    assert read(6) & 0xF0 == 0xB0
    write(3, 0xBF)
    write(2, 0)
    write(3, 0)
    write(2, 1)
    assert read(2) >> 6 == 3  # FIFOs work
    write(3, 0x80)
    assert read(2) != 0  # no EFR as on later chips
    write(0, 12)
    write(1, 0)
    assert (read(0), read(1)) == (12, 0)
    write(3, 3)
    for _ in range(2):
        write(1, 2)
        assert read(2) & 0xF == 2  # enabled anew, an empty transmitter interrupts anew
        write(1, 0)
        assert read(2) & 0xF == 1
    assert read(5) & 0x60 == 0x60


def test_uart_written_a_line_answers_in_capitals_and_holds_its_line_until_all_is_read(
    uart: Registers,
) -> None:
    read, write, bench = uart
    write(1, 1)
    for byte in b"ok\n":
        write(0, byte)
    assert (read(2) & 0xF, bench.irq.level) == (4, True)
    received = []
    while read(5) & 1:
        received.append(read(0))
    assert bytes(received) == b"OK\n"
    assert (read(2) & 0xF, bench.irq.level) == (1, False)


def test_uart_written_a_line_without_an_end_keeps_no_more_of_it_than_it_can_answer(uart: Registers) -> None:
    read, write, bench = uart
    for byte in b"x" * 3000 + b"end\n":
        write(0, byte)
    assert len(bench.device.received) == 1024
    assert bytes(read(0) for _ in range(1024))[-4:] == b"END\n"


def test_uart_in_a_loop_receives_what_it_sends_and_forgets_it_when_cleared(uart: Registers) -> None:
    read, write, _ = uart
    write(4, 0x10)
    write(0, ord("a"))
    assert (read(5) & 1, read(0), read(5) & 1) == (1, ord("a"), 0)
    write(0, ord("b"))
    write(2, 3)
    assert read(5) & 1 == 0


@pytest.fixture
def rtc() -> Registers:
    bench = DeviceBench(example("python_rtc").Rtc())

    def read(index: int) -> int:
        bench.write(0, 1, index)
        return int(bench.read(1, 1))

    def write(index: int, value: int) -> None:
        bench.write(0, 1, index)
        bench.write(1, 1, value)

    return read, write, bench


def test_rtc_shows_its_time_and_warns_before_it_changes(rtc: Registers) -> None:
    read, write, bench = rtc
    bench.clock.step(SECOND // 2)
    time = [read(at) for at in (9, 8, 7, 6, 4, 2, 0)]
    assert time == [0x42, 0x01, 0x02, 0x05, 0x03, 0x04, 0x05]  # 2042-01-02 is a Thursday
    assert [read(at) for at in (10, 11, 12, 13)] == [0x26, 0x02, 0, 0x80]
    bench.clock.step(SECOND // 2 - 100_000)
    assert (read(10) & 0x80, read(0)) == (0x80, 0x05)
    bench.clock.step(100_001)
    assert (read(10) & 0x80, read(0)) == (0, 0x06)
    write(0x32, 0x20)
    assert read(0x32) == 0x20


def test_rtc_bytes_that_only_keep_what_is_written_call_no_python(rtc: Registers) -> None:
    read, write, bench = rtc
    rest = [at for at in range(128) if at not in (*range(14),)]
    for at in rest:
        write(at, at ^ 0x55)
    assert [read(at) for at in rest] == [at ^ 0x55 for at in rest]
    said = bench.device.explain()
    others = said["data[0…127]"]
    assert (others.rung, others.reads, others.writes) == ("register", len(rest), len(rest))
    assert sum(use.calls for use in said) == 0
    read(12)
    assert [(use.register, use.calls) for use in bench.device.explain() if use.calls] == [("data[12]", 1)]


def test_rtc_alarm_interrupts_each_day_at_its_time_if_enabled(rtc: Registers) -> None:
    read, write, bench = rtc
    for at, two in ((1, 0x08), (3, 0x04), (5, 0x03), (11, 0x22)):
        write(at, two)
    bench.clock.step(3 * SECOND - 1)
    assert (read(12), bench.irq.level) == (0, False)
    bench.clock.step(1)
    assert (bench.irq.level, read(12), bench.irq.level, read(12)) == (True, 0xA0, False, 0)
    write(11, 0x02)
    bench.clock.step(86_400 * SECOND)
    assert (bench.irq.level, read(12)) == (False, 0xA0)


@pytest.mark.parametrize("two", [0xFF, 0x61, 0x0A])
def test_rtc_alarm_of_digits_that_are_no_time_never_rings(rtc: Registers, two: int) -> None:
    read, write, bench = rtc
    write(11, 0x22)
    write(1, two)
    bench.clock.step(2 * 86_400 * SECOND)
    assert (read(12), bench.irq.level) == (0, False)


@pytest.mark.parametrize(
    ("event", "reason"), [(1, "the guest panicked"), (2, "the guest starts its crash kernel")]
)
def test_pvpanic_told_of_an_event_stops_the_machine(event: int, reason: str) -> None:
    bench = DeviceBench(example("python_pvpanic").PvPanic())
    assert bench.read(0, 1) == 3
    assert bench.write(0, 1, event) == Stop(reason)


Fw = tuple[Callable[..., int], Callable[[int], bytes], DeviceBench]
AT, BUFFER = 0x1000, 0x2000
READ, SKIP, SELECT, WRITE = 0x02, 0x04, 0x08, 0x10


@pytest.fixture
def fw() -> Fw:
    bench = DeviceBench(example("python_fw_cfg").FwCfg({"opt/motto": b"hello"}))

    def dma(control: int, length: int, address: int = BUFFER, at: int = AT) -> int:
        """Make a request, and return what its first word is then."""
        if at == AT:
            bench.memory.write(AT, struct.pack(">IIQ", control, length, address))
        for offset, half in ((4, at >> 32), (8, at & 0xFFFF_FFFF)):
            bench.write(offset, 4, int.from_bytes(struct.pack(">I", half), "little"))
        return int.from_bytes(bench.memory.read(AT, 4), "big")

    def item(number: int) -> bytes:
        bench.write(0, 2, number)
        return bytes(bench.read(1, 1) for _ in range(8))

    return dma, item, bench


def test_fw_cfg_read_by_ports_shows_signature_revision_and_files(fw: Fw) -> None:
    _, item, bench = fw
    assert item(0) == b"QEMU\0\0\0\0"
    assert item(1) == b"\3\0\0\0\0\0\0\0"
    assert item(0x21) == b"hello\0\0\0"
    assert item(0x22) == bytes(8)
    assert bench.read(4, 8).to_bytes(8, "little") == b"QEMU CFG"


def test_fw_cfg_asked_by_dma_reads_skips_and_lists(fw: Fw) -> None:
    dma, _, bench = fw
    assert dma(0x19 << 16 | SELECT | READ, 4 + 2 * 64) == 0
    listed = bench.memory.read(BUFFER, 4 + 2 * 64)
    count, *entries = struct.unpack(">I" + "IHH56s" * 2, listed)
    assert (count, entries[1], entries[5]) == (2, 0x20, 0x21)
    assert [entries[3].rstrip(b"\0"), entries[7].rstrip(b"\0")] == [b"etc/vmcoreinfo", b"opt/motto"]
    assert dma(0x21 << 16 | SELECT | SKIP, 1) == 0
    assert dma(READ, 2) == 0
    assert bench.memory.read(BUFFER, 2) == b"el"
    assert [bench.read(1, 1) for _ in range(3)] == [*b"lo", 0]  # one place in the item, by either way


def test_fw_cfg_written_by_dma_takes_the_one_file_and_refuses_the_rest(fw: Fw) -> None:
    dma, item, bench = fw
    bench.memory.write(BUFFER, bytes(range(16)))
    assert dma(0x20 << 16 | SELECT | WRITE, 16) == 0
    assert bench.device.items[0x20] == bytes(range(16))
    assert dma(0x20 << 16 | SELECT | WRITE, 17) == 1
    assert dma(0x21 << 16 | SELECT | WRITE, 1) == 1
    assert item(0x21)[:5] == b"hello"


@pytest.mark.parametrize(
    "request_",
    [
        (0x21 << 16 | SELECT | READ, 0xFFFF_FFFF, (1 << 64) - 2),
        (0x20 << 16 | SELECT | WRITE, 16, 1 << 50),
        (0x21 << 16 | SELECT | READ, 8, 1 << 50),
    ],
)
def test_fw_cfg_asked_for_what_is_no_memory_tells_so(fw: Fw, request_: tuple[int, int, int]) -> None:
    dma, _, bench = fw
    assert dma(*request_) == 1
    assert dma(0, 0, at=(1 << 64) - 1) == 1  # nowhere to tell it: the last word stays
    assert bench.device.items[0x20] == bytes(16)
