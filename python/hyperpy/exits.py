"""Why a guest stopped: the closed set of small immutable classes that `run` and `wait` return.

They are made for `match`; `AnyExit` is their union, so that a type checker sees whether a match is exhaustive. What the
numbers mean is told by the kernel's virt/kvm/api.rst and the Intel SDM.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias, final

__all__ = ["AnyExit", "Exit"]


class _Exit:
    """Shows an exit as it is written in a match: addresses in hexadecimal."""

    __slots__ = ()

    def __repr__(self) -> str:
        shown = []
        for name, info in self.__dataclass_fields__.items():  # type: ignore[attr-defined]
            if info.repr:
                value = getattr(self, name)
                as_hex = name in _HEX and type(value) is int
                shown.append(f"{name}={value:#x}" if as_hex else f"{name}={value!r}")
        return f"Exit.{type(self).__name__}({', '.join(shown)})"


_HEX = frozenset({"address", "value", "index", "pc", "dr6", "number", "reason"})


@dataclass(frozen=True, slots=True, repr=False)
class _Access(_Exit):
    """An access that nobody claims, on either bus."""

    vcpu: int
    address: int
    size: int
    is_write: bool
    value: int
    _ticket: int = field(default=0, repr=False, compare=False)


class Exit:
    """The namespace of all exits, for `match m.run(): case Exit.Halt(): ...`."""

    @final
    @dataclass(frozen=True, slots=True, repr=False)
    class Halt(_Exit):
        """Every started vcpu has executed HLT and nothing can wake one."""

        vcpu: int

    @final
    class Mmio(_Access):
        """An access to memory that no device and no RAM claims.

        `address` is the gpa, `size` 1 to 8 bytes, `value` what was written (0 for a read). A read can be answered with
        `Machine.answer`; left alone it is all ones.
        """

        __slots__ = ()

    @final
    class Pio(_Access):
        """An access to a port that no device claims: as `Mmio`, with a port from 0 to 0xffff as `address`."""

        __slots__ = ()

    @final
    @dataclass(frozen=True, slots=True, repr=False)
    class Hypercall(_Exit):
        """A hypercall that KVM handed on."""

        vcpu: int
        number: int
        arguments: tuple[int, int, int, int, int, int]

    @final
    @dataclass(frozen=True, slots=True, repr=False)
    class Msr(_Exit):
        """RDMSR or WRMSR of model-specific register `index` that KVM handed on."""

        vcpu: int
        index: int
        is_write: bool
        value: int

    @final
    @dataclass(frozen=True, slots=True, repr=False)
    class Debug(_Exit):
        """A single step, breakpoint or watchpoint; `pc` is linear, `dr6` says which (SDM vol. 3, 18.2.3)."""

        vcpu: int
        pc: int
        dr6: int

    @final
    @dataclass(frozen=True, slots=True, repr=False)
    class Shutdown(_Exit):
        """A triple fault."""

        vcpu: int

    @final
    @dataclass(frozen=True, slots=True, repr=False)
    class SystemEvent(_Exit):
        """The guest switched the power off, asked for a reset, or crashed: `kind` is power-off, reset, crash or other.

        `number` is KVM's number of the event (KVM_SYSTEM_EVENT_*).
        """

        vcpu: int
        kind: str
        number: int = field(default=0, repr=False)

    @final
    @dataclass(frozen=True, slots=True, repr=False)
    class Stopped(_Exit):
        """A device or `Machine.stop` asked for it.

        `vcpu` is the one whose access made the device ask, or None. `status` is set when a debug-exit port was written.
        """

        vcpu: int | None
        reason: str
        status: int | None = None

    @final
    @dataclass(frozen=True, slots=True, repr=False)
    class Timeout(_Exit):
        """The time given to `run` or `wait` is over; the guest can run on."""

    @final
    @dataclass(frozen=True, slots=True, repr=False)
    class FailEntry(_Exit):
        """The processor refused the guest's state; `reason` is the hardware's."""

        vcpu: int
        reason: int

    @final
    @dataclass(frozen=True, slots=True, repr=False)
    class InternalError(_Exit):
        """KVM could not go on. `suberror` 1: its emulator met an instruction that it lacks, whose `bytes` are given.

        `number` is KVM's exit number, for one that hyperpy does not know.
        """

        vcpu: int
        suberror: int
        number: int
        bytes: bytes


AnyExit: TypeAlias = (
    Exit.Halt
    | Exit.Mmio
    | Exit.Pio
    | Exit.Hypercall
    | Exit.Msr
    | Exit.Debug
    | Exit.Shutdown
    | Exit.SystemEvent
    | Exit.Stopped
    | Exit.Timeout
    | Exit.FailEntry
    | Exit.InternalError
)
