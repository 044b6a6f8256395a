//! A vCPU as it comes out of reset: CPUID, the few MSRs that firmware would set, and the local APIC's two pins.
//!
//! CPUID is what the host offers (KVM_GET_SUPPORTED_CPUID) with the vCPU's own APIC id and a topology of one package
//! with one thread per core. SDM vol. 2A (CPUID), vol. 3 10.5 (APIC); AMD APM vol. 3 appendix E.

use std::sync::Arc;

use kvm_bindings::{CpuId, KVM_MAX_CPUID_ENTRIES, Msrs, kvm_cpuid_entry2, kvm_lapic_state, kvm_msr_entry};
use kvm_ioctls::{Kvm, VcpuFd};

use super::{call, state};
use crate::accel::{AccelError, VmConfig};
use crate::arch::x86_64::cpuid::Leaf;

/// What KVM can do for a guest beyond CPUID's own report.
#[derive(Clone, Copy, Debug)]
pub(super) struct Features {
    pub(super) tsc_deadline: bool,
}

/// CPUID.1:ECX: the local APIC has TSC-deadline mode.
const TSC_DEADLINE: u32 = 1 << 24;
/// CPUID.1:ECX: a hypervisor is present.
const HYPERVISOR: u32 = 1 << 31;
/// CPUID.1:ECX: x2APIC.
const X2APIC: u32 = 1 << 21;
/// CPUID.1:EDX: the package may have several logical processors.
const HTT: u32 = 1 << 28;

/// IA32_MISC_ENABLE, and its fast-string bit that firmware sets.
const MSR_MISC_ENABLE: u32 = 0x1a0;
const FAST_STRINGS: u64 = 1;
/// IA32_MTRR_DEF_TYPE: enabled, write-back by default.
const MSR_MTRR_DEF_TYPE: u32 = 0x2ff;
const MTRR_ENABLED_WRITE_BACK: u64 = 1 << 11 | 6;

/// Local vector table: LINT0 and LINT1, and their delivery modes.
const APIC_LVT_LINT0: usize = 0x350;
const APIC_LVT_LINT1: usize = 0x360;
const DELIVER_EXTINT: u32 = 0b111 << 8;
const DELIVER_NMI: u32 = 0b100 << 8;
const DELIVERY_MODE: u32 = 0b111 << 8;
const LVT_MASKED: u32 = 1 << 16;

/// Prepares a vCPU, and gives the CPUID table that it was set.
pub(super) fn prepare(
    vcpu: &VcpuFd,
    id: u32,
    config: VmConfig,
    offered: &CpuId,
    features: Features,
) -> Result<Arc<[Leaf]>, AccelError> {
    let table = table(id, config, offered, features);
    vcpu.set_cpuid2(&table).map_err(call("KVM_SET_CPUID2"))?;
    let leaves = state::leaves(&table).into();
    if !config.irqchip {
        return Ok(leaves);
    }
    // A KVM that refuses one of these leaves the guest with its own default: not worth failing a machine for.
    let msrs = [
        kvm_msr_entry { index: MSR_MISC_ENABLE, data: FAST_STRINGS, ..Default::default() },
        kvm_msr_entry { index: MSR_MTRR_DEF_TYPE, data: MTRR_ENABLED_WRITE_BACK, ..Default::default() },
    ];
    if let Ok(msrs) = Msrs::from_entries(&msrs) {
        vcpu.set_msrs(&msrs).map_err(call("KVM_SET_MSRS"))?;
    }
    Ok(leaves)
}

/// The boot processor takes the 8259 pair at LINT0 and NMIs at LINT1, as firmware leaves them (SDM 10.5.1). Done when all
/// vCPUs exist: KVM numbers the local APICs of a VM whenever the state of one is set, and it sets a new vCPU's before
/// the vCPU is in its list, so that messages to the last one made would go nowhere.
pub(super) fn connect_boot_processor(vcpu: &VcpuFd) -> Result<(), AccelError> {
    let mut lapic = vcpu.get_lapic().map_err(call("KVM_GET_LAPIC"))?;
    set_lvt(&mut lapic, APIC_LVT_LINT0, DELIVER_EXTINT);
    set_lvt(&mut lapic, APIC_LVT_LINT1, DELIVER_NMI);
    vcpu.set_lapic(&lapic).map_err(call("KVM_SET_LAPIC"))
}

/// What the host's processor and KVM can offer a guest.
pub(super) fn offered(kvm: &Kvm) -> Result<CpuId, AccelError> {
    kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES).map_err(call("KVM_GET_SUPPORTED_CPUID"))
}

/// The CPUID table of a vCPU.
pub(super) fn table(id: u32, config: VmConfig, offered: &CpuId, features: Features) -> CpuId {
    let mut cpuid = offered.clone();
    for entry in cpuid.as_mut_slice() {
        shape(entry, id, config, features);
    }
    cpuid
}

fn set_lvt(lapic: &mut kvm_lapic_state, register: usize, mode: u32) {
    if let Some(bytes) = lapic.regs.get_mut(register..register + 4) {
        let mut value = 0;
        for (i, byte) in bytes.iter().enumerate() {
            #[allow(clippy::cast_sign_loss)] // c_char is a plain byte here
            let byte = *byte as u8;
            value |= u32::from(byte) << (8 * i);
        }
        let value = value & !(DELIVERY_MODE | LVT_MASKED) | mode;
        for (byte, new) in bytes.iter_mut().zip(value.to_le_bytes()) {
            #[allow(clippy::cast_possible_wrap)] // as above
            {
                *byte = new as _;
            }
        }
    }
}

/// Gives one CPUID leaf this vCPU's identity.
fn shape(entry: &mut kvm_cpuid_entry2, id: u32, config: VmConfig, features: Features) {
    let cpus = config.vcpus;
    // Bits that number `cpus` cores.
    let core_bits = cpus.next_power_of_two().trailing_zeros();
    match entry.function {
        1 => {
            entry.ebx = entry.ebx & 0x0000_ffff | (id & 0xff) << 24 | cpus.min(255) << 16;
            entry.ecx |= HYPERVISOR;
            set(&mut entry.ecx, TSC_DEADLINE, features.tsc_deadline);
            if !config.irqchip {
                entry.ecx &= !X2APIC;
            }
            set(&mut entry.edx, HTT, cpus > 1);
        }
        // Deterministic cache parameters: no cache but the last level is shared, cores per package.
        4 if entry.eax & 0x1f != 0 => {
            let level = entry.eax >> 5 & 7;
            let sharing = if level >= 3 { cpus - 1 } else { 0 };
            entry.eax = entry.eax & 0x3fff | (sharing & 0xfff) << 14 | ((cpus - 1) & 0x3f) << 26;
        }
        // Extended topology: level 0 is one thread per core, level 1 the cores of the package.
        0xb | 0x1f => {
            (entry.eax, entry.ebx, entry.ecx) = match entry.index {
                0 => (0, 1, 1 << 8),
                1 => (core_bits, cpus, 2 << 8 | 1),
                level => (0, 0, level & 0xff),
            };
            entry.edx = id;
        }
        // AMD: APIC id bits and cores of the package.
        0x8000_0008 => entry.ecx = core_bits << 12 | (cpus - 1) & 0xff,
        // AMD: extended APIC id, core id with one thread, node 0 of 1.
        0x8000_001e => (entry.eax, entry.ebx, entry.ecx) = (id, id & 0xff, 0),
        _ => {}
    }
}

fn set(register: &mut u32, bit: u32, on: bool) {
    if on {
        *register |= bit;
    } else {
        *register &= !bit;
    }
}
