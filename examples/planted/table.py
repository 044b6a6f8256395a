"""What a planted bug is to those who look for it: a device, the same device without the bug, and a proof.

It knows nothing of how the operations are made (`playing`), nor of a fuzzer. The list is in docs/reference/planted-bugs.md.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, TypeVar

from hyperpy import Device
from hyperpy.testing import Access, Step

try:
    from hyperpy.fuzz import event as _told_to_fuzzers  # type: ignore[import-not-found,unused-ignore]
except ImportError:  # a hyperpy without a fuzzer

    def _told_to_fuzzers(method: Any) -> Any:
        return method


_F = TypeVar("_F", bound=Callable[..., Any])


def event(method: _F) -> _F:
    """Mark what comes to a device from outside: `method(self)`, or `method(self, data: bytes)`."""
    method.is_event = True  # type: ignore[attr-defined]
    marked: _F = _told_to_fuzzers(method)
    return marked


__all__ = ["Event", "Operation", "Planted", "Shows", "Step", "event", "r32", "w8", "w16", "w32", "w64"]

Shows = Literal[
    "IndexError",
    "ZeroDivisionError",
    "RecursionError",
    "TypeError",
    "ValueError",
    "invariant",
    "hang",
    "memory",
]


class Event(NamedTuple):
    """Something that comes to the device from outside: the method that is marked by `event`, and its bytes, if it takes some."""

    name: str
    data: bytes | None = None


Operation = Access | Step | Event


def w8(offset: int, value: int) -> Access:
    return Access(offset, 1, value)


def w16(offset: int, value: int) -> Access:
    return Access(offset, 2, value)


def w32(offset: int, value: int) -> Access:
    return Access(offset, 4, value)


def w64(offset: int, value: int) -> Access:
    return Access(offset, 8, value)


def r32(offset: int) -> Access:
    return Access(offset, 4)


@dataclass(frozen=True)
class Planted:
    """A bug that was put into a device on purpose.

    Arguments:
        device, fixed: the device's class, and the one without the bug.
        kind: the class of bugs that it stands for.
        shows: how it is seen: the exception that the device raises; "invariant": one of `invariants` is false; "hang": an
            operation does not end; "memory": the process grows.
        proof: the shortest operations that show it.
        memory: what the guest has in memory for the proof, by gpa. Several values are what the device finds there in turn.
        invariants: what the device's author says is always true of it.
        recreates: the published bug that the device has as it was before its fix.
    """

    device: type[Device]
    fixed: type[Device]
    kind: str
    shows: Shows
    proof: tuple[Operation, ...]
    memory: Mapping[int, bytes | tuple[bytes, ...]] = field(default_factory=dict)
    invariants: tuple[Callable[[Any], bool], ...] = ()
    recreates: str | None = None

    @property
    def name(self) -> str:
        """As in the list: the name of its module."""
        return self.device.__module__.rpartition(".")[2]

    @property
    def is_double_fetch(self) -> bool:
        """Whether it shows only in memory that changes while the device reads it."""
        return any(isinstance(content, tuple) for content in self.memory.values())
