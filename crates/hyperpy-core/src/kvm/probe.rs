//! What this host's KVM offers, for `hyperpy doctor`.

use kvm_bindings::KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2;
use kvm_ioctls::{Cap, Kvm as KvmFd};

use super::unavailable;
use crate::accel::AccelError;

/// The facts that doctor shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// KVM_GET_API_VERSION.
    pub api_version: i32,
    /// Capabilities by KVM's name; 0 is absent.
    pub capabilities: Vec<(&'static str, i32)>,
    /// KVM_CAP_NR_VCPUS: how many are advised.
    pub recommended_vcpus: usize,
    /// KVM_CAP_MAX_VCPUS.
    pub max_vcpus: usize,
    /// KVM_CAP_NR_MEMSLOTS.
    pub memory_slots: usize,
}

/// Asks /dev/kvm.
///
/// # Errors
/// It cannot be opened.
pub fn capabilities() -> Result<Capabilities, AccelError> {
    let kvm = KvmFd::new().map_err(|error| unavailable(error.errno()))?;
    let wanted = [
        ("KVM_CAP_USER_MEMORY", Cap::UserMemory),
        ("KVM_CAP_IMMEDIATE_EXIT", Cap::ImmediateExit),
        ("KVM_CAP_SYNC_REGS", Cap::SyncRegs),
        ("KVM_CAP_READONLY_MEM", Cap::ReadonlyMem),
        ("KVM_CAP_IRQCHIP", Cap::Irqchip),
        ("KVM_CAP_PIT2", Cap::Pit2),
        ("KVM_CAP_IRQ_ROUTING", Cap::IrqRouting),
        ("KVM_CAP_IRQFD", Cap::Irqfd),
        ("KVM_CAP_IOEVENTFD", Cap::Ioeventfd),
        ("KVM_CAP_COALESCED_MMIO", Cap::CoalescedMmio),
        ("KVM_CAP_TSC_DEADLINE_TIMER", Cap::TscDeadlineTimer),
        ("KVM_CAP_TSC_CONTROL", Cap::TscControl),
        ("KVM_CAP_DIRTY_LOG_RING", Cap::DirtyLogRing),
        ("KVM_CAP_SET_GUEST_DEBUG", Cap::SetGuestDebug),
        ("KVM_CAP_X86_USER_SPACE_MSR", Cap::X86UserSpaceMsr),
        ("KVM_CAP_X86_MSR_FILTER", Cap::X86MsrFilter),
        ("KVM_CAP_EXIT_HYPERCALL", Cap::ExitHypercall),
        ("KVM_CAP_XSAVE", Cap::Xsave),
        ("KVM_CAP_NESTED_STATE", Cap::NestedState),
        ("KVM_CAP_XSAVE2", Cap::Xsave2),
    ];
    let mut found: Vec<_> = wanted.into_iter().map(|(name, cap)| (name, kvm.check_extension_int(cap))).collect();
    let manual = kvm.check_extension_raw(KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2.into());
    found.push(("KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2", manual));
    Ok(Capabilities {
        api_version: kvm.get_api_version(),
        capabilities: found,
        recommended_vcpus: kvm.get_nr_vcpus(),
        max_vcpus: kvm.get_max_vcpus(),
        memory_slots: kvm.get_nr_memslots(),
    })
}
