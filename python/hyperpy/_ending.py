"""What becomes of machines when the interpreter ends: those that are not closed are closed, in bounded time.

Which ones live is kept here; how one closes is `Machine`'s.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import time
from typing import TYPE_CHECKING

from hyperpy import _hyperpy
from hyperpy._living import Living

if TYPE_CHECKING:
    from hyperpy.machine import Machine

__all__ = ["live"]

# The machines that are not closed.
live: Living[Machine] = Living()
# How long the end waits for all of them together, in seconds.
_LAST_S = 1.0


@atexit.register
def _close_all() -> None:
    """Stop every machine before the interpreter goes: their threads are in the middle of Python code.

    A device that has not returned after a while gets a SystemExit. One that is in C code, such as a lock, does not see it:
    it is left behind, and its thread is a daemon.
    """
    mine = [machine for machine in live if machine._owner == os.getpid()]
    # One that fails must not keep the others alive, nor may a Ctrl-C.
    for machine in mine:
        with contextlib.suppress(BaseException):
            machine._native.begin_close()
    deadline = time.monotonic() + _LAST_S

    def left() -> float:
        return max(0.0, deadline - time.monotonic())

    stuck = [machine for machine in mine if not _closes(machine, left() / 2)]
    if stuck:
        # Python would end these threads in the middle of native code, while it goes.
        import threading  # noqa: PLC0415 - vcpus had threads, so it is there

        for thread in threading.enumerate():
            if thread.name.startswith(("hyperpy-vcpu", "hyperpy-timers")):
                _hyperpy.end_thread(thread.ident or 0)
        for machine in stuck:
            _closes(machine, left())
    for machine in mine:
        with contextlib.suppress(BaseException):
            machine._let_go(left())


def _closes(machine: Machine, seconds: float) -> bool:
    """Whether it does, in that time."""
    with contextlib.suppress(BaseException):
        return machine._native.close_within(seconds)
    return False
