"""Holds the instructions that dispatch costs per exit to the bounds in `instructions.toml`, by callgrind.

Times on a shared machine move by half; instructions do not, so this is what CI can hold. Each case runs with n and
with 2n exits: the difference is what n exits cost, without start and end. Fails above a bound, and where a bound is
far above what is counted: lower it then, so that the gain is kept.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
EXITS = 50_000
# Ticks add a few hundred instructions each to a run that lasts a second under callgrind.
SLACK = 1.10


def build() -> Path:
    """Build the optimized bench program, and return where it is."""
    command = ["cargo", "build", "--release", "--package", "hyperpy-benches", "--message-format=json"]
    lines = subprocess.run(
        command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True
    ).stdout.splitlines()
    found = [m["executable"] for m in map(json.loads, lines) if m.get("executable")]
    return Path(found[-1])


def count(program: Path) -> dict[str, float]:
    """Return the instructions per exit of each case in the bounds file."""
    return {
        case: (_total(program, case, 2 * EXITS) - _total(program, case, EXITS)) / EXITS for case in bounds()
    }


def bounds() -> dict[str, int]:
    """Return the bound of each case: `regions order trace`."""
    read: dict[str, int] = tomllib.loads((ROOT / "benches/instructions.toml").read_text())[
        "instructions_per_exit"
    ]
    return read


def _total(program: Path, case: str, exits: int) -> int:
    with tempfile.TemporaryDirectory() as folder:
        out = os.path.join(folder, "out")
        tool = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={out}"]
        done = subprocess.run(
            [*tool, str(program), "script", *case.split(), str(exits)],
            capture_output=True,
            text=True,
            check=False,
        )
    found = re.search(r"Collected : (\d+)", done.stderr)
    if done.returncode != 0 or found is None:
        sys.exit(
            f"callgrind failed: {done.stdout}{done.stderr}\nhint: valgrind must be installed (`make setup`)"
        )
    return int(found[1])


def main() -> int:
    """Print each case beside its bound; 1 if one does not hold."""
    counted, failed = count(build()), False
    for case, bound in bounds().items():
        said = "ok"
        if counted[case] > bound:
            said = "above the bound: dispatch became slower; find out why before raising it"
        elif counted[case] * SLACK < bound:
            said = f"far below the bound: set it to {round(counted[case] * 1.05)} to keep the gain"
        failed |= said != "ok"
        print(f"instructions per exit, {case:19} {counted[case]:7.1f}  bound {bound}  {said}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
