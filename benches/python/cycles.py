"""Machines made, run and closed 10^5 times: what memory and descriptors the process has taken meanwhile.

Prints one JSON object: KiB resident and descriptors, after less before, and the milliseconds of a cycle.
"""

import gc
import json
import os
import resource
import time
from pathlib import Path

from hyperpy import Exit, Flat, Machine

CYCLES = 100_000
WARM = 2_000


def _cycles(count: int) -> None:
    for _ in range(count):
        with Machine(memory="64K") as m:
            m.load(Flat(b"\xf4", at=0x1000, mode="real"))  # hlt
            assert m.run() == Exit.Halt(0)


def _held() -> tuple[int, int]:
    gc.collect()
    resident = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    return resident // 1024, len(os.listdir("/proc/self/fd"))


def main() -> None:
    """Measure, and print."""
    _cycles(WARM)
    before, began = _held(), time.monotonic()
    _cycles(CYCLES)
    took, after = time.monotonic() - began, _held()
    row = {"kib": after[0] - before[0], "descriptors": after[1] - before[1], "ms": took / CYCLES * 1e3}
    print(json.dumps(row))


if __name__ == "__main__":
    main()
