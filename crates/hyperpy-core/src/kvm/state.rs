//! The part of a vCPU's state that KVM gives by ioctl alone: vector registers, model-specific registers, CPUID.

use kvm_bindings::{
    CpuId, KVM_CPUID_FLAG_SIGNIFCANT_INDEX, KVM_MAX_CPUID_ENTRIES, KVM_MAX_MSR_ENTRIES, Msrs, kvm_cpuid_entry2,
    kvm_fpu, kvm_msr_entry, kvm_xsave,
};
use kvm_ioctls::VcpuFd;

use super::call;
use crate::accel::AccelError;
use crate::arch::x86_64::cpuid::Leaf;
use crate::arch::x86_64::fpu::Fpu;

/// Reads the registers; `xsave` is whether a `struct kvm_xsave` holds all that KVM has, `ymm` where the upper YMM halves are in it.
pub(super) fn fpu(fd: &VcpuFd, xsave: bool, ymm: Option<usize>) -> Result<Fpu, AccelError> {
    if xsave {
        return Ok(Fpu::from_area(&xsave_area(fd)?, ymm));
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
    let mut area = xsave_area(fd)?;
    fpu.into_area(&mut area, ymm);
    let mut raw = kvm_xsave::default();
    for (word, bytes) in raw.region.iter_mut().zip(area.chunks_exact(4)) {
        *word = bytes.iter().rev().fold(0, |word, &byte| word << 8 | u32::from(byte));
    }
    // SAFETY: KVM reads as many bytes as it has state, which is at most a kvm_xsave: `xsave` says that this was asked when
    // the VM was made, and it grows only for who asks the kernel for more before a vCPU is made.
    unsafe { fd.set_xsave(&raw) }.map_err(call("KVM_SET_XSAVE"))
}

fn xsave_area(fd: &VcpuFd) -> Result<Vec<u8>, AccelError> {
    let raw = fd.get_xsave().map_err(call("KVM_GET_XSAVE"))?;
    Ok(raw.region.iter().flat_map(|word| word.to_le_bytes()).collect())
}

/// Reads registers, as many in one call as KVM takes.
pub(super) fn msrs(fd: &VcpuFd, indices: &[u32]) -> Result<Vec<u64>, AccelError> {
    let name = "KVM_GET_MSRS";
    let mut values = Vec::with_capacity(indices.len());
    for part in indices.chunks(KVM_MAX_MSR_ENTRIES) {
        let entries: Vec<_> = part.iter().map(|&index| kvm_msr_entry { index, ..Default::default() }).collect();
        let mut msrs = Msrs::from_entries(&entries).map_err(|_| too_many(name))?;
        let done = fd.get_msrs(&mut msrs).map_err(call(name))?;
        if let Some(&index) = part.get(done) {
            return Err(AccelError::Msr { call: name, index, value: None });
        }
        values.extend(msrs.as_slice().iter().map(|entry| entry.data));
    }
    Ok(values)
}

pub(super) fn set_msrs(fd: &VcpuFd, values: &[(u32, u64)]) -> Result<(), AccelError> {
    let name = "KVM_SET_MSRS";
    for part in values.chunks(KVM_MAX_MSR_ENTRIES) {
        let entries: Vec<_> =
            part.iter().map(|&(index, data)| kvm_msr_entry { index, data, ..Default::default() }).collect();
        let msrs = Msrs::from_entries(&entries).map_err(|_| too_many(name))?;
        let done = fd.set_msrs(&msrs).map_err(call(name))?;
        if let Some(&(index, value)) = part.get(done) {
            return Err(AccelError::Msr { call: name, index, value: Some(value) });
        }
    }
    Ok(())
}

fn too_many(call: &'static str) -> AccelError {
    AccelError::Call { call, source: std::io::Error::from_raw_os_error(libc::E2BIG) }
}

pub(super) fn cpuid(fd: &VcpuFd) -> Result<Vec<Leaf>, AccelError> {
    let table = fd.get_cpuid2(KVM_MAX_CPUID_ENTRIES).map_err(call("KVM_GET_CPUID2"))?;
    Ok(leaves(&table))
}

pub(super) fn set_cpuid(fd: &VcpuFd, table: &[Leaf]) -> Result<(), AccelError> {
    let name = "KVM_SET_CPUID2";
    let entries: Vec<_> = table.iter().map(entry).collect();
    let table = CpuId::from_entries(&entries).map_err(|_| too_many(name))?;
    fd.set_cpuid2(&table).map_err(call(name))
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
