"""A budget for what the living machines of this process may ask of the host together, and what one machine asks of it.

A limit on asking, not on using: memory counts whole, touched or not, and processors as each machine's `cpu_limit`, or
else its vcpus. What one machine may use of the processors while it runs is enforced by the machine itself.
"""

from __future__ import annotations

import math
import operator
import os
from _thread import RLock
from collections.abc import Iterable
from typing import TYPE_CHECKING, ClassVar, Self, SupportsFloat

from hyperpy._living import Living
from hyperpy._value import Value
from hyperpy.errors import BudgetError
from hyperpy.memory import parse_size

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["Budget", "budget"]


class Budget(Value):
    """What may be asked for, and what is: bytes of memory and processors; None is no limit.

    As a context manager it puts the limits that were before it back.
    """

    memory: int | None
    cpu: float | None
    memory_used: int
    cpu_used: float
    _before: tuple[int | None, float | None]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with Share._lock:
            Share._memory, Share._cpu = self._before


class _Unset:
    """Tells an argument that was left out from None."""


_UNSET = _Unset()


def budget(*, memory: int | str | _Unset | None = _UNSET, cpu: float | _Unset | None = _UNSET) -> Budget:
    """Limit what the living machines of this process may ask for together, or see what they do.

    What is left out stays as it is; None lifts a limit. Machines that live already are not touched by a lower one.

    Arguments:
        memory: bytes, or "4G", of all regions with memory.
        cpu: processors: 2.0 is two. A machine counts with its `cpu_limit`, or without one with its number of vcpus.

    Raises:
        ValueError: not a size, or not a number of processors above 0.
        TypeError: neither a number nor a size in words. Nothing is changed then either.

    Example:
        >>> import hyperpy
        >>> with hyperpy.budget(memory="64M", cpu=2):
        ...     with hyperpy.Machine(memory="48M"):
        ...         print(hyperpy.budget().memory_used >> 20)
        ...         try:
        ...             hyperpy.Machine(memory="32M")
        ...         except hyperpy.BudgetError as error:
        ...             print(error.message)
        48
        memory budget is exceeded: 33554432 bytes asked, 50331648 of 67108864 used
        >>> hyperpy.budget().memory is None
        True
    """
    new_memory = memory if memory is None or isinstance(memory, _Unset) else _memory(memory)
    new_cpu = cpu if cpu is None or isinstance(cpu, _Unset) else processors(cpu, "cpu")
    with Share._lock:
        before = (Share._memory, Share._cpu)
        if not isinstance(new_memory, _Unset):
            Share._memory = new_memory
        if not isinstance(new_cpu, _Unset):
            Share._cpu = new_cpu
        used_memory, used_cpu = Share._used()
        return Budget(Share._memory, Share._cpu, used_memory, used_cpu, before)


def _memory(size: int | str) -> int:
    if not isinstance(size, str) and not hasattr(size, "__index__"):
        raise TypeError(f'not a size: {size!r}\n\nhint: write bytes, or a number with K, M, G or T: "512M"')
    return operator.index(parse_size(size))


def processors(limit: object, name: str) -> float:
    """A number of processors above 0, or a ValueError or TypeError that names the argument."""
    if not isinstance(limit, SupportsFloat):
        raise TypeError(
            f"{name} is not a number: {limit!r}\n\nhint: processors: 0.5 is half of one, 2 is two"
        )
    number = float(limit)
    if not math.isfinite(number) or number <= 0:
        raise ValueError(f"{name} is out of range: {limit}\n\nhint: processors: 0.5 is half of one, 2 is two")
    return number


def affinity(cpus: Iterable[int]) -> list[int]:
    """Which of the host's processors vcpus may run on, in order; see `Machine`."""
    given: object = cpus
    if isinstance(given, str) or not isinstance(given, Iterable):
        hint = f"vcpus={cpus!r} is how many the guest has; cpus={{0, 1}} are the host's to run on"
        raise TypeError(f"not a set of processors: {cpus!r}\n\nhint: {hint}")
    chosen = sorted({operator.index(cpu) for cpu in cpus})
    if not chosen or chosen[0] < 0 or chosen[-1] >= 1 << 32:
        raise ValueError(f"not a set of processors: {chosen}\n\nhint: numbers from 0, as in cpus={{0, 1}}")
    return chosen


class Share:
    """What one machine has asked for. It counts for as long as it lives and is not given back."""

    _lock: ClassVar[RLock] = RLock()  # a finalizer may come in between
    _living: ClassVar[Living[Share]] = Living()
    _memory: ClassVar[int | None] = None
    _cpu: ClassVar[float | None] = None

    def __init__(self, memory: int, cpu: float) -> None:
        self.memory, self.cpu = 0, 0.0
        with Share._lock:
            self.ask(memory, cpu)
            Share._living.add(self)

    def ask(self, memory: int = 0, cpu: float = 0.0) -> None:
        """Ask for more, or with a negative number give some back.

        Raises:
            BudgetError: it is more than all may have together; nothing has changed then.
        """
        with Share._lock:
            # What others have asked for is added up only where there is a limit: each machine would look at all others.
            if memory > 0 and Share._memory is not None:
                _check("memory", memory, Share._used()[0], Share._memory, "bytes")
            if cpu > 0 and Share._cpu is not None:
                _check("cpu", cpu, Share._used()[1], Share._cpu, "processors")
            self.memory += memory
            self.cpu += cpu

    def give_back(self) -> None:
        """Count no more."""
        with Share._lock:
            Share._living.discard(self)

    @classmethod
    def _used(cls) -> tuple[int, float]:
        shares = list(cls._living)
        return sum(share.memory for share in shares), sum(share.cpu for share in shares)

    @classmethod
    def _after_fork(cls) -> None:
        """Begin anew in a child: the machines are the parent's."""
        cls._lock = RLock()
        cls._living = Living()


os.register_at_fork(after_in_child=Share._after_fork)


def _check(what: str, asked: float, used: float, allowed: float, unit: str) -> None:
    # Sums of fractions of a processor are not exact.
    if used + asked <= allowed + 1e-9:
        return
    raise BudgetError(
        f"{what} budget is exceeded: {_shown(asked)} {unit} asked, {_shown(used)} of {_shown(allowed)} used",
        resource=what,
        asked=asked,
        used=used,
        allowed=allowed,
        hint=f"close machines, ask for less, or raise it: hyperpy.budget({what}=...)",
    )


def _shown(number: float) -> str:
    return str(number) if isinstance(number, int) else f"{number:g}"
