"""A vcpu as a script sees it: its registers while the machine stands still.

Register names are those of the Intel SDM. `Registers` reads and writes through to the vcpu: each attribute access is
one look at it, `all()` and `update()` are the same in bulk.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from hyperpy import _hyperpy
from hyperpy.errors import KvmError, StateError

if TYPE_CHECKING:
    from hyperpy.cpuid import Cpuid
    from hyperpy.exits import AnyExit
    from hyperpy.fpu import FpuRegisters
    from hyperpy.machine import Machine
    from hyperpy.msrs import Msrs

__all__ = ["DescriptorTable", "Registers", "Segment", "SpecialRegisters", "Vcpu"]

_GENERAL = tuple("rax rbx rcx rdx rsi rdi rsp rbp r8 r9 r10 r11 r12 r13 r14 r15 rip rflags".split())  # noqa: SIM905
_SEGMENTS = tuple("cs ds es fs gs ss tr ldt".split())  # noqa: SIM905
_TABLES = ("gdt", "idt")
_PLAIN = tuple("cr0 cr2 cr3 cr4 cr8 efer apic_base".split())  # noqa: SIM905
_SPECIAL = _SEGMENTS + _TABLES + _PLAIN
# Fields of `Segment` and `DescriptorTable` in order, with their widths in the processor.
_SEGMENT_BITS = {
    "base": 64, "limit": 32, "selector": 16, "type": 4, "present": 1, "dpl": 2,
    "db": 1, "s": 1, "l": 1, "g": 1, "avl": 1, "unusable": 1,
}  # fmt: skip
_TABLE_BITS = {"base": 64, "limit": 16}


class Segment(NamedTuple):
    """A segment register with its hidden part (SDM vol. 3, 3.4.3). `limit` is in bytes."""

    base: int = 0
    limit: int = 0xFFFF
    selector: int = 0
    type: int = 3
    present: bool = True
    dpl: int = 0
    db: bool = False
    s: bool = True
    l: bool = False  # noqa: E741 - the descriptor's own name for it
    g: bool = False
    avl: bool = False
    unusable: bool = False


class DescriptorTable(NamedTuple):
    """GDTR or IDTR: linear base and limit in bytes."""

    base: int = 0
    limit: int = 0


class _File:
    """A register file of one vcpu. Its attributes are registers, so that its own two are set past them."""

    __slots__ = ("_index", "_native")
    _index: int
    _native: _hyperpy.Machine

    def __init__(self, native: _hyperpy.Machine, index: int) -> None:
        object.__setattr__(self, "_native", native)
        object.__setattr__(self, "_index", index)

    def __reduce__(self) -> tuple[type[Self], tuple[_hyperpy.Machine, int]]:
        """A copy is one of the same vcpu's registers."""
        return type(self), (self._native, self._index)


class Registers(_File):
    """General registers, rip and rflags of a vcpu (SDM vol. 1, 3.4).

    Reading is allowed while an access is pending; writing completes the access first. Both raise `StateError` while
    the machine runs.

    Example:
        >>> import hyperpy
        >>> with hyperpy.Machine(memory="1M") as m:
        ...     m.vcpus[0].regs.rax = 0x1234
        ...     print(hex(m.vcpus[0].regs.rax))
        0x1234
    """

    __slots__ = ()

    def all(self) -> dict[str, int]:
        """All of them at once, by name."""
        return self._native.regs(self._index)

    def update(self, values: Mapping[str, int] | None = None, /, **more: int) -> None:
        """Set several at once.

        Raises:
            AttributeError: there is no such register; nothing is changed then.
            ValueError: a value does not fit into 64 bits.
            RegisterError: rip is no canonical address, or reserved bits of rflags are set; nothing is changed then.
        """
        wanted = {**(values or {}), **more}
        for name, value in wanted.items():
            if name not in _GENERAL:
                raise AttributeError(_no_register(name, _GENERAL))
            if not 0 <= operator.index(value) < 1 << 64:
                raise ValueError(f"{name} takes 64 bits: {value:#x}\n\nhint: from 0 to 2**64 - 1")
        self._native.set_regs(self._index, list(wanted.items()))

    def __getattr__(self, name: str) -> int:
        if name not in _GENERAL:
            raise AttributeError(_no_register(name, _GENERAL))
        return self._native.regs(self._index)[name]

    def __setattr__(self, name: str, value: int) -> None:
        self.update({name: value})

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *_GENERAL]

    def __repr__(self) -> str:
        return shown_registers(self.all())


def shown_registers(values: Mapping[str, int]) -> str:
    """General registers as a table."""
    shown = [f"{name:>6} {values[name]:016x}" for name in _GENERAL if name in values]
    return "\n".join("  ".join(shown[i : i + 3]) for i in range(0, len(shown), 3))


class SpecialRegisters(_File):
    """Segment, table and control registers of a vcpu (SDM vol. 3, 2.1): cs to ldt, gdt, idt, cr0 to cr8, efer, apic_base.

    Segments are `Segment` tuples, tables `DescriptorTable` tuples: `sregs.cs = sregs.cs._replace(base=0)`.
    """

    __slots__ = ()

    def all(self) -> dict[str, Any]:
        """All of them at once, by name."""
        return {name: _named(name, value) for name, value in self._native.sregs(self._index).items()}

    def update(self, values: Mapping[str, Any] | None = None, /, **more: Any) -> None:
        """Set several at once, so that no invalid state comes in between.

        Raises:
            AttributeError: there is no such register; nothing is changed then.
            ValueError: a value does not fit into its register.
            RegisterError: no processor has such a state, or paging is on and `cr3` leads to where no memory is; the error
                names the register, and nothing is changed.
            KvmError: KVM refuses the state for another reason. `hint` tells what was set.
        """
        wanted = {**(values or {}), **more}
        for name, value in wanted.items():
            _check_special(name, value)
        try:
            self._native.set_sregs(self._index, wanted)
        except KvmError as error:
            shown = ", ".join(f"{name} = {_shown(value)}" for name, value in wanted.items())
            error.hint = (
                f"the processor has no such state: {shown}; set what belongs together in one update()"
            )
            raise

    def __getattr__(self, name: str) -> Any:
        if name not in _SPECIAL:
            raise AttributeError(_no_register(name, _SPECIAL))
        return _named(name, self._native.sregs(self._index)[name])

    def __setattr__(self, name: str, value: Any) -> None:
        self.update({name: value})

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *_SPECIAL]

    def __repr__(self) -> str:
        return "\n".join(f"{name:>9} {_shown(value)}" for name, value in self.all().items())


def _check_special(name: str, value: Any) -> None:
    if name in _SEGMENTS or name in _TABLES:
        kind: type[Segment | DescriptorTable] = Segment if name in _SEGMENTS else DescriptorTable
        if not isinstance(value, tuple) or len(value) != len(kind._fields):
            raise TypeError(
                f"{name} takes a {kind.__name__}: {value!r}\n\nhint: sregs.{name}._replace({kind._fields[0]}=...)"
            )
        widths = _SEGMENT_BITS if name in _SEGMENTS else _TABLE_BITS
        for (field, bits), part in zip(widths.items(), value, strict=True):
            if not 0 <= operator.index(part) < 1 << bits:
                raise ValueError(
                    f"{name}.{field} takes {bits} bits: {part:#x}\n\nhint: from 0 to 2**{bits} - 1"
                )
    elif name not in _PLAIN:
        raise AttributeError(_no_register(name, _SPECIAL))
    elif not 0 <= operator.index(value) < 1 << 64:
        raise ValueError(f"{name} takes 64 bits: {value:#x}\n\nhint: from 0 to 2**64 - 1")


def _no_register(name: str, names: Iterable[str]) -> str:
    return f"no such register: {name}\n\nhint: one of {', '.join(names)}"


def _shown(value: Any) -> str:
    return f"{value:#x}" if isinstance(value, int) else repr(value)


def _named(name: str, value: Any) -> Any:
    if name in _SEGMENTS:
        return Segment(*value)
    return DescriptorTable(*value) if name in _TABLES else value


class Vcpu:
    """One vcpu of a machine: its registers, and what its processor offers the guest."""

    def __init__(
        self, native: _hyperpy.Machine, index: int, machine: Callable[[], Machine | None] = lambda: None
    ) -> None:
        self._native = native
        self.index = index
        self._machine = machine

    @property
    def regs(self) -> Registers:
        """General registers."""
        return Registers(self._native, self.index)

    @property
    def sregs(self) -> SpecialRegisters:
        """Segment, table and control registers."""
        return SpecialRegisters(self._native, self.index)

    @property
    def fpu(self) -> FpuRegisters:
        """x87, SSE and AVX registers."""
        from hyperpy.fpu import FpuRegisters  # noqa: PLC0415 - few scripts need it

        return FpuRegisters(self._native, self.index)

    @property
    def msrs(self) -> Msrs:
        """Model-specific registers, by index or name."""
        from hyperpy.msrs import Msrs  # noqa: PLC0415 - few scripts need it

        return Msrs(self._native, self.index)

    @property
    def cpuid(self) -> Cpuid:
        """CPUID: leaves, and features by name. It can be changed until the vcpu has run."""
        from hyperpy.cpuid import Cpuid  # noqa: PLC0415 - few scripts need it

        return Cpuid(self._native, self.index)

    def step(self, count: int = 1, *, timeout: float | None = None) -> AnyExit:
        """Execute `count` instructions on this vcpu alone while all others stand still.

        Returns `Exit.Debug`, or what came first: an access that nobody claims (the next step completes it), a halt, a
        breakpoint or watchpoint, a device's stop, or after `timeout` seconds `Exit.Timeout`. An interrupt that comes
        in is stepped into. A REP instruction counts each of its rounds.

        Raises:
            ValueError: `count` is not from 1 to 2**64 - 1.
            StateError: the machine runs, has ended or is closed; or this is inside a device.

        Example:
            >>> import hyperpy
            >>> with hyperpy.Machine(memory="1M") as m:
            ...     m.load(
            ...         hyperpy.Flat(bytes([0x40, 0x43, 0xF4]), at=0x1000, mode="protected")
            ...     )  # inc eax; inc ebx; hlt
            ...     exit = m.vcpus[0].step()
            ...     print(hex(exit.pc), exit.is_step, m.vcpus[0].regs.rax, m.vcpus[0].regs.rbx)
            0x1001 True 1 0
        """
        if not 0 < operator.index(count) < 1 << 64:
            raise ValueError(f"number of steps is out of range: {count}\n\nhint: from 1 to 2**64 - 1")
        return self._settle("step", lambda: _hyperpy.step(self._native, self.index, count, timeout))

    def run_until(self, address: int, *, timeout: float | None = None) -> AnyExit:
        """Run the machine until this vcpu is about to execute the instruction at linear address `address`.

        Returns `Exit.Debug` with that `pc`, or another exit that came first. It takes a debug register meanwhile. From
        `address` itself it runs until it comes there again, if a step or a breakpoint has led there.

        Raises:
            ValueError: the address does not fit into 64 bits.
            StateError: all four debug registers are in use; else as for `Machine.run`.
        """
        if not 0 <= operator.index(address) < 1 << 64:
            raise ValueError(f"address does not fit into 64 bits: {address:#x}\n\nhint: from 0 to 2**64 - 1")
        return self._settle("run", lambda: _hyperpy.run_until(self._native, self.index, address, timeout))

    def _settle(self, verb: str, act: Callable[[], tuple[str, Any]]) -> AnyExit:
        machine = self._machine()
        if machine is None:
            raise StateError(f"cannot {verb}: the machine is gone", hint="keep a reference to the machine")
        return machine._exit(act())

    def __repr__(self) -> str:
        return f"Vcpu({self.index})"
