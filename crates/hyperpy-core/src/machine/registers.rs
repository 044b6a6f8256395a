//! Verbs on one vCPU that stands still: registers, and the answer to an access that `run()` returned.

use super::Machine;
use super::objects::borrow;
use crate::arch::x86_64::cpuid::physical_bits;
use crate::arch::x86_64::paging::{self, Walk};
use crate::arch::x86_64::valid::{Limits, check_regs, check_sregs, has_wide_addresses, is_canonical, page_table_root};
use crate::arch::x86_64::{Regs, Sregs};
use crate::control::{Host, Phase};
use crate::error::{RunError, StateError};
use crate::exit::IoExit;
use crate::run;
use crate::vcpu::{Inside, Refused, Vcpu};

impl Machine {
    /// Runs `f` on a vCPU that stands still; `completed` asks for its pending access to be completed first.
    ///
    /// # Errors
    /// The machine runs or is closed, there is no such vCPU, or completion failed. [`RunError::Host`]: the host wants its
    /// thread back, while another thread has the vCPU or in the middle of the completion, which the next one goes on with.
    pub fn with_vcpu<T>(
        &self,
        id: u32,
        verb: &'static str,
        completed: bool,
        host: &dyn Host,
        f: impl FnOnce(&mut Vcpu) -> T,
    ) -> Result<T, RunError> {
        self.check(verb)?;
        self.control.require(verb, &[Phase::Created, Phase::Paused, Phase::Stopped])?;
        let objects = self.objects()?;
        let allowed = || match self.control.phase() {
            phase @ (Phase::Running | Phase::Closed) => Err(StateError::new(verb, phase).into()),
            _ => Ok(()),
        };
        let asked = self.control.asked();
        let goes_on = || {
            allowed()?;
            match self.control.asked() {
                _ if host.poll() => Err(RunError::Host),
                now if now != asked => Err(RunError::Asked { verb }),
                _ => Ok(()),
            }
        };
        let _inside = Inside::enter(self.id);
        let done = borrow(&objects, id, Some(host), allowed, |vcpu| {
            if completed {
                run::complete(vcpu, self, &goes_on)?;
            }
            Ok(f(vcpu))
        });
        self.ended(done.flatten(), host)
    }

    /// General registers of a vCPU.
    ///
    /// # Errors
    /// As for [`Self::with_vcpu`].
    pub fn regs(&self, vcpu: u32, host: &dyn Host) -> Result<Regs, RunError> {
        Ok(self.with_vcpu(vcpu, "read registers", false, host, |vcpu| vcpu.accel.regs())??)
    }

    /// Changes general registers of a vCPU.
    ///
    /// # Errors
    /// As for [`Self::with_vcpu`]; or a register cannot have the value.
    pub fn set_regs(&self, vcpu: u32, host: &dyn Host, change: impl FnOnce(&mut Regs)) -> Result<(), RunError> {
        self.with_vcpu(vcpu, "write registers", true, host, |vcpu| {
            let before = vcpu.accel.regs()?;
            let mut regs = before;
            change(&mut regs);
            // Whether addresses are wide matters to few: what is canonical without is so with it.
            let wide = !is_canonical(regs.rip, false) && has_wide_addresses(&vcpu.accel.sregs()?);
            check_regs(&before, &regs, wide)?;
            Ok(vcpu.accel.set_regs(&regs)?)
        })?
    }

    /// Segment, table and control registers of a vCPU.
    ///
    /// # Errors
    /// As for [`Self::with_vcpu`].
    pub fn sregs(&self, vcpu: u32, host: &dyn Host) -> Result<Sregs, RunError> {
        Ok(self.with_vcpu(vcpu, "read registers", false, host, |vcpu| vcpu.accel.sregs())??)
    }

    /// Changes segment, table and control registers of a vCPU.
    ///
    /// # Errors
    /// As for [`Self::with_vcpu`]; or a register cannot have the value.
    pub fn set_sregs(&self, vcpu: u32, host: &dyn Host, change: impl FnOnce(&mut Sregs)) -> Result<(), RunError> {
        self.with_vcpu(vcpu, "write registers", true, host, |vcpu| {
            let before = vcpu.accel.sregs()?;
            let mut sregs = before;
            change(&mut sregs);
            // Every processor has 36 bits of physical address; who sets no more need not be asked how many it has.
            let high = (sregs.cr3 | sregs.apic_base) >> 36 != 0;
            let limits = Limits { physical_bits: if high { physical_bits(&vcpu.accel.cpuid()?) } else { 36 } };
            check_sregs(&before, &sregs, limits)?;
            let root = page_table_root(&sregs, limits);
            if let Some(root) = root
                && page_table_root(&before, limits) != Some(root)
                && !self.memory.holds(root, 1)
            {
                return Err(RunError::NoPageTable { cr3: sregs.cr3 });
            }
            Ok(vcpu.accel.set_sregs(&sregs)?)
        })?
    }

    /// Translates a linear address as a vCPU would, by the tables that memory holds now.
    ///
    /// # Errors
    /// As for [`Self::with_vcpu`].
    pub fn walk(&self, vcpu: u32, gva: u64, host: &dyn Host) -> Result<Walk, RunError> {
        let sregs = self.sregs(vcpu, host)?;
        Ok(paging::walk(gva, &sregs, |gpa| {
            let mut entry = [0; 8];
            self.memory.read(gpa, &mut entry).ok().map(|()| u64::from_le_bytes(entry))
        }))
    }

    /// Answers an unclaimed read that `run()` or `wait()` returned.
    ///
    /// # Errors
    /// The machine runs, or the answer is refused.
    pub fn answer(&self, exit: &IoExit, value: u64, host: &dyn Host) -> Result<Result<(), Refused>, RunError> {
        self.with_vcpu(exit.vcpu, "answer", false, host, |vcpu| vcpu.answer(exit, value))
    }
}
