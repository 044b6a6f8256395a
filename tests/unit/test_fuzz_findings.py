"""What tells two findings apart: what they say, but for numbers; and what counts as a device's growth."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))
from fuzzed import Twice
from hyperpy import Device, Register
from hyperpy._fuzz_findings import Key
from hyperpy.fuzz import DeviceFuzzer


class Value(Device):
    value = Register(0x0)


class Reader(Device):
    """Reads much, and keeps nothing."""

    dma = True
    go = Register(0x0, access="wo")

    @go.on_write
    def _go(self, value: int) -> None:
        for gpa in range(0, 48 << 20, 1 << 20):
            self.memory.read(gpa, 1 << 20)


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
    fuzzer = DeviceFuzzer(Reader, seed=1, memory="64M", max_growth="8M", double_fetch=True)
    data = fuzzer._native.encode([("write", 0, 4, 1, b"")] * 4)
    assert fuzzer.replay(data) is None
    assert fuzzer.run(executions=20).crashes == ()
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
