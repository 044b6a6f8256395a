"""Writes the snapshot files below tests/golden, by which the tests see that each version of the format stays readable.

`python scripts/golden_snapshots.py` writes those of today's version that are not there. One that is there stays as it is: it
stands for all files that users have. What is in them is `contents()`; what a new version adds gets a function of its own.
"""

import sys
from pathlib import Path
from typing import Any

from hyperpy._hyperpy import SnapshotFile, save_snapshot

FOLDER = Path(__file__).resolve().parent.parent / "tests" / "golden"
VERSION = 1
PAGE = 4096


def contents() -> dict[str, Any]:
    """What a file of version 1 is written of, beside its compression."""
    ram = bytearray(1 << 20)
    ram[: len(b"first")] = b"first"
    ram[5 * PAGE : 6 * PAGE] = bytes(range(256)) * 16
    ram[200 * PAGE : 201 * PAGE] = bytes(range(256)) * 16  # the same once more
    state = {
        "none": None,
        "booleans": [False, True],
        "integers": [0, -1, -(1 << 63), (1 << 63) - 1, 1 << 63, (1 << 127) - 1, -(1 << 127)],
        "numbers": [0.5, -0.0, float("inf")],
        "text": "grün, 日本",
        "bytes": bytes(range(256)),
        "empty": [[], {}, "", b""],
        "devices": {"com1": {"ier": 1, "fifo": b"abc"}},
    }
    regions = [
        ("ram", 0, bytes(ram), {"kind": "ram"}),
        ("firmware", 0xFFFF_0000, bytes(PAGE) + b"\xf4" * PAGE, {"kind": "rom", "writable": False}),
    ]
    return {
        "state": state,
        "regions": regions,
        "made_by": "hyperpy 0.1.0",
        "created_ns": 1_700_000_000_123_456_789,
        "schema": 1,
    }


def name(version: int, compress: bool) -> str:
    """That of a file."""
    return f"snapshot-{version}-{'zstd' if compress else 'none'}.hps"


def main() -> int:
    """Write what is missing."""
    FOLDER.mkdir(exist_ok=True)
    for compress in (False, True):
        path = FOLDER / name(VERSION, compress)
        if not path.exists():
            save_snapshot(path, **contents(), compress=compress)
            path.chmod(0o644)
            print(f"{path.name}: {path.stat().st_size} bytes, version {SnapshotFile(path).info()['version']}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
