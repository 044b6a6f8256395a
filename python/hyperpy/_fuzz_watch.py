"""Ends what hangs: a thread that sees whether the fuzzed device goes on, and raises `Hang` in it if it does not.

Lines of the device's own code are counted, so most hangs end before (crates/hyperpy-python/src/fuzz/trail.rs), and at the same line
each time. This is for the others: a loop in a module that the device calls. What never comes back to Python cannot be ended so.
"""

from __future__ import annotations

import contextlib
import ctypes
import inspect
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from hyperpy._fuzz_findings import Hang

__all__ = ["PATIENCE", "watched"]

_LOOKS = 4
# So many times of the limit go by on the clock before one is given up that has not used it: on a busy host, or where it waits.
PATIENCE = 20


@contextmanager
def watched(begun: Callable[[], int], limit: float) -> Iterator[None]:
    """Raise `Hang` on this thread if `begun` gives the same number for so many seconds of a processor, or many times that of the clock."""
    thread, done, lock = threading.get_ident(), threading.Event(), threading.Lock()
    clock, user = time.pthread_getcpuclockid(thread), _user()

    def watch() -> None:
        last, since, used = begun(), time.monotonic(), time.clock_gettime(clock)
        while not done.wait(limit / _LOOKS):
            now = begun()
            if now != last:
                last, since, used = now, time.monotonic(), time.clock_gettime(clock)
            elif time.clock_gettime(clock) - used >= limit or time.monotonic() - since >= limit * PATIENCE:
                # Ctrl-C may come just before `done` is set: then nobody is there any more who is watched.
                if not _is_there(user, thread):
                    return
                with lock:
                    if not done.is_set():
                        ctypes.pythonapi.PyThreadState_SetAsyncExc(
                            ctypes.c_ulong(thread), ctypes.py_object(Hang)
                        )
                since, used = time.monotonic(), time.clock_gettime(clock)

    watcher = threading.Thread(target=watch, name="hyperpy fuzz watch", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        with lock:
            done.set()
        # One that comes late comes here: it is raised where Python looks for signals.
        with suppress(Hang):
            watcher.join()


def _user() -> FrameType | None:
    """Whose `with` it is: context managers are not on the stack while it lasts."""
    frame = inspect.currentframe()
    while frame is not None and (
        frame.f_code is _user.__code__
        or frame.f_code.co_flags & inspect.CO_GENERATOR
        or frame.f_code.co_filename == contextlib.__file__
    ):
        frame = frame.f_back
    return frame


def _is_there(wanted: FrameType | None, thread: int) -> bool:
    frame = sys._current_frames().get(thread)
    while frame is not None and frame is not wanted:
        frame = frame.f_back
    return frame is wanted
