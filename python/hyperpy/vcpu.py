"""A vcpu as a script sees it: its registers while the machine stands still.

Register names are those of the Intel SDM. `Registers` reads and writes through to the vcpu: each attribute access is
one look at it, `all()` and `update()` are the same in bulk.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from hyperpy import _hyperpy

__all__ = ["DescriptorTable", "Registers", "Segment", "SpecialRegisters", "Vcpu"]

_GENERAL = tuple("rax rbx rcx rdx rsi rdi rsp rbp r8 r9 r10 r11 r12 r13 r14 r15 rip rflags".split())
_SEGMENTS = frozenset("cs ds es fs gs ss tr ldt".split())
_TABLES = frozenset({"gdt", "idt"})


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


class Registers:
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

    __slots__ = ("_index", "_native")
    _index: int
    _native: _hyperpy.Machine

    def __init__(self, native: _hyperpy.Machine, index: int) -> None:
        object.__setattr__(self, "_native", native)
        object.__setattr__(self, "_index", index)

    def all(self) -> dict[str, int]:
        """All of them at once, by name."""
        return self._native.regs(self._index)

    def update(self, values: Mapping[str, int] | None = None, /, **more: int) -> None:
        """Set several at once.

        Raises:
            AttributeError: there is no such register; nothing is changed then.
            ValueError: a value does not fit into 64 bits.
        """
        wanted = {**(values or {}), **more}
        for name, value in wanted.items():
            if not 0 <= value < 1 << 64:
                raise ValueError(f"{name} takes 64 bits: {value:#x}")
        self._native.set_regs(self._index, list(wanted.items()))

    def __getattr__(self, name: str) -> int:
        if name not in _GENERAL:
            raise AttributeError(f"no such register: {name}\n\nhint: one of {', '.join(_GENERAL)}")
        return self._native.regs(self._index)[name]

    def __setattr__(self, name: str, value: int) -> None:
        self.update({name: value})

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *_GENERAL]

    def __repr__(self) -> str:
        values = self.all()
        rows = [_GENERAL[i : i + 3] for i in range(0, len(_GENERAL), 3)]
        return "\n".join("  ".join(f"{name:>6} {values[name]:016x}" for name in row) for row in rows)


class SpecialRegisters:
    """Segment, table and control registers of a vcpu (SDM vol. 3, 2.1): cs to ldt, gdt, idt, cr0 to cr8, efer, apic_base.

    Segments are `Segment` tuples, tables `DescriptorTable` tuples: `sregs.cs = sregs.cs._replace(base=0)`.
    """

    __slots__ = ("_index", "_native")
    _index: int
    _native: _hyperpy.Machine

    def __init__(self, native: _hyperpy.Machine, index: int) -> None:
        object.__setattr__(self, "_native", native)
        object.__setattr__(self, "_index", index)

    def all(self) -> dict[str, Any]:
        """All of them at once, by name."""
        return {name: _named(name, value) for name, value in self._native.sregs(self._index).items()}

    def update(self, values: Mapping[str, Any] | None = None, /, **more: Any) -> None:
        """Set several at once, so that no invalid state comes in between.

        Raises:
            AttributeError: there is no such register.
            KvmError: KVM refuses the state.
        """
        self._native.set_sregs(self._index, {**(values or {}), **more})

    def __getattr__(self, name: str) -> Any:
        values = self._native.sregs(self._index)
        if name not in values:
            raise AttributeError(f"no such register: {name}\n\nhint: one of {', '.join(values)}")
        return _named(name, values[name])

    def __setattr__(self, name: str, value: Any) -> None:
        self.update({name: value})

    def __repr__(self) -> str:
        def shown(value: Any) -> str:
            return f"{value:#x}" if isinstance(value, int) else repr(value)

        return "\n".join(f"{name:>9} {shown(value)}" for name, value in self.all().items())


def _named(name: str, value: Any) -> Any:
    if name in _SEGMENTS:
        return Segment(*value)
    return DescriptorTable(*value) if name in _TABLES else value


class Vcpu:
    """One vcpu of a machine; `regs` and `sregs` are its registers."""

    def __init__(self, native: _hyperpy.Machine, index: int) -> None:
        self._native = native
        self.index = index

    @property
    def regs(self) -> Registers:
        """General registers."""
        return Registers(self._native, self.index)

    @property
    def sregs(self) -> SpecialRegisters:
        """Segment, table and control registers."""
        return SpecialRegisters(self._native, self.index)

    def __repr__(self) -> str:
        return f"Vcpu({self.index})"
