"""All figures in one table: builds the bench program, measures, and prints each figure beside its target.

`python benches/run.py [--json FILE]` measures on this host; with `--lab` also the boot in the lab, which takes some
minutes and wants an otherwise idle machine. Targets are about medians. Where the rounds lie on both sides of a target,
the verdict says so: run it again on a quieter machine. Status 1 when a target is missed.
"""

import argparse
import json
import math
import os
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import instructions
from figure import ROOT, Figure, lines, output, print_table

from hyperpy import bench

ROUNDS = 9
DISPATCH_EXITS = 2_000_000
KVM_EXITS = 50_000
TRACED_EXITS = 1_000
LIVES = 100
STATES = 500
SNAPSHOT_MIB = 512
RESTORES = 100
LAB_TIMEOUT_S = 1800


def main() -> int:
    """Measure what is asked for; 1 if a target is missed."""
    parser = argparse.ArgumentParser(description="Measure hyperpy, and compare with the targets.")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write all samples to FILE")
    parser.add_argument("--lab", action="store_true", help="also boot a kernel in the lab, against QEMU")
    arguments = parser.parse_args()
    before = os.getloadavg()
    figures = list(_host_figures(instructions.build()))
    if arguments.lab:
        figures += _lab_figures()
    print_table(figures)
    print(f"load before: {before[0]:.2f}, after: {os.getloadavg()[0]:.2f}")
    if arguments.json:
        rows = [{**asdict(figure), "median": figure.median, "met": figure.met} for figure in figures]
        arguments.json.write_text(json.dumps({"load": before, "figures": rows}, indent=1) + "\n")
    return 0 if all(figure.met for figure in figures) else 1


def _host_figures(program: Path) -> Iterator[Figure]:
    yield from _dispatch_figures(program)
    yield from _declared_figures(program)
    yield from _exit_figures(program)
    yield from _bench_figures()
    yield from _python_figures()
    yield from _life_figures(program)
    yield from _snapshot_figures(program)
    yield from _copy_figures()
    yield from _fuzz_figures(program)
    yield from _state_figures(program)
    yield from _resource_figures()
    yield from _file_figures(program)


def _dispatch_figures(program: Path) -> Iterator[Figure]:
    for line in lines([str(program), "dispatch", str(ROUNDS), str(DISPATCH_EXITS)]):
        case = f"{line['regions']} region{'s' * (line['regions'] > 1)}, {line['order'].lower()}"
        case += ", traced" * line["traced"]
        if not line["traced"]:  # what a trace costs is a share of an exit: below
            yield Figure(f"dispatch, {case}", "ns", line["ns"], 40 if line["regions"] == 1 else 60)
        yield Figure(f"allocations per run, {case}", "", [line["allocations"]], 0)
    for case, counted in instructions.count(program).items():
        yield Figure(f"instructions per exit, {case}", "", [counted], instructions.bounds()[case])


def _declared_figures(program: Path) -> Iterator[Figure]:
    for line in lines([str(program), "declared", str(ROUNDS), str(DISPATCH_EXITS)]):
        case = f"{line['access']} of a declared register, one of {line['registers']}"
        yield Figure(f"dispatch, {case}", "ns", line["ns"], 50 if line["registers"] == 4 else 60)
        yield Figure(f"allocations per run, {case}", "", [line["allocations"]], 0)
    for line in lines([str(program), "declared-exits", str(ROUNDS), str(KVM_EXITS)]):
        pairs = zip(line["floor_ns"], line["declared_ns"], strict=True)
        percent = [100 * floor / ours for floor, ours in pairs]
        yield Figure(
            f"exits/s, {line['guest']}, a declared register, of the floor", "%", percent, 96, at_least=True
        )


def _exit_figures(program: Path) -> Iterator[Figure]:
    for line in lines([str(program), "exits", str(ROUNDS), str(KVM_EXITS)]):
        pairs = zip(line["floor_ns"], line["hyperpy_ns"], strict=True)
        percent = [100 * floor / ours for floor, ours in pairs]
        yield Figure(f"exits/s, {line['guest']}, of the floor", "%", percent, 97, at_least=True)
        pairs = zip(line["hyperpy_ns"], line["traced_ns"], strict=True)
        percent = [100 * ours / traced for ours, traced in pairs]
        yield Figure(f"exits/s, {line['guest']}, traced, of untraced", "%", percent, 97, at_least=True)
    for line in lines([sys.executable, "benches/python/fast_writes.py"]):
        yield Figure(f"{line['what']}, of the floor", "%", line["percent"], 97, at_least=True)
    yield Figure("vcpu ioctls per exit", "", [_ioctls_per_exit(program)], 1)
    for line in lines([sys.executable, "benches/python/busy.py"]):
        name = f"exits/s by {line['how']}(), another Python thread busy, of idle"
        yield Figure(name, "%", line["percent"], 95, at_least=True)


def _bench_figures() -> Iterator[Figure]:
    """Rows of `hyperpy bench` that have a target and no figure of their own here."""
    rungs = ("rust", "register")
    names = [
        f"{access}-{rung}" for access in ("pio-out", "pio-in", "mmio-write", "mmio-read") for rung in rungs
    ]
    for row in bench.run(*names, "pio-out-ring", "python-call-on-write", rounds=ROUNDS).rows:
        if row.target is not None:
            percent = [100 / ratio for ratio in row.ratios]
            yield Figure(f"rate of {row.name}, of C", "%", percent, round(100 / row.target), at_least=True)
        elif row.target_ns is not None and row.hyperpy is not None:
            yield Figure(row.name, "ns", list(row.hyperpy.medians), row.target_ns)


def _python_figures() -> Iterator[Figure]:
    for line in lines([sys.executable, "benches/python/method.py"]):
        # What a busy thread costs is the interpreter's switch interval: shown, with twice that as a bound.
        bound = 400 if line["figure"].endswith("idle") else 10_000_000
        yield Figure(f"call of a Python device's {line['figure']}", "ns", line["ns"], bound)
    for line in lines([sys.executable, "benches/python/device_bench.py"]):
        name = f"DeviceBench, {line['how']}, a device of {line['registers']} registers"
        bound = 5 if line["how"] == "batch" else 1
        yield Figure(name, "million/s", line["millions"], bound, at_least=True)
    started = {line["figure"]: line["ms"] for line in lines([sys.executable, "benches/python/start.py"])}
    yield Figure("process start to first exit", "ms", started["first run"], 150)
    yield Figure("import over a bare interpreter", "ms", started["import"], 50)


def _life_figures(program: Path) -> Iterator[Figure]:
    (line,) = lines([str(program), "create", str(ROUNDS), str(LIVES)])
    ratios = [ours / floor for ours, floor in zip(line["hyperpy_us"], line["floor_us"], strict=True)]
    yield Figure("create, first exit, close, of C", "", ratios, 1.15)
    for line in lines([str(program), "state", str(ROUNDS), str(STATES)]):
        ratios = [ours / floor for ours, floor in zip(line["hyperpy_us"], line["floor_us"], strict=True)]
        chips = "with" if line["irqchip"] else "without"
        yield Figure(f"{line['act']} of KVM's state, {chips} interrupt controllers, of C", "", ratios, 1.2)
    (line,) = lines([sys.executable, "benches/python/cycles.py"])
    yield Figure("100,000 machines made, run and closed: memory taken", "KiB", [line["kib"]], 1024)
    yield Figure("100,000 machines made, run and closed: descriptors", "", [line["descriptors"]], 0)


def _snapshot_figures(program: Path) -> Iterator[Figure]:
    for line in lines([str(program), "restore", str(ROUNDS), str(RESTORES)]):
        case = f"{line['pages']} pages of {line['mib']} MiB, {'rings' if line['rings'] else 'log'}"
        ratios = [ours / floor for ours, floor in zip(line["hyperpy_us"], line["floor_us"], strict=True)]
        yield Figure(f"restore of memory, {case}, of C", "", ratios, 1.2)
        yield Figure(f"allocations of restores, {case}", "", [line["allocations"]], 0)
    for line in lines([str(program), "fork", str(ROUNDS), str(RESTORES)]):
        if "kib_per_child" in line:
            yield Figure("memory of a child before it writes", "KiB", [line["kib_per_child"]], 300)
            continue
        ratios = [ours / floor for ours, floor in zip(line["hyperpy_us"], line["floor_us"], strict=True)]
        yield Figure(f"fork of {line['fork_mib']} MiB, {line['pages']} pages written, of C", "", ratios, 1.2)


def _copy_figures() -> Iterator[Figure]:
    """Devices in Python in a restore, and copies of a machine."""
    devices, forks, children = lines([sys.executable, "benches/python/snapshots.py", str(ROUNDS)])
    for touch, bound in (("untouched", 2), ("touched", 20)):
        pairs = zip(devices[f"{touch}_us"], devices["none_us"], strict=True)
        yield Figure(
            f"{devices['devices']} Python devices add to a restore, {touch}",
            "us",
            [a - b for a, b in pairs],
            bound,
        )
    pairs = zip(forks["fork_ms"], forks["floor_ms"], strict=True)
    yield Figure("fork to its child's first exit, of C's new guest", "", [a / b for a, b in pairs], 1.2)
    yield Figure(
        f"one of {children['children']} children before it writes", "KiB", [children["pss_kib"]], 300
    )


def _fuzz_figures(program: Path) -> Iterator[Figure]:
    for line in lines([str(program), "fuzz-guest", str(ROUNDS), str(STATES)]):
        pairs = zip(line["floor_us"], line["hyperpy_us"], strict=True)
        percent = [100 * floor / ours for floor, ours in pairs]
        case = {"user": "a user's program", "kernel": "a kernel with breakpoints"}[line["guest"]]
        yield Figure(
            f"executions/s of a fuzzed guest, {case}, of C's run and restore", "%", percent, 80, at_least=True
        )
    (line,) = lines([sys.executable, "benches/python/fuzz_guest.py", str(program)])
    pairs = zip(line["hyperpy_scaling"], line["floor_scaling"], strict=True)
    scaling = [ours / floor for ours, floor in pairs]
    yield Figure("two processes that fuzz a guest over one, of C's two", "", scaling, 0.9, at_least=True)
    yield Figure("from a machine to the first execution", "s", line["first_execution_s"], 1)
    for line, bound in zip(lines([sys.executable, "benches/python/fuzz_device.py"]), (0.1, 2), strict=True):
        millions = [each / 1e6 for each in line["operations_per_s"]]
        yield Figure(f"fuzzed device {line['device']}", "million/s", millions, bound, at_least=True)
    yield from _planted_figures()


def _planted_figures() -> Iterator[Figure]:
    """The planted bugs with one seed, in place of the ten of `planted.py`, and nothing by chance."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "planted.json")
        output(
            [
                sys.executable,
                "benches/python/planted.py",
                "--how",
                "fuzzer",
                "--seeds",
                "1",
                "--json",
                str(file),
            ]
        )
        data = json.loads(file.read_text())
    seconds = {name: bug["fuzzer"][0]["seconds"] or math.inf for name, bug in data["bugs"].items()}
    late = sum(each > data["limit"] for each in seconds.values())
    yield Figure(
        f"planted bugs, of {len(seconds)}: not found in {data['limit']:g} s by one seed", "", [late], 0
    )
    yield Figure("planted bugs, the slowest one by one seed", "s", [max(seconds.values())], data["limit"])
    yield Figure("planted bugs, VENOM's by one seed", "s", [seconds["floppy"]], 10)


def _state_figures(program: Path) -> Iterator[Figure]:
    for line in lines([str(program), "state", str(ROUNDS), str(STATES)]):
        pairs = zip(line["hyperpy_us"], line["floor_us"], strict=True)
        what = "with interrupt controllers" if line["irqchip"] else "a bare vcpu"
        yield Figure(f"{line['act']} of registers, {what}, of C", "", [a / b for a, b in pairs], 1.2)


def _resource_figures() -> Iterator[Figure]:
    (line,) = lines([sys.executable, "benches/python/parked.py"])
    yield Figure(
        f"{line['machines']} parked machines, each: memory beyond its guest's", "KiB", [line["pss_kib"]], 1024
    )
    yield Figure(f"{line['machines']} parked machines, each: descriptors", "", [line["descriptors"]], 4)
    for line in lines([sys.executable, "benches/python/share.py"]):
        off = [abs(percent - line["limit_percent"]) for percent in line["percent"]]
        yield Figure(
            f"two that spin on one processor, limit {line['limit_percent']:g} %: off by", "%", off, 5
        )


def _file_figures(program: Path) -> Iterator[Figure]:
    """A snapshot's file, in the clone: what other disks do is not told."""
    with tempfile.TemporaryDirectory(dir=ROOT / "target") as folder:
        for line in lines([str(program), "snapshot-file", str(ROUNDS), str(SNAPSHOT_MIB), folder]):
            pairs = zip(line["hyperpy_s"], line["floor_s"], strict=True)
            name, bound = {
                "none": ("write and fsync of the same bytes", 1.3),
                "zstd": ("C's zstd -1, checksum, write and fsync", 1.2),
            }[line["compress"]]
            yield Figure(
                f"snapshot of {SNAPSHOT_MIB} MiB to a file, of {name}", "", [a / b for a, b in pairs], bound
            )


def _ioctls_per_exit(program: Path) -> float:
    """Count by strace, from the first entry to the last, whatever the descriptor; by returns from KVM_RUN."""
    with tempfile.NamedTemporaryFile("r") as log:
        command = ["strace", "-f", "-e", "trace=ioctl", "-e", "signal=none", "-o", log.name]
        said = output([*command, str(program), "drive", str(TRACED_EXITS)])
        calls = [line for line in log.read().splitlines() if " ioctl(" in line]
    entries = [index for index, line in enumerate(calls) if ", KVM_RUN, " in line]
    exits = int(said)
    return (entries[-1] - entries[0] + 1) / exits


def _lab_lines(program: str) -> list[dict[str, Any]]:
    """Run a program in the lab, and return its rounds without the first, which warms up."""
    command = [sys.executable, "-m", "hyperpy", "lab", "--timeout", str(LAB_TIMEOUT_S), "--", sys.executable]
    return [line for line in lines([*command, str(ROOT / "benches/python" / program)]) if not line["warm_up"]]


def _lab_figures() -> list[Figure]:
    rounds = [line["seconds"] for line in _lab_lines("lab_boot.py")]

    def ratios(cache: str) -> list[float]:
        return [(s[f"hyperpy {cache}"] - s["hyperpy bare"]) / (s["qemu"] - s["qemu bare"]) for s in rounds]

    return [
        Figure("lab boot, cold cache, of QEMU's time", "", ratios("cold"), 0.75),
        Figure("lab boot, warm cache, of QEMU's time", "", ratios("warm"), 0.5),
        Figure(
            "lab boot with four Python devices, of one without and their exits",
            "",
            [line["ratio"] for line in _lab_lines("devices_boot.py")],
            1.05,
        ),
    ]


if __name__ == "__main__":
    sys.exit(main())
