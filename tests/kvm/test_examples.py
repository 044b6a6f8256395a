"""The examples that run bare guests, as a reader runs them: what they find is so, and they are short."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


def said(name: str, *arguments: str) -> list[str]:
    """What an example prints, line by line."""
    command = [sys.executable, str(EXAMPLES / f"{name}.py"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


@pytest.mark.parametrize("name", ["fork_fleet", "restore_loop", "hostile_nic"])
def test_example_has_less_than_80_lines(name: str) -> None:
    assert len((EXAMPLES / f"{name}.py").read_text().splitlines()) < 80


def test_fleet_of_forks_counts_the_primes_of_each_thousand() -> None:
    _, *rows = said("fork_fleet", "5")
    assert [row.split()[:5] for row in rows] == [
        [f"worker.{number}", str(number * 1000), "to", str(number * 1000 + 999), str(primes)]
        for number, primes in enumerate((168, 135, 127, 120, 119))
    ]


def test_loop_of_restores_finds_the_word_letter_by_letter() -> None:
    first, second = said("restore_loop", "abracadabra")
    letters = "abcdefghijklmnopqrstuvwxyz "
    runs = sum(letters.index(letter) + 1 for letter in "abracadabra")
    assert first.startswith(f"found 'abracadabra' by {runs} runs and restores, ")
    assert second.startswith("the last restore: 1 page in ")


def test_driver_that_believes_its_card_is_broken_by_one_that_lies_and_by_no_other() -> None:
    honest, found, crash = said("hostile_nic")
    assert honest == "a full packet: Exit.Halt(vcpu=0)"
    crashes, executions = re.findall(r"\d+", found)[:2]
    assert int(crashes) >= 1
    assert executions == "500"
    says = re.match(r"the card says that its packet has (\d+) bytes: <crash: Exit\.", crash)
    assert says
    # The handler's address begins after 64 bytes.
    assert int(says[1]) > 64
