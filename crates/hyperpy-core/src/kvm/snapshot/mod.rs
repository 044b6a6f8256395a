//! A vCPU's state, out of KVM and back in.
//!
//! The order is KVM's (api.rst, and what its code asks for). Taken, what changes registers by being read comes first:
//! KVM_GET_MP_STATE takes a pending INIT or SIPI. So it is called before a state is put back, too: KVM has no other way to be rid of
//! one that somebody has sent since, and would start a vCPU by it that waits in the state. Any vCPU with a local APIC can have one:
//! others send them, the first one included, and devices by messages. Put back, CPUID decides what the others may hold, and sregs bring EFER and the
//! APIC's base, on which the local APIC's own registers depend; the deadline of its timer is dropped by any other mode, so
//! it comes after it. Registers and events go last and together, since KVM drops a pending exception when registers are
//! set: they wait in the shared page for the next entry where KVM has that (KVM_SYNC_X86_EVENTS), and cost no ioctl. Sregs wait
//! there too if nothing depends on their being there earlier ([`KvmVcpu::ways`]): taken over at the entry they cost a fifteenth of
//! what the ioctl does. What a vCPU with a local APIC can be sent in between does not wait there: it would be overwritten.
//!
//! | part | ioctls of `save` | of `load` |
//! |---|---|---|
//! | XSAVE area | 1 | 1 |
//! | model-specific registers, each 256 begun | 1 | 1 |
//! | offset of the time-stamp counter | 1 | 1 |
//! | debug registers | 1 | 1 |
//! | sregs with the PDPTRs | 1, 0 if they wait in the page | 0 or 1 |
//! | XCR0, where there is one | 1 | 1 |
//! | events | 1, 0 if they wait in the page | 0, 1 with a local APIC |
//! | general registers | 0, but 1 with a local APIC or before the first run | 0 |
//! | local APIC, where it is in the kernel | 1 | 1, and 1 for an armed deadline |
//! | activity, with a local APIC | 1 | 1, 2 unless it runs and is to run |
//! | what waits in the page, with a local APIC | 3 | |
//! | registers and events of a vCPU that waits to be started | | 2 |
//! | CPUID, frequency of the time-stamp counter | 0 | 0 if they are the same |

mod chips;
mod known;
mod msrs;
pub(super) mod raw;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use kvm_bindings::{
    KVM_MP_STATE_HALTED, KVM_MP_STATE_RUNNABLE, KVM_SYNC_X86_EVENTS, KVM_SYNC_X86_REGS, KVM_SYNC_X86_SREGS,
    KVM_VCPUEVENT_VALID_NMI_PENDING, KVM_VCPUEVENT_VALID_SIPI_VECTOR, KVM_VCPUEVENT_VALID_SMM, kvm_debugregs,
    kvm_mp_state, kvm_sregs,
};

pub(super) use self::chips::{load, load_timers, save, ticks};
pub(super) use self::known::Known;
use super::convert::{events_from_kvm, kvm_from_events, kvm_from_regs, kvm_from_sregs, regs_from_kvm, sregs_from_kvm};
use super::vcpu::KvmVcpu;
use crate::accel::state::{Shape, VcpuState, same_cpuid};
use crate::accel::{AccelError, Vcpu as _};
use crate::arch::x86_64::Regs;
use crate::arch::x86_64::cpuid::Leaf;
use crate::arch::x86_64::fpu;
use crate::arch::x86_64::msrs::{IA32_TSC, IA32_TSC_DEADLINE};

/// RFLAGS.IF.
const INTERRUPTS: u64 = 1 << 9;
/// Of events, what others and devices send.
const SENT: u32 = KVM_VCPUEVENT_VALID_NMI_PENDING | KVM_VCPUEVENT_VALID_SIPI_VECTOR | KVM_VCPUEVENT_VALID_SMM;

impl KvmVcpu {
    pub(super) fn save_state(&mut self) -> Result<VcpuState, AccelError> {
        if self.held.is_some() {
            return Err(unfit("exit", "is not handed over yet"));
        }
        let known = self.known.clone();
        self.settle_for_sent()?;
        let mp_state = if known.irqchip { raw::mp_state(&self.fd)?.mp_state } else { KVM_MP_STATE_RUNNABLE };
        let events = if self.in_page & KVM_SYNC_X86_EVENTS != 0 { self.page.events() } else { raw::events(&self.fd)? };
        let regs = self.regs_now()?;
        let mut msrs: Vec<(u32, u64)> = self.settable_msrs()?.iter().map(|&index| (index, 0)).collect();
        raw::msrs(&self.fd, &mut msrs)?;
        if self.by_offset()? {
            let tsc = known.moment.load(Ordering::Relaxed).wrapping_add(raw::tsc_offset(&self.fd)?);
            msrs.iter_mut().filter(|(index, _)| *index == IA32_TSC).for_each(|(_, value)| *value = tsc);
        }
        let (sregs, pdptrs) = if self.in_page & KVM_SYNC_X86_SREGS != 0 {
            (sregs_from_kvm(&self.page.sregs()), None)
        } else {
            raw::sregs(&self.fd, known.sregs2)?
        };
        self.taken = Some(sregs);
        let mut xsave = raw::xsave(&self.fd, known.xsave)?;
        fpu::settle(&mut xsave, &self.table);
        let debug = raw::debugregs(&self.fd)?;
        let [dr0, dr1, dr2, dr3] = debug.db;
        Ok(VcpuState {
            regs,
            sregs,
            pdptrs,
            xsave,
            xcr0: if known.xcr0.is_some() { Some(raw::xcr0(&self.fd)?) } else { None },
            msrs,
            events: events_from_kvm(&events),
            debug: [dr0, dr1, dr2, dr3, debug.dr6, debug.dr7],
            lapic: if known.irqchip { Some(Box::new(raw::lapic(&self.fd)?)) } else { None },
            mp_state,
            tsc_khz: self.tsc_khz()?,
            cpuid: self.table.clone(),
        })
    }

    pub(super) fn load_state(&mut self, state: &VcpuState) -> Result<(), AccelError> {
        let known = self.known.clone();
        known.check(state)?;
        if !same_cpuid(&self.table, &state.cpuid) {
            if self.entered {
                return Err(unfit("cpuid", "is another one, and the vcpu has run"));
            }
            raw::set_cpuid(&self.fd, &state.cpuid)?;
            self.table_is_set(state.cpuid.clone());
        }
        if state.tsc_khz != 0 && state.tsc_khz != self.tsc_khz()? {
            raw::set_tsc_khz(&self.fd, state.tsc_khz)?;
            self.tsc_khz = Some(state.tsc_khz);
        }
        // From here on KVM's half is no longer what it was, and neither is ours.
        self.held = None;
        self.leave_in_page(0);
        let runs = known.irqchip && raw::mp_state(&self.fd)?.mp_state == KVM_MP_STATE_RUNNABLE;
        let in_page = known.sync & self.ways(state);
        if in_page & KVM_SYNC_X86_SREGS == 0 {
            self.taken = None;
            raw::set_sregs(&self.fd, &state.sregs, state.pdptrs, known.sregs2)?;
            self.taken = Some(state.sregs);
        }
        raw::set_xsave(&self.fd, &state.xsave, known.xsave)?;
        if let Some(xcr0) = state.xcr0 {
            raw::set_xcr0(&self.fd, xcr0)?;
        }
        self.load_msrs(state)?;
        let [dr0, dr1, dr2, dr3, dr6, dr7] = state.debug;
        let debug = kvm_debugregs { db: [dr0, dr1, dr2, dr3], dr6, dr7, ..Default::default() };
        raw::set_debugregs(&self.fd, &debug)?;
        if let Some(lapic) = &state.lapic {
            raw::set_lapic(&self.fd, lapic)?;
            if state.tsc_deadline() != 0 {
                raw::set_msrs(&self.fd, [(IA32_TSC_DEADLINE, state.tsc_deadline())].into_iter())?;
            }
            // One that runs is halted by nothing of the above.
            if !runs || state.mp_state != KVM_MP_STATE_RUNNABLE {
                raw::set_mp_state(&self.fd, &kvm_mp_state { mp_state: state.mp_state })?;
            }
        }
        self.load_rest(state, in_page)
    }

    /// IA32_TSC in its place, or by its offset: a value that is set may be moved by KVM towards what it would be by now. No
    /// timer may fire by the old deadline while the local APIC is put back.
    fn load_msrs(&mut self, state: &VcpuState) -> Result<(), AccelError> {
        let by_offset = self.by_offset()?;
        let values = state.msrs.iter().filter(|(index, _)| !(by_offset && *index == IA32_TSC));
        let values = values.map(|&(index, value)| (index, if index == IA32_TSC_DEADLINE { 0 } else { value }));
        raw::set_msrs(&self.fd, values)?;
        match state.msr(IA32_TSC) {
            Some(tsc) if by_offset => {
                let moment = self.known.moment.load(Ordering::Relaxed);
                raw::set_tsc_offset(&self.fd, tsc.wrapping_sub(moment))
            }
            _ => Ok(()),
        }
    }

    /// Which parts can wait in the page, where KVM has that. Of one that waits to be started KVM takes nothing from there, and
    /// what it would find there later were too old. Sregs that KVM has not had before may be refused, which is to be told
    /// now; they must not move the local APIC, which is put back before they are; and PDPTRs have no place there.
    fn ways(&self, state: &VcpuState) -> u32 {
        if !matches!(state.mp_state, KVM_MP_STATE_RUNNABLE | KVM_MP_STATE_HALTED) {
            return 0;
        }
        let keeps_base = !self.known.irqchip || self.entered && self.page.apic_base() == state.sregs.apic_base;
        let are_sregs = self.taken == Some(state.sregs) && keeps_base && state.pdptrs.is_none();
        let sregs = if are_sregs { KVM_SYNC_X86_SREGS } else { 0 };
        KVM_SYNC_X86_REGS | KVM_SYNC_X86_EVENTS | sregs
    }

    /// Registers and events: in the page, or by calls if both cannot be there.
    fn load_rest(&mut self, state: &VcpuState, in_page: u32) -> Result<(), AccelError> {
        let (regs, mut events) = (kvm_from_regs(&state.regs), kvm_from_events(&state.events));
        self.page.set_regs(&regs);
        self.page.set_cr8(state.sregs.cr8);
        self.page.set_interruptible(state.regs.rflags & INTERRUPTS != 0);
        if in_page & KVM_SYNC_X86_SREGS != 0 {
            let mut sregs = kvm_sregs::default();
            kvm_from_sregs(&state.sregs, &mut sregs);
            self.page.set_sregs(&sregs);
        }
        if in_page & KVM_SYNC_X86_EVENTS != 0 {
            if self.known.irqchip {
                raw::set_events(&self.fd, &events)?;
                events.flags &= !SENT;
            }
            self.page.set_events(&events);
            self.leave_in_page(in_page);
            return Ok(());
        }
        raw::set_regs(&self.fd, &regs)?;
        raw::set_events(&self.fd, &events)
    }

    fn leave_in_page(&mut self, which: u32) {
        self.in_page = which;
        self.page.set_dirty(which);
    }

    /// Gives KVM what waits in the page of these parts (`KVM_SYNC_X86_*`), for a call that looks at them.
    pub(super) fn settle(&mut self, which: u32) -> Result<(), AccelError> {
        let which = which & self.in_page;
        if which & KVM_SYNC_X86_REGS != 0 {
            raw::set_regs(&self.fd, &self.page.regs())?;
        }
        if which & KVM_SYNC_X86_SREGS != 0 {
            raw::set_old_sregs(&self.fd, &self.page.sregs())?;
        }
        if which & KVM_SYNC_X86_EVENTS != 0 {
            raw::set_events(&self.fd, &self.page.events())?;
        }
        if which != 0 {
            self.leave_in_page(self.in_page & !which);
        }
        Ok(())
    }

    /// Before KVM takes a pending INIT or SIPI, which changes what else would come too late, or is asked for an NMI or SMI.
    pub(super) fn settle_for_sent(&mut self) -> Result<(), AccelError> {
        let all = KVM_SYNC_X86_REGS | KVM_SYNC_X86_SREGS | KVM_SYNC_X86_EVENTS;
        if self.known.irqchip { self.settle(all) } else { Ok(()) }
    }

    /// IA32_APIC_BASE may be set by something else than the guest: where KVM left it at the last exit says nothing any more.
    pub(super) fn apic_may_move(&mut self) {
        if self.known.irqchip {
            self.taken = None;
        }
    }

    /// What follows from CPUID is to be asked anew.
    pub(super) fn table_is_set(&mut self, table: Arc<[Leaf]>) {
        self.table = table;
        (self.ymm, self.taken) = (None, None);
    }

    /// General registers, whatever KVM did to them since the last exit: it may just have taken an INIT or a SIPI.
    fn regs_now(&mut self) -> Result<Regs, AccelError> {
        if self.known.irqchip && self.in_page & KVM_SYNC_X86_REGS == 0 {
            return raw::regs(&self.fd).map(|regs| regs_from_kvm(&regs));
        }
        self.regs()
    }

    /// Asked once: it changes only by `load_state`.
    fn tsc_khz(&mut self) -> Result<u32, AccelError> {
        if let Some(khz) = self.tsc_khz {
            return Ok(khz);
        }
        let khz = if self.known.tsc_khz { raw::tsc_khz(&self.fd)? } else { 0 };
        self.tsc_khz = Some(khz);
        self.known.host_khz.get_or_init(|| khz);
        Ok(khz)
    }

    /// Whether the time-stamp counter is the host's and an offset, which can be read and set.
    fn by_offset(&mut self) -> Result<bool, AccelError> {
        let khz = self.tsc_khz()?;
        Ok(self.known.host_khz.get() == Some(&khz) && self.known.tsc_offset(&self.fd)?)
    }

    pub(super) fn shape_now(&mut self) -> Result<Shape, AccelError> {
        Ok(Shape {
            cpuid: self.table.clone(),
            has_run: self.entered,
            xsave: self.known.xsave.len(),
            xcr0: self.known.xcr0,
            msrs: self.settable_msrs()?,
            irqchip: self.known.irqchip,
            tsc_khz: self.tsc_khz()?,
            tsc_control: self.known.tsc_control,
        })
    }
}

fn unfit(part: &'static str, why: &'static str) -> AccelError {
    AccelError::State { part, why }
}

#[cfg(test)]
#[path = "snapshot_test.rs"]
mod tests;
