"""Findings of guests that something else decides too: they are kept and said to be so, and end nothing. And which findings are one."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.guests import assemble
from tests.parsers import CODE, DRIVER, INPUT, guest

from hyperpy.fuzz import Campaign, FuzzError, GuestCrash, GuestFuzzer

# A device whose seventh answer alone is wrong: what counts them is no state of the machine's.
TARGET = """
from hyperpy import Device, Exit, Flat, Machine
from hyperpy.fuzz import GuestFuzzer

class Seldom(Device):
    size = 4
    saved_attributes = ()
    reads = 0

    def read(self, offset: int, size: int) -> int:
        if size == 1:
            Seldom.reads += 1
            return ord("X") if Seldom.reads == 7 else 0
        return 0

    def write(self, offset: int, size: int, value: int) -> None:
        pass

def target() -> GuestFuzzer:
    machine = Machine(memory="1M")
    machine.attach(Seldom(), pio=0x60)
    machine.load(Flat(bytes.fromhex("{code}"), at=0x1000, mode="long"))
    fuzzer = GuestFuzzer(machine, machine.snapshot())
    fuzzer.input_at(gpa=0x8000, max_len=4)
    fuzzer.cover(comparisons=False)
    fuzzer.crash_on(Exit.Mmio)
    return fuzzer
"""


def seldom(folder: Path) -> Path:
    file = folder / "seldom.py"
    # Compared before the second read, which takes the place of al.
    source = DRIVER.replace("in eax, 0x60\n    mov [0x18004], eax", "nop")
    file.write_text(TARGET.format(code=assemble(source, "long").hex()))
    return file


def fuzzer_of(file: Path) -> GuestFuzzer:
    made: dict[str, object] = {}
    exec(compile(file.read_text(), str(file), "exec"), made)
    target = made["target"]
    assert callable(target)
    fuzzer = target()
    assert isinstance(fuzzer, GuestFuzzer)
    return fuzzer


def test_crash_that_does_not_come_again_is_kept_and_told_and_the_run_goes_on(tmp_path: Path) -> None:
    fuzzer = fuzzer_of(seldom(tmp_path))
    fuzzer.configure(seed=1, corpus=None, crashes=tmp_path / "crashes")
    with fuzzer.machine:
        report = fuzzer.run(executions=20)
        assert report.executions == 20
        (crash,) = report.crashes
        assert isinstance(crash, GuestCrash)
        assert (crash.exit, crash.reproduces) == ("Mmio", False)
        assert "1 (1 did not come again)" in str(report)
        assert "does not come again" in repr(crash)
        (folder,) = (tmp_path / "crashes").iterdir()
        assert "did not come again" in (folder / "error.txt").read_text()
        assert (folder / "input").read_bytes() == crash.input
        # What it was like was seen when it was found.
        assert "regs.rip: 0x1000 -> 0x" in (folder / "state.txt").read_text()
        assert crash.minimize() is crash


def test_crash_of_another_process_that_does_not_come_again_has_no_state(tmp_path: Path) -> None:
    fuzzer = fuzzer_of(seldom(tmp_path))
    fuzzer.configure(seed=1, corpus=None, crashes=tmp_path / "crashes")
    with fuzzer.machine:
        (crash,) = fuzzer.run(executions=20).crashes
        assert isinstance(crash, GuestCrash)
        other = GuestCrash(fuzzer, crash.input, crash._found)
        assert (other.reproduces, other.trace, other.state_difference) == (False, (), {})
        with pytest.raises(FuzzError, match="crash does not come again"):
            _ = other.state
        assert other.save(tmp_path / "crashes") == crash.save(tmp_path / "crashes")


def test_workers_keep_a_crash_that_does_not_come_again(tmp_path: Path) -> None:
    campaign = Campaign(target=str(seldom(tmp_path)), executions=20, crashes=str(tmp_path / "crashes"))
    (finding,) = campaign.run().crashes
    assert (finding.kind, finding.reproduces) == ("exit", False)
    assert finding.folder is not None
    assert (Path(finding.folder) / "finding.json").exists()


def test_fuzzer_of_several_workers_has_a_crash_that_does_not_come_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seldom(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    import seldom as module  # type: ignore[import-not-found] # it was written just now

    fuzzer = GuestFuzzer.of(module.target, workers=2)
    with fuzzer.machine:
        report = fuzzer.run(executions=40)
        assert not report.problems
        (crash,) = fuzzer.crashes
        assert (crash.exit, crash.reproduces) == ("Mmio", False)


# One instruction that raises #DE by what it divides by, or #GP by where that is; both handlers are there.
DIVIDES = """
    mov word ptr [0], offset divided
    mov word ptr [2], 0
    mov word ptr [52], offset protected
    mov word ptr [54], 0
    mov bx, [0x8000]
    div word ptr [bx]
    hlt
divided:
    iret
protected:
    iret
"""


def test_two_exceptions_at_one_instruction_are_two_findings() -> None:
    with guest(DIVIDES, "real") as machine:
        machine.vcpus[0].run_until(CODE + 24, timeout=10.0)
        fuzzer = GuestFuzzer(machine, machine.snapshot())
        fuzzer.input_at(gpa=INPUT, max_len=2)
        fuzzer.crash_on(vectors=[0, 13])
        divided, protected = fuzzer.replay(b"\x00\x90"), fuzzer.replay(b"\xff\xff")
        assert divided is not None
        assert protected is not None
        assert (divided.vectors, protected.vectors, divided.rip) == ((0,), (13,), protected.rip)
        assert divided.key != protected.key
        assert (divided.key.raised, protected.key.raised) == ("exception 0", "exception 13")
        # Which is found first does not matter.
        found = {crash.key for crash in fuzzer.run(executions=3000).crashes}
        assert {divided.key, protected.key} <= found
