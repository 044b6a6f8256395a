"""What the workers of a guest fuzzer tell each other: blocks that one has hit stop no other; and guests that kill their workers."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest
from tests.guests import assemble
from tests.parsers import DRIVER, INPUT, guest, labels

from hyperpy import Machine
from hyperpy.fuzz import Campaign, FuzzError, GuestCrash, GuestFuzzer

# Each block wants four bits more of the input, which nothing but chance finds.
DEPTH = 10
LINK = "mov al, [rbx + {at}]\nand al, 15\ncmp al, {wanted}\njne done\nblock{at}: nop\n"
CHAIN = (
    "mov ebx, 0x8000\n"
    + "".join(LINK.format(at=at, wanted=(at * 7 + 2) % 16) for at in range(DEPTH))
    + "done: hlt"
)


def chain_fuzzer(machine: Machine, seed: int) -> GuestFuzzer:
    at = labels(CHAIN)
    fuzzer = GuestFuzzer(machine, machine.snapshot(), seed=seed)
    fuzzer.input_at(gpa=INPUT, max_len=DEPTH)
    fuzzer.cover(breakpoints=[at[f"block{number}"] for number in range(DEPTH)], comparisons=False)
    return fuzzer


def test_blocks_that_another_has_hit_stop_a_fuzzer_no_more_and_its_inputs_are_known() -> None:
    with guest(CHAIN) as first, guest(CHAIN) as second:
        one, other = chain_fuzzer(first, 1), chain_fuzzer(second, 2)
        assert one.news() == []  # and from now on there are some
        while one.run(executions=1000).coverage < DEPTH // 2:
            pass
        assert one.stops == one.report.coverage
        news = one.news()
        assert [data for data, _ in news] == one.inputs
        assert sum(len(blocks) for _, blocks in news) == one.stops
        assert one.news() == []
        other.learn(news)
        assert (other.inputs, other.report.coverage, other.report.executions) == (
            one.inputs,
            one.report.coverage,
            0,
        )
        for data in one.inputs:
            other.replay(data)
        assert other.stops == 0
        other.learn(news)
        assert other.inputs == one.inputs
        # It goes on from there.
        other.run(executions=8000)
        assert other.stops == other.report.coverage - one.report.coverage


def test_block_that_nobody_knows_is_learned_by_nobody() -> None:
    with guest(CHAIN) as machine:
        fuzzer = chain_fuzzer(machine, 1)
        fuzzer.learn([(b"x" * 100_000, [0, 1 << 63]), (b"", [])])
        assert (fuzzer.inputs, fuzzer.report.coverage) == ([], 0)


TARGET = """
from tests.kvm.test_fuzz_guest_workers import CHAIN, chain_fuzzer
from tests.guests import assemble
from hyperpy import Flat, Machine

def target():
    machine = Machine(memory="1M")
    machine.load(Flat(assemble(CHAIN, "long"), at=0x1000, mode="long"))
    return chain_fuzzer(machine, 0)
"""


def test_breakpoints_are_shared_over_two_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "chain.py").write_text(TARGET)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    # Each of them alone would come to all of it in as many.
    report = Campaign(target=str(tmp_path / "chain.py"), workers=2, executions=30_000).run()
    assert report.coverage == DEPTH
    # Each block once; a few that both came to before they had heard of each other.
    assert DEPTH <= report.stops <= DEPTH * 7 // 4


# A device that ends the process for one answer that it has from the input.
DEADLY = """
import os
from hyperpy import Device, Exit, Flat, Machine
from hyperpy.fuzz import GuestFuzzer

class Deadly(Device):
    size = 4
    saved_attributes = ()

    def read(self, offset: int, size: int) -> int:
        data = self.fuzz_input.read(size)
        if data[:1] == b"Z":
            os._exit(9)
        return int.from_bytes(data, "little")

    def write(self, offset: int, size: int, value: int) -> None:
        pass

def target() -> GuestFuzzer:
    machine = Machine(memory="1M")
    device = machine.attach(Deadly(), pio=0x60)
    machine.load(Flat(bytes.fromhex("{code}"), at=0x1000, mode="long"))
    fuzzer = GuestFuzzer(machine, machine.snapshot())
    fuzzer.input_device(device)
    fuzzer.crash_on(Exit.Mmio)
    return fuzzer
"""


def test_guest_input_that_kills_its_worker_is_a_crash_of_the_fuzzer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "deadly.py").write_text(DEADLY.format(code=assemble(DRIVER, "long").hex()))
    monkeypatch.syspath_prepend(str(tmp_path))
    target = importlib.import_module("deadly").target
    fuzzer = GuestFuzzer.of(target, workers=2, crashes=tmp_path / "crashes")
    with fuzzer.machine:
        for _ in range(20):
            report = fuzzer.run(seconds=2)
            if killed := [crash for crash in report.crashes if crash.kind == "killed"]:
                break
        crash = killed[0]
        assert isinstance(crash, GuestCrash)
        assert b"Z" in crash.input
        assert crash.key.raised == "status 9"
        assert (tmp_path / "crashes" / f"killed-{crash.key.where[0]}" / "input").read_bytes() == crash.input
        assert "the end of its worker: status 9" in str(crash.error)
        assert crash.minimize() is crash
        with pytest.raises(FuzzError):
            _ = crash.state
        assert crash.operations[0].startswith("devices: ")
        assert crash.save(tmp_path / "again").name.startswith("killed-")
