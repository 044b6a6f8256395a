"""What a restore costs that devices in Python add to, and what a copy of a machine costs: time to its first exit, and memory.

Rounds of the variants alternate. Times of a restore are the core's own, part by part. Memory is the process's PSS (Linux, proc
smaps_rollup). Prints one JSON object to a line, for `benches/run.py`.
"""

import argparse
import json
import re
import resource
import statistics
import time
from pathlib import Path

import hyperpy
from hyperpy._bench_floor import lives, start_of

DEVICES = 10
CHILDREN = 500
REPEATS = 200
FORKS = 20
END = 0x10
OUT = bytes([0xE6, END, 0xF4])  # out END, al; hlt
CODE = bytes([0xFE, 0x06, 0x00, 0x80, 0xF4, 0xEB, 0xF9])  # again: inc byte [0x8000]; hlt; jmp again


def card() -> type[hyperpy.Device]:
    """A class of devices with twenty registers."""
    names = {f"r{number}": hyperpy.Register(4 * number) for number in range(20)}
    return type("Card", (hyperpy.Device,), names)


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rounds", type=int)
    rounds = parser.parse_args().rounds
    _devices(rounds)
    _forks(rounds)
    _children()


def _machine(devices: int = 0) -> tuple[hyperpy.Machine, list[hyperpy.Device]]:
    machine = hyperpy.Machine(memory="64M")
    kind = card()
    made = [machine.attach(kind(), mmio=0xE000_0000 + 0x1000 * number) for number in range(devices)]
    machine.load(hyperpy.Flat(CODE, at=0x1000, mode="real"))
    return machine, made


def _devices(rounds: int) -> None:
    """Microseconds that the devices' part of a restore takes, without any and with ten, untouched and all touched."""
    bare, _ = _machine()
    full, devices = _machine(DEVICES)
    bases = {machine: machine.snapshot() for machine in (bare, full)}
    found: dict[str, list[float]] = {"none": [], "untouched": [], "touched": []}
    for _ in range(rounds):
        times: dict[str, list[float]] = {name: [] for name in found}
        for _ in range(REPEATS):
            for name, machine in (("none", bare), ("untouched", full), ("touched", full)):
                assert isinstance(machine.run(timeout=10), hyperpy.Exit.Halt)
                if name == "touched":
                    for device in devices:
                        for number in range(20):
                            setattr(device, f"r{number}", number + 1)
                times[name].append(machine.restore(bases[machine]).devices_us)
        for name, values in times.items():
            found[name].append(statistics.median(values))
    for machine in bases:
        machine.close()
    print(json.dumps({"devices": DEVICES} | {f"{name}_us": values for name, values in found.items()}))


def _forks(rounds: int) -> None:
    """Milliseconds from a fork to its child's first exit and close, and the same of a guest that C makes anew: without a state."""
    parent = hyperpy.Machine(memory="1M")
    parent.load(hyperpy.Flat(OUT, at=0x1000, mode="real"))
    image, start = start_of(parent, 1 << 20)
    parent.snapshot()
    forks, floor = [], []
    for _ in range(rounds):
        began = time.perf_counter()
        for _ in range(FORKS):
            with parent.fork() as child:
                assert isinstance(child.run(timeout=10), hyperpy.Exit.Pio)
        forks.append((time.perf_counter() - began) / FORKS * 1e3)
        floor.append(statistics.mean(lives(image, start, END, FORKS)) / 1e6)
    parent.close()
    print(json.dumps({"fork_ms": forks, "floor_ms": floor}))


def _children() -> None:
    """KiB of memory for each of many copies that have written nothing."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    parent, _ = _machine()
    assert isinstance(parent.run(timeout=10), hyperpy.Exit.Halt)
    parent.memory.write(0x10_0000, bytes(range(256)) * (16 << 12))  # 16 MiB that all share
    warm = parent.fork()  # what the first one costs is the process's
    before = _pss_kib()
    children = [parent.fork() for _ in range(CHILDREN)]
    kib = (_pss_kib() - before) / CHILDREN
    for child in children:
        assert isinstance(child.run(timeout=10), hyperpy.Exit.Halt)
    for machine in (warm, *children, parent):
        machine.close()
    print(json.dumps({"children": CHILDREN, "pss_kib": kib}))


def _pss_kib() -> int:
    match = re.search(r"^Pss:\s+(\d+) kB", Path("/proc/self/smaps_rollup").read_text(), re.MULTILINE)
    assert match is not None
    return int(match[1])


if __name__ == "__main__":
    main()
