"""The half of `Machine` that answers what is no access to a bus: model-specific registers and hypercalls.

A mixin, as `_attach` is. What becomes of an access is in Rust; the names of registers are in `msrs`; `answer` is in
`_answers`.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from hyperpy import _hyperpy
from hyperpy.exits import Exit

if TYPE_CHECKING:
    from hyperpy.device import Stop

_H = TypeVar("_H", bound="Callable[[Exit.Msr], int | Stop | None]")


class Trapping:
    """What `Machine` has of them."""

    _native: _hyperpy.Machine

    def msr(self, first: int | str, count: int = 1) -> Callable[[_H], _H]:
        """Answer RDMSR and WRMSR of model-specific registers with a function: a decorator.

        The function gets an `Exit.Msr`, on the thread of its vcpu. For a read it returns the value, 0 to 2**64 - 1; for a
        write None, or `Stop("why")` as a device does. NotImplemented is a general-protection fault for the guest. What it
        raises pauses the machine and is raised by `run`, and the guest gets the fault too. Every vcpu's registers are
        answered by it, and KVM's own handling of them is off; `vcpu.msrs` goes past it. The machine is created or paused.

        Arguments:
            first: index of the first register, or its name.
            count: how many registers, 1 to 0x3000. A machine has at most 16 ranges.

        Raises:
            ValueError: a register is trapped already, is one of the x2APIC's (0x800 to 0x8ff), or there are too many ranges.
            KvmUnavailable: this host's KVM cannot do it.
            StateError: the machine runs, has ended, or is closed.

        Example:
            >>> import hyperpy
            >>> code = bytes.fromhex("66b90000 5440 0f32 0f30 f4")  # mov ecx, 0x40540000; rdmsr; wrmsr; hlt
            >>> with hyperpy.Machine(memory="1M") as m:
            ...     m.load(hyperpy.Flat(code, at=0x1000, mode="real"))
            ...
            ...     @m.msr(0x4054_0000, 2)
            ...     def counter(access):
            ...         return print("written:", access.value) if access.is_write else 42
            ...
            ...     print(m.run(timeout=1.0))
            written: 42
            Exit.Halt(vcpu=0)
        """

        def register(handler: _H) -> _H:
            name = getattr(handler, "__qualname__", type(handler).__name__)
            self._trap(first, count, lambda *access: handler(Exit.Msr(*access)), name)
            return handler

        return register

    def trap_msr(self, first: int | str, count: int = 1) -> None:
        """Have `run` and `wait` return `Exit.Msr` for RDMSR and WRMSR of model-specific registers.

        `answer` gives a read its value; unanswered it is a general-protection fault for the guest. A write is dropped.
        Arguments and errors are those of `msr`.
        """
        self._trap(first, count, None, "")

    def _trap(self, first: int | str, count: int, handler: Callable[..., Any] | None, name: str) -> None:
        from hyperpy.msrs import msr_index  # noqa: PLC0415 - few scripts trap any

        if not 0 <= operator.index(count) < 1 << 32:
            raise ValueError(f"number of msrs is out of range: {count}\n\nhint: from 1 to 0x3000 registers")
        _hyperpy.trap_msr(self._native, msr_index(first), count, handler, name)

    def trap_hypercalls(self) -> None:
        """Have `run` and `wait` return `Exit.Hypercall` for the hypercalls that KVM leaves to its user.

        That is KVM_HC_MAP_GPA_RANGE, number 12, today: a guest tells which of its pages are shared (kernel:
        Documentation/virt/kvm/x86/hypercalls.rst). `answer` gives the result, which the guest finds in rax; unanswered it is
        -1000 (KVM_ENOSYS), as for a hypercall that KVM does not know. The machine is created or paused.

        Raises:
            KvmUnavailable: this host's KVM lacks KVM_CAP_EXIT_HYPERCALL.
            StateError: the machine runs, has ended, or is closed.
        """
        _hyperpy.trap_hypercalls(self._native)
