"""Two processes that fuzz one guest against one, beside two of the loop in C against one; and the time to the first execution.

The guest is that of `hyperpy-bench fuzz-guest`, as a user's program. Processes want a processor each: on a busy host neither side has one, and the figures say
nothing. Prints one JSON object, for `benches/run.py`.

Usage: fuzz_guest.py PATH-OF-HYPERPY-BENCH [ROUNDS [SECONDS]]
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from hyperpy import Flat, Machine
from hyperpy.fuzz import Campaign, CampaignReport, GuestFuzzer

# As in benches/src/fuzz.rs, with the write to a port that ends it.
CODE = bytes.fromhex(
    "bf00001000 ba00000200 bb00000300 b90a000000 0fb602 fe0403 8807 4881c700100000 48ffc2"
    "41b83c000000 41ffc8 75fb ffc9 75df e699"
)
USER = 3
# A worker has begun by then.
BEGIN = 2.0


def target() -> GuestFuzzer:
    """The fuzzer, as each worker makes it."""
    machine = Machine(memory="64M")
    machine.load(Flat(CODE, at=0x1000, mode="long"))
    # Tables that let a user's program in.
    for at, entry in (
        (0x8000, 0x9067),
        (0x9000, 0xA067),
        *((0xA000 + 8 * n, n << 21 | 0xE7) for n in range(512)),
    ):
        machine.memory.write(at, entry.to_bytes(8, "little"))
    vcpu = machine.vcpus[0]
    segments = {
        name: getattr(vcpu.sregs, name)._replace(dpl=USER, selector=getattr(vcpu.sregs, name).selector | USER)
        for name in ("cs", "ss", "ds", "es")
    }
    vcpu.sregs.update(segments | {"cr3": 0x8000})
    vcpu.regs.rflags = 0x3002
    fuzzer = GuestFuzzer(machine, machine.snapshot())
    fuzzer.input_at(gpa=0x20000, max_len=512, length_register="rsi")
    fuzzer.cover(window=(0x30000, 0x1000), comparisons=False)
    return fuzzer


def rate(workers: int, seconds: float) -> float:
    """Executions a second of so many workers, once all have begun."""
    seen: list[tuple[float, int]] = []

    def told(report: CampaignReport) -> None:
        if report.seconds >= BEGIN:
            seen.append((report.seconds, report.executions))

    with tempfile.TemporaryDirectory() as corpus:
        Campaign(target=__file__, workers=workers, corpus=corpus, seconds=BEGIN + seconds).run(told)
    (began, before), (ended, after) = seen[0], seen[-2]  # the last one has told of the end as well
    return (after - before) / (ended - began)


def floor_rate(program: str, processes: int, seconds: float) -> float:
    """The same of the loop in C."""
    command = [program, "fuzz-loop", str(seconds)]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(processes)]
    return sum(float(process.communicate()[0]) for process in running)


def first_execution() -> float:
    """Seconds from a machine that runs to the first execution."""
    with Machine(memory="512M") as machine:
        machine.load(Flat(CODE, at=0x1000, mode="long"))
        machine.vcpus[0].run_until(0x1014, timeout=5.0)  # about to read its input
        began = time.perf_counter()
        fuzzer = GuestFuzzer(machine, machine.snapshot())
        fuzzer.input_at(gpa=0x20000, max_len=512, length_register="rsi")
        fuzzer.run(executions=1)
        return time.perf_counter() - began


def main() -> None:
    """Measure, and print."""
    program, rounds, seconds = sys.argv[1], int((sys.argv[2:] or ["7"])[0]), float((sys.argv[3:] or ["3"])[0])
    ours, theirs = [], []
    for _ in range(rounds):
        ours.append(rate(2, seconds) / rate(1, seconds))
        theirs.append(floor_rate(program, 2, seconds) / floor_rate(program, 1, seconds))
    first = [first_execution() for _ in range(rounds)]
    print(json.dumps({"hyperpy_scaling": ours, "floor_scaling": theirs, "first_execution_s": first}))


if __name__ == "__main__":
    if not Path(sys.argv[1]).is_file():
        sys.exit(__doc__)
    main()
