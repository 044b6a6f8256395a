"""What a machine costs that has run one exit and is parked: memory beyond its guest's RAM, and descriptors.

500 of them live at once in one process. Memory is the process's PSS (Linux, proc smaps_rollup) less the guest pages in
use. Prints one JSON object, for `benches/run.py`.
"""

import json
import os
import re
import resource
from pathlib import Path

import hyperpy

MACHINES = 500
CODE = bytes([0xE6, 0x10, 0xF4])  # out 0x10,al; hlt


def main() -> None:
    """Measure, and print."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    warm = _parked()  # what the first one costs is the process's
    before_kib, before_files = _pss_kib(), len(os.listdir("/proc/self/fd"))
    machines = [_parked() for _ in range(MACHINES)]
    guest_kib = sum(machine.memory.committed for machine in machines) / 1024
    kib = (_pss_kib() - before_kib - guest_kib) / MACHINES
    files = (len(os.listdir("/proc/self/fd")) - before_files) / MACHINES
    for machine in (warm, *machines):
        machine.close()
    print(json.dumps({"machines": MACHINES, "pss_kib": kib, "descriptors": files}))


def _parked() -> hyperpy.Machine:
    machine = hyperpy.Machine(memory="64M")
    machine.load(hyperpy.Flat(CODE, at=0x1000, mode="real"))
    exit_ = machine.run(timeout=10)
    assert isinstance(exit_, hyperpy.Exit.Pio), exit_
    return machine


def _pss_kib() -> int:
    match = re.search(r"^Pss:\s+(\d+) kB", Path("/proc/self/smaps_rollup").read_text(), re.MULTILINE)
    assert match is not None
    return int(match[1])


if __name__ == "__main__":
    main()
