"""Two guests that spin on one processor, with cpu limits of a quarter and a half: what each gets of it.

They run for 10 s on threads of their own, both on one processor; nobody else should be on it. Prints one JSON object a
machine, for `benches/run.py`: its share in percent of the processor, in each of the rounds.
"""

import json
import os
import sys
import time

import hyperpy

LIMITS = (0.25, 0.5)
SECONDS = 10.0
SPIN = bytes([0xEB, 0xFE])  # again: jmp again


def main() -> None:
    """Measure, and print."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 1
    seconds = float(sys.argv[2]) if len(sys.argv) > 2 else SECONDS
    shares = [_round(seconds) for _ in range(rounds)]
    for limit, of_one in zip(LIMITS, zip(*shares, strict=True), strict=True):
        print(json.dumps({"limit_percent": 100 * limit, "percent": of_one}))


def _round(seconds: float) -> list[float]:
    cpu = max(os.sched_getaffinity(0))
    machines = [hyperpy.Machine(memory="1M", cpus={cpu}, cpu_limit=limit) for limit in LIMITS]
    for machine in machines:
        machine.load(hyperpy.Flat(SPIN, at=0x1000, mode="real"))
    began = time.monotonic()
    for machine in machines:
        machine.start()
    time.sleep(seconds)
    used = [machine.stats.cpu_seconds for machine in machines]
    took = time.monotonic() - began
    for machine in machines:
        machine.close()
    return [100 * cpu_seconds / took for cpu_seconds in used]


if __name__ == "__main__":
    main()
