"""What the guest fuzzer finds: what is kept of it, scripts that reproduce it, several workers, and plans that are refused."""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from tests.guests import assemble
from tests.parsers import CODE, DRIVER, INPUT, PARSER, guest, labels, parser_fuzzer

from hyperpy import Exit, Flat, KvmUnavailable, Machine, StateError
from hyperpy.doctor import flavour
from hyperpy.fuzz import FuzzError, GuestFuzzer, InputDevice


def test_crash_state_has_no_trace_of_breakpoints() -> None:
    with guest(PARSER) as machine:
        fuzzer = parser_fuzzer(machine)
        with_patches = fuzzer.replay(b"FUZ\x20")
        assert with_patches is not None
        state = with_patches.state
        code = assemble(PARSER, "long")
        assert state.read(CODE, len(code)) == code
    with guest(PARSER) as machine:
        plain = GuestFuzzer(machine, machine.snapshot())
        plain.input_at(gpa=INPUT, max_len=64, length_register="rsi")
        plain.crash_on(Exit.Mmio)
        without = plain.replay(b"FUZ\x20")
        assert without is not None
        assert without.state.hash() == state.hash()


def test_breakpoints_that_kvm_does_not_hand_over_are_refused() -> None:
    """Or covered by int3, where KVM knows it."""
    with Machine(memory="1M", irqchip=True) as machine:
        machine.load(Flat(assemble(PARSER, "long"), at=CODE, mode="long"))
        fuzzer = GuestFuzzer(machine, machine.snapshot())
        fuzzer.input_at(gpa=INPUT, max_len=64, length_register="rsi")
        at = labels(PARSER)
        fuzzer.stop_at(at["done"])
        fuzzer.cover(breakpoints=[at["third"]])
        fuzzer.crash_on(Exit.Mmio)
        if flavour() == "page-table":
            with pytest.raises(KvmUnavailable, match="hands no int3 of this guest over") as caught:
                fuzzer.run(executions=1)
            assert "HLT" in (caught.value.hint or "")
            assert machine.memory.read(CODE, 64) == assemble(PARSER, "long")[:64].ljust(64, b"\0")
        else:
            assert fuzzer.replay(b"FUZ\x20") is not None
            assert fuzzer.replay(b"FUZ\x01") is None


def test_fuzzer_that_was_not_told_where_inputs_go_is_refused() -> None:
    with guest(PARSER) as machine:
        for workers in (1, 2):
            fuzzer = GuestFuzzer(machine, machine.snapshot(), workers=workers)
            with pytest.raises(FuzzError, match="guest gets no input") as caught:
                fuzzer.run(executions=1)
            assert "input_at(gpa=" in (caught.value.hint or "")
            with pytest.raises(FuzzError, match="guest gets no input"):
                fuzzer.replay(b"")
            # It can be told still.
            fuzzer.input_register("rsi")


def test_interrupt_ends_a_run_whose_guest_spins() -> None:
    with guest("again: jmp again") as machine:
        fuzzer = GuestFuzzer(machine, machine.snapshot())
        fuzzer.input_register("rdi")
        fuzzer.limit(ms=60_000)
        sent: list[float] = []

        def send() -> None:
            sent.append(time.monotonic())
            os.kill(os.getpid(), signal.SIGINT)

        timer = threading.Timer(0.2, send)
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            fuzzer.run(executions=10)
        took = time.monotonic() - sent[0]
        timer.join()
        assert took < 2.0  # a tenth of a second, where nobody else is
        assert fuzzer.report.executions == 0


def test_fuzzer_that_has_begun_cannot_be_told_more() -> None:
    with guest(PARSER) as machine:
        fuzzer = parser_fuzzer(machine)
        fuzzer.run(executions=1)
        with pytest.raises(StateError, match="has begun"):
            fuzzer.stop_at(0x1000)


def test_plan_that_does_not_fit_is_refused() -> None:
    with guest(PARSER) as machine:
        base = machine.snapshot()

        def refused(tell: str) -> str:
            fuzzer = GuestFuzzer(machine, base)
            fuzzer.input_register("rdi")
            code = compile(f"{tell}\nf.run(executions=1)", "plan", "exec")
            with pytest.raises(ValueError, match=r"hint: ") as caught:
                exec(code, {"f": fuzzer})
            return str(caught.value).partition("\n")[0]

        assert refused("f.input_at(gpa=0, max_len=0)") == "length of an input is out of range: 0"
        assert refused("f.input_at(gpa=0xFFFFC, max_len=8)") == "no memory for an input of 8 bytes at 0xffffc"
        assert refused("f.input_register('eip')").startswith("no such general register: 'eip'")
        assert refused("f.stop_at(0x7000000)") == "no memory behind the code at 0x7000000"
        assert refused("f.cover(window=(0x10001, 0x1000))").startswith(
            "window of counters at 0x10001 does not fit"
        )
        assert refused("f.limit(ms=0)") == "limit in milliseconds is out of range: 0"
        assert refused("from hyperpy import Exit; f.crash_on(Exit.Timeout)") == (
            "no end of an execution: Exit.Timeout"
        )
        assert refused("f.crash_on(vectors=[32])") == "no such exception: 32"


def test_what_is_no_machine_device_or_end_is_refused() -> None:
    with guest(PARSER) as machine:
        with pytest.raises(TypeError, match="not a machine: None"):
            GuestFuzzer(None, machine.snapshot())  # type: ignore[arg-type] # on purpose
        fuzzer = parser_fuzzer(machine)
        with pytest.raises(TypeError, match="not a device, but a class: InputDevice"):
            fuzzer.input_device(InputDevice)
        for seconds, executions in ((-1.0, None), (float("nan"), None), (None, -5)):
            with pytest.raises(ValueError, match="run cannot end"):
                fuzzer.run(seconds=seconds, executions=executions)
        with pytest.raises(TypeError, match="device takes no input: 5"):
            fuzzer.input_device(5)
        with pytest.raises(TypeError, match=r"not an address of code: \[4096\]"):
            fuzzer.stop_at([0x1000])  # type: ignore[arg-type] # on purpose
        crash = fuzzer.replay(b"FUZ\x20")
        assert crash is not None
        for seconds in (-1.0, float("nan")):
            with pytest.raises(ValueError, match="not a time"):
                crash.minimize(seconds=seconds)


def test_crash_folder_has_all_that_is_known_and_its_script_reproduces(tmp_path: Path) -> None:
    with guest(PARSER, trace=64) as machine:
        fuzzer = parser_fuzzer(machine)
        crash = fuzzer.replay(b"FUZ\x20")
        assert crash is not None
        folder = crash.save(tmp_path)
        names = {"base.hps", "error.txt", "finding.json", "input", "operations.txt", "reproduce.py"}
        names |= {"state.txt", "trace.txt"}
        assert {file.name for file in folder.iterdir()} == names
        assert (folder / "input").read_bytes() == b"FUZ\x20"
        assert "gpa 0x8000: 4 bytes, rsi = 4" in (folder / "operations.txt").read_text()
        assert "mmio read  0x7000000" in (folder / "trace.txt").read_text()
        assert "regs.rip" in (folder / "state.txt").read_text()
        assert crash.save(tmp_path) == folder
    done = _python(folder / "reproduce.py")
    assert done.returncode == 1
    assert "the guest ends by Exit.Mmio 0x7000000" in done.stderr


def test_scripts_of_two_machines_in_one_folder_have_a_snapshot_each(tmp_path: Path) -> None:
    for name, address in (("one", 0x7000000), ("two", 0x7100000)):
        with guest(PARSER.replace("0x7000000", hex(address))) as machine:
            crash = parser_fuzzer(machine).replay(b"FUZ\x20")
            assert crash is not None
            crash.write_script(tmp_path / f"{name}.py")
    assert {file.name for file in tmp_path.iterdir()} == {"one.py", "one.hps", "two.py", "two.hps"}
    assert "Exit.Mmio 0x7000000" in _python(tmp_path / "one.py").stderr
    assert "Exit.Mmio 0x7100000" in _python(tmp_path / "two.py").stderr


def _python(script: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, timeout=60, check=False
    )


TARGET = """
from hyperpy import Exit, Flat, Machine
from hyperpy.fuzz import GuestFuzzer, InputDevice

def target() -> GuestFuzzer:
    machine = Machine(memory="1M")
    device = machine.attach(InputDevice(size=4), pio=0x60)
    machine.load(Flat(bytes.fromhex("{code}"), at=0x1000, mode="long"))
    fuzzer = GuestFuzzer(machine, machine.snapshot())
    fuzzer.input_device(device)
    fuzzer.crash_on(Exit.Mmio)
    return fuzzer
"""


def test_fuzzer_of_a_function_has_a_script_that_calls_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "hostile_target.py"
    file.write_text(TARGET.format(code=assemble(DRIVER, "long").hex()))
    monkeypatch.syspath_prepend(str(tmp_path))
    module = importlib.import_module("hostile_target")
    fuzzer = GuestFuzzer.of(module.target, seed=1)
    with fuzzer.machine:
        crash = fuzzer.replay(b"aXbcd")
        assert crash is not None
        crash.write_script(tmp_path / "again.py")
    done = _python(tmp_path / "again.py")
    assert done.returncode == 1
    assert "GuestFault: the guest ends by Exit.Mmio" in done.stderr


def test_several_workers_find_what_one_does(tmp_path: Path) -> None:
    with guest(PARSER) as machine:
        fuzzer = parser_fuzzer(machine, corpus=tmp_path / "corpus")
        fuzzer.workers = 2
        report = fuzzer.run(executions=20_000)
        assert [crash.exit for crash in fuzzer.crashes] == ["Mmio"]
        assert report.executions >= 20_000
        assert not report.problems
        assert any((tmp_path / "corpus").iterdir())
