"""How long a user waits for the first instruction: process start to first KVM_RUN, and `import hyperpy` alone.

Both are taken from a parent that notes the time and starts a fresh interpreter. The first KVM_RUN cannot be seen
from Python; the guest's first instruction is a port write, and the device that takes it notes the time, so the
figure holds the first exit too (about 20 us). Byte code is kept, as `pip install` leaves it, whatever the environment
says. Prints one JSON object a line, for `benches/run.py`.
"""

import json
import os
import subprocess
import sys
import tempfile
import time

ROUNDS = 15

# out 0x10,al
_FIRST_RUN = """
import hyperpy, time

class Note(hyperpy.Device):
    def write(self, offset, size, value):
        print(time.monotonic_ns())
        return hyperpy.Stop("first exit")

with hyperpy.Machine(memory="64M") as m:
    m.load(hyperpy.Flat(bytes([0xE6, 0x10, 0xF4]), at=0x1000, mode="real"))
    m.attach(Note(), pio=0x10, size=1)
    assert isinstance(m.run(timeout=10), hyperpy.Exit.Stopped)
"""


def main() -> None:
    """Measure in turn, and print."""
    bare, imported, first = [], [], []
    with tempfile.TemporaryDirectory() as folder:
        kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        environment = {**kept, "PYTHONPYCACHEPREFIX": folder}
        for number in range(ROUNDS + 1):
            took = [_seconds(code, environment) for code in ("pass", "import hyperpy", _FIRST_RUN)]
            if number > 0:  # the first round reads files and compiles modules
                bare.append(took[0])
                imported.append(took[1] - took[0])
                first.append(took[2])
    for figure, samples in (("bare interpreter", bare), ("import", imported), ("first run", first)):
        print(json.dumps({"figure": figure, "ms": [sample * 1e3 for sample in samples]}))


def _seconds(code: str, environment: dict[str, str]) -> float:
    """Return the time from the start of an interpreter to the moment that it prints, or else to its end."""
    began = time.monotonic_ns()
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, check=True, env=environment, stdout=subprocess.PIPE, text=True)
    return (int(done.stdout or time.monotonic_ns()) - began) / 1e9


if __name__ == "__main__":
    main()
