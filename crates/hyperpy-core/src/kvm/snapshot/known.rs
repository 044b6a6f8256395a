//! What a VM's KVM has for its state, asked once when the VM is made; and what of a state it takes.

use std::arch::x86_64::_rdtsc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use kvm_bindings::{
    CpuId, KVM_CAP_EXCEPTION_PAYLOAD, KVM_CAP_SREGS2, KVM_CAP_SYNC_REGS, KVM_CAP_X86_SMM,
    KVM_CAP_X86_TRIPLE_FAULT_EVENT, KVM_MP_STATE_INIT_RECEIVED, KVM_MP_STATE_RUNNABLE, KVM_MP_STATE_SIPI_RECEIVED,
    KVM_SYNC_X86_EVENTS, KVM_VCPUEVENT_VALID_NMI_PENDING, KVM_VCPUEVENT_VALID_PAYLOAD, KVM_VCPUEVENT_VALID_SHADOW,
    KVM_VCPUEVENT_VALID_SIPI_VECTOR, KVM_VCPUEVENT_VALID_SMM, KVM_VCPUEVENT_VALID_TRIPLE_FAULT, kvm_enable_cap,
    kvm_xsave,
};
use kvm_ioctls::{Cap, Kvm as KvmFd, VcpuFd, VmFd};

use super::chips::ticks;
use super::raw::{self, Area};
use super::unfit;
use crate::accel::state::{Events, LEAVES_MAX, VcpuState};
use crate::accel::{AccelError, VmConfig};
use crate::irq::default_routes;
use crate::kvm::{call, has};

/// The vector of an NMI, which is no exception for KVM, and the last one of an exception (SDM vol. 3, 6.3).
const NMI: u8 = 2;
const LAST_EXCEPTION: u8 = 31;

#[derive(Debug)]
pub(in crate::kvm) struct Known {
    /// So a vCPU can be sent an INIT, a SIPI, an NMI or an SMI: by others, and by devices' messages.
    pub(super) irqchip: bool,
    pub(super) sregs2: bool,
    /// What can wait in the shared page (`KVM_SYNC_X86_*`).
    pub(super) sync: u32,
    pub(super) xsave: Area,
    /// Bits that can be set in XCR0; none where KVM has no XCR0.
    pub(super) xcr0: Option<u64>,
    pub(super) tsc_khz: bool,
    pub(super) tsc_control: bool,
    pub(super) clock: bool,
    /// Registers that may hold state, by KVM's list and ours.
    pub(super) candidates: Box<[u32]>,
    /// Those of them that can be read and written back, once a vCPU has tried.
    pub(super) msrs: OnceLock<Arc<[u32]>>,
    /// The host's time-stamp counter when the VM's half of the state was taken or put back: the vCPUs' counters are of that
    /// moment, so that they stay as far from each other as they are.
    pub(super) moment: AtomicU64,
    /// Where the PIT's ticks lead ([`ticks`]).
    pub(in crate::kvm) ticks: AtomicU64,
    events: u32,
    smm: bool,
    tsc_offset: OnceLock<bool>,
    /// The host's frequency, in kHz: that of a vCPU for which no other was set.
    pub(super) host_khz: OnceLock<u32>,
}

impl Known {
    /// Switches on what makes the state exact. Before the first vCPU.
    pub(in crate::kvm) fn ask(kvm: &KvmFd, vm: &VmFd, offered: &CpuId, config: VmConfig) -> Result<Self, AccelError> {
        let raw = |cap: u32| has(vm.check_extension_raw(cap.into()));
        let plain = |cap: Cap| has(vm.check_extension_int(cap));
        let mut events = KVM_VCPUEVENT_VALID_NMI_PENDING
            | KVM_VCPUEVENT_VALID_SIPI_VECTOR
            | KVM_VCPUEVENT_VALID_SHADOW
            | KVM_VCPUEVENT_VALID_SMM;
        for (cap, flag) in [
            (KVM_CAP_EXCEPTION_PAYLOAD, KVM_VCPUEVENT_VALID_PAYLOAD),
            (KVM_CAP_X86_TRIPLE_FAULT_EVENT, KVM_VCPUEVENT_VALID_TRIPLE_FAULT),
        ] {
            if raw(cap)? {
                let enable = kvm_enable_cap { cap, args: [1, 0, 0, 0], ..Default::default() };
                vm.enable_cap(&enable).map_err(call("KVM_ENABLE_CAP"))?;
                events |= flag;
            }
        }
        let sync = vm.check_extension_raw(KVM_CAP_SYNC_REGS.into());
        has(sync)?;
        let size = vm.check_extension_int(Cap::Xsave2);
        has(size)?;
        let xsave = match usize::try_from(size) {
            Ok(size) if size > size_of::<kvm_xsave>() => Area::Long(size),
            _ if plain(Cap::Xsave)? => Area::Standard,
            _ => Area::Legacy,
        };
        let xcr0 = if plain(Cap::Xcrs)? { Some(offered_xcr0(offered)) } else { None };
        Ok(Self {
            irqchip: config.irqchip,
            sregs2: raw(KVM_CAP_SREGS2)?,
            sync: if sync.unsigned_abs() & KVM_SYNC_X86_EVENTS != 0 { sync.unsigned_abs() } else { 0 },
            xsave,
            xcr0,
            tsc_khz: plain(Cap::GetTscKhz)?,
            tsc_control: plain(Cap::TscControl)?,
            clock: plain(Cap::AdjustClock)?,
            candidates: super::msrs::candidates(kvm)?,
            msrs: OnceLock::new(),
            moment: AtomicU64::new(0),
            ticks: AtomicU64::new(ticks(&default_routes())),
            events,
            smm: raw(KVM_CAP_X86_SMM)?,
            tsc_offset: OnceLock::new(),
            host_khz: OnceLock::new(),
        })
    }

    /// Whether a `struct kvm_xsave` holds all vector state. KVM has more only where this process asked the kernel for it.
    pub(in crate::kvm) fn has_small_xsave(&self) -> bool {
        self.xsave == Area::Standard
    }

    /// Whether the offset of the time-stamp counter can be read and set. Where the host's counter is not stable KVM chooses
    /// another one whenever it takes up a vCPU, so that two readings differ: there the offset says nothing.
    pub(super) fn tsc_offset(&self, fd: &VcpuFd) -> Result<bool, AccelError> {
        if let Some(&known) = self.tsc_offset.get() {
            return Ok(known);
        }
        let has = raw::has_tsc_offset(fd)? && raw::tsc_offset(fd)? == raw::tsc_offset(fd)?;
        Ok(*self.tsc_offset.get_or_init(|| has))
    }

    /// From now on counters are of this moment.
    pub(super) fn begin(&self) {
        // SAFETY: the instruction is on every processor of this architecture.
        let now = unsafe { _rdtsc() };
        self.moment.store(now, Ordering::Relaxed);
    }

    /// What KVM would refuse later, or in the middle, or not at all.
    pub(super) fn check(&self, state: &VcpuState) -> Result<(), AccelError> {
        let waits = matches!(state.mp_state, KVM_MP_STATE_INIT_RECEIVED | KVM_MP_STATE_SIPI_RECEIVED);
        let rules = [
            (state.lapic.is_some() == self.irqchip, "local apic", "is of a machine with other interrupt controllers"),
            (state.xsave.len() == self.xsave.len(), "xsave area", "has another size"),
            (state.xcr0.is_some() == self.xcr0.is_some(), "xcr0", "is only there on one of the two hosts"),
            (state.cpuid.len() <= LEAVES_MAX, "cpuid", "has more leaves than KVM takes"),
            (self.irqchip || state.mp_state == KVM_MP_STATE_RUNNABLE, "mp_state", "needs a local apic"),
            (state.sregs.cr8 <= 15, "cr8", "is no task priority"),
            (self.takes(&state.events, waits), "events", "are none that this KVM takes"),
        ];
        rules.into_iter().find(|(fits, ..)| !fits).map_or(Ok(()), |(_, part, why)| Err(unfit(part, why)))
    }

    /// KVM's own rules (KVM_SET_VCPU_EVENTS): it would tell of them when the vCPU is entered, which is too late.
    fn takes(&self, events: &Events, waits: bool) -> bool {
        let is_exception = events.exception_nr <= LAST_EXCEPTION && events.exception_nr != NMI;
        let in_smm = events.smi_smm != 0 || events.smi_pending != 0;
        events.flags & !self.events == 0
            && (is_exception || events.exception_injected == 0 && events.exception_pending == 0)
            && (self.smm || !in_smm && events.smi_smm_inside_nmi == 0)
            && !(waits && in_smm)
    }
}

/// CPUID.(EAX=0xD,ECX=0): the bits that the processor and KVM let a guest set; x87 alone where there is none.
fn offered_xcr0(offered: &CpuId) -> u64 {
    let leaf = offered.as_slice().iter().find(|leaf| leaf.function == 0xd && leaf.index == 0);
    leaf.map_or(1, |leaf| u64::from(leaf.eax) | u64::from(leaf.edx) << 32)
}
