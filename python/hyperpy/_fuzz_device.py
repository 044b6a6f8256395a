"""The device fuzzer; public as `hyperpy.fuzz.DeviceFuzzer`. The loop itself is in the core (crates/hyperpy-core/src/fuzz/)."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from hyperpy import _fuzz_lines, _hyperpy
from hyperpy._fuzz_checks import check_end, checked_seed, words_of
from hyperpy._fuzz_crash import Crash
from hyperpy._fuzz_findings import FuzzError, Invariant, Key, is_refused, key_of
from hyperpy._fuzz_host import MOST_GROWTH, MOST_LINES, Host
from hyperpy._fuzz_kept import Kept
from hyperpy._fuzz_report import Report
from hyperpy._fuzz_shape import constants_of, dictionary_of, targets_of
from hyperpy._fuzz_watch import PATIENCE, watched
from hyperpy.memory import parse_size

__all__ = ["DeviceFuzzer"]

_F = TypeVar("_F", bound=Callable[..., Any])
# So long the core runs before it is seen what is to be saved.
_SLICE = 0.25
_LONGEST_STEP = 10_000_000_000
_ANY_NUMBER = 1 << 62
# Inputs of a folder that are read at once.
_BATCH = 256


class DeviceFuzzer:
    """Looks for operations that break a device.

    Arguments:
        factory: makes the device, fresh each time: its class, or a function. What it makes is put on a bench, so no KVM is needed.
        seed: a number; the same one gives the same executions, corpus and crashes.
        dictionary: bytes and numbers that the device knows. Those in its code are found by themselves.
        max_ops: most operations of an input, 1 to 65536.
        double_fetch: what the device reads twice from guest memory it gets from the input twice, as from a guest that changes it meanwhile.
        corpus: a folder with inputs, one a file, that are tried first, and in which those are kept that cover something new. Files of
            cargo-fuzz and AFL++ will do.
        crashes: a folder in which each crash is saved when it is found: see `Crash.save`.
        memory: size of the guest memory for its DMA, in bytes or "1M".
        size: length of its range, if it does not know its own.
        time_limit: an operation that takes longer, in seconds of a processor, is a hang; or 20 times as long by the clock. One that runs more than 250,000 lines of the device's code is one
            too, and is found sooner.
        max_growth: an input that makes the process take so many bytes more is a finding; 0: it is none.
        allowed: exceptions that the device may raise; `DeviceError` of an access that its `access_rule` refuses always may be.

    Raises:
        TypeError: the factory makes no device, or its size is not known; or something is of another type.
        ValueError: a number is out of range.

    Example:
        >>> from hyperpy import Device, Register
        >>> from hyperpy.fuzz import DeviceFuzzer
        >>> class Queue(Device):
        ...     push = Register(0x0, access="wo")
        ...     level = Register(0x4, access="ro")
        ...
        ...     @push.on_write
        ...     def _push(self, value: int) -> None:
        ...         self.level += 1
        >>> fuzzer = DeviceFuzzer(Queue, seed=1)
        >>> _ = fuzzer.invariant(lambda queue: queue.level <= 16)
        >>> report = fuzzer.run(executions=2000)
        >>> [crash.kind for crash in report.crashes]
        ['invariant']
    """

    def __init__(
        self,
        factory: Callable[[], Any],
        *,
        seed: int = 0,
        dictionary: Iterable[bytes | str | int] = (),
        max_ops: int = 1024,
        double_fetch: bool = False,
        corpus: str | Path | None = None,
        crashes: str | Path | None = None,
        memory: int | str = "1M",
        size: int | str | None = None,
        time_limit: float = 1.0,
        max_growth: int | str = MOST_GROWTH,
        allowed: tuple[type[Exception], ...] = (),
    ) -> None:
        if not 1 <= max_ops <= 1 << 16:
            raise ValueError(f"number of operations is out of range: {max_ops}\n\nhint: 1 to 65536")
        given: object = factory
        if not callable(given):
            what = type(factory).__name__
            raise TypeError(
                f"device is made already: {what}\n\nhint: give its class, {what}, or a function that makes one"
            )
        if not 0 < time_limit < float("inf"):
            raise ValueError(f"not a time: {time_limit}\n\nhint: seconds, more than 0")
        self.factory, self.seed = factory, checked_seed(seed)
        self._allowed, self._time_limit = _classes(allowed), time_limit
        # Seconds that a campaign waits for one input. Longer than it waits for a hang, which it can tell more of.
        self._patience = PATIENCE * time_limit + 10
        self._memory, self._double_fetch = parse_size(memory), double_fetch
        self._host = Host(
            factory,
            size=None if size is None else parse_size(size),
            memory=self._memory,
            double_fetch=double_fetch,
            max_lines=MOST_LINES,
            max_growth=parse_size(max_growth) if max_growth else 0,
        )
        known, given = constants_of(self._host.cls), dictionary_of(words_of(dictionary))
        self._words = known[0] + given[0], known[1] + given[1]
        self._max_ops = max_ops
        self._begin(corpus, crashes)

    def _begin(self, corpus: str | Path | None, crashes: str | Path | None) -> None:
        host = self._host
        self._native = _hyperpy.DeviceFuzzer(
            host.bench_of.size,
            targets_of(host.cls, host.bench_of.size),
            [event.most for event in host.events],
            host.memory is not None,
            self._max_ops,
            _LONGEST_STEP,
            self.seed % (1 << 64),
            *self._words,
        )
        self._crashes: dict[Key, Crash] = {}
        self._seconds, self._minimizing = 0.0, ""
        self._kept: Kept[Crash] = Kept(corpus, crashes)

    def configure(self, *, seed: int, corpus: str | Path | None, crashes: str | Path | None) -> None:
        """Begin anew with another seed and other folders: what a campaign does with the fuzzer of its target.

        Raises:
            FuzzError: it has run.
        """
        if self._native.statistics()[0]:
            raise FuzzError("fuzzer has run already", hint="in a target's file it is only made")
        self.seed = seed
        self._begin(corpus, crashes)

    def sync(self) -> None:
        """Take up inputs that others have put into the folder since: the next run tries them first."""
        self._kept.sync()

    @property
    def device(self) -> Any:
        """The device that is on the bench now; another one may be there after the next input."""
        return self._host.device

    def invariant(self, holds: _F, *, each: bool = False) -> _F:
        """Say what always holds: a function of the device; one that returns False or raises does not hold.

        It is asked at the end of each input.

        Arguments:
            holds: the function. It is returned, so that `@fuzzer.invariant` can stand above a `def`.
            each: whether it is asked after each operation too: what is wrong only for a moment is seen then, and it takes longer.

        Raises:
            TypeError: it is no function.
        """
        given: object = holds
        if not callable(given):
            raise TypeError(
                f"not a function: {given!r:.60}\n\nhint: invariant(lambda device: device.level <= 64)"
            )
        name = getattr(holds, "__name__", repr(holds))
        if name == "<lambda>":
            name = str(len(self._host.invariants))
        self._host.invariants.append(Invariant(holds, each, name))
        return holds

    def run(self, *, seconds: float | None = None, executions: int | None = None) -> Report:
        """Execute inputs for so long, or so many; with both, what comes first. It goes on where the last run ended.

        Ctrl-C ends it after the input that is executed; what was found is kept then too, and saved: see `report`.

        Raises:
            ValueError: neither is given, or one is below 0.
            KeyboardInterrupt: Ctrl-C.
        """
        check_end(seconds, executions)
        began = time.monotonic()
        until = began + (_ANY_NUMBER if seconds is None else seconds)
        left = _ANY_NUMBER if executions is None else executions
        try:
            while left > 0 and (now := time.monotonic()) < until:
                left -= self._slice(left, min(_SLICE, until - now))
        finally:
            self._seconds += time.monotonic() - began
            self._save(is_last=True)
        return self.report

    def _slice(self, most: int, seconds: float) -> int:
        """Run until something is found or the time is up, and return how many inputs were executed."""
        # What is given is tried before anything is made of it, however long the slices are.
        given = self._kept.given(most)
        self._native.give(given)
        done, until = 0, time.monotonic() + (_ANY_NUMBER if given else seconds)
        wanted = len(given) or most
        while done < wanted and (now := time.monotonic()) < until:
            before = self._native.statistics()[0]
            with self._told():
                found = self._native.run(self._host, wanted - done, until - now)
            done += self._native.statistics()[0] - before
            if found is not None:
                self._found(*found)
        self._save()
        return done

    def replay(self, data: bytes) -> BaseException | None:
        """Execute one input, and return what it raises, or None; nothing is counted or kept.

        Arguments:
            data: `Crash.input`, or the bytes of a file.
        """
        with self._told():
            error = self._native.replay(self._host, data)[2]
        return None if error is None or self._is_allowed(error) else error

    def minimize_corpus(self) -> int:
        """Keep only the inputs that are needed to cover what all cover, in the folder too; return how many these are."""
        self._native.minimize_corpus()
        inputs = self._native.corpus(0)
        self._kept.keep_only(inputs)
        return len(inputs)

    @property
    def inputs(self) -> list[bytes]:
        """The inputs that are kept, in the order in which they were found."""
        return self._native.corpus(0)

    @property
    def report(self) -> Report:
        """How far it has come."""
        executions, operations, coverage, corpus, reset_us = self._native.statistics()
        crashes, problems = tuple(self._crashes.values()), tuple(self._kept.problems)
        return Report(
            executions,
            operations,
            crashes,
            coverage,
            corpus,
            self._seconds,
            problems,
            reset_us,
            self._minimizing,
        )

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Have the lines of the device's code told, and hangs ended."""
        if self._host.is_plain:
            yield
            return
        with watched(self._host.trail.begun, self._time_limit), _fuzz_lines.told(self._host.trail):
            yield

    def _is_allowed(self, error: BaseException) -> bool:
        return is_refused(error) or isinstance(error, self._allowed)

    def _found(self, data: bytes, operations: int, error: BaseException) -> None:
        if self._is_allowed(error):
            return
        key = key_of(error, self._host.files)
        if key.same not in self._crashes:
            crash = Crash(self, data, key, error)
            self._crashes[key.same] = self._kept.unsaved[key.same] = crash
            _ = crash.reproduces  # tried now, and not by Ctrl-C's last save

    def _save(self, *, is_last: bool = False) -> None:
        self._kept.save(self._native.corpus, self._native.settled(), is_last=is_last)


def _classes(allowed: object) -> tuple[type[Exception], ...]:
    """What may be raised, as it was given: several, or one."""
    several = allowed if isinstance(allowed, tuple | list) else (allowed,)
    for it in several:
        if not (isinstance(it, type) and issubclass(it, Exception)):
            raise TypeError(f"not a class of exceptions: {it!r:.60}\n\nhint: allowed=(MyError,)")
    return tuple(several)
