//! A KVM vCPU: KVM_RUN and the calls for its state, whose structures `convert` and `state` translate. What it returned with is read
//! by `exits`.

use std::io;
use std::os::fd::AsRawFd;
use std::sync::{Arc, Mutex};

use kvm_bindings::{
    KVM_EXIT_DIRTY_RING_FULL, KVM_MP_STATE_HALTED, KVM_MP_STATE_INIT_RECEIVED, KVM_MP_STATE_UNINITIALIZED,
    KVM_SYNC_X86_EVENTS, KVM_SYNC_X86_REGS, KVM_SYNC_X86_SREGS,
};
use kvm_ioctls::VcpuFd;

use super::call;
use super::convert::{kvm_from_debug, kvm_from_regs, kvm_from_sregs, regs_from_kvm, sregs_from_kvm};
use super::exits::Data;
use super::page::RunPage;
use super::setup;
use super::slots::Slots;
use super::snapshot::{Known, raw};
use super::state;
use crate::accel::{AccelError, AccelExit, Activity, ExitFlag, Interruption, Shape, Vcpu, VcpuState};
use crate::arch::x86_64::cpuid::Leaf;
use crate::arch::x86_64::fpu::{self, Fpu};
use crate::arch::x86_64::{Regs, Sregs};
use crate::debug::DebugControl;
use crate::posted::Posted;

/// `_IO(KVMIO, 0x80)`.
const KVM_RUN: libc::c_ulong = 0xae80;

#[derive(Debug)]
pub(super) struct KvmVcpu {
    pub(super) fd: VcpuFd,
    pub(super) page: Arc<RunPage>,
    /// Where in the page the values of the last reported access are, and how wide each is.
    pub(super) data: Data,
    /// The page's registers are all zero before the first KVM_RUN.
    pub(super) entered: bool,
    /// What was set in the page since the last entry (`KVM_SYNC_X86_*`): KVM does not know it yet.
    pub(super) in_page: u32,
    /// Held while the ring is emptied: the order of writes is the order of their devices' calls.
    ring: Arc<Mutex<()>>,
    /// What the last KVM_RUN returned with, when the ring comes first.
    pub(super) held: Option<Held>,
    /// It is the one that starts, on a VM with interrupt controllers.
    is_boot_processor: bool,
    /// After `fd`: guest memory stays mapped for as long as a vCPU could be entered.
    slots: Arc<Slots>,
    /// Whether a `struct kvm_xsave` holds all the vector state that KVM has.
    xsave: bool,
    /// Where the upper YMM halves are in an XSAVE area, once that is known.
    pub(super) ymm: Option<Option<usize>>,
    /// The CPUID table as it was set: the VM's first, until another is.
    pub(super) table: Arc<[Leaf]>,
    /// Frequency of the time-stamp counter, once that is known.
    pub(super) tsc_khz: Option<u32>,
    pub(super) known: Arc<Known>,
    /// Sregs that KVM had or took: it will take them again.
    pub(super) taken: Option<Sregs>,
    /// Runs between the last look at the exit flag and KVM_RUN, to prove that no kick is lost there.
    #[cfg(test)]
    pub(super) before_run: Option<fn(&RunPage)>,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Held {
    Exit,
    Kicked,
}

impl KvmVcpu {
    pub(super) fn new(
        fd: VcpuFd,
        page_len: usize,
        slots: Arc<Slots>,
        ring: Arc<Mutex<()>>,
        is_boot_processor: bool,
        table: Arc<[Leaf]>,
        known: Arc<Known>,
    ) -> Result<Self, AccelError> {
        let page = RunPage::map(fd.as_raw_fd(), page_len)
            .map_err(|source| AccelError::Call { call: "mmap of the vcpu", source })?;
        slots.add_vcpu(fd.as_raw_fd())?;
        page.keep_regs();
        Ok(Self {
            fd,
            page: Arc::new(page),
            data: Data::default(),
            entered: false,
            in_page: 0,
            ring,
            held: None,
            is_boot_processor,
            slots,
            xsave: known.has_small_xsave(),
            ymm: None,
            table,
            tsc_khz: None,
            known,
            taken: None,
            #[cfg(test)]
            before_run: None,
        })
    }

    /// Behind it is the VM's ring, the same for all of its vCPUs.
    pub(super) fn page(&self) -> &Arc<RunPage> {
        &self.page
    }

    /// Asked once: CPUID is fixed when the vCPU runs.
    fn ymm_offset(&mut self) -> Result<Option<usize>, AccelError> {
        if !self.xsave {
            return Ok(None);
        }
        if let Some(known) = self.ymm {
            return Ok(known);
        }
        let found = fpu::ymm_offset(&state::cpuid(&self.fd)?);
        self.ymm = Some(found);
        Ok(found)
    }

    /// KVM_RUN returned an error.
    #[cold]
    fn interrupted(&mut self, error: io::Error) -> Result<AccelExit, Interruption> {
        Err(match error.raw_os_error() {
            Some(libc::EINTR) => {
                self.entered = true;
                self.in_page = 0;
                if self.page.has_posted() {
                    self.held = Some(Held::Kicked);
                    return Ok(AccelExit::Posted);
                }
                Interruption::Kicked
            }
            Some(libc::EAGAIN) => Interruption::Again,
            _ => Interruption::Failed(Box::new(AccelError::Call { call: "KVM_RUN", source: error })),
        })
    }
}

impl Vcpu for KvmVcpu {
    fn run(&mut self) -> Result<AccelExit, Interruption> {
        #[cfg(test)]
        if let Some(hook) = self.before_run {
            hook(&self.page);
        }
        if let Some(held) = self.held.take() {
            return match held {
                Held::Exit => Ok(self.decode()),
                Held::Kicked => Err(Interruption::Kicked),
            };
        }
        loop {
            // SAFETY: KVM_RUN takes no argument; it writes guest memory, whose mappings outlive the VM, and the shared
            // page, which is only touched by volatile access.
            let result = unsafe { libc::ioctl(self.fd.as_raw_fd(), KVM_RUN, 0) };
            if result < 0 {
                return self.interrupted(io::Error::last_os_error());
            }
            if self.page.exit_reason() != KVM_EXIT_DIRTY_RING_FULL {
                break;
            }
            // Nobody's exit: the guest goes on where it was, once there is room again.
            self.slots.mark_written().map_err(|error| Interruption::Failed(Box::new(error)))?;
        }
        self.entered = true;
        self.in_page = 0;
        if self.page.has_posted() {
            self.held = Some(Held::Exit);
            return Ok(AccelExit::Posted);
        }
        Ok(self.decode())
    }

    fn take_posted(&mut self, serve: &mut dyn FnMut(&Posted)) {
        self.page.take_posted(&self.ring, serve);
    }

    fn io_value(&self, index: u32) -> u64 {
        self.data.value(&self.page, index)
    }

    fn set_io_value(&mut self, index: u32, value: u64) {
        self.data.set_value(&self.page, index, value);
    }

    fn exit_flag(&self) -> Arc<dyn ExitFlag> {
        self.page.clone()
    }

    fn rip(&self) -> u64 {
        self.page.rip()
    }

    fn regs(&mut self) -> Result<Regs, AccelError> {
        if self.entered || self.in_page & KVM_SYNC_X86_REGS != 0 {
            return Ok(regs_from_kvm(&self.page.regs()));
        }
        raw::regs(&self.fd).map(|regs| regs_from_kvm(&regs))
    }

    fn set_regs(&mut self, regs: &Regs) -> Result<(), AccelError> {
        self.page.set_regs(&kvm_from_regs(regs));
        self.in_page |= KVM_SYNC_X86_REGS;
        self.page.set_dirty(self.in_page);
        Ok(())
    }

    fn sregs(&mut self) -> Result<Sregs, AccelError> {
        if self.in_page & KVM_SYNC_X86_SREGS != 0 {
            return Ok(sregs_from_kvm(&self.page.sregs()));
        }
        raw::old_sregs(&self.fd).map(|sregs| sregs_from_kvm(&sregs))
    }

    fn set_sregs(&mut self, sregs: &Sregs) -> Result<(), AccelError> {
        self.settle(KVM_SYNC_X86_SREGS)?;
        // The interrupt bitmap is KVM's own business: it goes back as it came.
        let mut new = raw::old_sregs(&self.fd)?;
        kvm_from_sregs(sregs, &mut new);
        self.apic_may_move();
        raw::set_old_sregs(&self.fd, &new)?;
        self.page.set_cr8(sregs.cr8);
        Ok(())
    }

    fn activity(&mut self) -> Result<Activity, AccelError> {
        self.settle_for_sent()?;
        Ok(match raw::mp_state(&self.fd)?.mp_state {
            KVM_MP_STATE_HALTED => Activity::Halted { interruptible: self.page.interruptible() },
            KVM_MP_STATE_UNINITIALIZED | KVM_MP_STATE_INIT_RECEIVED => Activity::NotStarted,
            _ => Activity::Running,
        })
    }

    fn has_run(&self) -> bool {
        self.entered
    }

    fn all_made(&mut self) -> Result<(), AccelError> {
        if self.is_boot_processor { setup::connect_boot_processor(&self.fd) } else { Ok(()) }
    }

    fn fpu(&mut self) -> Result<Fpu, AccelError> {
        let ymm = self.ymm_offset()?;
        state::fpu(&self.fd, self.xsave, ymm)
    }

    fn set_fpu(&mut self, fpu: &Fpu) -> Result<(), AccelError> {
        let ymm = self.ymm_offset()?;
        state::set_fpu(&self.fd, fpu, self.xsave, ymm)
    }

    fn msrs(&mut self, indices: &[u32]) -> Result<Vec<u64>, AccelError> {
        self.settle(KVM_SYNC_X86_SREGS)?; // EFER and the bases are among them
        let mut values: Vec<_> = indices.iter().map(|&index| (index, 0)).collect();
        raw::msrs(&self.fd, &mut values)?;
        Ok(values.into_iter().map(|(_, value)| value).collect())
    }

    fn set_msrs(&mut self, values: &[(u32, u64)]) -> Result<(), AccelError> {
        self.settle(KVM_SYNC_X86_SREGS)?;
        self.apic_may_move();
        raw::set_msrs(&self.fd, values.iter().copied())
    }

    fn cpuid(&mut self) -> Result<Vec<Leaf>, AccelError> {
        state::cpuid(&self.fd)
    }

    fn set_cpuid(&mut self, table: &[Leaf]) -> Result<(), AccelError> {
        raw::set_cpuid(&self.fd, table)?;
        self.table_is_set(table.into());
        Ok(())
    }

    fn set_msr_fault(&mut self, fault: bool) {
        self.page.set_msr_fault(fault);
    }

    fn event_data(&self) -> Vec<u64> {
        self.page.event_data()
    }

    fn save(&mut self) -> Result<VcpuState, AccelError> {
        self.save_state()
    }

    fn load(&mut self, state: &VcpuState) -> Result<(), AccelError> {
        self.load_state(state)
    }

    fn shape(&mut self) -> Result<Shape, AccelError> {
        self.shape_now()
    }

    fn set_debug(&mut self, control: &DebugControl) -> Result<(), AccelError> {
        // A step is from where KVM knows the vCPU to be: registers that wait in the page would come too late.
        self.settle(KVM_SYNC_X86_REGS | KVM_SYNC_X86_SREGS | KVM_SYNC_X86_EVENTS)?;
        self.fd.set_guest_debug(&kvm_from_debug(control)).map_err(call("KVM_SET_GUEST_DEBUG"))
    }
}

#[cfg(test)]
#[path = "vcpu_test.rs"]
pub(super) mod tests;
