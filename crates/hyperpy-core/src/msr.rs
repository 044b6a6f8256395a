//! Model-specific registers that are answered outside of the kernel: which ones, and by whom.
//!
//! A trapped register has a handler, or none: then `run()` returns its accesses as `Exit::Msr`. What becomes of an access
//! is in `vcpu`, how KVM is told in `kvm`. KVM's list of registers to trap is one for the whole machine, and can be changed
//! at any time (kernel api.rst, KVM_X86_SET_MSR_FILTER).

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use crate::accel::{AccelError, MSR_RANGE_MAX, MSR_RANGES, MsrRange, Vm};
use crate::bus::Action;
use crate::control::Phase;
use crate::error::{RunError, TrapError};
use crate::machine::Machine;

/// Answers RDMSR and WRMSR.
pub trait MsrHandler: Send + Sync {
    /// RDMSR: the value, or `None` for a general-protection fault.
    fn read(&self, index: u32, vcpu: u32) -> Option<u64>;
    /// WRMSR: what the machine shall do, or `None` for a general-protection fault.
    fn write(&self, index: u32, vcpu: u32, value: u64) -> Option<Action>;
}

/// Registers of the x2APIC, which KVM serves itself whatever it was asked for (SDM vol. 3, 11.12.1.2).
const X2APIC: MsrRange = MsrRange { first: 0x800, count: 0x100 };

#[derive(Clone)]
struct Trap {
    range: MsrRange,
    handler: Option<Arc<dyn MsrHandler>>,
}

/// What of a machine's processors is trapped.
#[derive(Default)]
pub(crate) struct Traps {
    list: RwLock<Vec<Trap>>,
    hypercalls: AtomicBool,
}

impl MsrRange {
    fn end(&self) -> u64 {
        u64::from(self.first) + u64::from(self.count)
    }

    fn overlaps(&self, other: &Self) -> bool {
        u64::from(self.first) < other.end() && u64::from(other.first) < self.end()
    }

    fn holds(&self, index: u32) -> bool {
        self.first <= index && u64::from(index) < self.end()
    }
}

impl Traps {
    /// Who answers for a register, if anyone does.
    pub(crate) fn handler(&self, index: u32) -> Option<Arc<dyn MsrHandler>> {
        let list = self.list.read().unwrap_or_else(PoisonError::into_inner);
        list.iter().find(|trap| trap.range.holds(index)).and_then(|trap| trap.handler.clone())
    }

    fn add(&self, trap: Trap) -> Result<(), TrapError> {
        let MsrRange { first, count } = trap.range;
        if count == 0 || count > MSR_RANGE_MAX || trap.range.end() > 1 << 32 {
            return Err(TrapError::Range { first, count });
        }
        if trap.range.overlaps(&X2APIC) {
            return Err(TrapError::X2apic { first, count });
        }
        let mut list = self.list.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(other) = list.iter().find(|other| other.range.overlaps(&trap.range)) {
            return Err(TrapError::Overlap { first, count, other: other.range.first, others: other.range.count });
        }
        if list.len() >= MSR_RANGES {
            return Err(TrapError::TooMany { first, count });
        }
        list.push(trap);
        Ok(())
    }

    /// The same, for a copy of the machine: by the same handlers.
    pub(crate) fn copied(&self) -> Self {
        let list = self.list.read().unwrap_or_else(PoisonError::into_inner).clone();
        Self { list: RwLock::new(list), hypercalls: AtomicBool::new(self.hypercalls.load(Ordering::SeqCst)) }
    }

    fn drop_last(&self) {
        self.list.write().unwrap_or_else(PoisonError::into_inner).pop();
    }

    /// Tells a VM what is trapped.
    pub(crate) fn apply(&self, vm: &dyn Vm) -> Result<(), AccelError> {
        let list = self.list.read().unwrap_or_else(PoisonError::into_inner);
        let ranges: Vec<_> = list.iter().map(|trap| trap.range).collect();
        drop(list);
        if !ranges.is_empty() {
            vm.trap_msrs(&ranges)?;
        }
        if self.hypercalls.load(Ordering::SeqCst) {
            vm.trap_hypercalls()?;
        }
        Ok(())
    }
}

impl Machine {
    /// Traps model-specific registers, answered by a handler, or handed to the caller of `run()`.
    ///
    /// # Errors
    /// The range is taken or cannot be trapped, the host lacks it, or the machine's state does not allow it.
    pub fn trap_msr(&self, range: MsrRange, handler: Option<Arc<dyn MsrHandler>>) -> Result<(), TrapError> {
        self.may_trap("trap msrs")?;
        let objects = self.made();
        self.traps.add(Trap { range, handler })?;
        if let Some(objects) = &*objects
            && let Err(error) = self.traps.apply(&*objects.vm)
        {
            self.traps.drop_last();
            return Err(RunError::from(error).into());
        }
        Ok(())
    }

    /// Hands on the hypercalls that KVM leaves to its user (KVM_HC_MAP_GPA_RANGE).
    ///
    /// # Errors
    /// The host lacks it, or the machine's state does not allow it.
    pub fn trap_hypercalls(&self) -> Result<(), RunError> {
        self.may_trap("trap hypercalls")?;
        let objects = self.made();
        if let Some(objects) = &*objects {
            objects.vm.trap_hypercalls()?;
        }
        self.traps.hypercalls.store(true, Ordering::SeqCst);
        Ok(())
    }

    fn may_trap(&self, verb: &'static str) -> Result<(), RunError> {
        self.check(verb)?;
        Ok(self.control.require(verb, &[Phase::Created, Phase::Paused])?)
    }
}

#[cfg(test)]
#[path = "msr_test.rs"]
mod tests;
