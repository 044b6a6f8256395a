"""Why a guest stopped: the closed set of small immutable classes that `run` and `wait` return.

They are made for `match`; `AnyExit` is their union, so that a type checker sees whether a match is exhaustive. What the
numbers mean is told by the kernel's virt/kvm/api.rst and the Intel SDM.
"""

from __future__ import annotations

from typing import ClassVar, TypeAlias, final

from hyperpy._value import Value

__all__ = ["AnyExit", "Exit"]


class _Exit(Value):
    """Shows an exit as it is written in a match: addresses in hexadecimal."""

    _hidden: ClassVar[tuple[str, ...]] = ()

    def __repr__(self) -> str:
        shown = []
        for name in type(self)._fields:
            if name[0] != "_" and name not in self._hidden:
                value = getattr(self, name)
                as_hex = name in _HEX and type(value) is int
                shown.append(f"{name}={value:#x}" if as_hex else f"{name}={value!r}")
        return f"Exit.{type(self).__name__}({', '.join(shown)})"


_DR6_STEP = 1 << 14
_INTERNAL_ERRORS = {
    1: "emulation",
    2: "simultaneous exceptions",
    3: "delivery of an event",
    4: "unexpected exit of the processor",
}
_HEX = frozenset({"address", "value", "index", "pc", "dr6", "number", "reason"})


# Intel: exit reasons have bit 31 set, VM-instruction errors are small. AMD: VMEXIT_INVALID.
_ENTRY_FAILURES = {
    4: "VMLAUNCH of a VMCS that is not clear",
    5: "VMRESUME of a VMCS that was not launched",
    6: "VMRESUME after VMXOFF",
    7: "invalid control fields in the VMCS",
    8: "invalid host state in the VMCS",
    26: "events are blocked by MOV SS",
    0x8000_0021: "invalid guest state: registers that no processor has together",
    0x8000_0022: "a model-specific register of the guest could not be loaded",
    0x8000_0029: "a machine check during the entry",
    0xFFFF_FFFF: "invalid guest state in the VMCB",
}


class _Access(_Exit):
    """An access that nobody claims, on either bus."""

    vcpu: int
    address: int
    size: int
    is_write: bool
    value: int
    _ticket: int = 0


class Exit:
    """The namespace of all exits, for `match m.run(): case Exit.Halt(): ...`."""

    @final
    class Halt(_Exit):
        """Every started vcpu has executed HLT and nothing can wake one."""

        vcpu: int

    @final
    class Mmio(_Access):
        """An access to memory that no device and no RAM claims.

        `address` is the gpa, `size` 1 to 8 bytes, `value` what was written (0 for a read). A read can be answered with
        `Machine.answer`; left alone it is all ones.
        """

    @final
    class Pio(_Access):
        """An access to a port that no device claims: as `Mmio`, with a port from 0 to 0xffff as `address`."""

    @final
    class Hypercall(_Exit):
        """A hypercall that KVM handed on, see `Machine.trap_hypercalls`. `Machine.answer` gives its result."""

        vcpu: int
        number: int
        arguments: tuple[int, int, int, int, int, int]
        _ticket: int = 0

    @final
    class Msr(_Exit):
        """RDMSR or WRMSR of model-specific register `index` that KVM handed on, see `Machine.trap_msr`.

        `value` is what was written (0 for a read). A read can be answered with `Machine.answer`; left alone it is a
        general-protection fault for the guest.
        """

        vcpu: int
        index: int
        is_write: bool
        value: int
        _ticket: int = 0

    @final
    class Debug(_Exit):
        """A single step, breakpoint or watchpoint; `pc` is linear, `dr6` says which (SDM vol. 3, 18.2.3)."""

        vcpu: int
        pc: int
        dr6: int

        @property
        def is_step(self) -> bool:
            """Whether a step was made."""
            return bool(self.dr6 & _DR6_STEP)

        @property
        def hits(self) -> tuple[int, ...]:
            """Numbers of the breakpoints and watchpoints that were hit."""
            return tuple(number for number in range(4) if self.dr6 >> number & 1)

    @final
    class Shutdown(_Exit):
        """A triple fault."""

        vcpu: int

    @final
    class SystemEvent(_Exit):
        """The guest switched the power off, asked for a reset, or crashed: `kind` is power-off, reset, crash or other.

        `number` is KVM's number of the event (KVM_SYSTEM_EVENT_*), and `data` the numbers that came with it, such as the
        five of a crash that a Windows guest reports.
        """

        _hidden: ClassVar[tuple[str, ...]] = ("number", "data")
        vcpu: int
        kind: str
        number: int = 0
        data: tuple[int, ...] = ()

    @final
    class Stopped(_Exit):
        """A device or `Machine.stop` asked for it.

        `vcpu` is the one whose access made the device ask, or None. `status` is set when a debug-exit port was written.
        """

        vcpu: int | None
        reason: str
        status: int | None = None

    @final
    class Timeout(_Exit):
        """The time given to `run` or `wait` is over; the guest can run on."""

    @final
    class FailEntry(_Exit):
        """The processor refused the guest's state; `reason` is the hardware's, `meaning` says it in words."""

        vcpu: int
        reason: int

        @property
        def meaning(self) -> str:
            """What the processor's manual says of the reason (SDM vol. 3, 27.8 and 31.4; AMD APM vol. 2, 15.5)."""
            return _ENTRY_FAILURES.get(
                self.reason & 0xFFFF_FFFF, "a reason that the processor's manual does not name"
            )

    @final
    class InternalError(_Exit):
        """KVM could not go on. `suberror` 1: its emulator met an instruction that it lacks, whose `bytes` are given.

        `number` is KVM's exit number, for one that hyperpy does not know.
        """

        vcpu: int
        suberror: int
        number: int
        bytes: bytes
        _bits: int = 64

        @property
        def error(self) -> str:
            """The sub-error in words (KVM_INTERNAL_ERROR_*)."""
            if self.number:
                return "unknown exit"
            return _INTERNAL_ERRORS.get(self.suberror, "unknown error")

        @property
        def instruction(self) -> str | None:
            """What `bytes` begin with, disassembled for the width of the vcpu's code; None if KVM gave none."""
            if not self.bytes:
                return None
            from hyperpy.disassembly import disassemble  # noqa: PLC0415 - few scripts need it

            bits = self._bits if self._bits in (16, 32, 64) else 64
            return disassemble(self.bytes, bits=bits)[0].text

        def __repr__(self) -> str:
            instruction = f", instruction={self.instruction!r}" if self.bytes else ""
            return f"{super().__repr__()[:-1]}, error={self.error!r}{instruction})"


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
