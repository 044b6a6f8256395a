"""Machines made, run and closed again and again: nothing is left behind."""

from __future__ import annotations

import gc
import os
import resource
from pathlib import Path

from hyperpy import Exit, Flat, Machine

CYCLES = 10_000
WARM = 500
PAGE = resource.getpagesize()
# What the allocators may still take: a tenth of a byte a cycle would be 1 KiB.
SLACK = 1 << 20


def _cycles(count: int) -> None:
    for _ in range(count):
        with Machine(memory="64K") as m:
            m.load(Flat(b"\xf4", at=0x1000, mode="real"))  # hlt
            assert m.run() == Exit.Halt(0)


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE


def _held() -> tuple[int, int, int]:
    """Descriptors, mappings, threads."""
    maps = Path("/proc/self/maps").read_text().splitlines()
    return len(os.listdir("/proc/self/fd")), len(maps), len(os.listdir("/proc/self/task"))


def test_ten_thousand_machines_leave_memory_descriptors_mappings_and_threads_as_they_were() -> None:
    _cycles(WARM)
    gc.collect()
    held, resident = _held(), _resident()
    _cycles(CYCLES)
    gc.collect()
    descriptors, mappings, threads = _held()
    assert (descriptors, threads) == (held[0], held[2])
    assert mappings <= held[1] + 2  # arenas of the interpreter's
    assert _resident() - resident < SLACK
