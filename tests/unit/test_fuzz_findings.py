"""What tells two findings apart: what they say, but for numbers; what counts as a device's growth; and how findings are made small."""

from __future__ import annotations

import importlib.util
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))
from fuzzed import Twice
from hyperpy import Device, Register
from hyperpy._fuzz_args import page
from hyperpy._fuzz_findings import Key
from hyperpy.fuzz import CampaignReport, Crash, DeviceFuzzer, Finding, Report


class Value(Device):
    value = Register(0x0)


def is_named(device: Value) -> None:
    """Raises with what a guest may have sent."""
    if device.value > 1:
        raise ValueError("no name \ud800 \x1b[2J \0")


class Reader(Device):
    """Reads much, and keeps nothing."""

    dma = True
    go = Register(0x0, access="wo")

    @go.on_write
    def _go(self, value: int) -> None:
        self.memory.read(0, 4 << 20)


def test_text_that_is_none_is_kept_with_its_crash_and_in_a_script_that_runs(tmp_path: Path) -> None:
    fuzzer = DeviceFuzzer(Value, seed=1, crashes=tmp_path)
    fuzzer.invariant(is_named)
    (crash,) = fuzzer.run(executions=500).crashes
    assert fuzzer.report.problems == ()
    (folder,) = tmp_path.iterdir()
    ran = subprocess.run(
        [sys.executable, folder / "reproduce.py"], capture_output=True, text=True, check=False, timeout=60
    )
    assert "ValueError: no name" in ran.stderr
    finding = Finding("invariant", "InvariantError", crash.key.where, 1, None)
    (line,) = [line for line in page(CampaignReport(1, 1, 1, 1, (finding,), 1.0, 1, ())) if "no name" in line]
    assert re.search(r"no name \? \?\[2J \?, is_named:\d+, 1 operation$", line)


@pytest.mark.parametrize("text", ["fuzzer = (", "", None])
def test_crash_is_saved_while_the_file_of_its_invariant_is_being_edited(
    tmp_path: Path, text: str | None
) -> None:
    file = tmp_path / "edited.py"
    file.write_text("holds = lambda device: device.value < 2\n")
    spec = importlib.util.spec_from_file_location("edited", file)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules["edited"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    fuzzer = DeviceFuzzer(Value, seed=1, crashes=tmp_path / "crashes")
    fuzzer.invariant(module.holds)
    file.unlink() if text is None else file.write_text(text)
    assert fuzzer.run(executions=500).problems == ()
    (folder,) = (tmp_path / "crashes").iterdir()
    assert "a script cannot name a lambda of line 1" in (folder / "reproduce.txt").read_text()


def test_invariant_that_tells_of_numbers_is_one_finding_with_its_first_text() -> None:
    known: dict[int, bool] = {}
    fuzzer = DeviceFuzzer(Value, seed=1)
    fuzzer.invariant(lambda device: device.value < 2 or known[int(device.value)])
    (crash,) = fuzzer.run(executions=500).crashes
    assert crash.key.where[0] == f"invariant 0 raises KeyError: {crash.error.__cause__}"
    assert fuzzer.replay(crash.minimize().input) is not None


def test_two_invariants_are_two_findings() -> None:
    fuzzer = DeviceFuzzer(Value, seed=1)
    fuzzer.invariant(lambda device: device.value != 1)
    fuzzer.invariant(lambda device: device.value < 2)
    found = {crash.key.where[0] for crash in fuzzer.run(executions=500).crashes}
    assert found == {"invariant 0 does not hold", "invariant 1 does not hold"}


@pytest.mark.parametrize(
    ("one", "other", "is_same"),
    [
        ("the len is 8 but the index is 9", "the len is 8 but the index is 4096", True),
        ("object at 0x7f0012ab", "object at 0x7f88", True),
        ("raises KeyError: b'\\x01'", "raises KeyError: b'a\\'b c'", True),
        ("raises KeyError: -1.5e-7", "raises KeyError: 12", True),
        ("levels are [1, 2, 3]", "levels are [4]", True),
        ("digest 0badc0de11", "digest ffffffff0", True),
        ("invariant 0 does not hold", "invariant 1 does not hold", False),
        ("fifo rx0 overflows", "fifo rx1 overflows", False),
        ("queue is full", "queue is empty", False),
    ],
)
def test_texts_are_one_but_for_numbers(one: str, other: str, is_same: bool) -> None:
    for kind in ("invariant", "panic"):
        keys = [Key(kind, "E", (text,)).same for text in (one, other)]
        assert (keys[0] == keys[1]) is is_same


def test_lines_of_the_devices_code_tell_exceptions_apart() -> None:
    assert Key("exception", "E", ("Nic.send:1",)).same != Key("exception", "E", ("Nic.send:2",)).same


def test_memory_that_dma_reads_is_no_growth_of_the_device() -> None:
    fuzzer = DeviceFuzzer(Reader, seed=1, memory="4M", max_growth="5M", double_fetch=True)
    for _ in range(3):
        assert fuzzer.replay(fuzzer._native.encode([("write", 0, 4, 1, b"")] * 2)) is None
    assert fuzzer._host.memory is not None
    assert len(fuzzer._host.memory.given()) <= 1 << 18


def test_script_of_a_double_fetch_has_memory_keep_what_was_given_last(tmp_path: Path) -> None:
    fuzzer = DeviceFuzzer(Twice, seed=1, double_fetch=True)
    crash = next(crash for crash in fuzzer.run(executions=3000).crashes).minimize()
    crash.write_script(tmp_path / "again.py")
    done = subprocess.run(
        [sys.executable, tmp_path / "again.py"], capture_output=True, text=True, check=False
    )
    assert "ValueError: it has changed" in done.stderr


class Slow(Device):
    """Takes long before it fails."""

    go = Register(0x0, access="wo")

    @go.on_write
    def _go(self, value: int) -> None:
        time.sleep(0.02)
        raise ValueError("late")


def failing(fuzzer: DeviceFuzzer, operations: int) -> Crash:
    """The finding of an input of so many operations, of which the last is the one."""
    data = fuzzer._native.encode([("step", 1, 0, 0, b"")] * operations + [("write", 0, 4, 1, b"")])
    fuzzer._native.give([data])
    (crash,) = fuzzer.run(executions=1).crashes
    return crash


def test_minimizing_ends_where_the_time_is_up_and_goes_on_from_there() -> None:
    crash = failing(DeviceFuzzer(Slow, seed=1), 1000)
    assert len(crash.minimize(seconds=0).operations) == 1001
    began = time.monotonic()
    first = len(crash.minimize(seconds=0.05).operations)
    assert time.monotonic() - began < 10
    assert 1 < first < 1001
    assert len(crash.minimize(seconds=60).operations) == 1
    assert len(crash.shortest.operations) == 1
    with pytest.raises(ValueError, match="not a time"):
        crash.minimize(seconds=-1)


def test_minimizing_tells_how_far_it_is() -> None:
    fuzzer = DeviceFuzzer(Slow, seed=1)
    crash = failing(fuzzer, 300)
    told: list[str] = []
    crash.minimize(progress=lambda report: told.append(report.minimizing))
    assert told[0] == "exception, 301 operations to 301, 0 executions"
    assert len(told) > 1
    assert int(told[-1].split()[4].rstrip(",")) < 301
    assert fuzzer.report.minimizing == ""


def test_minimizing_that_is_interrupted_keeps_the_shortest_so_far() -> None:
    crash = failing(DeviceFuzzer(Slow, seed=1), 1000)
    main = threading.get_ident()
    sent = []

    def interrupt(report: Report) -> None:
        if not sent and report.minimizing.split()[3:5] != ["to", "1001,"]:
            sent.append(report.minimizing)
            signal.pthread_kill(main, signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        crash.minimize(progress=interrupt)
    assert sent
    assert 1 <= len(crash.shortest.operations) < 1001
    assert isinstance(DeviceFuzzer(Slow).replay(crash.shortest.input), ValueError)


def test_putting_a_device_back_is_in_the_report() -> None:
    fuzzer = DeviceFuzzer(Value, seed=1)
    assert fuzzer.report.reset_us is None
    reset_us = fuzzer.run(executions=100).reset_us
    assert reset_us is not None
    assert 0 < reset_us < 1e6


def test_crash_that_does_not_come_again_says_so_and_is_kept(tmp_path: Path) -> None:
    class Counts(Device):
        """Fails at its tenth write, whichever input that is in: what counts them is the class's."""

        value = Register(0x0)
        written = 0

        @value.on_write
        def _value(self, value: int) -> None:
            type(self).written += 1
            if self.written == 10:
                raise OverflowError("ten")

    fuzzer = DeviceFuzzer(Counts, seed=1, crashes=tmp_path)
    (crash,) = fuzzer.run(executions=200).crashes
    assert not crash.reproduces
    assert "(1 did not come again)" in str(fuzzer.report)
    assert crash.minimize(seconds=5) is crash
    (folder,) = tmp_path.iterdir()
    assert (folder / "error.txt").read_text().endswith("it did not come again\n")
    assert (folder / "input").read_bytes() == crash.input


def test_crash_that_comes_again_says_so() -> None:
    class Shelf(Device):
        place = Register(0x0)

        @place.on_write
        def _place(self, value: int) -> None:
            [0, 1, 2][value]

    (crash,) = DeviceFuzzer(Shelf, seed=1).run(executions=100).crashes
    assert crash.reproduces
    assert crash.minimize(seconds=5).reproduces


def test_panic_of_an_extension_module_is_found() -> None:
    class PanicException(BaseException):
        """As each extension module in Rust has one."""

    class Borrows(Device):
        place = Register(0x0)

        @place.on_write
        def _place(self, value: int) -> None:
            if value > 2:
                raise PanicException("index out of bounds")

    fuzzer = DeviceFuzzer(Borrows, seed=1)
    (crash,) = fuzzer.run(executions=200).crashes
    assert (crash.kind, type(crash.error).__name__, crash.reproduces) == ("panic", "PanicException", True)
    assert fuzzer.report.executions == 200


def test_invariant_that_raises_is_one_finding_whatever_it_says() -> None:
    class Counts(Device):
        value = Register(0x0)

    fuzzer = DeviceFuzzer(Counts, seed=1)

    def is_known(device: Counts) -> bool:
        words = "abcdefghij"
        raise LookupError("".join(words[int(digit)] for digit in str(int(device.value))))

    fuzzer.invariant(is_known)
    assert len({str(fuzzer.replay(data)) for data in (b"", *fuzzer.inputs)}) == 1
    (crash,) = fuzzer.run(executions=300).crashes
    assert crash.key.where[0].startswith("invariant is_known raises LookupError: ")
