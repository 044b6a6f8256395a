"""What a streamed write and a doorbell cost the guest, in percent of C: the rows of `hyperpy bench`.

Medians by round, as the guest's own clock has them: what it waits for a write. Beside C, which has nobody to tell, the exit of a
full ring is longer by a call of a Python method for each write in it; one in 169 is such. Prints one JSON object a line,
for `benches/run.py`.
"""

import json
from statistics import median

from hyperpy import bench

ROUNDS = 15
ROWS = {
    "mmio-write-ring": "streamed write",
    "pio-out-doorbell": "doorbell, port",
    "mmio-write-doorbell": "doorbell, mmio",
}


def main() -> None:
    """Measure in turn, and print."""
    report = bench.run(*ROWS, rounds=ROUNDS)
    for name, what in ROWS.items():
        row = report[name]
        assert row.hyperpy is not None, row.why
        assert row.floor is not None, row.why_floor
        pairs = zip(row.hyperpy.rounds, row.floor.rounds, strict=True)
        percent = [100 * median(floor) / median(ours) for ours, floor in pairs]
        print(json.dumps({"what": what, "percent": percent}))


if __name__ == "__main__":
    main()
