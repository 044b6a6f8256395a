"""What a worker of a guest fuzzer does: it fuzzes, learns from the folder what others have found, and tells how far it is.

It is the last line of a script that made the fuzzer (`_fuzz_guest_script.making`); the pipe's number is its argument.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hyperpy._fuzz_guest import GuestFuzzer

__all__ = ["work"]

_SLICE = 0.25


def work(fuzzer: GuestFuzzer, seed: int, corpus: str, seconds: float, executions: int | None) -> None:
    """Fuzz for so long, or so many executions."""
    pipe = int(sys.argv[1])
    parent = os.getppid()
    fuzzer._set(1, seed, corpus, None)
    until = time.monotonic() + seconds
    left = (1 << 62) if executions is None else executions
    told: set[Any] = set()

    def tell(**line: Any) -> None:
        os.write(pipe, json.dumps(line).encode() + b"\n")

    def tell_all(is_done: bool) -> None:
        for key, crash in fuzzer._found.items():
            if key not in told:
                told.add(key)
                found = crash._found
                tell(crash=crash.input.hex(), found=[found.what, list(found.vectors), *found[2:]])
        done, coverage, inputs = fuzzer._native.statistics()[:3]
        problems = list(fuzzer._problems)
        tell(executions=done, coverage=coverage, corpus=inputs, problems=problems, is_done=is_done)

    try:
        while left > 0 and (now := time.monotonic()) < until and os.getppid() == parent:
            fuzzer._look()
            left -= fuzzer._slice(left, min(_SLICE, until - now))
            tell_all(is_done=False)
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        fuzzer._save()
    except BrokenPipeError:
        return
    tell_all(is_done=True)
    fuzzer.machine.close()
