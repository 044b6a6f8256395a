"""How soon the planted bugs are found (examples/planted, docs/reference/planted-bugs.md): by the fuzzers, and by chance.

    python benches/python/planted.py --json benches/planted.json

looks for each bug with ten seeds by a fuzzer and with one by uniformly random inputs, for up to a minute each, and adds to the file what is not in it
yet; so a run that was ended goes on, and one can be split (`--only`, `--how`). `--again` forgets what the file has of what is looked for. Seconds are
processor time: those of one core. As many bugs are looked for at once as there are cores. When it is the repository's file, the page and the plot of the
documentation are written too (`planted_page`). Status 1 if a target is missed.
"""

from __future__ import annotations

import argparse
import datetime
import json
import multiprocessing
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

import planted_page
from examples.planted import PLANTED, Planted, uniform
from examples.planted.guests import GUESTS, PlantedGuest, fuzzer_of, machine_with
from examples.planted.uniform import Found

from hyperpy import doctor
from hyperpy.fuzz import DeviceFuzzer, GuestFuzzer

SECONDS = 60.0
SEEDS = {"fuzzer": planted_page.SEEDS, "uniform": 1}
AT_ONCE = 50  # executions between two looks at what was found
BUGS: dict[str, Planted | PlantedGuest] = {bug.name: bug for bug in (*PLANTED, *GUESTS)}


def find(bug: Planted | PlantedGuest, seed: int, seconds: float) -> Found | None:
    """Look for a bug with the fuzzer."""
    if isinstance(bug, PlantedGuest):
        with machine_with(bug) as machine:
            return _found(fuzzer_of(bug, machine, seed=seed), seconds)
    fuzzer = DeviceFuzzer(bug.device, seed=seed, double_fetch=bug.is_double_fetch)
    for invariant in bug.invariants:
        fuzzer.invariant(invariant)
    return _found(fuzzer, seconds)


def _found(fuzzer: DeviceFuzzer | GuestFuzzer, seconds: float) -> Found | None:
    began = time.process_time()
    while time.process_time() - began < seconds:
        report = fuzzer.run(executions=AT_ONCE)
        if report.crashes:
            took = time.process_time() - began
            return Found(_shown(report.crashes[0]), took, report.executions, report.operations)
    return None


def _shown(crash: Any) -> str:
    """As the list says it."""
    return type(crash.error).__name__ if crash.kind == "exception" and hasattr(crash, "error") else crash.kind


def find_by_chance(bug: Planted | PlantedGuest, seed: int, seconds: float) -> Found | None:
    """Look for it with random inputs."""
    if isinstance(bug, PlantedGuest):
        return uniform.find_in_guest(bug, seed, seconds)
    return uniform.find(bug, seed, seconds)


WAYS: dict[str, Callable[[Planted | PlantedGuest, int, float], Found | None]] = {
    "fuzzer": find,
    "uniform": find_by_chance,
}


def look(name: str, how: str, seeds: list[int], seconds: float) -> list[dict[str, Any]]:
    """What came of each seed. It ends early if so many found nothing that the median is lost."""
    told: list[dict[str, Any]] = []
    for seed in seeds:
        found = WAYS[how](BUGS[name], seed, seconds)
        told.append({"seed": seed, **(found._asdict() if found else {"seconds": None})})
        if 2 * sum(each["seconds"] is None for each in told) >= SEEDS[how] > 1:
            break
    return told


def main() -> int:
    """Look, and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--only", action="append", choices=BUGS, metavar="NAME", help="this bug; can be repeated"
    )
    parser.add_argument("--how", choices=WAYS, help="one way; both, if it is left out")
    parser.add_argument(
        "--seeds", type=int, help=f"how many, from 1 on: {SEEDS['fuzzer']}, and {SEEDS['uniform']} by chance"
    )
    parser.add_argument("--seconds", type=float, default=SECONDS, help=f"for each bug and seed: {SECONDS:g}")
    parser.add_argument("--json", type=Path, metavar="FILE", help="add what comes of it to FILE")
    parser.add_argument("--again", action="store_true", help="look for what FILE has, too")
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)), help="bugs at once")
    given = parser.parse_args()
    data = _read(given.json, given.seconds)
    if data["limit"] != given.seconds:
        parser.error(f"another limit than that of the file: {data['limit']:g}\n\nhint: another file")
    tasks = list(_tasks(given, data))
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(given.jobs, mp_context=context, max_tasks_per_child=1) as pool:
        running = {
            pool.submit(look, name, how, seeds, given.seconds): (name, how) for name, how, seeds in tasks
        }
        for done in as_completed(running):
            name, how = running[done]
            data["bugs"][name][how] = sorted(data["bugs"][name][how] + done.result(), key=_seed)
            print(f"{name:<12} {how:<8} {planted_page.times(data['bugs'][name][how])}", flush=True)
            _write(given.json, data)
    return _told(data)


def _tasks(given: argparse.Namespace, data: dict[str, Any]) -> Iterator[tuple[str, str, list[int]]]:
    """What is to be looked for; chance first, which takes longest."""
    for how in sorted(WAYS, reverse=True) if given.how is None else [given.how]:
        for name in given.only or BUGS:
            if given.again:
                data["bugs"][name][how] = []
            there = {each["seed"] for each in data["bugs"][name][how]}
            seeds = [seed for seed in range(1, (given.seeds or SEEDS[how]) + 1) if seed not in there]
            if seeds:
                yield name, how, seeds


def _seed(told: dict[str, Any]) -> int:
    seed: int = told["seed"]
    return seed


def _read(file: Path | None, seconds: float) -> dict[str, Any]:
    data = json.loads(file.read_text()) if file and file.exists() else {"limit": seconds, "bugs": {}}
    known = data["bugs"]
    data["bugs"] = {
        name: known.get(name, {"fuzzer": [], "uniform": []}) | _about(bug) for name, bug in BUGS.items()
    }
    return data


def _about(bug: Planted | PlantedGuest) -> dict[str, Any]:
    """What the tables tell of it."""
    is_guest = isinstance(bug, PlantedGuest)
    return {"of": "guest" if is_guest else "device", "class": bug.kind, "needs": len(bug.proof)}


def _write(file: Path | None, data: dict[str, Any]) -> None:
    today = datetime.datetime.now(tz=datetime.UTC).date().isoformat()
    data |= {"date": today, "kvm": doctor.flavour(), "python": platform.python_version()}
    if file is not None:
        file.write_text(json.dumps(data, indent=1) + "\n")
        if file.resolve() == planted_page.DATA:
            planted_page.write(data)


def _told(data: dict[str, Any]) -> int:
    print()
    print("\n".join(planted_page.plain_table(data)))
    targets = planted_page.targets(data)
    for text, holds in targets:
        print(f"{'open' if holds is None else 'holds' if holds else 'MISSED'}: {text}")
    return int(any(holds is False for _, holds in targets))


if __name__ == "__main__":
    sys.exit(main())
