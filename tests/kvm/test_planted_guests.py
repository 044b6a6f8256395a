"""The guests with planted bugs: the input of each ends it otherwise than it should end, and not the one without its bug."""

from __future__ import annotations

import random
import re
from pathlib import Path

import pytest
from examples.planted.guests import GUESTS, LONGEST, PlantedGuest, fuzzer_of, machine_with, run

from hyperpy import Exit

LIST = Path(__file__).parents[2] / "docs/reference/planted-bugs.md"

(RACE,) = (guest for guest in GUESTS if guest.vcpus > 1)
each = pytest.mark.parametrize("guest", GUESTS, ids=lambda guest: guest.name)


@each
def test_planted_guest_given_its_proof_crashes(guest: PlantedGuest) -> None:
    with machine_with(guest) as machine:
        assert isinstance(run(machine, guest.proof), Exit.Shutdown | Exit.Mmio | Exit.InternalError)


@each
def test_planted_guest_given_nothing_ends(guest: PlantedGuest) -> None:
    with machine_with(guest) as machine:
        assert guest.is_end(run(machine, b""))


@each
def test_fixed_guest_given_the_proof_ends(guest: PlantedGuest) -> None:
    with machine_with(guest, fixed=True) as machine:
        assert guest.is_end(run(machine, guest.proof))


@each
def test_fixed_guest_given_any_bytes_ends(guest: PlantedGuest) -> None:
    """Each from where it is about to read, as a fuzzer gives them."""
    rng = random.Random(guest.name)
    alphabet = sorted(set(guest.proof))
    with machine_with(guest, fixed=True) as machine:
        base = machine.snapshot()
        for _ in range(50):
            drawn = rng.randbytes(rng.randint(0, LONGEST))
            few = bytes(rng.choice(alphabet) for _ in range(rng.randint(0, LONGEST)))
            for data in (drawn, few):
                assert guest.is_end(run(machine, data))
                machine.restore(base)


@each
def test_fuzzer_finds_the_bug_of_a_guest_and_not_in_the_fixed_one(guest: PlantedGuest) -> None:
    with machine_with(guest) as machine, machine_with(guest, fixed=True) as fixed:
        fuzzer = fuzzer_of(guest, machine, seed=1)
        while not fuzzer.run(executions=50).crashes:
            assert fuzzer.report.executions < 50_000
        found = fuzzer.crashes[0].input
        assert fuzzer.replay(found) is not None
        assert guest.is_end(run(fixed, found))


def test_race_of_two_vcpus_comes_out_the_same_each_time() -> None:
    with machine_with(RACE) as machine:
        base, ends = machine.snapshot(), set()
        for _ in range(20):
            exit_ = run(machine, RACE.proof)
            ends.add((exit_, machine.vcpus[0].regs.rip, machine.memory.read(0xA000, 8)))
            machine.restore(base)
        assert len(ends) == 1


def test_campaign_on_two_vcpus_is_the_same_for_one_seed() -> None:
    def campaign(seed: int) -> list[bytes]:
        with machine_with(RACE) as machine:
            fuzzer = fuzzer_of(RACE, machine, seed=seed)
            fuzzer.run(executions=400)
            return [*fuzzer.inputs, *(crash.input for crash in fuzzer.crashes)]

    assert campaign(1) == campaign(1) != campaign(2)


def test_list_of_planted_bugs_says_what_guests_there_are() -> None:
    rows = re.findall(r"^\| (\w+) \| [^|]* \| ([^|]*) \| [^|]* \| crash \|$", LIST.read_text(), re.MULTILINE)
    assert rows == [(guest.name, guest.kind) for guest in GUESTS]
