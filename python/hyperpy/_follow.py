"""A callable that gets the console's output, on a thread of its own.

The thread follows the console's bounded buffer, so that a slow callable neither holds the guest up nor
makes anything grow: what the buffer drops before the callable comes to it is counted as lost.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hyperpy import _hyperpy

__all__ = ["Follower"]

# Most bytes of one call.
_CHUNK = 64 << 10
# After a wait for output a few bytes are gathered first: a guest that writes byte by byte does not make a call of each.
_GATHER_S = 0.005


class Follower:
    """Calls `target(data)` with all output from now on, in order, until `end`, or until it raises.

    Arguments:
        native: the console; nothing else of the machine is kept alive.
        target: called with bytes, from 1 to 64 KiB.
        report: called once with what `target` raised; then this is over.
    """

    def __init__(
        self,
        native: _hyperpy.Console,
        target: Callable[[bytes], object],
        report: Callable[[BaseException], object],
    ) -> None:
        self.lost = 0
        self._native = native
        self._target = target
        self._report = report
        self._number = native.begin_follow()
        self._over = self._is_abandoned = False
        self._thread = threading.Thread(target=self._serve, name="hyperpy-sink", daemon=True)
        self._thread.start()

    def end(self, patience: float) -> None:
        """Hand over what is there, but wait no longer than so many seconds for it: what is left then is lost."""
        self._over = True
        with contextlib.suppress(Exception):  # in the child of a fork there is no thread to wake
            self._native.wake()
        if threading.current_thread() is not self._thread:
            self._thread.join(patience)
        self._is_abandoned = True

    def _serve(self) -> None:
        try:
            self._tell()
        finally:
            self._native.end_follow(self._number)

    def _tell(self) -> None:
        while True:
            wakes, over = self._native.wakes(), self._over
            lost, data = self._native.told(self._number, _CHUNK)
            self.lost += lost
            if not data:
                if over:
                    return
                if self._native.follow(self._number, wakes):
                    time.sleep(_GATHER_S)
                continue
            if self._is_abandoned:
                self.lost += len(data)
                continue
            try:
                self._target(data)
            except BaseException as error:  # SystemExit too: there is nobody above to take it
                self._report(error)
                return
