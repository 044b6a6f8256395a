"""The planted bugs: each proof shows its bug, with all of its operations and not with fewer, and not on the device without it."""

from __future__ import annotations

import json
import random
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from benches.python import planted_page
from examples.planted import PLANTED, Planted, lockbox, ne2000, sdslot, uniform, watchdog
from examples.planted.guests import GUESTS
from examples.planted.playing import MEMORY, play, prepare
from examples.planted.table import Event, Operation

from hyperpy.testing import DeviceBench

ROOT = Path(__file__).parents[2]
LIST, GUIDE = ROOT / "docs/reference/planted-bugs.md", ROOT / "docs/guides/bugs-fuzzers-find.md"
LOCKBOX = lockbox.PLANTED

each = pytest.mark.parametrize("planted", PLANTED, ids=lambda planted: planted.name)


def shown(
    planted: Planted, operations: tuple[Operation, ...] | None = None, *, fixed: bool = False
) -> str | None:
    bench = DeviceBench((planted.fixed if fixed else planted.device)(), memory=MEMORY)
    prepare(bench, planted.memory)
    return play(bench, planted.proof if operations is None else operations, planted.invariants)


def needed(planted: Planted) -> int:
    """How many operations of the proof nothing is found without."""
    proof = planted.proof
    return sum(shown(planted, proof[:at] + proof[at + 1 :]) is None for at in range(len(proof)))


@each
def test_planted_device_given_its_proof_shows_the_bug(planted: Planted) -> None:
    assert shown(planted) == planted.shows


@each
def test_planted_device_given_its_proof_without_one_operation_shows_nothing(planted: Planted) -> None:
    assert needed(planted) == len(planted.proof)


@each
def test_planted_device_shows_the_bug_at_the_last_operation_and_not_before(planted: Planted) -> None:
    assert shown(planted, planted.proof[:-1]) is None


@each
def test_fixed_device_given_the_proof_shows_nothing(planted: Planted) -> None:
    assert shown(planted, fixed=True) is None


@each
def test_fixed_device_is_the_planted_one_but_for_its_fix(planted: Planted) -> None:
    assert issubclass(planted.fixed, planted.device)
    changed = {name for name, value in vars(planted.fixed).items() if callable(value)} - {"__init__"}
    assert len(changed) == 1
    assert changed <= set(dir(planted.device))


@each
def test_planted_device_put_back_after_its_proof_is_a_new_one(planted: Planted) -> None:
    """By a snapshot and by the reset button: a fuzzer uses both, and must not see what was there before."""
    bench = DeviceBench(planted.device(), memory=MEMORY)
    prepare(bench, planted.memory)
    base = bench.snapshot()
    play(bench, planted.proof[:-1], planted.invariants)
    bench.reset()
    assert bench.snapshot().state == base.state
    play(bench, planted.proof[:-1], planted.invariants)
    bench.restore(base)
    assert bench.snapshot().state == base.state


def test_planted_bugs_are_as_many_and_as_deep_as_was_asked_for() -> None:
    assert len(PLANTED) >= 25
    assert (
        len({planted.name for planted in PLANTED})
        == len({planted.kind for planted in PLANTED})
        == len(PLANTED)
    )
    assert sum(needed(planted) >= 3 for planted in PLANTED) >= 15
    assert len([planted for planted in PLANTED if planted.recreates]) >= 3


def test_list_of_planted_bugs_says_what_they_are() -> None:
    rows = [
        [cell.strip() for cell in row.strip("|").split("|")]
        for row in re.findall(r"^\| (?!name)[a-z0-9]+ \|.*\|$", LIST.read_text(), re.MULTILINE)
    ]
    devices = {row[0]: row for row in rows if len(row) == 7}
    assert {name: (row[2], int(row[5]), row[6]) for name, row in devices.items()} == {
        planted.name: (planted.kind, len(planted.proof), planted.shows) for planted in PLANTED
    }
    assert [name for name, row in devices.items() if "re-creates" in row[3]] == [
        planted.name for planted in PLANTED if planted.recreates
    ]
    assert all(
        planted.recreates is None or planted.recreates in devices[planted.name][3] for planted in PLANTED
    )


def test_guide_tells_of_each_planted_bug_by_its_class() -> None:
    told = re.findall(r"^\*\*(\w+)\*\* \(([^;)]*)[^)]*\)\.", GUIDE.read_text(), re.MULTILINE)
    assert sorted(told) == sorted([(planted.name, planted.kind) for planted in (*PLANTED, *GUESTS)])


@each
def test_fixed_device_given_random_operations_shows_nothing(planted: Planted) -> None:
    assert uniform.find(planted, seed=1, executions=30, fixed=True) is None


def test_random_operations_of_one_seed_are_the_same_each_time() -> None:
    found = [uniform.find(LOCKBOX, seed, executions=100) for seed in (3, 3, 4)]
    assert all(each is not None for each in found)
    first, second, other = [(each.shows, each.executions, each.operations) for each in found if each]
    assert first == second != other


def test_random_operations_find_few_of_the_planted_bugs() -> None:
    """A sixtieth of what the bench does, without its clock: a bug that is found in so little is too plain."""
    found = [planted.name for planted in PLANTED if uniform.find(planted, seed=1, executions=40)]
    assert "lockbox" in found
    assert len(found) <= 8


def test_random_operations_without_an_end_are_refused() -> None:
    with pytest.raises(ValueError, match="nothing ends the search"):
        uniform.find(LOCKBOX, seed=1)


def test_events_of_a_device_are_those_that_it_marks() -> None:
    drawn = [draw(random.Random(1)) for draw in uniform.events(ne2000.Ne2000)]
    assert [event.name for event in drawn] == ["receive"]
    assert isinstance(drawn[0].data, bytes)
    ejected, inserted = [draw(random.Random(1)) for draw in uniform.events(sdslot.FixedSdSlot)]
    assert (ejected, inserted) == (Event("eject"), Event("insert"))


def test_bench_of_planted_bugs_goes_on_where_it_ended_and_tells_which_targets_hold(tmp_path: Path) -> None:
    file = tmp_path / "planted.json"

    def run(*more: str) -> str:
        script = str(ROOT / "benches/python/planted.py")
        command = [sys.executable, script, "--only", "lockbox", "--seconds", "20", "--json", str(file), *more]
        done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def seeds(how: str) -> list[int]:
        told = json.loads(file.read_text())["bugs"]["lockbox"][how]
        assert {each["shows"] for each in told} == {"invariant"}
        return [each["seed"] for each in told]

    assert re.search(r"^lockbox +uniform +1 of 1, \S+ s$", run("--how", "uniform"), re.MULTILINE)
    said = run("--seeds", "2")
    assert (seeds("uniform"), seeds("fuzzer")) == ([1, 2], [1, 2])
    assert re.search(r"^lockbox +wrong mask on a narrow write +2 +\S+ s +2 of 2 ", said, re.MULTILINE)
    every = "every bug is found within 20 s, by the median of 10 seeds: 1 of 1 that were looked for"
    assert f"open: {every}, of {len(PLANTED) + len(GUESTS)}\n" in said
    assert re.search(r"^holds: at least 15 devices need 3 operations: \d+ do$", said, re.MULTILINE)
    assert "open: chance finds at most 8 within 20 s: 1 of 1" in said
    assert not re.search("^lockbox +(uniform|fuzzer)", run("--seeds", "2"), re.MULTILINE)


def test_page_of_times_is_what_was_measured_of_every_planted_bug() -> None:
    data = json.loads(planted_page.DATA.read_text())
    assert {name: (bug["class"], bug["needs"]) for name, bug in data["bugs"].items()} == {
        bug.name: (bug.kind, len(bug.proof)) for bug in (*PLANTED, *GUESTS)
    }
    assert all(bug["fuzzer"] for bug in data["bugs"].values())
    assert planted_page.PAGE.read_text() == planted_page.page(data)
    assert planted_page.PLOT.read_text() == planted_page.plot(data)


def told(*seconds: float | None) -> list[dict[str, float | None]]:
    return [{"seed": seed, "seconds": each} for seed, each in enumerate(seconds, 1)]


def test_targets_of_planted_bugs_hold_or_not_by_medians() -> None:
    def holds(found: list[float | None], chance: int) -> list[bool | None]:
        bug = {"of": "device", "needs": 3, "class": "any"}
        bugs = {
            name: bug | {"fuzzer": told(*found), "uniform": told(1.0 if number < chance else None)}
            for number, name in enumerate(["floppy", *map(str, range(14))])
        }
        return [held for _, held in planted_page.targets({"limit": 60.0, "bugs": bugs})]

    assert holds([1.0] * 6 + [None] * 4, 8) == [True, True, True, True]
    assert holds([11.0] * 10, 9) == [True, False, True, False]
    assert holds([1.0] + [None] * 5, 0) == [False, False, True, True]
    assert holds([1.0, None], 0) == [None, None, True, True]
    assert holds([], 0) == [None, None, True, True]


def test_play_of_operations_that_never_end_tells_of_a_hang_and_leaves_no_timer() -> None:
    bench = DeviceBench(watchdog.Watchdog())
    assert play(bench, watchdog.PLANTED.proof) == "hang"
    assert signal.getitimer(signal.ITIMER_VIRTUAL) == (0.0, 0.0)
