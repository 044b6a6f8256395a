//! The calls that kvm-ioctls lacks, or makes with an allocation.

use std::io;
use std::os::fd::AsRawFd;

use kvm_bindings::{
    KVM_MAX_CPUID_ENTRIES, KVM_MAX_MSR_ENTRIES, KVM_SREGS2_FLAGS_PDPTRS_VALID, KVM_VCPU_TSC_CTRL, KVM_VCPU_TSC_OFFSET,
    kvm_cpuid_entry2, kvm_device_attr, kvm_lapic_state, kvm_msr_entry, kvm_sregs2, kvm_xcr, kvm_xcrs, kvm_xsave,
};
use kvm_ioctls::VcpuFd;

use crate::accel::AccelError;
use crate::arch::x86_64::Sregs;
use crate::arch::x86_64::cpuid::Leaf;
use crate::arch::x86_64::fpu::Fpu;
use crate::kvm::convert::{kvm_from_sregs, kvm2_from_sregs, sregs_from_kvm, sregs_from_kvm2};
use crate::kvm::{call, state};

/// `_IOR(KVMIO, 0xcc, struct kvm_sregs2)` and `_IOW(KVMIO, 0xcd, struct kvm_sregs2)`.
const KVM_GET_SREGS2: libc::c_ulong = 0x8140_aecc;
const KVM_SET_SREGS2: libc::c_ulong = 0x4140_aecd;
/// `_IOR(KVMIO, 0xa4, struct kvm_xsave)`, `_IOW(KVMIO, 0xa5, struct kvm_xsave)` and `_IOR(KVMIO, 0xcf, struct kvm_xsave)`.
const KVM_GET_XSAVE: libc::c_ulong = 0x9000_aea4;
const KVM_SET_XSAVE: libc::c_ulong = 0x5000_aea5;
const KVM_GET_XSAVE2: libc::c_ulong = 0x9000_aecf;
/// `_IOWR(KVMIO, 0x88, struct kvm_msrs)` and `_IOW(KVMIO, 0x89, struct kvm_msrs)`.
const KVM_GET_MSRS: libc::c_ulong = 0xc008_ae88;
const KVM_SET_MSRS: libc::c_ulong = 0x4008_ae89;
/// `_IOW(KVMIO, 0x90, struct kvm_cpuid2)`.
const KVM_SET_CPUID2: libc::c_ulong = 0x4008_ae90;
/// `_IOW(KVMIO, 0xe1, struct kvm_device_attr)` and the two after it.
const KVM_SET_DEVICE_ATTR: libc::c_ulong = 0x4018_aee1;
const KVM_GET_DEVICE_ATTR: libc::c_ulong = 0x4018_aee2;
const KVM_HAS_DEVICE_ATTR: libc::c_ulong = 0x4018_aee3;

/// Bytes of FXSAVE's region (SDM vol. 1, 10.5.1).
const LEGACY: usize = 512;

/// How KVM gives vector state, and how much of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Area {
    /// KVM_GET_FPU alone.
    Legacy,
    /// One `struct kvm_xsave`.
    Standard,
    /// More than that (KVM_CAP_XSAVE2).
    Long(usize),
}

impl Area {
    pub(super) fn len(self) -> usize {
        match self {
            Self::Legacy => LEGACY,
            Self::Standard => size_of::<kvm_xsave>(),
            Self::Long(len) => len,
        }
    }
}

/// Makes a call of a vCPU's.
///
/// # Safety
/// `argument` is what the call of this number reads and writes, all of it.
unsafe fn ioctl<T>(fd: &VcpuFd, number: libc::c_ulong, argument: *mut T) -> io::Result<i32> {
    // SAFETY: the descriptor is open while `fd` is borrowed; the caller promises the rest.
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), number, argument) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn told(name: &'static str) -> impl Fn(io::Error) -> AccelError {
    move |source| AccelError::Call { call: name, source }
}

pub(super) fn sregs(fd: &VcpuFd, new: bool) -> Result<(Sregs, Option<[u64; 4]>), AccelError> {
    if !new {
        return fd.get_sregs().map(|raw| (sregs_from_kvm(&raw), None)).map_err(call("KVM_GET_SREGS"));
    }
    let mut raw = kvm_sregs2::default();
    // SAFETY: the call writes one such structure.
    unsafe { ioctl(fd, KVM_GET_SREGS2, &raw mut raw) }.map_err(told("KVM_GET_SREGS2"))?;
    let held = raw.flags & u64::from(KVM_SREGS2_FLAGS_PDPTRS_VALID) != 0;
    Ok((sregs_from_kvm2(&raw), held.then_some(raw.pdptrs)))
}

/// KVM's interrupt bitmap stays empty: an interrupt that waits is an event.
pub(super) fn set_sregs(fd: &VcpuFd, sregs: &Sregs, pdptrs: Option<[u64; 4]>, new: bool) -> Result<(), AccelError> {
    if !new {
        let mut raw = kvm_bindings::kvm_sregs::default();
        kvm_from_sregs(sregs, &mut raw);
        return fd.set_sregs(&raw).map_err(call("KVM_SET_SREGS"));
    }
    let mut raw = kvm_sregs2::default();
    kvm2_from_sregs(sregs, &mut raw);
    if let Some(pdptrs) = pdptrs {
        raw.flags = KVM_SREGS2_FLAGS_PDPTRS_VALID.into();
        raw.pdptrs = pdptrs;
    }
    // SAFETY: the call reads one such structure.
    unsafe { ioctl(fd, KVM_SET_SREGS2, &raw mut raw) }.map_err(told("KVM_SET_SREGS2"))?;
    Ok(())
}

pub(super) fn xsave(fd: &VcpuFd, area: Area) -> Result<Box<[u8]>, AccelError> {
    let mut bytes = vec![0; area.len()].into_boxed_slice();
    let (number, name) = match area {
        Area::Legacy => {
            state::fpu(fd, false, None)?.into_area(&mut bytes, None);
            return Ok(bytes);
        }
        Area::Standard => (KVM_GET_XSAVE, "KVM_GET_XSAVE"),
        Area::Long(_) => (KVM_GET_XSAVE2, "KVM_GET_XSAVE2"),
    };
    // SAFETY: the call writes one `struct kvm_xsave`, or as many bytes as KVM_CAP_XSAVE2 has told: `bytes` is as long.
    unsafe { ioctl(fd, number, bytes.as_mut_ptr()) }.map_err(told(name))?;
    Ok(bytes)
}

/// `bytes` is as long as the area: [`super::Known::check`] has seen to it.
pub(super) fn set_xsave(fd: &VcpuFd, bytes: &[u8], area: Area) -> Result<(), AccelError> {
    if area == Area::Legacy {
        return state::set_fpu(fd, &Fpu::from_area(bytes, None), false, None);
    }
    if bytes.len() != area.len() {
        return Err(super::unfit("xsave area", "has another size"));
    }
    // SAFETY: the call reads one `struct kvm_xsave`, or as many bytes as KVM_CAP_XSAVE2 has told: `bytes` is as long.
    unsafe { ioctl(fd, KVM_SET_XSAVE, bytes.as_ptr().cast_mut()) }.map_err(told("KVM_SET_XSAVE"))?;
    Ok(())
}

pub(super) fn xcr0(fd: &VcpuFd) -> Result<u64, AccelError> {
    let raw = fd.get_xcrs().map_err(call("KVM_GET_XCRS"))?;
    Ok(raw.xcrs.iter().take(raw.nr_xcrs as usize).find(|xcr| xcr.xcr == 0).map_or(1, |xcr| xcr.value))
}

pub(super) fn set_xcr0(fd: &VcpuFd, value: u64) -> Result<(), AccelError> {
    let mut raw = kvm_xcrs { nr_xcrs: 1, ..Default::default() };
    raw.xcrs[0] = kvm_xcr { xcr: 0, value, ..Default::default() };
    fd.set_xcrs(&raw).map_err(call("KVM_SET_XCRS"))
}

pub(super) fn lapic(fd: &VcpuFd) -> Result<[u32; 64], AccelError> {
    let raw = fd.get_lapic().map_err(call("KVM_GET_LAPIC"))?;
    let mut registers = [0; 64];
    for (register, bytes) in registers.iter_mut().zip(raw.regs.chunks_exact(16)) {
        for (n, &byte) in bytes.iter().take(4).enumerate() {
            *register |= u32::from(byte.cast_unsigned()) << (8 * n);
        }
    }
    Ok(registers)
}

pub(super) fn set_lapic(fd: &VcpuFd, registers: &[u32; 64]) -> Result<(), AccelError> {
    let mut raw = kvm_lapic_state::default();
    for (bytes, register) in raw.regs.chunks_exact_mut(16).zip(registers) {
        for (into, byte) in bytes.iter_mut().zip(register.to_le_bytes()) {
            *into = byte.cast_signed();
        }
    }
    fd.set_lapic(&raw).map_err(call("KVM_SET_LAPIC"))
}

/// `struct kvm_msrs` with as many entries as KVM takes.
#[repr(C)]
struct MsrList {
    count: u32,
    pad: u32,
    entries: [kvm_msr_entry; KVM_MAX_MSR_ENTRIES],
}

impl MsrList {
    /// As many of the values as fit.
    fn fill(values: &mut dyn Iterator<Item = (u32, u64)>) -> Self {
        let mut list = Self { count: 0, pad: 0, entries: [kvm_msr_entry::default(); KVM_MAX_MSR_ENTRIES] };
        for (entry, (index, data)) in list.entries.iter_mut().zip(values) {
            *entry = kvm_msr_entry { index, data, ..Default::default() };
            list.count += 1;
        }
        list
    }
}

/// Reads the registers of these indices.
pub(super) fn msrs(fd: &VcpuFd, values: &mut [(u32, u64)]) -> Result<(), AccelError> {
    let name = "KVM_GET_MSRS";
    for part in values.chunks_mut(KVM_MAX_MSR_ENTRIES) {
        let mut list = MsrList::fill(&mut part.iter().copied());
        // SAFETY: the call reads and writes as many entries as `count` says, and they are there.
        let done = unsafe { ioctl(fd, KVM_GET_MSRS, &raw mut list) }.map_err(told(name))?;
        if let Some(&(index, _)) = part.get(done.unsigned_abs() as usize) {
            return Err(AccelError::Msr { call: name, index, value: None });
        }
        for ((_, value), entry) in part.iter_mut().zip(&list.entries) {
            *value = entry.data;
        }
    }
    Ok(())
}

/// Sets registers, one after the other.
pub(super) fn set_msrs(fd: &VcpuFd, mut values: impl Iterator<Item = (u32, u64)>) -> Result<(), AccelError> {
    let name = "KVM_SET_MSRS";
    loop {
        let mut list = MsrList::fill(&mut values);
        if list.count == 0 {
            return Ok(());
        }
        // SAFETY: the call reads as many entries as `count` says, and they are there.
        let done = unsafe { ioctl(fd, KVM_SET_MSRS, &raw mut list) }.map_err(told(name))?;
        let rest = list.entries.get(done.unsigned_abs() as usize..list.count as usize);
        if let Some(entry) = rest.and_then(<[_]>::first) {
            return Err(AccelError::Msr { call: name, index: entry.index, value: Some(entry.data) });
        }
    }
}

/// `struct kvm_cpuid2` with as many entries as KVM takes.
#[repr(C)]
struct CpuidTable {
    count: u32,
    pad: u32,
    entries: [kvm_cpuid_entry2; KVM_MAX_CPUID_ENTRIES],
}

/// The table of a vCPU that has not run; [`super::Known::check`] has seen that it is not too long.
pub(super) fn set_cpuid(fd: &VcpuFd, leaves: &[Leaf]) -> Result<(), AccelError> {
    let mut table = CpuidTable { count: 0, pad: 0, entries: [kvm_cpuid_entry2::default(); KVM_MAX_CPUID_ENTRIES] };
    for (entry, leaf) in table.entries.iter_mut().zip(leaves) {
        *entry = state::entry(leaf);
        table.count += 1;
    }
    // SAFETY: the call reads as many entries as `count` says, and they are there.
    unsafe { ioctl(fd, KVM_SET_CPUID2, &raw mut table) }.map_err(told("KVM_SET_CPUID2"))?;
    Ok(())
}

fn tsc_attribute(value: *mut u64) -> kvm_device_attr {
    kvm_device_attr {
        group: KVM_VCPU_TSC_CTRL,
        attr: KVM_VCPU_TSC_OFFSET.into(),
        addr: value as u64,
        ..Default::default()
    }
}

pub(super) fn has_tsc_offset(fd: &VcpuFd) -> bool {
    let mut attribute = tsc_attribute(std::ptr::null_mut());
    // SAFETY: the call reads the structure, and not what it points to.
    unsafe { ioctl(fd, KVM_HAS_DEVICE_ATTR, &raw mut attribute) }.is_ok()
}

/// What is added to the host's time-stamp counter.
pub(super) fn tsc_offset(fd: &VcpuFd) -> Result<u64, AccelError> {
    let mut offset = 0;
    let mut attribute = tsc_attribute(&raw mut offset);
    // SAFETY: the call reads the structure, and writes the one integer that it points to.
    unsafe { ioctl(fd, KVM_GET_DEVICE_ATTR, &raw mut attribute) }.map_err(told("KVM_GET_DEVICE_ATTR"))?;
    Ok(offset)
}

pub(super) fn set_tsc_offset(fd: &VcpuFd, mut offset: u64) -> Result<(), AccelError> {
    let mut attribute = tsc_attribute(&raw mut offset);
    // SAFETY: the call reads the structure, and the one integer that it points to.
    unsafe { ioctl(fd, KVM_SET_DEVICE_ATTR, &raw mut attribute) }.map_err(told("KVM_SET_DEVICE_ATTR"))?;
    Ok(())
}
