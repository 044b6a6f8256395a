//! Which model-specific registers are part of a vCPU's state: those of KVM's list, and of ours, that can be read and written back.
//!
//! A vCPU tries it once for its VM. Left out is what cannot be written (it follows from CPUID and the host), and what KVM has
//! for guests of Hyper-V, unless CPUID says that this is one. EFER, the APIC's base and the bases of FS and GS are in sregs.

use std::sync::Arc;

use kvm_ioctls::Kvm as KvmFd;

use super::raw;
use crate::accel::AccelError;
use crate::arch::x86_64::cpuid::Leaf;
use crate::arch::x86_64::msrs::IA32_TSC_DEADLINE;
use crate::kvm::call;
use crate::kvm::vcpu::KvmVcpu;

/// Hyper-V's (TLFS, appendix C).
const HYPER_V: std::ops::Range<u32> = 0x4000_0000..0x4000_0200;
/// CPUID.40000001H:EAX of an interface that is Hyper-V's: "Hv#1".
const HYPER_V_INTERFACE: u32 = 0x3123_7648;
/// Those in sregs: IA32_APIC_BASE, EFER, FS.base and GS.base.
const IN_SREGS: [u32; 4] = [0x1b, 0xc000_0080, 0xc000_0100, 0xc000_0101];
/// MTRRs and machine-check banks, which the list lacks (SDM vol. 3, 12.11 and 16.3).
const OURS: [std::ops::RangeInclusive<u32>; 7] =
    [0x200..=0x20f, 0x250..=0x250, 0x258..=0x259, 0x268..=0x26f, 0x277..=0x277, 0x2ff..=0x2ff, 0x400..=0x47f];
/// KVM writes the time into guest memory when one of these is set, even to what it was: not to be tried.
const WALL_CLOCKS: [u32; 2] = [0x11, 0x4b56_4d00];

/// All that may be part of the state. The deadline is last, since what it depends on comes before.
pub(super) fn candidates(kvm: &KvmFd) -> Result<Box<[u32]>, AccelError> {
    let list = kvm.get_msr_index_list().map_err(call("KVM_GET_MSR_INDEX_LIST"))?;
    let mut all: Vec<u32> = list.as_slice().to_vec();
    all.extend(OURS.into_iter().flatten());
    all.sort_unstable_by_key(|&index| (index == IA32_TSC_DEADLINE, index));
    all.dedup();
    all.retain(|index| !IN_SREGS.contains(index));
    Ok(all.into())
}

impl KvmVcpu {
    /// The registers of a state, tried if no vCPU has yet.
    pub(super) fn settable_msrs(&self) -> Result<Arc<[u32]>, AccelError> {
        if let Some(settable) = self.known.msrs.get() {
            return Ok(settable.clone());
        }
        let is_hyper_v = |leaf: &Leaf| leaf.leaf == 0x4000_0001 && leaf.eax == HYPER_V_INTERFACE;
        let hyper_v = self.table.iter().any(is_hyper_v);
        let wanted = self.known.candidates.iter().filter(|index| hyper_v || !HYPER_V.contains(index));
        let mut values: Vec<(u32, u64)> = wanted.map(|&index| (index, 0)).collect();
        drop_refused(&mut values, |values| raw::msrs(&self.fd, values))?;
        let (clocks, mut values): (Vec<_>, Vec<_>) =
            values.into_iter().partition(|(index, _)| WALL_CLOCKS.contains(index));
        drop_refused(&mut values, |values| raw::set_msrs(&self.fd, values.iter().copied()))?;
        values.extend(clocks);
        values.sort_unstable_by_key(|&(index, _)| (index == IA32_TSC_DEADLINE, index));
        let settable = values.into_iter().map(|(index, _)| index).collect();
        Ok(self.known.msrs.get_or_init(|| settable).clone())
    }
}

/// Tries again without the one that is refused, until none is.
fn drop_refused(
    values: &mut Vec<(u32, u64)>,
    attempt: impl Fn(&mut [(u32, u64)]) -> Result<(), AccelError>,
) -> Result<(), AccelError> {
    loop {
        match attempt(values) {
            Err(AccelError::Msr { index, .. }) => values.retain(|(known, _)| *known != index),
            done => return done,
        }
    }
}
