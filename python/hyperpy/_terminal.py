"""A terminal as a guest's console: raw mode and back, the keys that are not the guest's, and input on its way to it.

Shared by `hyperpy run` and `Console.interact`. Whatever happens, the terminal is left as it was found: an exception, a
signal that ends or suspends the process, a machine that stops. Nothing native is imported here.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import termios
import threading
import tty
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NoReturn, TextIO

if TYPE_CHECKING:
    from hyperpy.console import Console

__all__ = [
    "KEYS",
    "LEFT",
    "OUTPUT_CLOSED",
    "Input",
    "Keys",
    "interact",
    "of_guest",
    "signals_unwind",
    "streams",
]

KEYS = "Ctrl-A x: leave   Ctrl-A Ctrl-A: send one Ctrl-A   Ctrl-A h: this help"
# Why input ends.
LEFT = "left with Ctrl-A x"
OUTPUT_CLOSED = "output closed"
_CTRL_A = 0x01
_CHUNK = 4096
# The console's input queue does not tell when it has room again: it is asked at this pace while it is full.
_FULL_MS = 10
# How often a job that was sent to the background looks whether it is in the foreground again.
_BACKGROUND_MS = 100
# How often `interact` looks at the machine and for signals.
_LOOK_S = 0.05
_ENDING = (signal.SIGTERM, signal.SIGHUP)


def streams() -> tuple[int | None, int | None]:
    """Descriptors of standard input and output; None for what has none, as in a notebook or where it was closed."""
    if sys.stdout is not None:
        sys.stdout.flush()  # what was printed before stays before
    return _descriptor(sys.stdin), _descriptor(sys.stdout)


def _descriptor(stream: TextIO | None) -> int | None:
    try:
        return None if stream is None else stream.fileno()
    except (OSError, ValueError):
        return None


@contextlib.contextmanager
def of_guest(source: int | None) -> Iterator[int | None]:
    """Make a terminal the guest's for as long as the context lasts; gives the descriptor that input comes from.

    A background job has none: touching the terminal would suspend it.
    """
    if source is None or not os.isatty(source):
        yield source
    elif _is_background_job(source):
        yield None
    else:
        with _raw(source):
            yield source


def _is_background_job(terminal: int) -> bool:
    try:
        return os.tcgetpgrp(terminal) != os.getpgrp()
    except OSError:  # not our controlling terminal: it controls no jobs of ours
        return False


@contextlib.contextmanager
def _undisturbed(signals: set[signal.Signals]) -> Iterator[None]:
    """Have these signals wait until the block has ended."""
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


class _Raw:
    """A terminal in raw mode, and the mode that it was found in."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._found: list[Any] | None = None
        self._ours: list[Any] | None = None

    def enter(self) -> None:
        """Hand every key to the guest, Ctrl-C too; newlines on the way out are still the terminal's affair.

        Twice is fine. A job in the background leaves the terminal alone.
        """
        if _is_background_job(self._descriptor):
            return
        # A job that goes on comes here twice: the second time is not to find what the first one has half set.
        with _undisturbed({signal.SIGCONT, signal.SIGTSTP}):
            now = termios.tcgetattr(self._descriptor)
            if now == self._ours:
                return
            self._found = now
            # Not TCSADRAIN: a terminal whose output is held up would hold up this too.
            tty.setraw(self._descriptor, termios.TCSANOW)
            raw = termios.tcgetattr(self._descriptor)
            raw[1] = now[1]  # output modes
            termios.tcsetattr(self._descriptor, termios.TCSANOW, raw)
            self._ours = termios.tcgetattr(self._descriptor)

    def leave(self) -> None:
        """Restore what was found, if that is still to do."""
        found, self._found = self._found, None
        if found is None:
            return
        # A second signal is not to come between, and a job that went to the background may still do this.
        # A terminal may be gone.
        with _undisturbed({signal.SIGTTOU, signal.SIGINT, *_ENDING}), contextlib.suppress(termios.error):
            termios.tcsetattr(self._descriptor, termios.TCSANOW, found)


@contextlib.contextmanager
def _raw(descriptor: int) -> Iterator[None]:
    """Raw mode for as long as the context lasts, but not while the job is suspended.

    A signal that the program handles itself or ignores stays the program's, as in `signals_unwind`.
    """
    raw = _Raw(descriptor)

    def suspend(number: int, _frame: object) -> None:
        raw.leave()
        signal.signal(number, signal.SIG_DFL)
        signal.raise_signal(number)  # to this very thread: it goes on when the job is continued
        go_on()

    def go_on(*_signal: object) -> None:
        if signal.SIGTSTP in ours:
            signal.signal(signal.SIGTSTP, suspend)
        with contextlib.suppress(termios.error):  # a terminal that is gone
            raw.enter()

    # SIGCONT comes also after a SIGSTOP, which nobody can handle: a shell sets the terminal as it likes then.
    ours = _defaults(signal.SIGTSTP, signal.SIGCONT)
    try:
        raw.enter()
        for number in ours:
            signal.signal(number, suspend if number == signal.SIGTSTP else go_on)
        yield
    finally:
        for number in ours:
            signal.signal(number, signal.SIG_DFL)
        raw.leave()


def _defaults(*numbers: signal.Signals) -> list[signal.Signals]:
    """Those of the signals that may be handled: nobody does, and this is the thread that can."""
    is_main = threading.current_thread() is threading.main_thread()
    return [number for number in numbers if is_main and signal.getsignal(number) == signal.SIG_DFL]


@contextlib.contextmanager
def signals_unwind() -> Iterator[None]:
    """Let SIGTERM and SIGHUP leave by the same way as everything else, so that the terminal is restored.

    What the program handles itself or ignores, as SIGHUP is under nohup, stays so. On other threads than the main one
    nothing can be set, and nothing is.
    """

    def leave(number: int, _frame: object) -> NoReturn:
        for ending in ours:
            signal.signal(ending, signal.SIG_IGN)  # once is enough: the way out is not to be interrupted
        raise SystemExit(128 + number)

    ours = _defaults(*_ENDING)
    for number in ours:
        signal.signal(number, leave)
    try:
        yield
    finally:
        for number in ours:
            signal.signal(number, signal.SIG_DFL)


class Input:
    """Input on its way to the guest, on a thread of its own; and a look at whether output is still read.

    Arguments:
        send: takes bytes for the guest and returns how many it took, as `Console.send` does.
        end: called once with `LEFT` or `OUTPUT_CLOSED` when one of them is why there will be no more input.
        source: descriptor to read, or None.
        target: descriptor whose readers are watched, or None.
    """

    def __init__(
        self,
        send: Callable[[bytes], int],
        end: Callable[[str], object],
        source: int | None,
        target: int | None,
    ) -> None:
        self._send = send
        self._tell = end
        self._source = source
        self._target = target
        self._keys = Keys() if source is not None and os.isatty(source) else None
        self._thread = threading.Thread(target=self._serve, name="hyperpy-input", daemon=True)

    def __enter__(self) -> None:
        self._over, self._end = os.pipe()
        self._thread.start()

    def __exit__(self, *_exception: object) -> None:
        os.close(self._end)
        self._thread.join()
        os.close(self._over)

    def _serve(self) -> None:
        poll = select.poll()
        poll.register(self._over, select.POLLIN)
        if self._source is not None:
            poll.register(self._source, select.POLLIN)
        if self._target is not None:
            poll.register(self._target, 0)  # errors and hang-ups are told without being asked for
        over = select.poll()
        over.register(self._over, select.POLLIN)
        while True:
            ready = {descriptor for descriptor, _ in poll.poll()}
            if self._over in ready:
                return
            if self._target in ready:
                self._tell(OUTPUT_CLOSED)
                return
            assert self._source is not None
            if self._keys is not None and _is_background_job(self._source):
                over.poll(_BACKGROUND_MS)  # what is typed is the shell's: to read it would suspend the job
                continue
            try:
                data = os.read(self._source, _CHUNK)
            except OSError:  # a terminal that is gone
                data = b""
            if not data:
                poll.unregister(self._source)
            elif not self._hand_on(data):
                return

    def _hand_on(self, data: bytes) -> bool:
        """Send what was typed or piped in; False when the run is over."""
        leave = False
        if self._keys is not None:
            data, leave, wants_help = self._keys.feed(data)
            if wants_help:
                sys.stderr.write(f"\n{KEYS}\n")
                sys.stderr.flush()
        if leave:
            self._tell(LEFT)
            return False
        over = select.poll()
        over.register(self._over, select.POLLIN)
        while data := data[self._send(data) :]:
            if over.poll(_FULL_MS):
                return False
        return True


class Keys:
    """Finds the commands that begin with Ctrl-A in what is typed."""

    def __init__(self) -> None:
        self._begun = False

    def feed(self, data: bytes) -> tuple[bytes, bool, bool]:
        """The bytes that are the guest's, whether to leave, and whether to show the keys."""
        kept, wants_help = bytearray(), False
        for byte in data:
            if not self._begun and byte == _CTRL_A:
                self._begun = True
                continue
            if not self._begun or byte == _CTRL_A:
                kept.append(byte)
            elif byte in b"xX":
                return bytes(kept), True, wants_help
            else:
                wants_help = True
            self._begun = False
        return bytes(kept), False, wants_help


def interact(console: Console, standing: Callable[[], str | None], read: Callable[[int], bytes]) -> bool:
    """See `Console.interact`. `read` gives unread output, at most so many bytes; `standing` says why no more comes."""
    reasons: list[str] = []

    def end(reason: str) -> None:
        reasons.append(reason)

    source, target = streams()
    with contextlib.ExitStack() as stack:
        stack.enter_context(signals_unwind())
        source = stack.enter_context(of_guest(source))
        stack.enter_context(Input(console.send, end, source, target))
        while not reasons:
            # Asked before the output is read: what a guest said last is there when it is seen to stand still.
            gone = standing()
            if data := read(_CHUNK):
                _write(target, data)
            elif gone is not None:
                return False
            else:
                console._wait_unread(_LOOK_S)
    if OUTPUT_CLOSED in reasons:
        raise BrokenPipeError(
            "nobody reads the output any more\n\nhint: the machine runs on; give standard output a reader"
        )
    return True


def _write(target: int | None, data: bytes) -> None:
    if target is not None:
        while data := data[os.write(target, data) :]:
            pass
    elif sys.stdout is not None:
        sys.stdout.write(data.decode("utf-8", "replace"))
