"""Run one target of `targets` so often, from a seed: the same inputs each time.

Inputs are made of those that had a new outcome, by small changes. A find is kept as a file, named by its checksum; the last
line says how many executions there were and how many outcomes.
"""

from __future__ import annotations

import argparse
import hashlib
import random
import sys
import time
import traceback
from pathlib import Path

from targets import SEEDS, TARGETS

REGRESSIONS = Path(__file__).resolve().parent.parent / "regressions"
_TOKENS = (
    b"0",
    b"-1",
    b"0x",
    b"1e999",
    b"\xff",
    b"\xc3",
    b"\0",
    b'"',
    b"[",
    b"]",
    b"{",
    b"}",
    b"\n",
    b"=",
    b",",
    b"null",
    b"18446744073709551616",
)
_LONGEST = 4096
_LONGEST_S = 10.0


def mutated(data: bytes, pool: list[bytes], rng: random.Random) -> bytes:
    """Change an input in a few places."""
    out = bytearray(data)
    for _ in range(1 << rng.randrange(4)):
        at = rng.randrange(len(out) + 1)
        match rng.randrange(7):
            case 0:
                del out[at : at + 1 + rng.randrange(16)]
            case 1:
                out[at:at] = rng.randbytes(1 + rng.randrange(8))
            case 2:
                out[at:at] = rng.choice(_TOKENS)
            case 3:
                other = rng.choice(pool)
                begin = rng.randrange(len(other) + 1)
                out[at : at + rng.randrange(16)] = other[begin : begin + rng.randrange(64)]
            case 4:
                begin = rng.randrange(len(out) + 1)
                out[at:at] = out[begin : begin + rng.randrange(32)]
            case _ if at < len(out):
                out[at] = rng.choice([out[at] ^ 1 << rng.randrange(8), rng.randrange(256)])
    return bytes(out[:_LONGEST])


def known(name: str) -> list[bytes]:
    """What was found before."""
    folder = REGRESSIONS / name
    return [path.read_bytes() for path in sorted(folder.iterdir())] if folder.is_dir() else []


def run(name: str, runs: int, seed: int, finds: Path | None) -> tuple[int, int]:
    """Run a target; how many outcomes there were, and how many finds. Without a folder for these the first one is raised."""
    target, rng = TARGETS[name], random.Random(f"{name} {seed}")
    pool, seen, found = [*SEEDS.get(name, list)(), *known(name), b""], set[str](), set[str]()
    first = list(pool)
    for number in range(runs):
        if number < len(first):
            data = first[number]
        else:
            # Now and then bytes of which nothing is known.
            data = (
                rng.randbytes(rng.randrange(200))
                if rng.randrange(4) == 0
                else mutated(rng.choice(pool), pool, rng)
            )
        began = time.monotonic()
        try:
            outcome = target(data)
            if time.monotonic() - began > _LONGEST_S:
                raise TimeoutError(f"longer than {_LONGEST_S} s")
        except Exception as error:
            if finds is None:
                raise
            line = traceback.extract_tb(error.__traceback__)[-1]
            outcome = f"{type(error).__name__} at {line.name} {line.lineno}"
            if outcome not in found:
                found.add(outcome)
                (finds / hashlib.sha1(data).hexdigest()).write_bytes(data)
                traceback.print_exc()
        if outcome not in seen:
            seen.add(outcome)
            pool.append(data)
    return len(seen), len(found)


def main() -> int:
    """Run the target that is named; 1 if it finds something."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("target", choices=sorted(TARGETS))
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--finds", type=Path, default=Path())
    options = parser.parse_args()
    outcomes, finds = run(options.target, options.runs, options.seed, options.finds)
    print(f"{options.runs} executions, {outcomes} new")
    return 1 if finds else 0


if __name__ == "__main__":
    sys.exit(main())
