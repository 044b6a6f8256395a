"""Model-specific registers of a vcpu, by index or by name.

Names are those of the SDM vol. 4, of AMD's manual (APM vol. 2, appendix A) where Intel has none, and the kernel's
(Documentation/virt/kvm/x86/msr.rst) for KVM's own. Every register can be given by its index; the table has the common ones.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator, Mapping, MutableMapping
from typing import TYPE_CHECKING, Any, TypeVar

from hyperpy import _hyperpy
from hyperpy._words import nearest
from hyperpy.errors import KvmError

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["MSR_NAMES", "Msrs", "msr_index", "msr_name"]

_K = TypeVar("_K", bound="int | str")

MSR_NAMES = {
    "IA32_TSC": 0x10, "IA32_APIC_BASE": 0x1B, "IA32_FEATURE_CONTROL": 0x3A, "IA32_TSC_ADJUST": 0x3B,
    "IA32_SPEC_CTRL": 0x48, "IA32_PRED_CMD": 0x49, "IA32_BIOS_SIGN_ID": 0x8B, "IA32_MTRRCAP": 0xFE,
    "IA32_ARCH_CAPABILITIES": 0x10A, "IA32_TSX_CTRL": 0x122, "IA32_SYSENTER_CS": 0x174, "IA32_SYSENTER_ESP": 0x175,
    "IA32_SYSENTER_EIP": 0x176, "IA32_MCG_CAP": 0x179, "IA32_MCG_STATUS": 0x17A, "IA32_MCG_CTL": 0x17B,
    "IA32_MISC_ENABLE": 0x1A0, "IA32_XFD": 0x1C4, "IA32_XFD_ERR": 0x1C5, "IA32_DEBUGCTL": 0x1D9, "IA32_PAT": 0x277,
    "IA32_MTRR_DEF_TYPE": 0x2FF, "IA32_PERF_CAPABILITIES": 0x345, "IA32_VMX_BASIC": 0x480, "IA32_U_CET": 0x6A0,
    "IA32_S_CET": 0x6A2, "IA32_PL0_SSP": 0x6A4, "IA32_PL3_SSP": 0x6A7, "IA32_TSC_DEADLINE": 0x6E0, "IA32_XSS": 0xDA0,
    "IA32_EFER": 0xC000_0080, "IA32_STAR": 0xC000_0081, "IA32_LSTAR": 0xC000_0082, "IA32_CSTAR": 0xC000_0083,
    "IA32_FMASK": 0xC000_0084, "IA32_FS_BASE": 0xC000_0100, "IA32_GS_BASE": 0xC000_0101,
    "IA32_KERNEL_GS_BASE": 0xC000_0102, "IA32_TSC_AUX": 0xC000_0103,
    "TSC_RATIO": 0xC000_0104, "SYSCFG": 0xC001_0010, "HWCR": 0xC001_0015, "VM_CR": 0xC001_0114,
    "VM_HSAVE_PA": 0xC001_0117, "VIRT_SPEC_CTL": 0xC001_011F,
    "KVM_WALL_CLOCK": 0x11, "KVM_SYSTEM_TIME": 0x12, "KVM_WALL_CLOCK_NEW": 0x4B56_4D00, "KVM_SYSTEM_TIME_NEW": 0x4B56_4D01,
    "KVM_ASYNC_PF_EN": 0x4B56_4D02, "KVM_STEAL_TIME": 0x4B56_4D03, "KVM_PV_EOI_EN": 0x4B56_4D04,
    "KVM_POLL_CONTROL": 0x4B56_4D05, "KVM_ASYNC_PF_INT": 0x4B56_4D06, "KVM_ASYNC_PF_ACK": 0x4B56_4D07,
    "KVM_MIGRATION_CONTROL": 0x4B56_4D08,
    "HV_X64_MSR_GUEST_OS_ID": 0x4000_0000, "HV_X64_MSR_HYPERCALL": 0x4000_0001,
    **{f"IA32_MTRR_PHYS{half}{n}": 0x200 + 2 * n + at for n in range(8) for at, half in enumerate(("BASE", "MASK"))},
    **{f"IA32_MC{n}_{part}": 0x400 + 4 * n + at for n in range(4) for at, part in enumerate(("CTL", "STATUS", "ADDR", "MISC"))},
}  # fmt: skip
"""Index of each register that has a name here."""


def msr_index(which: int | str) -> int:
    """The index of a register that is given by its index or its name.

    Raises:
        KeyError: no register here has that name.
        ValueError: an index has 32 bits.
    """
    if isinstance(which, str):
        if which not in MSR_NAMES:
            meant = nearest(which, MSR_NAMES) or "give its index, or a name of hyperpy.msrs.MSR_NAMES"
            raise KeyError(f"no msr is known by that name: {which}; hint: {meant}")
        return MSR_NAMES[which]
    if not 0 <= operator.index(which) < 1 << 32:
        raise ValueError(f"an msr's index has 32 bits: {which:#x}\n\nhint: from 0 to 2**32 - 1")
    return operator.index(which)


def msr_name(index: int) -> str:
    """The name of a register with its index; the index alone where it has none."""
    for name, known in MSR_NAMES.items():
        if known == index:
            return f"{name} ({index:#x})"
    return f"{index:#x}"


class Msrs(MutableMapping[Any, int]):
    """Model-specific registers of a vcpu (SDM vol. 4): a mapping from index or name to value.

    It iterates over the indices of those that hold the vcpu's state (KVM_GET_MSR_INDEX_LIST); others can often be read
    and set too, and `in` tells whether one can be read. KVM checks values as WRMSR does.

    Example:
        >>> import hyperpy
        >>> with hyperpy.Machine(memory="1M") as m:
        ...     msrs = m.vcpus[0].msrs
        ...     msrs["IA32_LSTAR"] = 0xFFFF_8000_0000_1000
        ...     msrs.update(IA32_STAR=0x10 << 32, IA32_FMASK=0x200)
        ...     print(hex(msrs[0xC000_0082]), msrs.read("IA32_STAR", "IA32_FMASK"))
        0xffff800000001000 {'IA32_STAR': 68719476736, 'IA32_FMASK': 512}
    """

    __slots__ = ("_index", "_native")

    def __init__(self, native: _hyperpy.Machine, index: int) -> None:
        self._native = native
        self._index = index

    def read(self, *which: _K) -> dict[_K, int]:
        """Read several in one call, by what they were asked for as.

        Raises:
            KvmError: KVM refuses one, which the message names.
            KeyError: no register has that name.
        """
        indices = [msr_index(one) for one in which]
        try:
            values = _hyperpy.msrs(self._native, self._index, indices)
        except KvmError as error:
            raise _named(error) from None
        return dict(zip(which, values, strict=True))

    def update(self, values: Any = (), /, **more: int) -> None:
        """Set several in one call, one after the other.

        Raises:
            KvmError: KVM refuses one, which the message names; those before it are set.
            KeyError: no register has that name; nothing is set.
            ValueError: a value does not fit into 64 bits; nothing is set.
        """
        pairs: Iterable[tuple[int | str, int]] = values.items() if isinstance(values, Mapping) else values
        wanted = [(msr_index(which), value) for which, value in (*pairs, *more.items())]
        for index, value in wanted:
            if not 0 <= operator.index(value) < 1 << 64:
                raise ValueError(
                    f"msr {msr_name(index)} takes 64 bits: {value:#x}\n\nhint: from 0 to 2**64 - 1"
                )
        try:
            _hyperpy.set_msrs(self._native, self._index, wanted)
        except KvmError as error:
            raise _named(error) from None

    def __getitem__(self, which: int | str) -> int:
        return self.read(which)[which]

    def __setitem__(self, which: int | str, value: int) -> None:
        self.update([(which, value)])

    def __delitem__(self, which: int | str) -> None:
        raise TypeError("a processor's registers stay: an msr cannot be deleted\n\nhint: set it to 0")

    def __contains__(self, which: object) -> bool:
        if not isinstance(which, int | str):
            return False
        try:
            self.read(which)
        except (KeyError, ValueError):
            return False
        except KvmError as error:
            if error.msr is None:
                raise
            return False
        return True

    def __iter__(self) -> Iterator[int]:
        return iter(_hyperpy.msr_indices(self._native))

    def __len__(self) -> int:
        return len(_hyperpy.msr_indices(self._native))

    def __repr__(self) -> str:
        return f"<msrs of vcpu {self._index}>"


def _named(error: KvmError) -> KvmError:
    """The error with the register's name, where KVM refused a register."""
    if error.msr is not None:
        error.message = error.message.replace(f"msr {error.msr:#x}", f"msr {msr_name(error.msr)}", 1)
    return error
