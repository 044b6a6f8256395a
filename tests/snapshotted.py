"""A device that is put back with its machine, and what several tests of snapshots and their faults do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hyperpy import Device, Machine, Snapshot, Stop

RUN = 20.0


class Takes(Device):
    """Keeps what it is given, and stops the machine at the `stops_at`-th value; answers reads with their number."""

    size = 4
    saved_attributes = ("taken", "reads")

    def __init__(self, stops_at: int = 0) -> None:
        self.stops_at = stops_at
        self.taken: list[int] = []
        self.reads = 0

    def read(self, offset: int, size: int, /) -> int:
        self.reads += 1
        return self.reads & (1 << 8 * size) - 1

    def write(self, offset: int, size: int, value: int, /) -> Stop | None:
        self.taken.append(value)
        return Stop("half") if len(self.taken) == self.stops_at else None


def count(machine: Machine) -> int:
    return int.from_bytes(machine.memory.read(0x8000, 2), "little")


VERBS: dict[str, Callable[[Machine, Snapshot], Any]] = {
    "snapshot": lambda m, base: m.snapshot().hash(),
    "restore": lambda m, base: m.restore(base),
    "fork": lambda m, base: m.fork().close(),
}
