"""The part of `Machine` that answers in place of a device: the policy `unclaimed`, and the script's own `answer`.

An access that nobody claims is the last rung of the dispatch ladder (docs/concepts/ladder.md). The core asks the policy
while the vcpu waits, and only "exit" hands the access to the script. A mixin, as `_attach` is.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from hyperpy.errors import GuestFault
from hyperpy.exits import AnyExit, Exit

if TYPE_CHECKING:
    from hyperpy import _hyperpy
    from hyperpy.device import Stop

Unclaimed: TypeAlias = Literal["exit", "ones", "raise"] | Callable[[Any], "int | Stop | None"]


class Answering:
    """What `Machine` has of them."""

    _native: _hyperpy.Machine

    @property
    def unclaimed(self) -> Unclaimed:
        """What becomes of an access that nobody claims; see the class."""
        return self._unclaimed

    @unclaimed.setter
    def unclaimed(self, policy: Unclaimed) -> None:
        check_policy(policy)
        if policy == "raise":
            self._native.set_unclaimed(_raise_unclaimed)
        elif not callable(policy):
            self._native.set_unclaimed(policy)
        else:
            answer = policy
            self._native.set_unclaimed(lambda *access: answer(_unclaimed_exit(*access)))
        self._unclaimed: Unclaimed = policy

    def answer(self, exit: Exit.Mmio | Exit.Pio | Exit.Msr | Exit.Hypercall, value: int) -> None:  # noqa: A002
        """Answer an exit that `run` or `wait` returned: a read, an RDMSR or a hypercall.

        Unanswered at the next run, a read is all ones, an RDMSR a general-protection fault, and a hypercall one that nobody
        knows. The result of a hypercall may be negative.

        Raises:
            ValueError: the value is too wide, or the exit is a write.
            StateError: that vcpu has moved on.
        """
        match exit:
            case Exit.Mmio() | Exit.Pio():
                address, size = exit.address, exit.size
                is_write = exit.is_write
            case Exit.Msr():
                address, size, is_write = exit.index, 8, exit.is_write
            case Exit.Hypercall():
                address, size, is_write = 0, 8, False
                value = value % (1 << 64) if -(1 << 63) <= operator.index(value) < 0 else value
            case _:
                raise TypeError(
                    f"not an access: {exit!r}\n\nhint: an Exit.Mmio, Pio, Msr or Hypercall that run() or wait() returned"
                )
        if not 0 <= operator.index(value) < 1 << 64:
            raise ValueError(
                f"value is too wide for a read of {size} bytes: {value:#x}\n\nhint: at most {(1 << 8 * size) - 1:#x}"
            )
        self._native.answer((exit.vcpu, address, size, is_write, 0, exit._ticket), value)


def check_policy(policy: object) -> None:
    """Refuse what `unclaimed` cannot be."""
    if policy not in ("exit", "ones", "raise") and not callable(policy):
        raise ValueError(f"unknown policy: {policy!r}\n\nhint: exit, ones, raise, or a callable")


def _unclaimed_exit(is_pio: bool, vcpu: int, address: int, size: int, is_write: bool, value: int) -> AnyExit:
    return (Exit.Pio if is_pio else Exit.Mmio)(vcpu, address, size, is_write, value)


def _raise_unclaimed(*access: Any) -> int:
    exit_ = _unclaimed_exit(*access)
    hint = "attach a device there, or make the machine with unclaimed='ones'"
    raise GuestFault(f"nobody claims {exit_!r}", exit=exit_, hint=hint)
