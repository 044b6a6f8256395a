//! A KVM virtual machine: memory slots, interrupt controllers, vCPUs.

use std::os::fd::AsRawFd;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, OnceLock};

use kvm_bindings::{
    CpuId, KVM_CAP_EXIT_HYPERCALL, KVM_CAP_X86_USER_SPACE_MSR, KVM_IRQ_ROUTING_IRQCHIP, KVM_IRQ_ROUTING_MSI,
    KVM_IRQCHIP_IOAPIC, KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE, KVM_MSR_EXIT_REASON_FILTER,
    KVM_PIT_SPEAKER_DUMMY, KvmIrqRouting, kvm_enable_cap, kvm_ioeventfd, kvm_ioeventfd_flag_nr_datamatch,
    kvm_ioeventfd_flag_nr_deassign, kvm_ioeventfd_flag_nr_pio, kvm_irq_routing_entry, kvm_msi, kvm_pit_config,
};
use kvm_ioctls::{
    Cap, IoEventAddress, Kvm as KvmFd, MsrFilterDefaultAction, MsrFilterRange, MsrFilterRangeFlags, VmFd,
};

use vmm_sys_util::eventfd::EventFd;

use super::page::RunPage;
use super::setup::{self, Features};
use super::slots::Slots;
use super::snapshot::{self, Known};
use super::vcpu::KvmVcpu;
use super::{call, failed, has};
use crate::accel::{AccelError, MsrRange, Route, Slot, Vcpu, Vm, VmConfig, VmState};
use crate::arch::x86_64::layout::{IDENTITY_MAP_START, TSS_START};
use crate::bells::Doorbell;
use crate::bus::Space;
use crate::posted::{Posted, Range};

/// The one hypercall that KVM can leave to its user (kernel: include/uapi/linux/kvm_para.h).
const KVM_HC_MAP_GPA_RANGE: u32 = 12;
/// `_IOW(KVMIO, 0x79, struct kvm_ioeventfd)`.
const KVM_IOEVENTFD: libc::c_ulong = 0x4040_ae79;
/// Inputs of one 8259.
const PIC_INPUTS: u32 = 8;

#[derive(Debug)]
pub(super) struct KvmVm {
    fd: Arc<VmFd>,
    config: VmConfig,
    /// What the host's processor and KVM can offer a guest.
    cpuid: CpuId,
    features: Features,
    /// After `fd`: what it maps is unmapped later than it is closed.
    slots: Arc<Slots>,
    /// The lock of the VM's one ring of writes.
    ring: Arc<Mutex<()>>,
    /// Where that ring is mapped: with the first vCPU's page.
    page: OnceLock<Arc<RunPage>>,
    known: Arc<Known>,
}

impl KvmVm {
    pub(super) fn new(kvm: &KvmFd, config: VmConfig, rings: bool) -> Result<Self, AccelError> {
        let fd = loop {
            // KVM gives up when a signal comes while it sets the VM up; nothing was made then.
            match kvm.create_vm() {
                Err(error) if error.errno() == libc::EINTR => {}
                made => break made.map_err(call("KVM_CREATE_VM"))?,
            }
        };
        if has(fd.check_extension_int(Cap::SetTssAddr))? {
            #[allow(clippy::cast_possible_truncation)] // below 4 GiB
            fd.set_tss_address(TSS_START as usize).map_err(call("KVM_SET_TSS_ADDR"))?;
        }
        if has(fd.check_extension_int(Cap::SetIdentityMapAddr))? {
            fd.set_identity_map_address(IDENTITY_MAP_START).map_err(call("KVM_SET_IDENTITY_MAP_ADDR"))?;
        }
        if config.irqchip {
            fd.create_irq_chip().map_err(call("KVM_CREATE_IRQCHIP"))?;
            let pit = kvm_pit_config { flags: KVM_PIT_SPEAKER_DUMMY, ..Default::default() };
            fd.create_pit2(pit).map_err(call("KVM_CREATE_PIT2"))?;
        }
        let cpuid = setup::offered(kvm)?;
        let tsc_deadline = config.irqchip && has(fd.check_extension_int(Cap::TscDeadlineTimer))?;
        let features = Features { tsc_deadline };
        let known = Arc::new(Known::ask(kvm, &fd, &cpuid, config)?);
        let fd = Arc::new(fd);
        let slots = Arc::new(Slots::new(fd.clone(), rings)?);
        Ok(Self { fd, config, cpuid, features, slots, ring: Arc::default(), page: OnceLock::new(), known })
    }

    fn need(&self, cap: Cap, capability: &'static str) -> Result<(), AccelError> {
        if has(self.fd.check_extension_int(cap))? { Ok(()) } else { Err(AccelError::Missing { capability }) }
    }

    fn enable(&self, cap: u32, argument: u64) -> Result<(), AccelError> {
        let cap = kvm_enable_cap { cap, args: [argument, 0, 0, 0], ..Default::default() };
        self.fd.enable_cap(&cap).map_err(call("KVM_ENABLE_CAP"))
    }

    /// A vCPU, prepared.
    pub(super) fn make_vcpu(&self, id: u32) -> Result<KvmVcpu, AccelError> {
        let vcpu = self.fd.create_vcpu(u64::from(id)).map_err(call("KVM_CREATE_VCPU"))?;
        let table = setup::prepare(&vcpu, id, self.config, &self.cpuid, self.features)?;
        let (slots, ring, known) = (self.slots.clone(), self.ring.clone(), self.known.clone());
        let is_boot_processor = id == 0 && self.config.irqchip;
        let made = KvmVcpu::new(vcpu, self.fd.run_size(), slots, ring, is_boot_processor, table, known)?;
        let _ = self.page.set(made.page().clone());
        Ok(made)
    }
}

impl Vm for KvmVm {
    fn map(&self, slot: &Slot) -> Result<(), AccelError> {
        self.slots.map(slot)
    }

    fn create_vcpu(&self, id: u32) -> Result<Box<dyn Vcpu>, AccelError> {
        Ok(Box::new(self.make_vcpu(id)?))
    }

    fn set_line(&self, gsi: u32, high: bool) -> Result<(), AccelError> {
        if !self.config.irqchip {
            return Err(AccelError::NoIrqchip { gsi });
        }
        self.fd.set_irq_line(gsi, high).map_err(call("KVM_IRQ_LINE"))
    }

    fn set_routes(&self, routes: &[Route]) -> Result<(), AccelError> {
        if !self.config.irqchip {
            return Err(AccelError::NoIrqchip { gsi: 0 });
        }
        let entries: Vec<_> = routes.iter().map(routing_entry).collect();
        let table = KvmIrqRouting::from_entries(&entries).map_err(|_| AccelError::Call {
            call: "KVM_SET_GSI_ROUTING",
            source: std::io::Error::from_raw_os_error(libc::E2BIG),
        })?;
        self.fd.set_gsi_routing(&table).map_err(call("KVM_SET_GSI_ROUTING"))?;
        self.known.ticks.store(snapshot::ticks(routes), Ordering::Relaxed);
        Ok(())
    }

    fn pulse_by(&self, gsi: u32) -> Result<EventFd, AccelError> {
        if !self.config.irqchip {
            return Err(AccelError::NoIrqchip { gsi });
        }
        let event = event()?;
        self.fd.register_irqfd(&event, gsi).map_err(call("KVM_IRQFD"))?;
        Ok(event)
    }

    fn send_message(&self, address: u64, data: u32) -> Result<bool, AccelError> {
        if !self.config.irqchip {
            return Err(AccelError::NoIrqchip { gsi: 0 });
        }
        #[allow(clippy::cast_possible_truncation)] // the two halves of the address
        let message =
            kvm_msi { address_lo: address as u32, address_hi: (address >> 32) as u32, data, ..Default::default() };
        // 0: the guest has blocked it.
        Ok(self.fd.signal_msi(message).map_err(call("KVM_SIGNAL_MSI"))? > 0)
    }

    fn unmap(&self, slot: u32) -> Result<(), AccelError> {
        self.slots.unmap(slot)
    }

    fn save(&self) -> Result<VmState, AccelError> {
        snapshot::save(&self.fd, &self.known)
    }

    fn load(&self, state: &VmState) -> Result<(), AccelError> {
        snapshot::load(&self.fd, &self.known, state)
    }

    fn load_timers(&self, state: &VmState) -> Result<(), AccelError> {
        snapshot::load_timers(&self.fd, state)
    }

    fn mark_written(&self) -> Result<(), AccelError> {
        self.slots.mark_written()
    }

    fn post(&self, range: Range, on: bool) -> Result<(), AccelError> {
        let (cap, address) = match range.space {
            Space::Pio => (Cap::CoalescedPio, IoEventAddress::Pio(range.base)),
            Space::Mmio => (Cap::CoalescedMmio, IoEventAddress::Mmio(range.base)),
        };
        if !has(self.fd.check_extension_int(cap))? {
            return Ok(());
        }
        if on {
            self.fd.register_coalesced_mmio(address, range.len).map_err(call("KVM_REGISTER_COALESCED_MMIO"))
        } else {
            self.fd.unregister_coalesced_mmio(address, range.len).map_err(call("KVM_UNREGISTER_COALESCED_MMIO"))
        }
    }

    fn take_posted(&self, serve: &mut dyn FnMut(&Posted)) {
        if let Some(page) = self.page.get() {
            page.take_posted(&self.ring, serve);
        }
    }

    fn ring(&self, bell: &Doorbell, event: &EventFd, on: bool) -> Result<(), AccelError> {
        let flags = [
            (bell.value.is_some(), kvm_ioeventfd_flag_nr_datamatch),
            (bell.space == Space::Pio, kvm_ioeventfd_flag_nr_pio),
            (!on, kvm_ioeventfd_flag_nr_deassign),
        ];
        let asked = kvm_ioeventfd {
            datamatch: bell.value.unwrap_or_default(),
            addr: bell.address,
            // kvm-ioctls gives none without a value: then every width rings, and takes what else it covers.
            len: bell.size.into(),
            fd: event.as_raw_fd(),
            flags: flags.iter().filter(|(on, _)| *on).map(|(_, flag)| 1 << flag).sum(),
            ..Default::default()
        };
        // SAFETY: KVM only reads the structure, which is of the size that the number of the call says.
        if unsafe { libc::ioctl(self.fd.as_raw_fd(), KVM_IOEVENTFD, &raw const asked) } != 0 {
            return Err(failed("KVM_IOEVENTFD"));
        }
        Ok(())
    }

    fn trap_msrs(&self, ranges: &[MsrRange]) -> Result<(), AccelError> {
        self.need(Cap::X86MsrFilter, "KVM_CAP_X86_MSR_FILTER")?;
        self.need(Cap::X86UserSpaceMsr, "KVM_CAP_X86_USER_SPACE_MSR")?;
        // A clear bit denies the access, and denied ones exit to us.
        let bitmaps: Vec<_> = ranges.iter().map(|range| vec![0; range.count.div_ceil(8) as usize]).collect();
        let trapped = ranges.iter().zip(&bitmaps).map(|(range, bitmap)| MsrFilterRange {
            flags: MsrFilterRangeFlags::READ | MsrFilterRangeFlags::WRITE,
            base: range.first,
            msr_count: range.count,
            bitmap,
        });
        let trapped: Vec<_> = trapped.collect();
        // First: a filter without it would be faults in the guest, should the second call fail. Alone it does nothing.
        self.enable(KVM_CAP_X86_USER_SPACE_MSR, KVM_MSR_EXIT_REASON_FILTER.into())?;
        self.fd.set_msr_filter(MsrFilterDefaultAction::ALLOW, &trapped).map_err(call("KVM_X86_SET_MSR_FILTER"))
    }

    fn trap_hypercalls(&self) -> Result<(), AccelError> {
        self.need(Cap::ExitHypercall, "KVM_CAP_EXIT_HYPERCALL")?;
        self.enable(KVM_CAP_EXIT_HYPERCALL, 1 << KVM_HC_MAP_GPA_RANGE)
    }
}

/// An eventfd at 0, whose reads and writes do not wait.
fn event() -> Result<EventFd, AccelError> {
    EventFd::new(libc::EFD_CLOEXEC | libc::EFD_NONBLOCK).map_err(|source| AccelError::Call { call: "eventfd", source })
}

fn routing_entry(route: &Route) -> kvm_irq_routing_entry {
    let mut entry = kvm_irq_routing_entry { type_: KVM_IRQ_ROUTING_IRQCHIP, ..Default::default() };
    match *route {
        Route::IoApic { gsi, pin } => {
            entry.gsi = gsi;
            entry.u.irqchip.irqchip = KVM_IRQCHIP_IOAPIC;
            entry.u.irqchip.pin = pin;
        }
        Route::Pic { gsi, input } => {
            entry.gsi = gsi;
            let slave = input >= PIC_INPUTS;
            entry.u.irqchip.irqchip = if slave { KVM_IRQCHIP_PIC_SLAVE } else { KVM_IRQCHIP_PIC_MASTER };
            entry.u.irqchip.pin = input % PIC_INPUTS;
        }
        Route::Msi { gsi, address, data } => {
            entry.gsi = gsi;
            entry.type_ = KVM_IRQ_ROUTING_MSI;
            #[allow(clippy::cast_possible_truncation)] // the two halves of the address
            {
                entry.u.msi.address_lo = address as u32;
                entry.u.msi.address_hi = (address >> 32) as u32;
            }
            entry.u.msi.data = data;
        }
    }
    entry
}

/// Keeps `Arc<dyn Vm>` honest: KVM's VM calls may come from any thread.
const _: fn() = || {
    fn shared<T: Send + Sync>() {}
    shared::<Arc<KvmVm>>();
};
