//! Verbs on what makes a vCPU's processor: vector registers, model-specific registers, CPUID.
//!
//! What a script changed of CPUID belongs to the machine: it is applied to every vCPU that is made, and to the one that
//! exists as long as that has not run (kernel api.rst, KVM_SET_CPUID2).

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{MutexGuard, PoisonError};

use super::{Machine, next_id};
use crate::arch::x86_64::cpuid::{CpuidChange, CpuidEdits, Leaf};
use crate::arch::x86_64::fpu::Fpu;
use crate::arch::x86_64::valid::Invalid;
use crate::control::{Host, Phase};
use crate::error::RunError;
use crate::vcpu::Vcpu;

impl Machine {
    /// x87, SSE and AVX registers of a vCPU.
    ///
    /// # Errors
    /// As for [`Self::with_vcpu`].
    pub fn fpu(&self, vcpu: u32, host: &dyn Host) -> Result<Fpu, RunError> {
        Ok(self.with_vcpu(vcpu, "read registers", false, host, |vcpu| vcpu.accel.fpu())??)
    }

    /// Changes x87, SSE and AVX registers of a vCPU.
    ///
    /// # Errors
    /// As for [`Self::with_vcpu`]; or a register cannot have the value.
    pub fn set_fpu(&self, vcpu: u32, host: &dyn Host, change: impl FnOnce(&mut Fpu)) -> Result<(), RunError> {
        self.with_vcpu(vcpu, "write registers", true, host, |vcpu| {
            let mut fpu = vcpu.accel.fpu()?;
            change(&mut fpu);
            if fpu.mxcsr & !fpu.mxcsr_mask != 0 {
                let rule = "the bits outside of the processor's MXCSR_MASK are reserved, 16 to 31 on most";
                return Err(Invalid { register: "mxcsr", value: fpu.mxcsr.into(), rule }.into());
            }
            Ok(vcpu.accel.set_fpu(&fpu)?)
        })?
    }

    /// Indices of the model-specific registers that hold a vCPU's state.
    ///
    /// # Errors
    /// The accelerator refuses, or the machine is closed.
    pub fn msr_indices(&self) -> Result<Vec<u32>, RunError> {
        let verb = "list msrs";
        self.check(verb)?;
        Ok(self.accelerator(verb)?.msr_indices()?)
    }

    /// Model-specific registers of a vCPU, in the order of `indices`.
    ///
    /// # Errors
    /// As for [`Self::with_vcpu`]; or one is refused.
    pub fn msrs(&self, vcpu: u32, indices: &[u32], host: &dyn Host) -> Result<Vec<u64>, RunError> {
        Ok(self.with_vcpu(vcpu, "read msrs", false, host, |vcpu| vcpu.accel.msrs(indices))??)
    }

    /// Sets model-specific registers of a vCPU, one after the other.
    ///
    /// # Errors
    /// As for [`Self::with_vcpu`]; or one is refused, and those before it are set.
    pub fn set_msrs(&self, vcpu: u32, values: &[(u32, u64)], host: &dyn Host) -> Result<(), RunError> {
        Ok(self.with_vcpu(vcpu, "write msrs", true, host, |vcpu| vcpu.accel.set_msrs(values))??)
    }

    /// The CPUID table of a vCPU: as it is, or as it will be made.
    ///
    /// # Errors
    /// As for [`Self::with_vcpu`].
    pub fn cpuid(&self, vcpu: u32, host: &dyn Host) -> Result<Vec<Leaf>, RunError> {
        let verb = "read cpuid";
        self.check(verb)?; // before the lock: in the child of a fork nobody gives it back
        let made = self.made();
        if made.is_none() {
            return self.planned_cpuid(vcpu, verb);
        }
        drop(made);
        Ok(self.with_vcpu(vcpu, verb, false, host, |vcpu| vcpu.accel.cpuid())??)
    }

    /// Changes the CPUID table of a vCPU that has not run.
    ///
    /// # Errors
    /// The vCPU has run, the accelerator refuses the table, or as for [`Self::with_vcpu`].
    pub fn set_cpuid(&self, vcpu: u32, change: CpuidChange, host: &dyn Host) -> Result<(), RunError> {
        let verb = "change cpuid";
        self.check(verb)?;
        self.control.require(verb, &[Phase::Created, Phase::Paused])?;
        self.kin.store(next_id(), Ordering::SeqCst);
        // Held to the end: who makes the objects next reads what was changed.
        let made = self.made();
        if made.is_none() {
            let table = self.planned_cpuid(vcpu, verb)?;
            self.edits().entry(vcpu).or_default().add(&table, change);
            return Ok(());
        }
        drop(made);
        self.with_vcpu(vcpu, verb, false, host, |vcpu| {
            if vcpu.accel.has_run() {
                return Err(RunError::CpuidFixed { vcpu: vcpu.id() });
            }
            let mut table = vcpu.accel.cpuid()?;
            let mut edits = self.edits().get(&vcpu.id()).cloned().unwrap_or_default();
            edits.add(&table, change);
            edits.apply(&mut table);
            vcpu.accel.set_cpuid(&table)?;
            self.edits().insert(vcpu.id(), edits);
            Ok(())
        })?
    }

    /// The table of a vCPU that is still to be made.
    fn planned_cpuid(&self, vcpu: u32, verb: &'static str) -> Result<Vec<Leaf>, RunError> {
        self.check(verb)?;
        let (accel, config) = (self.accelerator(verb)?, self.config());
        if vcpu >= config.vcpus {
            return Err(RunError::NoVcpu { vcpu });
        }
        let mut table = accel.cpuid(config, vcpu)?;
        self.edits().entry(vcpu).or_default().apply(&mut table);
        Ok(table)
    }

    /// Applies what scripts changed to a vCPU that was just made.
    pub(super) fn edit_cpuid_of(&self, vcpu: &mut Vcpu) -> Result<(), RunError> {
        let Some(edits) = self.edits().get(&vcpu.id()).filter(|edits| !edits.is_empty()).cloned() else {
            return Ok(());
        };
        let mut table = vcpu.accel.cpuid()?;
        edits.apply(&mut table);
        Ok(vcpu.accel.set_cpuid(&table)?)
    }

    fn edits(&self) -> MutexGuard<'_, BTreeMap<u32, CpuidEdits>> {
        self.cpuid.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
#[path = "processor_test.rs"]
mod tests;
