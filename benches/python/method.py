"""What a call of a Python device's method costs, with accesses from a script so that no exit hides it.

Rounds of reads and writes in turn, on an idle interpreter and with another Python thread busy, which holds the
interpreter for its switch interval (5 ms) again and again. Prints one JSON object a line, for `benches/run.py`.
"""

import contextlib
import json
import os
import threading
import time
from collections.abc import Iterator

from hyperpy import Device
from hyperpy.testing import Read, ScriptedMachine, Write

ROUNDS = 9
CALLS = 500_000
# A call with another thread busy waits for the interpreter, some milliseconds each.
CALLS_BUSY = 200
PLACE = 0xFE00_0000


class Plain(Device):
    """The least that methods can do."""

    size = 8

    def read(self, offset: int, size: int, /) -> int:
        """Return a number."""
        return 7

    def write(self, offset: int, size: int, value: int, /) -> None:
        """Drop it."""


@contextlib.contextmanager
def another_thread_busy() -> Iterator[None]:
    """Another Python thread computes, on another processor where there is one."""
    over = False

    def spin() -> None:
        number = 0
        while not over:
            number += 1

    thread = threading.Thread(target=spin)
    thread.start()
    try:
        yield
    finally:
        over = True
        thread.join()


def _ns(access: Read | Write, calls: int) -> float:
    with ScriptedMachine([access], keep_reads=False) as m:
        m.attach(Plain(), mmio=PLACE)
        assert m.vcpus[0].regs.rax == 0  # makes the vcpu
        began = time.perf_counter()
        m.run()
        took = time.perf_counter() - began
        assert m.stats.hits["python"] == calls
    return took / calls * 1e9


def main() -> None:
    """Measure in turn, and print."""
    kinds = {"read": lambda n: Read(mmio=PLACE, times=n), "write": lambda n: Write(7, mmio=PLACE, times=n)}
    samples: dict[str, list[float]] = {}
    for number in range(ROUNDS + 1):
        for kind, access in kinds.items():
            ns = _ns(access(CALLS), CALLS)
            if number > 0:  # the first round is the warm-up
                samples.setdefault(f"{kind}, idle", []).append(ns)
    with another_thread_busy():
        for _ in range(ROUNDS):
            for kind, access in kinds.items():
                samples.setdefault(f"{kind}, busy", []).append(_ns(access(CALLS_BUSY), CALLS_BUSY))
    for figure, ns in samples.items():
        print(json.dumps({"figure": figure, "ns": ns, "cpus": len(os.sched_getaffinity(0))}))


if __name__ == "__main__":
    main()
