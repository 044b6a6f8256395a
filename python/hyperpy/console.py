"""The guest's serial line as the script sees it: output by position, `expect`, and input.

The bytes are kept in Rust, in a bounded buffer that drops the oldest (`dropped` counts them); here is only the search.
"""

from __future__ import annotations

import codecs
import io
import math
import operator
import os
import re
import sys
import time
import weakref
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, overload

from hyperpy import _hyperpy
from hyperpy.errors import StateError

if TYPE_CHECKING:
    from collections.abc import Callable

    from typing_extensions import Buffer

    from hyperpy._follow import Follower

__all__ = ["Console"]

_M = TypeVar("_M")
# What `standing` says of a machine that has run nothing.
_NOT_STARTED = "not started"

_TAIL = 400
# What surrogateescape makes of bytes that are not UTF-8.
_NO_UTF8 = re.compile("[\\udc80-\\udcff]")
# A pattern is searched again at most this often while output streams in, so that a search does not cost more than the
# guest's own work. Output wakes the search; this only gathers a few bytes first.
_GATHER = 0.005
# How often a wait looks at the clock and for Ctrl-C.
_LOOK = 0.05
# How long the end of a sink waits for a callable that is behind, in seconds.
PATIENCE = 1.0


class _HasFileno(Protocol):
    def fileno(self) -> int: ...


class _HasWrite(Protocol):
    def write(self, data: Any, /) -> object: ...


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

    def __init__(
        self,
        capacity: int = 1 << 20,
        *,
        standing: Callable[[], str | None] = lambda: None,
        failed: Callable[[BaseException], object] = lambda error: None,
    ) -> None:
        if not 0 < operator.index(capacity) <= sys.maxsize:
            raise ValueError(f"capacity is out of range: {capacity}\n\nhint: bytes of output to keep, from 1")
        self._native = _hyperpy.Console(capacity)
        self._standing = standing  # why nothing more will come, in words; None while the guest runs
        self._failed = failed  # told what a callable sink raised
        self._follower: Follower | None = None
        self._lost = 0  # by callables that are no longer sinks

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

    @property
    def sink_dropped(self) -> int:
        """Bytes of output that sinks have not got: they were full, closed, or too slow."""
        return self._native.lost() + self._lost + (self._follower.lost if self._follower else 0)

    def read(self) -> str:
        """Output since the last `read` or `expect`, as text; empty if there is none. Does not wait."""
        return self._take(1 << 62).decode("utf-8", "replace")

    def _take(self, most: int) -> bytes:
        start, data = self._native.read_some(self._native.unread, most)
        self._native.unread = start + len(data)
        return data

    def _wait_unread(self, seconds: float) -> None:
        self._native.wait_past(self._native.unread, seconds)

    @overload
    def expect(self, pattern: str | re.Pattern[str], timeout: float | None = None) -> re.Match[str]: ...
    @overload
    def expect(self, pattern: bytes | re.Pattern[bytes], timeout: float | None = None) -> re.Match[bytes]: ...
    def expect(
        self, pattern: str | bytes | re.Pattern[str] | re.Pattern[bytes], timeout: float | None = None
    ) -> re.Match[str] | re.Match[bytes]:
        """Wait until unread output holds `pattern`; consume output through the match and return the match.

        A str or bytes is searched as it is, a str in the output as text, where bytes that are not UTF-8 are U+FFFD; a compiled pattern is a regular expression. `timeout` is in seconds; None
        waits for as long as the machine runs.

        Raises:
            StateError: the machine stands still, and the pattern is not in what it has said. Raised at once; tells why
                it stands still. Also inside a device, which would wait for its own vcpu.
            TimeoutError: the time is over. Both show the end of the output.
            ValueError: the timeout is no number of seconds from 0 up.
            TypeError: the pattern is none of these.
        """
        given = pattern.pattern if isinstance(pattern, re.Pattern) else pattern
        if isinstance(given, str):
            return self._wait(_in_text(_compiled(pattern)), given, timeout)
        if isinstance(given, bytes):
            return self._wait(_in_bytes(_compiled(pattern)), given, timeout)
        raise TypeError(
            f"not a pattern: {pattern!r}\n\nhint: str or bytes, or re.compile(...) for a regular expression"
        )

    def _wait(
        self,
        search: Callable[[bytes], tuple[_M, int] | None],
        pattern: str | bytes,
        timeout: float | None,
    ) -> _M:
        if timeout is not None and not timeout >= 0:
            hint = "seconds, such as 1.5; None waits for ever"
            raise ValueError(f"timeout is not a number of seconds from 0 up\n\nhint: {hint}")
        self._native.may_wait(False)
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            # Asked before the output is read: what a guest said last is there when it is seen to stand still.
            standing = self._standing()
            start, data = self._native.read_from(self._native.unread)
            self._native.unread = start
            if found := search(data):
                self._native.unread = start + found[1]
                return found[0]
            if standing is not None:
                raise StateError(
                    f"the machine stands still, {standing}; its console has no {pattern!r}{_tail(data)}",
                    hint="start() it first; of one that was started, `m.wait()` gives what ended it",
                )
            left = math.inf if deadline is None else deadline - time.monotonic()
            if left <= 0:
                hint = "give it a longer timeout; `m.console.output` is all that it said"
                raise TimeoutError(
                    f"no {pattern!r} on the console in {timeout} s{_tail(data)}\n\nhint: {hint}"
                )
            self._sleep(start + len(data), left)

    def _sleep(self, position: int, seconds: float) -> None:
        """Until there is output past `position`, the machine stands still, or the time is over; or Ctrl-C."""
        end = time.monotonic() + seconds
        while self._standing() is None and (left := end - time.monotonic()) > 0:
            if self._native.wait_past(position, min(left, _LOOK)):
                time.sleep(_GATHER)
                return
            if self._native.end() < position:  # it was put back
                return

    def send(self, text: str | Buffer) -> int:
        """Send input to the guest; returns how many bytes were taken (the queue holds 64 KiB).

        Raises:
            StateError: the machine is closed.
        """
        self._native.send(b"")  # in the child of a fork this says so
        if self._standing() in {"closed", "gone"}:
            raise StateError("cannot send: the machine is closed", hint="make a new machine")
        return self._native.send(text.encode() if isinstance(text, str) else bytes(memoryview(text)))

    def sink(self, target: _HasFileno | _HasWrite | int | Callable[[bytes], object] | None) -> None:
        """Copy output to a file, a stream, a descriptor or a callable as it comes, besides keeping it; None ends that.

        There is one sink: a new one takes the place of the old one.

        A file is written on the vcpu's thread, which waits at most 50 ms for one that is full, such as a pipe or a
        terminal that nobody reads. A callable gets bytes, at most 64 KiB at a time, on a thread of its own named
        `hyperpy-sink`, where every verb of the machine works; it never holds up the guest. A stream without a descriptor,
        such as a notebook's `sys.stdout` or an `io.StringIO`, has its `write` called likewise. What a sink has not got is
        counted in `sink_dropped`: of a callable, what the console's buffer had dropped before its turn came. A callable
        that raises is the sink no more; what it raised is in `Machine.errors` and goes once to the logger
        `hyperpy.console`. A machine that is closed, and a new sink, first hand it what is left, for at most 1 s.

        Raises:
            OSError: the descriptor is not open for writing.
            TypeError: it is none of these.

        Example:
            >>> import hyperpy
            >>> lines = []
            >>> code = bytes([0xB0, 0x41, 0xE6, 0xE9, 0xF4])  # mov al, "A"; out 0xe9, al; hlt
            >>> with hyperpy.Machine(memory="1M") as m:
            ...     m.console.sink(lines.append)
            ...     port = m.attach(hyperpy.DebugConsole(m.console), pio=0xE9)
            ...     m.load(hyperpy.Flat(code, at=0x1000, mode="real"))
            ...     exit = m.run(timeout=1.0)
            >>> lines
            [b'A']
        """
        if target is None or isinstance(target, int):
            if target is not None and target >> 31:
                raise ValueError(f"not a descriptor: {target}\n\nhint: one as file.fileno() gives it")
            self._set_sink(target)
            return
        from hyperpy._writer import Writer, descriptor_of  # noqa: PLC0415 - few scripts have one

        descriptor = descriptor_of(target)
        if descriptor is not None:
            if isinstance(target, io.IOBase | io.TextIOBase):
                target.flush()  # what was written before stays before
            self._set_sink(descriptor)
        elif hasattr(target, "write"):
            self._call(Writer(target))
        else:
            self._call(target)

    def _call(self, target: object) -> None:
        if not callable(target):
            hint = "give open(path, 'wb'), sys.stdout, a descriptor, or a callable that takes bytes"
            raise TypeError(f"not a sink: {target!r}\n\nhint: {hint}")
        from hyperpy._follow import Follower  # noqa: PLC0415 - few scripts have one

        self._set_sink(None)
        self._follower = follower = Follower(self._native, target, _reporter(self._failed))
        # A console that is forgotten ends the thread.
        self._finalizer = weakref.finalize(self, follower.end, 0)
        self._finalizer.atexit = False

    def _set_sink(self, descriptor: int | None, patience: float = PATIENCE) -> None:
        self._native.set_sink(descriptor)
        follower, self._follower = self._follower, None
        if follower:
            self._finalizer.detach()  # it would keep the callable
            follower.end(patience)
            self._lost += follower.lost

    def interact(self) -> bool:
        """Make the terminal the guest's console: show unread output and all that comes, send what is typed.

        The terminal is raw meanwhile: the guest gets every key, Ctrl-C too, but for Ctrl-A x, which leaves; Ctrl-A h shows
        this, and Ctrl-A twice sends one. It is restored whatever happens, also while the job is suspended (SIGTSTP); SIGTERM
        and SIGHUP end the program with 128 + their number, unless the program handles them. Standard input that is no terminal is sent to the
        guest as it is, and its end is not the end. A job in the background only shows output.

        Returns:
            Whether it was left, so that the machine still runs; False when the machine stands still.

        Raises:
            StateError: the machine was never started; or this is inside a device.
            BrokenPipeError: standard output was closed.

        Example:
            >>> import hyperpy
            >>> with hyperpy.Machine(memory="1M") as m:
            ...     m.load(hyperpy.Flat(bytes([0xF4]), at=0x1000, mode="real"))  # hlt
            ...     m.start()
            ...     m.console.interact()
            False
        """
        self._native.may_wait(True)
        if self._standing() == _NOT_STARTED:
            raise StateError("cannot interact: the machine is not started", hint="start() it first")
        from hyperpy._terminal import interact  # noqa: PLC0415 - few scripts need a terminal

        return interact(self, self._standing, self._take)

    def __repr__(self) -> str:
        return f"Console({self._native.end()} bytes of output, {self.dropped} dropped)"


def _reporter(failed: Callable[[BaseException], object]) -> Callable[[BaseException], object]:
    """What tells that a callable sink raised; it must not hold its console."""

    def report(error: BaseException) -> None:
        import logging  # noqa: PLC0415 - it costs more than the whole package

        failed(error)
        logging.getLogger("hyperpy.console").error(
            "sink of the console raised, and is no more", exc_info=error
        )

    return report


def _compiled(pattern: Any) -> re.Pattern[Any]:
    return pattern if isinstance(pattern, re.Pattern) else re.compile(re.escape(pattern))


def _in_text(pattern: re.Pattern[str]) -> Callable[[bytes], tuple[re.Match[str], int] | None]:
    """What searches output as text; gives the match, and how many bytes it reaches."""

    def search(data: bytes) -> tuple[re.Match[str], int] | None:
        # A byte that is not UTF-8 is one character; one that is cut at the end is waited for.
        text, _ = codecs.utf_8_decode(data, "surrogateescape", False)
        match = pattern.search(_NO_UTF8.sub("\ufffd", text))
        return match and (match, len(text[: match.end()].encode("utf-8", "surrogateescape")))

    return search


def _in_bytes(pattern: re.Pattern[bytes]) -> Callable[[bytes], tuple[re.Match[bytes], int] | None]:
    def search(data: bytes) -> tuple[re.Match[bytes], int] | None:
        match = pattern.search(data)
        return match and (match, match.end())

    return search


def _tail(data: bytes) -> str:
    text = data[-_TAIL:].decode("utf-8", "replace").strip()
    return f"; its output ends with:{os.linesep}{text}" if text else "; it has said nothing"
