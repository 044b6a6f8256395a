//! Vector registers and CPUID of a vCPU, as the processor's manuals have them. The calls are `snapshot/raw`'s where it has them.

use kvm_bindings::{CpuId, KVM_CPUID_FLAG_SIGNIFCANT_INDEX, KVM_MAX_CPUID_ENTRIES, kvm_cpuid_entry2, kvm_fpu};
use kvm_ioctls::VcpuFd;

use super::call;
use super::snapshot::raw::{self, Area};
use crate::accel::AccelError;
use crate::arch::x86_64::cpuid::Leaf;
use crate::arch::x86_64::fpu::Fpu;

/// Reads the registers; `xsave` is whether a `struct kvm_xsave` holds all that KVM has, `ymm` where the upper YMM halves are in it.
pub(super) fn fpu(fd: &VcpuFd, xsave: bool, ymm: Option<usize>) -> Result<Fpu, AccelError> {
    if xsave {
        return Ok(Fpu::from_area(&raw::xsave(fd, Area::Standard)?, ymm));
    }
    let raw = fd.get_fpu().map_err(call("KVM_GET_FPU"))?;
    let mut fpu = Fpu {
        fcw: raw.fcw,
        fsw: raw.fsw,
        ftw: raw.ftwx,
        fop: raw.last_opcode,
        mxcsr: raw.mxcsr,
        xmm: raw.xmm.map(u128::from_le_bytes),
        ..Fpu::default()
    };
    fpu.st = raw.fpr.map(|bytes| u128::from_le_bytes(bytes) & ((1 << 80) - 1));
    Ok(fpu)
}

pub(super) fn set_fpu(fd: &VcpuFd, fpu: &Fpu, xsave: bool, ymm: Option<usize>) -> Result<(), AccelError> {
    if !xsave {
        let mut raw = fd.get_fpu().map_err(call("KVM_GET_FPU"))?;
        raw = kvm_fpu {
            fcw: fpu.fcw,
            fsw: fpu.fsw,
            ftwx: fpu.ftw,
            last_opcode: fpu.fop,
            mxcsr: fpu.mxcsr,
            fpr: fpu.st.map(u128::to_le_bytes),
            xmm: fpu.xmm.map(u128::to_le_bytes),
            ..raw
        };
        return fd.set_fpu(&raw).map_err(call("KVM_SET_FPU"));
    }
    let mut area = raw::xsave(fd, Area::Standard)?;
    fpu.into_area(&mut area, ymm);
    raw::set_xsave(fd, &area, Area::Standard)
}

pub(super) fn cpuid(fd: &VcpuFd) -> Result<Vec<Leaf>, AccelError> {
    let table = fd.get_cpuid2(KVM_MAX_CPUID_ENTRIES).map_err(call("KVM_GET_CPUID2"))?;
    Ok(leaves(&table))
}

/// The leaves of a table. Older kernels leave the number of entries of KVM_GET_CPUID2 as it was asked for, and zeros where
/// there was nothing to tell (seen on 6.1): those behind the last leaf are none.
pub(super) fn leaves(table: &CpuId) -> Vec<Leaf> {
    let leaf = |entry: &kvm_cpuid_entry2| Leaf {
        leaf: entry.function,
        subleaf: entry.index,
        indexed: entry.flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX != 0,
        eax: entry.eax,
        ebx: entry.ebx,
        ecx: entry.ecx,
        edx: entry.edx,
    };
    let mut leaves: Vec<_> = table.as_slice().iter().map(leaf).collect();
    while leaves.last().is_some_and(|leaf| *leaf == Leaf::default()) {
        leaves.pop();
    }
    leaves
}

pub(super) fn entry(leaf: &Leaf) -> kvm_cpuid_entry2 {
    kvm_cpuid_entry2 {
        function: leaf.leaf,
        index: leaf.subleaf,
        flags: if leaf.indexed { KVM_CPUID_FLAG_SIGNIFCANT_INDEX } else { 0 },
        eax: leaf.eax,
        ebx: leaf.ebx,
        ecx: leaf.ecx,
        edx: leaf.edx,
        ..Default::default()
    }
}
