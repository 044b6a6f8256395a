"""CPUID of a vcpu: the table of leaves, and features by name.

It can be changed until the vcpu has run. Feature names are those of Linux's /proc/cpuinfo. Bits: SDM vol. 2A, CPUID; AMD
APM vol. 3, appendix E; kernel Documentation/virt/kvm/x86/cpuid.rst.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator, MutableMapping, MutableSet
from typing import TYPE_CHECKING, Any, NamedTuple

from hyperpy import _hyperpy

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["Cpuid", "CpuidFeatures", "CpuidLeaf"]

# (leaf, subleaf, register): names from bit 0 on, "-" for a bit without one, "8=name" goes on at bit 8.
_FEATURES = {
    (0x1, 0, "edx"): "fpu vme de pse tsc msr pae mce cx8 apic - sep mtrr pge mca cmov pat pse36 pn clflush - dts acpi mmx "
    "fxsr sse sse2 ss ht tm ia64 pbe",
    (0x1, 0, "ecx"): "sse3 pclmulqdq dtes64 monitor ds_cpl vmx smx est tm2 ssse3 cid sdbg fma cx16 xtpr pdcm - pcid dca "
    "sse4_1 sse4_2 x2apic movbe popcnt tsc_deadline_timer aes xsave osxsave avx f16c rdrand hypervisor",
    (0x6, 0, "eax"): "dtherm ida arat",
    (0x7, 0, "ebx"): "fsgsbase tsc_adjust sgx bmi1 hle avx2 fdp_excptn_only smep bmi2 erms invpcid rtm cqm zero_fcs_fds mpx "
    "rdt_a avx512f avx512dq rdseed adx smap avx512ifma - clflushopt clwb intel_pt avx512pf avx512er avx512cd sha_ni "
    "avx512bw avx512vl",
    (0x7, 0, "ecx"): "prefetchwt1 avx512vbmi umip pku ospke waitpkg avx512_vbmi2 shstk gfni vaes vpclmulqdq avx512_vnni "
    "avx512_bitalg tme avx512_vpopcntdq 16=la57 22=rdpid kl bus_lock_detect cldemote 27=movdiri movdir64b enqcmd sgx_lc pks",
    (0x7, 0, "edx"): "2=avx512_4vnniw avx512_4fmaps fsrm uintr 8=avx512_vp2intersect srbds_ctrl md_clear rtm_always_abort "
    "14=serialize hybrid tsxldtrk 18=pconfig arch_lbr ibt 22=amx_bf16 avx512_fp16 amx_tile amx_int8 spec_ctrl intel_stibp "
    "flush_l1d arch_capabilities core_capabilities spec_ctrl_ssbd",
    (0x7, 1, "eax"): "4=avx_vnni avx512_bf16 lass cmpccxadd 10=fzrm fsrs fsrc 17=fred lkgs wrmsrns 21=amx_fp16 hreset avx_ifma "
    "26=lam",
    (0xD, 1, "eax"): "xsaveopt xsavec xgetbv1 xsaves xfd",
    (0x4000_0001, 0, "eax"): "kvm_clocksource kvm_nop_io_delay kvm_mmu_op kvm_clocksource2 kvm_async_pf kvm_steal_time "
    "kvm_pv_eoi kvm_pv_unhalt 9=kvm_pv_tlb_flush kvm_async_pf_vmexit kvm_pv_send_ipi kvm_poll_control kvm_pv_sched_yield "
    "kvm_async_pf_int kvm_msi_ext_dest_id kvm_hc_map_gpa_range kvm_migration_control 24=kvm_clocksource_stable",
    (0x8000_0001, 0, "ecx"): "lahf_lm cmp_legacy svm extapic cr8_legacy abm sse4a misalignsse 3dnowprefetch osvw ibs xop skinit "
    "wdt - lwp fma4 tce - nodeid_msr - tbm topoext perfctr_core perfctr_nb - bpext ptsc perfctr_llc mwaitx",
    (0x8000_0001, 0, "edx"): "11=syscall 19=mp nx 22=mmxext 25=fxsr_opt pdpe1gb rdtscp 29=lm 3dnowext 3dnow",
    (0x8000_0007, 0, "edx"): "8=invtsc",
    (0x8000_0008, 0, "ebx"): "clzero irperf xsaveerptr 4=rdpru 9=wbnoinvd 12=amd_ibpb 14=amd_ibrs amd_stibp 24=amd_ssbd virt_ssbd "
    "28=amd_psfd",
    (0x8000_000A, 0, "edx"): "npt lbrv svm_lock nrip_save tsc_scale vmcb_clean flushbyasid decodeassists 10=pausefilter "
    "12=pfthreshold avic 15=v_vmsave_vmload vgif",
}  # fmt: skip
# Leaves whose answer depends on the subleaf (SDM vol. 2A; AMD APM vol. 3).
_INDEXED = frozenset({4, 7, 0xB, 0xD, 0xF, 0x10, 0x12, 0x14, 0x17, 0x18, 0x1D, 0x1E, 0x1F, 0x8000_001D})


def _places() -> dict[str, tuple[int, int, str, int]]:
    places = {}
    for (leaf, subleaf, register), names in _FEATURES.items():
        bit = 0
        for word in names.split():
            at, _, name = word.rpartition("=")
            bit = int(at) if at else bit
            if name != "-":
                places[name] = (leaf, subleaf, register, bit)
            bit += 1
    return places


_PLACES = _places()


class CpuidLeaf(NamedTuple):
    """What CPUID answers, 32 bits each: `cpuid[7] = cpuid[7]._replace(ebx=0)`."""

    eax: int = 0
    ebx: int = 0
    ecx: int = 0
    edx: int = 0


class Cpuid(MutableMapping[Any, "CpuidLeaf | tuple[int, int, int, int]"]):
    """CPUID of a vcpu: from (leaf, subleaf), or from a leaf alone for subleaf 0, to a `CpuidLeaf`.

    Before the vcpu has run it can be changed, also before there is one; later that is a `StateError`. What was changed is
    kept by bits: the rest goes on following the machine, such as the number of its vcpus. Each vcpu has its own table: an
    operating system wants them alike, so change all of them. A feature that the host lacks can be added: whether it works is
    another matter, and a KVM that interprets kernel-mode code (`hyperpy doctor`) shows guests the host's own CPUID.

    Example:
        >>> import hyperpy
        >>> with hyperpy.Machine(memory="1M", vcpus=2) as m:
        ...     for vcpu in m.vcpus:
        ...         vcpu.cpuid.features.discard("hypervisor")
        ...     cpuid = m.vcpus[1].cpuid
        ...     cpuid[0x4000_0000] = (0x4000_0000, 0, 0, 0)
        ...     print("hypervisor" in cpuid.features, cpuid[1].ebx >> 24, hex(cpuid[0x4000_0000].eax))
        False 1 0x40000000
    """

    __slots__ = ("_index", "_native")

    def __init__(self, native: _hyperpy.Machine, index: int) -> None:
        self._native = native
        self._index = index

    @property
    def features(self) -> CpuidFeatures:
        """Features by name: a set that can be changed while the table can."""
        return CpuidFeatures(self)

    def _table(self) -> dict[tuple[int, int], CpuidLeaf]:
        rows = _hyperpy.cpuid(self._native, self._index)
        return {(leaf, subleaf): CpuidLeaf(*registers) for leaf, subleaf, _, *registers in rows}

    def __getitem__(self, which: int | tuple[int, int]) -> CpuidLeaf:
        key = _key(which)
        table = self._table()
        if key not in table:
            raise KeyError(f"no such cpuid leaf: {key[0]:#x}, {key[1]:#x}; hint: print(vcpu.cpuid) shows all")
        return table[key]

    def __setitem__(self, which: int | tuple[int, int], leaf: CpuidLeaf | tuple[int, int, int, int]) -> None:
        number, subleaf = _key(which)
        given: object = leaf
        if not isinstance(given, tuple) or len(given) != len(CpuidLeaf._fields):
            raise TypeError(f"a cpuid leaf is eax, ebx, ecx and edx: {leaf!r}\n\nhint: CpuidLeaf(eax=1)")
        registers = CpuidLeaf(*leaf)
        for name, value in zip(CpuidLeaf._fields, registers, strict=True):
            if not 0 <= operator.index(value) < 1 << 32:
                raise ValueError(f"{name} takes 32 bits: {value:#x}\n\nhint: from 0 to 2**32 - 1")
        indexed = subleaf != 0 or number in _INDEXED
        _hyperpy.set_cpuid(self._native, self._index, (number, subleaf, indexed, *registers))

    def __delitem__(self, which: int | tuple[int, int]) -> None:
        self[which]  # a KeyError if there is none
        _hyperpy.remove_cpuid(self._native, self._index, *_key(which))

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return iter(self._table())

    def __len__(self) -> int:
        return len(self._table())

    def __repr__(self) -> str:
        rows = (
            f"{leaf:8x} {subleaf:2x}  {registers.eax:08x} {registers.ebx:08x} {registers.ecx:08x} {registers.edx:08x}"
            for (leaf, subleaf), registers in self._table().items()
        )
        return "\n".join(["    leaf      eax      ebx      ecx      edx", *rows])


def _key(which: int | tuple[int, int]) -> tuple[int, int]:
    leaf, subleaf = which if isinstance(which, tuple) else (which, 0)
    for number in (leaf, subleaf):
        if not 0 <= operator.index(number) < 1 << 32:
            raise ValueError(f"a cpuid leaf is two numbers of 32 bits: {number:#x}\n\nhint: cpuid[7, 0]")
    return operator.index(leaf), operator.index(subleaf)


class CpuidFeatures(MutableSet[str]):
    """Features of a vcpu by name, such as "sse4_2" (Linux: /proc/cpuinfo, flags).

    A name that is not known is a ValueError everywhere, so that a slip of the pen is no "no".
    """

    __slots__ = ("_cpuid",)

    def __init__(self, cpuid: Cpuid) -> None:
        self._cpuid = cpuid

    @classmethod
    def _from_iterable(cls, names: Iterable[Any]) -> Any:
        return set(names)  # what |, & and - give belongs to no vcpu

    def __contains__(self, name: object) -> bool:
        leaf, subleaf, register, bit = _place(name)
        found = self._cpuid._table().get((leaf, subleaf))
        return found is not None and bool(getattr(found, register) >> bit & 1)

    def __iter__(self) -> Iterator[str]:
        table = self._cpuid._table()
        none = CpuidLeaf()
        for name, (leaf, subleaf, register, bit) in _PLACES.items():
            if getattr(table.get((leaf, subleaf), none), register) >> bit & 1:
                yield name

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def add(self, name: str) -> None:
        """Show the guest a feature.

        Raises:
            ValueError: no feature is known by that name.
            StateError: the vcpu has run.
        """
        self._set(name, on=True)

    def discard(self, name: str) -> None:
        """Hide a feature from the guest.

        Raises:
            ValueError: no feature is known by that name.
            StateError: the vcpu has run.
        """
        self._set(name, on=False)

    def _set(self, name: str, *, on: bool) -> None:
        leaf, subleaf, register, bit = _place(name)
        found = self._cpuid._table().get((leaf, subleaf), CpuidLeaf())
        value = getattr(found, register) & ~(1 << bit) | on << bit
        self._cpuid[leaf, subleaf] = found._replace(**{register: value})

    def __repr__(self) -> str:
        return f"{{{', '.join(sorted(self))}}}"


def _place(name: object) -> tuple[int, int, str, int]:
    place = _PLACES.get(name) if isinstance(name, str) else None
    if place is None:
        import difflib  # noqa: PLC0415 - for an error only

        close = difflib.get_close_matches(str(name), _PLACES, n=3)
        hint = f"did you mean {' or '.join(close)}?" if close else "names are those of Linux's /proc/cpuinfo"
        raise ValueError(f"no cpu feature is known by that name: {name}\n\nhint: {hint}")
    return place
