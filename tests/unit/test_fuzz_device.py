"""The device fuzzer: what it finds, how it puts devices back, and that a seed decides all of it."""

from __future__ import annotations

import enum
import gc
import signal
import sys
import threading
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))
from fuzzed import Copier, Hungry, Loop, Mailbox, Queue, Sticky, is_bounded
from hyperpy import DebugExit, Device, Machine, Register, _hyperpy
from hyperpy.device import _Stock
from hyperpy.errors import DeclarationError
from hyperpy.fuzz import DeviceFuzzer, FuzzError, event


class Mode(enum.Flag):
    ON = 1


class Bits(enum.IntFlag):
    ON = 1


class Panicking(_Stock):
    def __init__(self) -> None:
        super().__init__(_hyperpy.StockDevice.panicking())


class Firmware(_Stock):
    def __init__(self, machine: Machine) -> None:
        super().__init__(_hyperpy.StockDevice.fw_cfg(machine._native, [("opt/x", bytes(range(16)))]))


def test_bug_behind_an_index_is_found_and_minimised_to_its_two_operations() -> None:
    crash = DeviceFuzzer(Mailbox, seed=1).run(executions=500).crashes[0]
    small = crash.minimize()
    assert (small.kind, type(small.error)) == ("exception", IndexError)
    assert small.operations == ("write slot (0x0, 4 bytes): 0x8", "write letter (0x4, 4 bytes): 0x0")
    assert len(small.operations) <= 0.2 * len(crash.operations)
    assert isinstance(DeviceFuzzer(Mailbox).replay(small.input), IndexError)


def test_invariant_that_takes_many_operations_is_found_and_minimised() -> None:
    fuzzer = DeviceFuzzer(Queue, seed=1)
    assert fuzzer.invariant(is_bounded) is is_bounded
    crashes = fuzzer.run(executions=20_000).crashes
    small = next(crash for crash in crashes if crash.kind == "invariant").minimize()
    assert small.operations.count("write push (0x4, 4 bytes): 0x0") == 21
    assert len(small.operations) == 22
    assert small.trace[-1] == "at the end -> InvariantError: invariant is_bounded does not hold"
    assert small.state_difference["level"] == ("0x0", "0x15")


def test_event_of_the_host_gets_its_data_from_the_input() -> None:
    crashes = DeviceFuzzer(Queue, seed=2).run(executions=20_000).crashes
    small = next(crash for crash in crashes if crash.key.raised == "RuntimeError").minimize()
    assert small.operations == ("write control (0x0, 4 bytes): 0x4", "event receive: 2 bytes, 55aa")


def test_memory_for_dma_comes_from_the_input() -> None:
    crash = DeviceFuzzer(Copier, seed=1).run(executions=5000).crashes[0].minimize()
    assert type(crash.error) is IndexError
    kinds = [line.split()[0].rstrip(":") for line in crash.operations]
    assert kinds.count("memory") in {1, 2}
    assert kinds[-1] == "write"


def test_same_seed_gives_the_same_executions_corpus_and_crashes_byte_for_byte() -> None:
    def campaign(seed: int, slices: int) -> object:
        fuzzer = DeviceFuzzer(Queue, seed=seed)
        fuzzer.invariant(is_bounded)
        for _ in range(slices):
            report = fuzzer.run(executions=6000 // slices)
        found = [(crash.input, crash.key, crash.minimize().input) for crash in report.crashes]
        return report.executions, report.operations, report.coverage, fuzzer.inputs, found

    assert campaign(5, 1) == campaign(5, 1) == campaign(5, 40)
    assert campaign(5, 1) != campaign(6, 1)


def test_nothing_of_one_input_reaches_the_next() -> None:
    fuzzer = DeviceFuzzer(Sticky, seed=1)
    report = fuzzer.run(executions=3000)
    assert report.operations > 10_000
    assert report.crashes == ()
    plain = DeviceFuzzer(Queue, seed=1)
    plain.run(executions=500)
    assert plain._host.begin()
    assert (plain.device.level, plain.device.control) == (0, 0)


def test_operation_that_does_not_end_is_a_hang_and_the_search_goes_on() -> None:
    fuzzer = DeviceFuzzer(Loop, seed=1, dictionary=[0x77])
    report = fuzzer.run(executions=400)
    assert [crash.kind for crash in report.crashes] == ["hang"]
    assert report.executions == 400
    assert len(report.crashes[0].minimize().operations) == 1


@pytest.fixture
def no_gc_callbacks() -> Iterator[None]:
    """Hypothesis has one: a `Hang` that comes in it is told as unraisable, and comes again."""
    before = gc.callbacks[:]
    gc.callbacks.clear()
    yield
    gc.callbacks[:] = before


@pytest.mark.usefixtures("no_gc_callbacks")
def test_loop_outside_of_the_devices_code_is_ended_by_the_time_limit() -> None:
    class Counts(Device):
        size = 4

        def write(self, offset: int, size: int, value: int) -> None:
            if value == 0x77:
                Random(1).shuffle(list(range(1 << 20)))  # Python, and none of it the device's

    report = DeviceFuzzer(Counts, seed=1, dictionary=[0x77], time_limit=0.2).run(executions=25)
    assert report.executions == 25
    assert [crash.kind for crash in report.crashes] == ["hang"]


def test_input_that_makes_the_process_grow_is_found() -> None:
    report = DeviceFuzzer(Hungry, seed=1).run(executions=200)
    assert [crash.kind for crash in report.crashes] == ["memory"]
    small = report.crashes[0].minimize()
    assert len(small.operations) == 1


def test_device_in_rust_begins_each_input_as_the_first_whatever_ran_before() -> None:
    """One run of many inputs, and many of one: the same corpus. fw_cfg remembers what was selected."""
    corpora = []
    with Machine(memory="1M") as m:
        for slices in ([300], [1] * 300):
            fuzzer = DeviceFuzzer(lambda: Firmware(m), seed=3)
            for count in slices:
                fuzzer.run(executions=count)
            corpora.append(fuzzer.inputs)
    assert corpora[0] == corpora[1]
    assert len(corpora[0]) > 1


def test_panic_of_a_device_in_rust_is_found() -> None:
    report = DeviceFuzzer(Panicking, seed=1).run(executions=50)
    assert {crash.kind for crash in report.crashes} == {"panic"}
    found = {crash.minimize().operations for crash in report.crashes}
    assert found == {("read 0x0, 1 byte",), ("write 0x0, 1 byte: 0x0",)}


def test_device_in_rust_is_fuzzed_with_and_without_invariants() -> None:
    for has_invariant in (False, True):
        fuzzer = DeviceFuzzer(DebugExit, seed=1)
        if has_invariant:
            fuzzer.invariant(lambda device: device.size == 4)
        assert fuzzer.run(executions=500).crashes == ()


def test_exception_that_is_allowed_is_no_crash() -> None:
    assert DeviceFuzzer(Mailbox, seed=1, allowed=(IndexError,)).run(executions=500).crashes == ()


def test_access_that_the_declaration_refuses_is_no_crash() -> None:
    class Strict(Device):
        access_rule = "refuse"
        value = Register(0x0)

    report = DeviceFuzzer(Strict, seed=1).run(executions=500)
    assert report.crashes == ()
    assert report.executions == 500


def test_ctrl_c_ends_the_run_soon_and_keeps_what_was_found(tmp_path: Path) -> None:
    fuzzer = DeviceFuzzer(Mailbox, seed=1, corpus=tmp_path / "corpus", crashes=tmp_path / "crashes")
    sent = []

    def interrupt() -> None:
        while not (fuzzer._crashes and (tmp_path / "corpus").exists()):
            time.sleep(0.01)
        sent.append(time.monotonic())
        signal.pthread_kill(main, signal.SIGINT)

    main = threading.get_ident()
    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        fuzzer.run(seconds=60)
    took = time.monotonic() - sent[0]
    thread.join()
    assert took < 2
    assert len(fuzzer.report.crashes) == 1
    assert len(list((tmp_path / "crashes").iterdir())) == 1
    assert len(list((tmp_path / "corpus").iterdir())) == fuzzer.report.corpus


def test_fuzzer_used_from_inside_its_device_is_refused() -> None:
    holder: list[DeviceFuzzer] = []

    class Recursive(Device):
        size = 4

        def write(self, offset: int, size: int, value: int) -> None:
            holder[0].run(executions=1)

    holder.append(DeviceFuzzer(Recursive, seed=1))
    crash = holder[0].run(executions=20).crashes[0]
    assert "fuzzer is running" in str(crash.error)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_ops": 0}, "number of operations is out of range: 0"),
        ({"time_limit": 0}, "not a time: 0"),
    ],
)
def test_options_that_cannot_be_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DeviceFuzzer(Mailbox, **options)  # type: ignore[arg-type] # that is the test


def test_device_that_is_made_already_a_run_without_an_end_and_a_second_beginning_are_refused() -> None:
    with pytest.raises(TypeError, match="device is made already: Mailbox"):
        DeviceFuzzer(Mailbox())  # type: ignore[arg-type] # that is the test
    fuzzer = DeviceFuzzer(Mailbox)
    with pytest.raises(ValueError, match="run has no end"):
        fuzzer.run()
    fuzzer.run(executions=1)
    with pytest.raises(FuzzError, match="has run already"):
        fuzzer.configure(seed=1, corpus=None, crashes=None)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seed": "x"}, "not a seed: 'x'"),
        ({"dictionary": b"magic"}, "dictionary is one word: b'magic'"),
        ({"dictionary": [1.5]}, "not a word of a dictionary: 1.5"),
        ({"allowed": (ValueError("x"),)}, "not a class of exceptions: ValueError"),
    ],
)
def test_options_of_another_type_are_refused_before_anything_runs(
    options: dict[str, object], message: str
) -> None:
    with pytest.raises(TypeError, match=message):
        DeviceFuzzer(Mailbox, **options)  # type: ignore[arg-type] # that is the test


def test_invariant_that_is_no_function_is_refused() -> None:
    with pytest.raises(TypeError, match="not a function: 5"):
        DeviceFuzzer(Mailbox).invariant(5)  # type: ignore[type-var] # that is the test


@pytest.mark.parametrize(
    ("seconds", "executions"), [(-1.0, None), (float("nan"), None), (None, -1), (None, 2.5)]
)
def test_run_that_cannot_end_is_refused(seconds: float | None, executions: Any) -> None:
    with pytest.raises(ValueError, match="run cannot end"):
        DeviceFuzzer(Mailbox).run(seconds=seconds, executions=executions)


def test_growth_without_a_limit_is_no_finding() -> None:
    assert DeviceFuzzer(Hungry, max_growth=0, seed=1).run(executions=300).crashes == ()


@pytest.mark.parametrize("held", [Mode(0), Bits(0), Bits(8), "\ud800"])
def test_attribute_that_has_no_name_or_is_no_text_is_no_finding(held: object) -> None:
    class Holding(Device):
        value = Register(0x0)

        def __init__(self) -> None:
            self.held = held

    report = DeviceFuzzer(Holding, seed=1).run(executions=50)
    assert report.crashes == ()
    assert report.coverage > 0


def test_flags_that_have_no_name_are_told_apart() -> None:
    class Steps(Device):
        go = Register(0x0, access="wo")

        def __init__(self) -> None:
            self.bits = Bits(0)

    device = Steps()
    fuzzer = DeviceFuzzer(lambda: device)
    before = fuzzer._host.end()
    device.bits = Bits(8)
    assert fuzzer._host.end() != before


def test_event_that_cannot_be_called_is_refused() -> None:
    with pytest.raises(DeclarationError, match="takes other arguments"):

        @event
        def several(self: object, one: bytes, two: bytes) -> None: ...

    with pytest.raises(DeclarationError, match="no such number of bytes: 0"):
        event(max_bytes=0)


class Locked(Device):
    """Has keys that stand nowhere in its code."""

    key = Register(0x0, access="wo")

    def __init__(self) -> None:
        self.opens = zlib.crc32(b"opens")
        self.deeper = [zlib.crc32(b"deeper")]

    @key.on_write
    def _key(self, value: int) -> None:
        if value == self.opens:
            raise RuntimeError("open")
        if value == self.deeper[0]:
            raise ValueError("deeper")


def test_numbers_that_a_device_holds_are_in_later_inputs() -> None:
    report = DeviceFuzzer(Locked, seed=1).run(executions=3000)
    assert {crash.key.raised for crash in report.crashes} == {"RuntimeError", "ValueError"}
