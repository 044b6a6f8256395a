"""The guest's serial line as the script sees it: output by position, `expect`, and input.

The bytes are kept in Rust, in a bounded buffer that drops the oldest (`dropped` counts them); here is only the search.
"""

from __future__ import annotations

import io
import math
import os
import re
import time
from typing import TYPE_CHECKING, Protocol, TypeVar, overload

from hyperpy import _hyperpy
from hyperpy.errors import StateError

if TYPE_CHECKING:
    from collections.abc import Callable

    from typing_extensions import Buffer

__all__ = ["Console"]

_M = TypeVar("_M")

_TAIL = 400
# A pattern is searched again at most this often while output streams in, so that a search does not cost more than the
# guest's own work. Output wakes the search; this only gathers a few bytes first.
_GATHER = 0.005
# How often a wait looks at the clock and for Ctrl-C.
_LOOK = 0.05


class _HasFileno(Protocol):
    def fileno(self) -> int: ...


class Console:
    """Output of a guest's first serial port (COM1) and input to it.

    Example:
        >>> import hyperpy
        >>> code = bytes([0xB0, 0x41, 0xE6, 0xE9, 0xF4])  # mov al, "A"; out 0xe9, al; hlt
        >>> with hyperpy.Machine(memory="1M") as m:
        ...     port = m.attach(hyperpy.DebugConsole(m.console), pio=0xE9)
        ...     m.load(hyperpy.Flat(code, at=0x1000, mode="real"))
        ...     exit = m.run(timeout=1.0)
        ...     print(m.console.expect("A")[0])
        A
    """

    def __init__(self, capacity: int = 1 << 20, *, standing: Callable[[], str | None] = lambda: None) -> None:
        self._native = _hyperpy.Console(capacity)
        self._standing = standing  # why nothing more will come, in words; None while the guest runs
        self._unread = 0

    @property
    def output(self) -> str:
        """All output that is still kept, as text; bytes that are not UTF-8 show as U+FFFD."""
        return self.output_bytes.decode("utf-8", "replace")

    @property
    def output_bytes(self) -> bytes:
        """All output that is still kept."""
        return self._native.read_from(0)[1]

    @property
    def dropped(self) -> int:
        """Bytes of output that were dropped because nobody's buffer is endless."""
        return self._native.dropped()

    def read(self) -> str:
        """Output since the last `read` or `expect`, as text; empty if there is none. Does not wait."""
        start, data = self._native.read_from(self._unread)
        self._unread = start + len(data)
        return data.decode("utf-8", "replace")

    @overload
    def expect(self, pattern: str | re.Pattern[str], timeout: float | None = None) -> re.Match[str]: ...
    @overload
    def expect(self, pattern: bytes | re.Pattern[bytes], timeout: float | None = None) -> re.Match[bytes]: ...
    def expect(
        self, pattern: str | bytes | re.Pattern[str] | re.Pattern[bytes], timeout: float | None = None
    ) -> re.Match[str] | re.Match[bytes]:
        """Wait until unread output holds `pattern`; consume output through the match and return the match.

        A str or bytes is searched as it is; a compiled pattern is a regular expression. `timeout` is in seconds; None
        waits for as long as the machine runs.

        Raises:
            StateError: the machine stands still, and the pattern is not in what it has said. Raised at once; tells why
                it stands still.
            TimeoutError: the time is over. Both show the end of the output.
            TypeError: the pattern is none of these.
        """
        if isinstance(pattern, str):
            return self._expect_text(re.compile(re.escape(pattern)), timeout)
        if isinstance(pattern, bytes):
            return self._expect_bytes(re.compile(re.escape(pattern)), timeout)
        if not isinstance(pattern, re.Pattern):
            raise TypeError(
                f"not a pattern: {pattern!r}\n\nhint: str or bytes, or re.compile(...) for a regular expression"
            )
        if isinstance(pattern.pattern, str):
            return self._expect_text(pattern, timeout)
        return self._expect_bytes(pattern, timeout)

    def _expect_text(self, pattern: re.Pattern[str], timeout: float | None) -> re.Match[str]:
        def search(data: bytes) -> tuple[re.Match[str], int] | None:
            text = data.decode("utf-8", "surrogateescape")
            match = pattern.search(text)
            return match and (match, len(text[: match.end()].encode("utf-8", "surrogateescape")))

        return self._wait(search, pattern, timeout)

    def _expect_bytes(self, pattern: re.Pattern[bytes], timeout: float | None) -> re.Match[bytes]:
        def search(data: bytes) -> tuple[re.Match[bytes], int] | None:
            match = pattern.search(data)
            return match and (match, match.end())

        return self._wait(search, pattern, timeout)

    def _wait(
        self,
        search: Callable[[bytes], tuple[_M, int] | None],
        pattern: re.Pattern[str] | re.Pattern[bytes],
        timeout: float | None,
    ) -> _M:
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            # Asked before the output is read: what a guest said last is there when it is seen to stand still.
            standing = self._standing()
            start, data = self._native.read_from(self._unread)
            self._unread = start
            if found := search(data):
                self._unread = start + found[1]
                return found[0]
            if standing is not None:
                raise StateError(
                    f"the machine stands still, {standing}; its console has no {pattern.pattern!r}{_tail(data)}",
                    hint="start() it first; of one that was started, `m.wait()` gives what ended it",
                )
            left = math.inf if deadline is None else deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError(f"no {pattern.pattern!r} on the console in {timeout} s{_tail(data)}")
            self._sleep(start + len(data), left)

    def _sleep(self, position: int, seconds: float) -> None:
        """Until there is output past `position`, the machine stands still, or the time is over; or Ctrl-C."""
        end = time.monotonic() + seconds
        while self._standing() is None and (left := end - time.monotonic()) > 0:
            if self._native.wait_past(position, min(left, _LOOK)):
                time.sleep(_GATHER)
                return

    def send(self, text: str | Buffer) -> int:
        """Send input to the guest; returns how many bytes were taken (the queue holds 64 KiB)."""
        return self._native.send(text.encode() if isinstance(text, str) else bytes(memoryview(text)))

    def sink(self, target: _HasFileno | int | None) -> None:
        """Copy output to a file or descriptor as it comes, besides keeping it; None ends that."""
        if target is None or isinstance(target, int):
            self._native.set_sink(target)
            return
        if not hasattr(target, "fileno"):
            raise TypeError(
                f"not a file: {target!r}\n\nhint: give open(path, 'wb'), sys.stdout or a descriptor"
            )
        if isinstance(target, io.IOBase | io.TextIOBase):
            target.flush()  # what was written before stays before
        self._native.set_sink(target.fileno())

    def __repr__(self) -> str:
        return f"Console({self._native.end()} bytes of output, {self.dropped} dropped)"


def _tail(data: bytes) -> str:
    text = data[-_TAIL:].decode("utf-8", "replace").strip()
    return f"; its output ends with:{os.linesep}{text}" if text else "; it has said nothing"
