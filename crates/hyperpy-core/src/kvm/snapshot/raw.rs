//! The calls that a state is made of. Each is told by its name when it fails, and none allocates but to give an area back.

use std::io;
use std::os::fd::AsRawFd;

use kvm_bindings::{
    KVM_MAX_CPUID_ENTRIES, KVM_MAX_MSR_ENTRIES, KVM_SREGS2_FLAGS_PDPTRS_VALID, KVM_VCPU_TSC_CTRL, KVM_VCPU_TSC_OFFSET,
    kvm_clock_data, kvm_cpuid_entry2, kvm_debugregs, kvm_device_attr, kvm_irqchip, kvm_lapic_state, kvm_mp_state,
    kvm_msr_entry, kvm_pit_state2, kvm_regs, kvm_sregs, kvm_sregs2, kvm_vcpu_events, kvm_xcr, kvm_xcrs, kvm_xsave,
};
use kvm_ioctls::VcpuFd;

use crate::accel::AccelError;
use crate::arch::x86_64::Sregs;
use crate::arch::x86_64::cpuid::Leaf;
use crate::arch::x86_64::fpu::Fpu;
use crate::kvm::convert::{kvm_from_sregs, kvm2_from_sregs, sregs_from_kvm, sregs_from_kvm2};
use crate::kvm::state;

/// `_IOR`, `_IOW` and `_IOWR` of asm-generic/ioctl.h: the kernel reads, writes, or both, as many bytes.
const READ: u64 = 2 << 30;
const WRITE: u64 = 1 << 30;
const KVMIO: u64 = 0xae << 8;

/// Makes a call.
///
/// # Safety
/// `argument` is what the call of this number reads and writes, all of it.
unsafe fn ioctl<T>(fd: &impl AsRawFd, name: &'static str, number: u64, argument: *mut T) -> Result<usize, AccelError> {
    let told = |source| AccelError::Call { call: name, source };
    #[cfg(test)]
    super::tests::calls::made(name).map_err(told)?;
    // SAFETY: the descriptor is open while `fd` is borrowed; the caller promises the rest.
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), number, argument) };
    usize::try_from(result).map_err(|_| told(io::Error::last_os_error()))
}

/// Calls that give one structure: its size is in their number.
macro_rules! get {
    ($($get:ident $name:literal $nr:literal $raw:ty;)*) => {$(
        pub(in crate::kvm) fn $get(fd: &impl AsRawFd) -> Result<$raw, AccelError> {
            let mut raw = <$raw>::default();
            // SAFETY: the call writes one such structure, as its number says.
            unsafe { ioctl(fd, $name, READ | (size_of::<$raw>() as u64) << 16 | KVMIO | $nr, &raw mut raw) }?;
            Ok(raw)
        }
    )*};
}

/// Calls that take one.
macro_rules! set {
    ($($set:ident $name:literal $nr:literal $raw:ty;)*) => {$(
        pub(in crate::kvm) fn $set(fd: &impl AsRawFd, raw: &$raw) -> Result<(), AccelError> {
            let raw: *const $raw = raw;
            // SAFETY: the call reads one such structure, as its number says.
            unsafe { ioctl(fd, $name, WRITE | (size_of::<$raw>() as u64) << 16 | KVMIO | $nr, raw.cast_mut()) }?;
            Ok(())
        }
    )*};
}

get! {
    regs "KVM_GET_REGS" 0x81 kvm_regs;
    old_sregs "KVM_GET_SREGS" 0x83 kvm_sregs;
    sregs2 "KVM_GET_SREGS2" 0xcc kvm_sregs2;
    mp_state "KVM_GET_MP_STATE" 0x98 kvm_mp_state;
    events "KVM_GET_VCPU_EVENTS" 0x9f kvm_vcpu_events;
    debugregs "KVM_GET_DEBUGREGS" 0xa1 kvm_debugregs;
    xcrs "KVM_GET_XCRS" 0xa6 kvm_xcrs;
    lapic_page "KVM_GET_LAPIC" 0x8e kvm_lapic_state;
    pit "KVM_GET_PIT2" 0x9f kvm_pit_state2;
    clock "KVM_GET_CLOCK" 0x7c kvm_clock_data;
}
set! {
    set_regs "KVM_SET_REGS" 0x82 kvm_regs;
    set_old_sregs "KVM_SET_SREGS" 0x84 kvm_sregs;
    set_sregs2 "KVM_SET_SREGS2" 0xcd kvm_sregs2;
    set_mp_state "KVM_SET_MP_STATE" 0x99 kvm_mp_state;
    set_events "KVM_SET_VCPU_EVENTS" 0xa0 kvm_vcpu_events;
    set_debugregs "KVM_SET_DEBUGREGS" 0xa2 kvm_debugregs;
    set_xcrs "KVM_SET_XCRS" 0xa7 kvm_xcrs;
    set_lapic_page "KVM_SET_LAPIC" 0x8f kvm_lapic_state;
    set_pit "KVM_SET_PIT2" 0xa0 kvm_pit_state2;
    set_clock "KVM_SET_CLOCK" 0x7b kvm_clock_data;
}

/// The chip that `chip.chip_id` asks for.
pub(super) fn irqchip(fd: &impl AsRawFd, chip: &mut kvm_irqchip) -> Result<(), AccelError> {
    let number = READ | WRITE | (size_of::<kvm_irqchip>() as u64) << 16 | KVMIO | 0x62;
    // SAFETY: the call reads and writes one such structure, as its number says.
    unsafe { ioctl(fd, "KVM_GET_IRQCHIP", number, &raw mut *chip) }?;
    Ok(())
}

pub(super) fn set_irqchip(fd: &impl AsRawFd, chip: &kvm_irqchip) -> Result<(), AccelError> {
    let chip: *const kvm_irqchip = chip;
    // By mistake of old, its number says that the kernel writes it (linux/kvm.h).
    let number = READ | (size_of::<kvm_irqchip>() as u64) << 16 | KVMIO | 0x63;
    // SAFETY: the call reads one such structure.
    unsafe { ioctl(fd, "KVM_SET_IRQCHIP", number, chip.cast_mut()) }?;
    Ok(())
}

/// Frequency of the time-stamp counter in kHz.
pub(super) fn tsc_khz(fd: &VcpuFd) -> Result<u32, AccelError> {
    let nothing = std::ptr::null_mut::<u8>();
    // SAFETY: the call takes no argument.
    let khz = unsafe { ioctl(fd, "KVM_GET_TSC_KHZ", KVMIO | 0xa3, nothing) }?;
    Ok(u32::try_from(khz).unwrap_or(0))
}

pub(super) fn set_tsc_khz(fd: &VcpuFd, khz: u32) -> Result<(), AccelError> {
    let khz = std::ptr::without_provenance_mut::<u8>(khz as usize);
    // SAFETY: the argument is a number.
    unsafe { ioctl(fd, "KVM_SET_TSC_KHZ", KVMIO | 0xa2, khz) }?;
    Ok(())
}

/// Bytes of FXSAVE's region (SDM vol. 1, 10.5.1).
const LEGACY: usize = 512;

/// Registers of the local APIC by their offsets in 16 bytes (SDM vol. 3, table 11-1).
const APIC_TPR: usize = 0x08;
const APIC_PPR: usize = 0x0a;
const APIC_ISR: usize = 0x10;

/// How KVM gives vector state, and how much of it: what a VM has told, and for its vCPUs alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::kvm) enum Area {
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

pub(super) fn sregs(fd: &VcpuFd, new: bool) -> Result<(Sregs, Option<[u64; 4]>), AccelError> {
    if !new {
        return Ok((sregs_from_kvm(&old_sregs(fd)?), None));
    }
    let raw = sregs2(fd)?;
    let held = raw.flags & u64::from(KVM_SREGS2_FLAGS_PDPTRS_VALID) != 0;
    Ok((sregs_from_kvm2(&raw), held.then_some(raw.pdptrs)))
}

/// KVM's interrupt bitmap stays empty: an interrupt that waits is an event.
pub(super) fn set_sregs(fd: &VcpuFd, sregs: &Sregs, pdptrs: Option<[u64; 4]>, new: bool) -> Result<(), AccelError> {
    if !new {
        let mut raw = kvm_sregs::default();
        kvm_from_sregs(sregs, &mut raw);
        return set_old_sregs(fd, &raw);
    }
    let mut raw = kvm_sregs2::default();
    kvm2_from_sregs(sregs, &mut raw);
    if let Some(pdptrs) = pdptrs {
        raw.flags = KVM_SREGS2_FLAGS_PDPTRS_VALID.into();
        raw.pdptrs = pdptrs;
    }
    set_sregs2(fd, &raw)
}

/// `struct kvm_xsave` is what these three carry by their numbers; where KVM has more, it reads and writes more.
const AREA: u64 = (size_of::<kvm_xsave>() as u64) << 16 | KVMIO;

pub(in crate::kvm) fn xsave(fd: &VcpuFd, area: Area) -> Result<Box<[u8]>, AccelError> {
    let mut bytes = vec![0; area.len()].into_boxed_slice();
    let (number, name) = match area {
        Area::Legacy => {
            state::fpu(fd, false, None)?.into_area(&mut bytes, None);
            return Ok(bytes);
        }
        Area::Standard => (READ | AREA | 0xa4, "KVM_GET_XSAVE"),
        Area::Long(_) => (READ | AREA | 0xcf, "KVM_GET_XSAVE2"),
    };
    // SAFETY: the call writes one `struct kvm_xsave`, or as many bytes as KVM_CAP_XSAVE2 has told: that is `area`, which callers
    // have from `Known::xsave` of the vCPU's VM, and `bytes` is as long.
    unsafe { ioctl(fd, name, number, bytes.as_mut_ptr()) }?;
    Ok(bytes)
}

pub(in crate::kvm) fn set_xsave(fd: &VcpuFd, bytes: &[u8], area: Area) -> Result<(), AccelError> {
    if bytes.len() != area.len() {
        return Err(super::unfit("xsave area", "has another size"));
    }
    if area == Area::Legacy {
        return state::set_fpu(fd, &Fpu::from_area(bytes, None), false, None);
    }
    // SAFETY: the call reads as many bytes as KVM_CAP_XSAVE2 has told, one `struct kvm_xsave` where there is none: that is `area`,
    // which callers have from `Known::xsave` of the vCPU's VM, and `bytes` is as long. With `Standard` where KVM has more it
    // would read beyond: who passes it has asked [`Known::has_small_xsave`](super::Known::has_small_xsave).
    unsafe { ioctl(fd, "KVM_SET_XSAVE", WRITE | AREA | 0xa5, bytes.as_ptr().cast_mut()) }?;
    Ok(())
}

pub(super) fn xcr0(fd: &VcpuFd) -> Result<u64, AccelError> {
    let raw = xcrs(fd)?;
    Ok(raw.xcrs.iter().take(raw.nr_xcrs as usize).find(|xcr| xcr.xcr == 0).map_or(1, |xcr| xcr.value))
}

pub(super) fn set_xcr0(fd: &VcpuFd, value: u64) -> Result<(), AccelError> {
    let mut raw = kvm_xcrs { nr_xcrs: 1, ..Default::default() };
    raw.xcrs[0] = kvm_xcr { xcr: 0, value, ..Default::default() };
    set_xcrs(fd, &raw)
}

pub(super) fn lapic(fd: &VcpuFd) -> Result<[u32; 64], AccelError> {
    let raw = lapic_page(fd)?;
    let mut registers = [0; 64];
    for (register, bytes) in registers.iter_mut().zip(raw.regs.chunks_exact(16)) {
        for (n, &byte) in bytes.iter().take(4).enumerate() {
            *register |= u32::from(byte.cast_unsigned()) << (8 * n);
        }
    }
    // KVM works it out when it next needs it, and when the page is set: until then it may be of before.
    registers[APIC_PPR] = processor_priority(&registers);
    Ok(registers)
}

/// The processor-priority register: the class of the highest vector in service, or the task's priority (SDM vol. 3, 11.8.3.1).
fn processor_priority(registers: &[u32; 64]) -> u32 {
    let task = registers[APIC_TPR] & 0xff;
    let in_service = registers.iter().skip(APIC_ISR).take(8).zip(0_u32..).filter(|(bits, _)| **bits != 0).last();
    let class = in_service.map_or(0, |(bits, word)| (32 * word + bits.ilog2()) & 0xf0);
    if task & 0xf0 >= class { task } else { class }
}

pub(super) fn set_lapic(fd: &VcpuFd, registers: &[u32; 64]) -> Result<(), AccelError> {
    let mut raw = kvm_lapic_state::default();
    for (bytes, register) in raw.regs.chunks_exact_mut(16).zip(registers) {
        for (into, byte) in bytes.iter_mut().zip(register.to_le_bytes()) {
            *into = byte.cast_signed();
        }
    }
    set_lapic_page(fd, &raw)
}

/// `struct kvm_msrs` with as many entries as KVM takes; its size without them is in the numbers.
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
pub(in crate::kvm) fn msrs(fd: &VcpuFd, values: &mut [(u32, u64)]) -> Result<(), AccelError> {
    let name = "KVM_GET_MSRS";
    for part in values.chunks_mut(KVM_MAX_MSR_ENTRIES) {
        let mut list = MsrList::fill(&mut part.iter().copied());
        // SAFETY: the call reads and writes as many entries as `count` says, and they are there.
        let done = unsafe { ioctl(fd, name, READ | WRITE | 8 << 16 | KVMIO | 0x88, &raw mut list) }?;
        if let Some(&(index, _)) = part.get(done) {
            return Err(AccelError::Msr { call: name, index, value: None });
        }
        for ((_, value), entry) in part.iter_mut().zip(&list.entries) {
            *value = entry.data;
        }
    }
    Ok(())
}

/// Sets registers, one after the other.
pub(in crate::kvm) fn set_msrs(fd: &VcpuFd, values: impl Iterator<Item = (u32, u64)>) -> Result<(), AccelError> {
    let name = "KVM_SET_MSRS";
    let mut values = values.peekable();
    while values.peek().is_some() {
        let mut list = MsrList::fill(&mut values);
        // SAFETY: the call reads as many entries as `count` says, and they are there.
        let done = unsafe { ioctl(fd, name, WRITE | 8 << 16 | KVMIO | 0x89, &raw mut list) }?;
        let rest = list.entries.get(done..list.count as usize);
        if let Some(entry) = rest.and_then(<[_]>::first) {
            return Err(AccelError::Msr { call: name, index: entry.index, value: Some(entry.data) });
        }
    }
    Ok(())
}

/// `struct kvm_cpuid2` with as many entries as KVM takes; its size without them is in the number.
#[repr(C)]
struct CpuidTable {
    count: u32,
    pad: u32,
    entries: [kvm_cpuid_entry2; KVM_MAX_CPUID_ENTRIES],
}

/// The table of a vCPU that has not run.
pub(in crate::kvm) fn set_cpuid(fd: &VcpuFd, leaves: &[Leaf]) -> Result<(), AccelError> {
    let name = "KVM_SET_CPUID2";
    if leaves.len() > KVM_MAX_CPUID_ENTRIES {
        return Err(AccelError::Call { call: name, source: io::Error::from_raw_os_error(libc::E2BIG) });
    }
    let mut table = CpuidTable { count: 0, pad: 0, entries: [kvm_cpuid_entry2::default(); KVM_MAX_CPUID_ENTRIES] };
    for (entry, leaf) in table.entries.iter_mut().zip(leaves) {
        *entry = state::entry(leaf);
        table.count += 1;
    }
    // SAFETY: the call reads as many entries as `count` says, and they are there.
    unsafe { ioctl(fd, name, WRITE | 8 << 16 | KVMIO | 0x90, &raw mut table) }?;
    Ok(())
}

/// The attribute of a vCPU that is what KVM adds to the host's time-stamp counter.
fn tsc_attribute(fd: &VcpuFd, name: &'static str, nr: u64, value: *mut u64) -> Result<(), AccelError> {
    let mut attribute = kvm_device_attr {
        group: KVM_VCPU_TSC_CTRL,
        attr: KVM_VCPU_TSC_OFFSET.into(),
        addr: value as u64,
        ..Default::default()
    };
    let number = WRITE | (size_of::<kvm_device_attr>() as u64) << 16 | KVMIO | nr;
    // SAFETY: the three calls read one such structure, and one reads and one writes the integer that it points to.
    unsafe { ioctl(fd, name, number, &raw mut attribute) }.map(drop)
}

pub(super) fn has_tsc_offset(fd: &VcpuFd) -> Result<bool, AccelError> {
    match tsc_attribute(fd, "KVM_HAS_DEVICE_ATTR", 0xe3, std::ptr::null_mut()) {
        // Linux before 5.16 has no attributes of vCPUs, or not this one.
        Err(AccelError::Call { source, .. })
            if matches!(source.raw_os_error(), Some(libc::ENOTTY | libc::ENXIO | libc::EINVAL)) =>
        {
            Ok(false)
        }
        asked => asked.map(|()| true),
    }
}

pub(super) fn tsc_offset(fd: &VcpuFd) -> Result<u64, AccelError> {
    let mut offset = 0;
    tsc_attribute(fd, "KVM_GET_DEVICE_ATTR", 0xe2, &raw mut offset)?;
    Ok(offset)
}

pub(super) fn set_tsc_offset(fd: &VcpuFd, mut offset: u64) -> Result<(), AccelError> {
    tsc_attribute(fd, "KVM_SET_DEVICE_ATTR", 0xe1, &raw mut offset)
}
