"""How many accesses to declared registers a test makes on a `DeviceBench`: one by one, and as a batch.

Reads and writes in turn, of a device of four registers and of a thousand. Prints one JSON object a line, for `benches/run.py`.
"""

import json
import time

from hyperpy import Device, Register
from hyperpy.testing import DeviceBench

ROUNDS = 9
PAIRS = 100_000


class Few(Device):
    """Four registers."""

    registers = Register(0x0, count=4)


class Many(Device):
    """A thousand."""

    registers = Register(0x0, count=1000)


def _one_by_one(bench: DeviceBench[Device]) -> float:
    place = bench.size // 2
    began = time.perf_counter()
    for _ in range(PAIRS):
        bench.write32(place, 7)
        bench.read32(place)
    return 2 * PAIRS / (time.perf_counter() - began) / 1e6


def _batch(bench: DeviceBench[Device]) -> float:
    offsets = [4 * (number * 7 % (bench.size // 4)) for number in range(PAIRS)]
    batch = bench.compile(access for place in offsets for access in ((place, 4, 7), (place, 4)))
    began = time.perf_counter()
    values = batch.run()
    took = time.perf_counter() - began
    assert values == [7] * PAIRS
    return 2 * PAIRS / took / 1e6


def main() -> None:
    """Measure in turn, and print."""
    samples: dict[tuple[str, int], list[float]] = {}
    for number in range(ROUNDS + 1):
        for device in (Few(), Many()):
            bench = DeviceBench[Device](device)
            for how, measure in (("one by one", _one_by_one), ("batch", _batch)):
                millions = measure(bench)
                if number > 0:  # the first round is the warm-up
                    samples.setdefault((how, bench.size // 4), []).append(millions)
    for (how, registers), millions in samples.items():
        print(json.dumps({"how": how, "registers": registers, "millions": millions}))


if __name__ == "__main__":
    main()
