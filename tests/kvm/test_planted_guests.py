"""The guests with planted bugs: the input of each ends it otherwise than by its halt, and not the one without its bug."""

from __future__ import annotations

import random
import re
from pathlib import Path

import pytest
from examples.planted.guests import GUESTS, LONGEST, PlantedGuest, machine_with, run

from hyperpy import Exit

LIST = Path(__file__).parents[2] / "docs/reference/planted-bugs.md"

each = pytest.mark.parametrize("guest", GUESTS, ids=lambda guest: guest.name)


@each
def test_planted_guest_given_its_proof_crashes(guest: PlantedGuest) -> None:
    with machine_with(guest) as machine:
        assert isinstance(run(machine, guest.proof), Exit.Shutdown | Exit.Mmio)


@each
def test_planted_guest_given_nothing_halts(guest: PlantedGuest) -> None:
    with machine_with(guest) as machine:
        assert run(machine, b"") == Exit.Halt(0)


@each
def test_fixed_guest_given_the_proof_halts(guest: PlantedGuest) -> None:
    with machine_with(guest, fixed=True) as machine:
        assert run(machine, guest.proof) == Exit.Halt(0)


@each
def test_fixed_guest_given_any_bytes_halts(guest: PlantedGuest) -> None:
    """Each from where it is about to read, as a fuzzer gives them."""
    rng = random.Random(guest.name)
    alphabet = sorted(set(guest.proof))
    with machine_with(guest, fixed=True) as machine:
        base = machine.snapshot()
        for _ in range(50):
            drawn = rng.randbytes(rng.randint(0, LONGEST))
            few = bytes(rng.choice(alphabet) for _ in range(rng.randint(0, LONGEST)))
            for data in (drawn, few):
                assert run(machine, data) == Exit.Halt(0)
                machine.restore(base)


def test_list_of_planted_bugs_says_what_guests_there_are() -> None:
    rows = re.findall(r"^\| (\w+) \| [^|]* \| ([^|]*) \| [^|]* \| crash \|$", LIST.read_text(), re.MULTILINE)
    assert rows == [(guest.name, guest.kind) for guest in GUESTS]
