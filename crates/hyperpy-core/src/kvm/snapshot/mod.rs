//! A vCPU's state, out of KVM and back in.
//!
//! The order is KVM's (api.rst, and what its code asks for). Taken, what changes registers by being read comes first:
//! KVM_GET_MP_STATE takes a pending INIT or SIPI. Put back, CPUID decides what the others may hold, and sregs bring EFER and the
//! APIC's base, on which the local APIC's own registers depend; the deadline of its timer is dropped by any other mode, so
//! it comes after it. Registers and events go last and together, since KVM drops a pending exception when registers are
//! set: they wait in the shared page for the next entry where KVM has that (KVM_SYNC_X86_EVENTS), and cost no ioctl. Sregs could
//! wait there too, but then the local APIC would be put back under the old base, and PDPTRs be read from memory.
//!
//! | part | ioctls of `save` | of `load` |
//! |---|---|---|
//! | sregs with the PDPTRs | 1 | 1 |
//! | XSAVE area | 1 | 1 |
//! | XCR0, where there is one | 1 | 1 |
//! | model-specific registers, each 256 begun | 1 | 1 |
//! | offset of the time-stamp counter | 1 | 1 |
//! | debug registers | 1 | 1 |
//! | events | 1 | 0 |
//! | general registers | 0, but 1 with a local APIC or before the first run | 0 |
//! | local APIC, where it is in the kernel | 1 | 1, and 1 for an armed deadline |
//! | activity, with a local APIC | 1 | 1 |
//! | registers and events of a vCPU that waits to be started | | 2 |
//! | CPUID, frequency of the time-stamp counter | 0 | 0 if they are the same |

mod chips;
mod known;
mod msrs;
mod raw;

use std::sync::atomic::Ordering;

use kvm_bindings::{
    KVM_MP_STATE_HALTED, KVM_MP_STATE_RUNNABLE, KVM_SYNC_X86_EVENTS, KVM_SYNC_X86_REGS, kvm_debugregs, kvm_mp_state,
};

pub(super) use self::chips::{load, save};
pub(super) use self::known::Known;
pub(super) use self::raw::set_events;
use super::convert::{events_from_kvm, kvm_from_events, kvm_from_regs, regs_from_kvm};
use super::vcpu::KvmVcpu;
use crate::accel::state::{Shape, VcpuState, same_cpuid};
use crate::accel::{AccelError, Vcpu as _};
use crate::arch::x86_64::Regs;
use crate::arch::x86_64::msrs::{IA32_TSC, IA32_TSC_DEADLINE};

/// RFLAGS.IF.
const INTERRUPTS: u64 = 1 << 9;

impl KvmVcpu {
    pub(super) fn save_state(&mut self) -> Result<VcpuState, AccelError> {
        if self.held.is_some() {
            return Err(unfit("exit", "is not handed over yet"));
        }
        let known = self.known.clone();
        let mp_state = if known.irqchip { raw::mp_state(&self.fd)?.mp_state } else { KVM_MP_STATE_RUNNABLE };
        let events = if self.in_page & KVM_SYNC_X86_EVENTS != 0 { self.page.events() } else { raw::events(&self.fd)? };
        let regs = self.regs_now()?;
        let mut msrs: Vec<(u32, u64)> = self.settable_msrs()?.iter().map(|&index| (index, 0)).collect();
        raw::msrs(&self.fd, &mut msrs)?;
        if self.by_offset()? {
            let tsc = known.moment.load(Ordering::Relaxed).wrapping_add(raw::tsc_offset(&self.fd)?);
            msrs.iter_mut().filter(|(index, _)| *index == IA32_TSC).for_each(|(_, value)| *value = tsc);
        }
        let (sregs, pdptrs) = raw::sregs(&self.fd, known.sregs2)?;
        let debug = raw::debugregs(&self.fd)?;
        let [dr0, dr1, dr2, dr3] = debug.db;
        Ok(VcpuState {
            regs,
            sregs,
            pdptrs,
            xsave: raw::xsave(&self.fd, known.xsave)?,
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
            self.table = state.cpuid.clone();
            self.ymm = None;
        }
        if state.tsc_khz != 0 && state.tsc_khz != self.tsc_khz()? {
            raw::set_tsc_khz(&self.fd, state.tsc_khz)?;
            self.tsc_khz = Some(state.tsc_khz);
        }
        // From here on KVM's half is no longer what it was, and neither is ours.
        self.held = None;
        raw::set_sregs(&self.fd, &state.sregs, state.pdptrs, known.sregs2)?;
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
            raw::set_mp_state(&self.fd, &kvm_mp_state { mp_state: state.mp_state })?;
        }
        self.load_regs_and_events(state, known.sync_events)
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

    fn load_regs_and_events(&mut self, state: &VcpuState, sync_events: bool) -> Result<(), AccelError> {
        let (regs, events) = (kvm_from_regs(&state.regs), kvm_from_events(&state.events));
        self.page.set_regs(&regs);
        self.page.set_interruptible(state.regs.rflags & INTERRUPTS != 0);
        // KVM takes nothing from the page of one that waits to be started, and what it would find there later were too old.
        if sync_events && matches!(state.mp_state, KVM_MP_STATE_RUNNABLE | KVM_MP_STATE_HALTED) {
            self.page.set_events(&events);
            self.in_page = KVM_SYNC_X86_REGS | KVM_SYNC_X86_EVENTS;
            self.page.set_dirty(self.in_page);
            return Ok(());
        }
        self.in_page = 0;
        self.page.set_dirty(0);
        raw::set_regs(&self.fd, &regs)?;
        raw::set_events(&self.fd, &events)
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
#[path = "../snapshot_test.rs"]
mod tests;
