"""Exits per second of a Rust device while another Python thread is busy, in percent of an idle interpreter.

By `run` on the main thread, which takes the interpreter once at its first tick, and by `start`, whose
threads do not. Slices of idle and busy in turn. Prints one JSON object a line, for `benches/run.py`.
"""

import json
import threading
from pathlib import Path

from method import another_thread_busy

from hyperpy import DebugExit, Exit, Flat, Machine

ROUNDS = 9
SLICE_S = 0.6
STORM = bytes([0xE4, 0xF4, 0xEB, 0xFC])  # again: in al, 0xf4; jmp again


def _rate(m: Machine, how: str) -> float:
    before = m.stats
    if how == "run":
        thread = threading.main_thread()
        queued = _seconds_queued(thread)
        assert m.run(SLICE_S) == Exit.Timeout()
    else:
        m.start()
        thread = next(t for t in threading.enumerate() if t.name == "hyperpy-vcpu0")
        queued = _seconds_queued(thread)
        assert m.wait(SLICE_S) == Exit.Timeout()
    queued = _seconds_queued(thread) - queued
    after = m.stats
    rate = (after.exits - before.exits) / (after.wall_seconds - before.wall_seconds - queued)
    if how == "start":
        m.close()
    return rate


def _seconds_queued(thread: threading.Thread) -> float:
    """How long a thread could have run but had no processor: other programs' doing, left out of the rate."""
    # Second field of schedstat (kernel: Documentation/scheduler/sched-stats.rst).
    return int(Path(f"/proc/self/task/{thread.native_id}/schedstat").read_text().split()[1]) / 1e9


def _machine() -> Machine:
    m = Machine(memory="64K")
    m.attach(DebugExit(), pio=0xF4)  # a read is answered with 0 in Rust
    m.load(Flat(STORM, at=0x1000, mode="real"))
    m.run(0.0)
    return m


def main() -> None:
    """Measure in turn, and print."""
    for how in ("run", "start"):
        percent = []
        with _machine() as kept:
            for number in range(ROUNDS + 1):
                idle = _rate(kept if how == "run" else _machine(), how)
                with another_thread_busy():
                    busy = _rate(kept if how == "run" else _machine(), how)
                if number > 0:
                    percent.append(100 * busy / idle)
        print(json.dumps({"how": how, "percent": percent}))


if __name__ == "__main__":
    main()
