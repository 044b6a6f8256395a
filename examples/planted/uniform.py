"""What chance finds: uniformly random operations on a planted device. A fuzzer that is worth its name finds more, and sooner.

An execution is up to 200 operations from power-on. Each is, with the same probability, a read, a write, a step of the clock up to
10 ms, or one of the device's events; the offset is anywhere in the device's range, the size 1 to 8, the value anything of that size.
Guest memory is random bytes: the same at each read of one execution, or others each time where the bug is in that. A guest with a
bug is given random bytes, of any length that it takes.
"""

from __future__ import annotations

import inspect
import random
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from hyperpy.testing import Access, DeviceBench, Step

from . import guests
from .guests import PlantedGuest
from .playing import MEMORY, play
from .table import Event, Operation, Planted

__all__ = ["LONGEST", "Found", "events", "find", "find_in_guest"]

LONGEST = 200
_PAGE = 4096
_MS = 1_000_000
_WHOLE_MEMORY = 3 << 30


class Found(NamedTuple):
    """A bug that showed: how, after how many seconds of processor time, executions and operations."""

    shows: str
    seconds: float
    executions: int
    operations: int


def find(
    planted: Planted,
    seed: int,
    seconds: float | None = None,
    executions: int | None = None,
    *,
    fixed: bool = False,
) -> Found | None:
    """Make random executions until the bug shows, or time or executions are over.

    The same seed makes the same operations. It ends after `executions` or after `seconds` of processor time, of which other
    processes take none; one of the two is needed. With `fixed` it looks at the device without the bug, where nothing should be found.
    """
    if seconds is None and executions is None:
        raise ValueError("nothing ends the search\n\nhint: give seconds or executions")
    rng = random.Random(seed)
    device = planted.fixed if fixed else planted.device
    bench = DeviceBench(device(), memory=MEMORY)
    outside, began, done, operations = events(device), time.process_time(), 0, 0
    while done != executions and (seconds is None or time.process_time() - began < seconds):
        bench.reset()
        if getattr(device, "dma", False):
            _fill(bench, rng, planted.is_double_fetch)
        drawn = list(_operations(rng, bench.size, outside))
        shows = play(bench, drawn, planted.invariants)
        done, operations = done + 1, operations + len(drawn)
        if shows is not None:
            return Found(shows, time.process_time() - began, done, operations)
    return None


def find_in_guest(
    guest: PlantedGuest, seed: int, seconds: float, executions: int | None = None
) -> Found | None:
    """The same for a guest with a bug; each execution begins where it is about to read its input."""
    rng = random.Random(seed)
    began, done = time.process_time(), 0
    with guests.machine_with(guest) as machine:
        base = machine.snapshot()
        while done != executions and time.process_time() - began < seconds:
            exit_ = guests.run(machine, rng.randbytes(rng.randint(0, guests.LONGEST)))
            done += 1
            if not guest.is_end(exit_):
                return Found(type(exit_).__name__, time.process_time() - began, done, done)
            machine.restore(base)
    return None


def events(device: type[Any]) -> list[Callable[[random.Random], Event]]:
    """What draws an event, for each that a device has."""

    def drawer(name: str, takes_data: bool) -> Callable[[random.Random], Event]:
        return lambda rng: Event(name, rng.randbytes(rng.randint(0, 64)) if takes_data else None)

    marked = ((name, method) for name, method in inspect.getmembers(device, inspect.isfunction))
    return [
        drawer(name, len(inspect.signature(method).parameters) > 1)
        for name, method in marked
        if getattr(method, "is_event", False)
    ]


def _operations(
    rng: random.Random, size: int, outside: list[Callable[[random.Random], Event]]
) -> Iterator[Operation]:
    for _ in range(rng.randint(1, LONGEST)):
        match rng.randrange(3 + len(outside)):
            case 0:
                yield Access(rng.randrange(size), rng.randint(1, 8))
            case 1:
                length = rng.randint(1, 8)
                yield Access(rng.randrange(size), length, rng.getrandbits(8 * length))
            case 2:
                yield Step(rng.randrange(10 * _MS))
            case number:
                yield outside[number - 3](rng)


def _fill(bench: DeviceBench[Any], rng: random.Random, anew_each_time: bool) -> None:
    bench.memory.clear_hooks()
    if anew_each_time:
        bench.memory.answer_reads(0, _WHOLE_MEMORY, lambda _, size: rng.randbytes(size))
    else:
        bench.memory.on_first_touch(lambda gpa: bench.memory.write(gpa, rng.randbytes(_PAGE)))
