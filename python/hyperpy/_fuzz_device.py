"""The device fuzzer; public as `hyperpy.fuzz.DeviceFuzzer`. The loop itself is in the core (crates/hyperpy-core/src/fuzz/)."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from hyperpy import _hyperpy
from hyperpy._fuzz_crash import Crash
from hyperpy._fuzz_findings import Invariant, Key, is_refused, key_of
from hyperpy._fuzz_host import MOST_LINES, Host
from hyperpy._fuzz_report import Report
from hyperpy._fuzz_shape import constants_of, targets_of
from hyperpy.memory import parse_size

__all__ = ["DeviceFuzzer"]

_F = TypeVar("_F", bound=Callable[..., Any])
# So long the core runs before it is seen what is to be saved.
_SLICE = 0.25
_LONGEST_STEP = 10_000_000_000
_ANY_NUMBER = 1 << 62


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
        memory: size of the guest memory for its DMA, in bytes or "1M".
        size: length of its range, if it does not know its own.
        allowed: exceptions that the device may raise; `DeviceError` of an access that its `access_rule` refuses always may be.

    Raises:
        TypeError: the factory makes no device, or its size is not known.

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
        memory: int | str = "1M",
        size: int | str | None = None,
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
        self.factory, self.seed, self.corpus = factory, seed, None if corpus is None else Path(corpus)
        self._allowed = allowed
        self._host = Host(
            factory,
            size=None if size is None else parse_size(size),
            memory=parse_size(memory),
            double_fetch=double_fetch,
            max_lines=MOST_LINES,
        )
        texts, numbers = constants_of(self._host.cls)
        for word in dictionary:
            if isinstance(word, int):
                numbers.append(word % (1 << 64))
            else:
                texts.append(word.encode() if isinstance(word, str) else bytes(word))
        self._native = _hyperpy.DeviceFuzzer(
            self._host.bench_of.size,
            targets_of(self._host.cls, self._host.bench_of.size),
            [event.most for event in self._host.events],
            self._host.memory is not None,
            max_ops,
            _LONGEST_STEP,
            seed % (1 << 64),
            texts,
            numbers,
        )
        self._crashes: dict[Key, Crash] = {}
        self._seconds = 0.0

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
        """
        name = getattr(holds, "__name__", repr(holds))
        if name == "<lambda>":
            name = str(len(self._host.invariants))
        self._host.invariants.append(Invariant(holds, each, name))
        return holds

    def run(self, *, seconds: float | None = None, executions: int | None = None) -> Report:
        """Execute inputs for so long, or so many; with both, what comes first. It goes on where the last run ended.

        Ctrl-C ends it after the input that is executed; what was found is kept then too: see `report`.

        Raises:
            ValueError: neither is given.
            KeyboardInterrupt: Ctrl-C.
        """
        if seconds is None and executions is None:
            raise ValueError("run has no end\n\nhint: run(seconds=60), or run(executions=10_000)")
        began = time.monotonic()
        until = began + (_ANY_NUMBER if seconds is None else seconds)
        left = _ANY_NUMBER if executions is None else executions
        try:
            with self._traced():
                while left > 0 and (now := time.monotonic()) < until:
                    before = self._native.statistics()[0]
                    found = self._native.run(self._host, left, min(_SLICE, until - now))
                    left -= self._native.statistics()[0] - before
                    if found is not None:
                        self._found(*found)
        finally:
            self._seconds += time.monotonic() - began
        return self.report

    @property
    def report(self) -> Report:
        """How far it has come."""
        executions, operations, coverage, corpus = self._native.statistics()
        crashes = tuple(self._crashes.values())
        return Report(executions, operations, crashes, coverage, corpus, self._seconds)

    @contextmanager
    def _traced(self) -> Iterator[None]:
        """Have the lines of the device's code told."""
        before = sys.gettrace()
        sys.settrace(self._host.trail.frame)
        try:
            yield
        finally:
            sys.settrace(before)

    def _is_allowed(self, error: BaseException) -> bool:
        return is_refused(error) or isinstance(error, self._allowed)

    def _found(self, input: bytes, operations: int, error: BaseException) -> None:
        sys.settrace(self._host.trail.frame)  # a hang has ended it
        if self._is_allowed(error):
            return
        key = key_of(error, self._host.files)
        if key not in self._crashes:
            self._crashes[key] = Crash(self, input, key, error)
