"""Makes operations on a planted device, and tells how the bug shows, if it does.

By this a proof is tried, and by this random operations are. The device is on a bench: no KVM, no guest.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from hyperpy.testing import DeviceBench, Step

from .table import Event, Operation

__all__ = ["HANG_SECONDS", "MEMORY_BYTES", "Hang", "play", "prepare"]

HANG_SECONDS = 0.5
"""Processor time that one run of operations may take."""
MEMORY_BYTES = 64 << 20
"""How much the process may grow in one."""
MEMORY = "3G"
_PAGE = os.sysconf("SC_PAGE_SIZE")


class Hang(BaseException):
    """The operations take too long. No Exception, so that no device takes it for one of its own."""


def prepare(bench: DeviceBench[Any], memory: Mapping[int, bytes | tuple[bytes, ...]]) -> None:
    """Put into a bench's memory what the guest has there."""
    for gpa, content in memory.items():
        if isinstance(content, bytes):
            bench.memory.write(gpa, content)
        else:
            values = iter(content)
            bench.memory.answer_reads(
                gpa, len(content[0]), lambda gpa, size, values=values: next(values, None)
            )


def play(
    bench: DeviceBench[Any], operations: Iterable[Operation], invariants: Iterable[Callable[[Any], bool]] = ()
) -> str | None:
    """Make operations in order, up to the first that shows a bug.

    Returns:
        The name of an exception of the device, "invariant", "hang" or "memory"; None: nothing is wrong.
    """
    before = _resident()
    try:
        with _limited():
            for operation in operations:
                _do(bench, operation)
                if not all(holds(bench.device) for holds in invariants):
                    return "invariant"
    except Hang:
        return "hang"
    except Exception as error:
        return type(error).__name__
    return "memory" if _resident() - before > MEMORY_BYTES else None


def _do(bench: DeviceBench[Any], operation: Operation) -> None:
    if isinstance(operation, Step):
        bench.clock.step(operation.ns)
    elif isinstance(operation, Event):
        method = getattr(bench.device, operation.name)
        method() if operation.data is None else method(operation.data)
    else:
        bench.play([operation])


@contextlib.contextmanager
def _limited() -> Iterator[None]:
    """Raise `Hang` when processor time is over. Time of the host does not count: another's load is no hang."""

    def over(*_: object) -> None:
        raise Hang

    before = signal.signal(signal.SIGVTALRM, over)
    signal.setitimer(signal.ITIMER_VIRTUAL, HANG_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


def _resident() -> int:
    """Bytes of the process that are in memory."""
    return int(Path("/proc/self/statm").read_bytes().split()[1]) * _PAGE
