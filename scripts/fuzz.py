"""Run the fuzz targets, each for a fixed number of executions from a fixed seed, and print what came of them.

The targets in Rust are libFuzzer programs (`fuzz/fuzz_targets`), built here by the nightly toolchain without cargo-fuzz; those
in Python (`fuzz/python`) need no build. Each begins with what was found before (`fuzz/regressions`). `--brief` is what `make
test` runs: few executions, nothing kept. Otherwise what leads somewhere new is kept in build/fuzz/corpus for the next time.
A find is a file in build/fuzz/finds and makes the exit status 1; so does a target that executed nothing.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
WORK = ROOT / "build" / "fuzz"
BUILT = ROOT / "target" / "fuzz"
TRIPLE = "x86_64-unknown-linux-gnu"
SEED = 7
# Executions of each target: those of `make fuzz` take about a minute each.
RUNS = 100_000
BRIEF_RUNS = 1_000
PYTHON_RUNS = 20_000
PYTHON_BRIEF_RUNS = 200
# Those whose executions take as many times longer.
SLOW = {"machine_state": 20, "apt_sources": 10}
# Longest input in bytes, longest execution in seconds, and largest single allocation in MiB.
LONGEST = 1024
TIMEOUT = 30
MOST = 1024
# What cargo-fuzz passes: coverage of edges, with comparisons, so that magic numbers are found; and the address sanitizer.
FLAGS = [
    "--cfg",
    "fuzzing",
    "-Cpasses=sancov-module",
    *(
        f"-Cllvm-args=-{argument}"
        for argument in (
            "sanitizer-coverage-level=4",
            "sanitizer-coverage-inline-8bit-counters",
            "sanitizer-coverage-pc-table",
            "sanitizer-coverage-trace-compares",
            "sanitizer-coverage-trace-divs",
            "simplifycfg-branch-fold-threshold=0",
        )
    ),
    "-Zsanitizer=address",
    "-Ccodegen-units=4",
]


@dataclass(frozen=True)
class Done:
    """What came of one target."""

    target: str
    executions: int
    seconds: float
    new: int
    finds: tuple[Path, ...]


def rust_targets() -> list[str]:
    """Names of the targets in Rust."""
    return sorted(path.stem for path in (ROOT / "fuzz" / "fuzz_targets").glob("*.rs"))


def build(targets: list[str]) -> Path:
    """Build these, and return the folder that they are in."""
    environment = {**os.environ, "RUSTFLAGS": " ".join(FLAGS), "CARGO_TARGET_DIR": str(BUILT)}
    which = [argument for target in targets for argument in ("--bin", target)]
    command = ["cargo", "+nightly", "build", "--release", "--quiet", "--target", TRIPLE, *which]
    subprocess.run(command, cwd=ROOT / "fuzz", env=environment, check=True)
    return BUILT / TRIPLE / "release"


def run_rust(program: Path, runs: int, corpus: Path) -> Done:
    """Run a libFuzzer program so often."""
    finds = WORK / "finds" / program.name
    shutil.rmtree(finds, ignore_errors=True)
    for folder in (finds, corpus):
        folder.mkdir(parents=True, exist_ok=True)
    known = ROOT / "fuzz" / "regressions" / program.name
    folders = [corpus, *([known] if known.is_dir() else [])]
    options = [
        f"-runs={runs}",
        f"-seed={SEED}",
        f"-max_len={LONGEST}",
        f"-timeout={TIMEOUT}",
        f"-malloc_limit_mb={MOST}",
        f"-artifact_prefix={finds}/",
        "-print_final_stats=1",
    ]
    began = time.monotonic()
    ended = subprocess.run(
        [program, *options, *folders], capture_output=True, text=True, errors="replace", check=False
    )
    seconds = time.monotonic() - began
    if ended.returncode:
        (finds / "output.txt").write_text(ended.stderr)
    stats = dict(re.findall(r"^stat::(\w+):\s+(\d+)", ended.stderr, re.MULTILINE))
    found = tuple(sorted(finds.iterdir()))
    return Done(
        program.name,
        int(stats.get("number_of_executed_units", 0)),
        seconds,
        int(stats.get("new_units_added", 0)),
        found,
    )


def run_python(name: str, runs: int) -> Done:
    """Run a target in Python so often."""
    finds = WORK / "finds" / name
    shutil.rmtree(finds, ignore_errors=True)
    finds.mkdir(parents=True)
    command = [
        sys.executable,
        str(ROOT / "fuzz" / "python" / "run.py"),
        name,
        f"--runs={runs}",
        f"--seed={SEED}",
        f"--finds={finds}",
    ]
    began = time.monotonic()
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    seconds = time.monotonic() - began
    if ended.returncode:
        (finds / "output.txt").write_text(ended.stdout + ended.stderr)
    counted = re.search(r"^(\d+) executions, (\d+) new$", ended.stdout, re.MULTILINE)
    executions, new = map(int, counted.groups()) if counted else (0, 0)
    return Done(name, executions, seconds, new, tuple(sorted(finds.iterdir())))


def run_all(rust: list[str], python: list[str], scale: float, brief: bool) -> Iterator[Done]:
    """Run these targets, one after the other."""
    with tempfile.TemporaryDirectory() as fresh:
        folder = build(rust) if rust else ROOT
        for target in rust:
            corpus = Path(fresh) / target if brief else WORK / "corpus" / target
            runs = int((BRIEF_RUNS if brief else RUNS) * scale)
            yield run_rust(folder / target, max(1, runs // SLOW.get(target, 1)), corpus)
        for target in python:
            runs = int((PYTHON_BRIEF_RUNS if brief else PYTHON_RUNS) * scale)
            yield run_python(target, max(1, runs // SLOW.get(target, 1)))


def main(arguments: list[str] | None = None) -> int:
    """Run targets and print a table; 1 if there is a find."""
    sys.path.insert(0, str(ROOT / "fuzz" / "python"))
    from targets import TARGETS  # noqa: PLC0415

    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("targets", nargs="*", help="names; all if none is given")
    parser.add_argument("--brief", action="store_true", help="few executions, and nothing kept")
    parser.add_argument("--scale", type=float, default=1.0, help="so many times the executions (default: 1)")
    parser.add_argument("--only", choices=["rust", "python"], help="those in one language")
    options = parser.parse_args(arguments)
    rust = [] if options.only == "python" else rust_targets()
    python = [] if options.only == "rust" else sorted(TARGETS)
    if strangers := set(options.targets) - {*rust, *python}:
        parser.error(f"no such target: {', '.join(sorted(strangers))}")
    if options.targets:
        rust, python = ([name for name in names if name in options.targets] for names in (rust, python))
    finds, idle = 0, []
    print(f"{'target':18} {'executions':>10} {'per second':>10} {'new':>6} {'finds':>6}")
    for done in run_all(rust, python, options.scale, options.brief):
        rate = done.executions / max(done.seconds, 0.001)
        inputs = [path for path in done.finds if path.name != "output.txt"]
        finds += bool(done.finds)
        print(
            f"{done.target:18} {done.executions:10,} {rate:10,.0f} {done.new:6,} {len(inputs):6}", flush=True
        )
        for path in done.finds:
            print(f"  {path.relative_to(ROOT)}")
        if not done.executions:
            idle.append(done.target)
    if finds:
        print(
            f"targets with a find: {finds}\n\n"
            "hint: mend it, and keep the input: copy it into fuzz/regressions/TARGET, where the tests hold it",
            file=sys.stderr,
        )
    if idle:
        print(
            f"targets that executed nothing: {', '.join(idle)}\n\n"
            "hint: run the program of one of them by itself: it ends before its first input, or says nothing of how many it had",
            file=sys.stderr,
        )
    return 1 if finds or idle else 0


if __name__ == "__main__":
    sys.exit(main())
