//! A machine's four breakpoints and watchpoints, which lie in the debug registers of its vCPUs (SDM vol. 3, 18.2).
//!
//! They are kept here and reach a vCPU where its next round begins (`run::step`). The guest's own debug registers have no
//! effect while any of these is set: there is one set of them.

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use thiserror::Error;

use crate::control::{Crew, Host, Outcome, Phase};
use crate::error::{RunError, StateError};
use crate::machine::Machine;
use crate::run::{Each, Steps};

/// Debug registers that hold an address: DR0 to DR3.
pub const REGISTERS: usize = 4;
/// DR6.BS: a single step.
pub const DR6_STEP: u64 = 1 << 14;
/// Bits of DR6 that are always 1 (SDM vol. 3, 18.2.3).
pub(crate) const DR6_ONES: u64 = 0xffff_0ff0;
/// DR6.B0 to B3: which address it was.
const DR6_HITS: u64 = 0xf;

/// What a debug register watches for (DR7.R/W).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum On {
    /// The instruction that begins there, before it is executed.
    Execute,
    /// A write, after it.
    Write,
    /// A read or a write, after it. Not the fetch of an instruction.
    ReadWrite,
}

/// One debug register's worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Breakpoint {
    /// Linear address.
    pub address: u64,
    /// Bytes: 1, 2, 4 or 8; 1 for [`On::Execute`].
    pub size: u8,
    /// What for.
    pub on: On,
}

/// What a vCPU is to stop for, by number of the debug register.
pub type Breakpoints = [Option<Breakpoint>; REGISTERS];

/// How a vCPU is to run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DebugControl {
    /// One instruction only.
    pub step: bool,
    /// Until one of these.
    pub breakpoints: Breakpoints,
    /// Until int3, which the guest does not see then.
    pub int3: bool,
}

impl DebugControl {
    /// DR6 without hits of registers that hold nothing of ours: a processor may report what an address left there would have
    /// hit, whether DR7 has it on or not (SDM vol. 3, 18.2.3).
    pub(crate) fn without_strangers(&self, dr6: u64) -> u64 {
        let strange = (0..).zip(&self.breakpoints).filter(|(_, slot)| slot.is_none());
        strange.fold(dr6, |dr6, (number, _): (u32, _)| dr6 & !(1 << number))
    }
}

/// A breakpoint or watchpoint could not be set.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum DebugError {
    /// The machine's state does not allow it.
    #[error(transparent)]
    State(#[from] StateError),
    /// There are four.
    #[error("all four debug registers are in use: no place for one at {address:#x}")]
    Full {
        /// The address.
        address: u64,
    },
    /// No such size.
    #[error("size of a watchpoint is 1, 2, 4 or 8 bytes: {size}")]
    Size {
        /// What was asked for.
        size: u8,
    },
    /// The processor would watch the aligned range around it.
    #[error("watchpoint of {size} bytes is not aligned to its size: {address:#x}")]
    Unaligned {
        /// Its address.
        address: u64,
        /// Its size.
        size: u8,
    },
}

impl DebugError {
    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match self {
            Self::State(error) => error.hint(),
            Self::Full { .. } => "remove() one that is not needed any more",
            Self::Size { .. } | Self::Unaligned { .. } => {
                "a range that is longer or lies across is watched by several, each aligned to its size"
            }
        }
    }
}

/// A breakpoint of one vCPU, or of all.
type Slot = Option<(Breakpoint, Option<u32>)>;

/// A machine's breakpoints.
#[derive(Debug, Default)]
pub(crate) struct DebugRegisters {
    slots: Mutex<[Slot; REGISTERS]>,
    /// int3 is handed over.
    int3: AtomicBool,
}

impl DebugRegisters {
    fn with<T>(&self, f: impl FnOnce(&mut [Slot; REGISTERS]) -> T) -> T {
        f(&mut self.slots.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn int3(&self) -> bool {
        self.int3.load(Ordering::Relaxed)
    }

    /// What is set for a vCPU.
    pub(crate) fn of(&self, vcpu: u32) -> Breakpoints {
        self.with(|slots| {
            slots.map(|slot| slot.filter(|(_, only)| only.is_none_or(|only| only == vcpu)).map(|(it, _)| it))
        })
    }

    /// The number of the register that holds it now.
    fn set(&self, breakpoint: Breakpoint, vcpu: Option<u32>) -> Result<u8, DebugError> {
        let Breakpoint { address, size, .. } = breakpoint;
        if !matches!(size, 1 | 2 | 4 | 8) {
            return Err(DebugError::Size { size });
        }
        if !address.is_multiple_of(size.into()) {
            return Err(DebugError::Unaligned { address, size });
        }
        self.with(|slots| {
            let free = (0..).zip(slots).find(|(_, slot)| slot.is_none());
            let (number, slot) = free.ok_or(DebugError::Full { address })?;
            *slot = Some((breakpoint, vcpu));
            Ok(number)
        })
    }

    fn clear(&self, number: u8) {
        self.with(|slots| {
            if let Some(slot) = slots.get_mut(usize::from(number)) {
                *slot = None;
            }
        });
    }
}

/// DR6.B0 to B3 for the breakpoints on code at this address.
pub(crate) fn hits_of_code(breakpoints: &Breakpoints, pc: u64) -> u64 {
    let is_hit = |slot: &Option<Breakpoint>| slot.is_some_and(|it| it.on == On::Execute && it.address == pc);
    (0..).zip(breakpoints).filter(|(_, slot)| is_hit(slot)).map(|(number, _): (u32, _)| 1 << number).sum()
}

/// Whether DR6 names a breakpoint or watchpoint.
pub(crate) fn has_hit(dr6: u64) -> bool {
    dr6 & DR6_HITS != 0
}

impl Machine {
    /// Sets a breakpoint or watchpoint on every vCPU, or on one; the number of the debug register that it takes.
    ///
    /// # Errors
    /// The machine runs or is closed, all registers are in use, or the address is not aligned to the size.
    pub fn set_breakpoint(&self, breakpoint: Breakpoint, vcpu: Option<u32>) -> Result<u8, DebugError> {
        self.control.require("set a breakpoint", &[Phase::Created, Phase::Paused, Phase::Stopped])?;
        self.debug.set(breakpoint, vcpu)
    }

    /// Executes `count` instructions of one vCPU while the others stand still, or fewer if a breakpoint is met.
    ///
    /// # Errors
    /// As for [`Self::run_one`].
    pub fn step(self: &Arc<Self>, vcpu: u32, count: u64, timeout: Option<Duration>, host: &dyn Host) -> Outcome {
        if vcpu >= self.config().vcpus {
            return Err(RunError::NoVcpu { vcpu });
        }
        self.step_told(vcpu, count, timeout, host, None)
    }

    /// The same; `each` is told after each instruction, with the linear address of the next, and says whether to go on.
    pub(crate) fn step_told(
        self: &Arc<Self>,
        vcpu: u32,
        count: u64,
        timeout: Option<Duration>,
        host: &dyn Host,
        each: Option<&Each<'_>>,
    ) -> Outcome {
        let steps = Steps { left: Cell::new(count.max(1)), each };
        self.drive("step", vcpu, Crew::One(vcpu), timeout, host, Some(steps))
    }

    /// Has int3 stop a vCPU with [`Exit::Debug`](crate::exit::Exit::Debug), at the instruction, in place of the guest's own exception; or
    /// no longer. From the next run on.
    pub(crate) fn take_int3(&self, on: bool) {
        self.debug.int3.store(on, Ordering::Relaxed);
    }

    /// Runs the machine until a vCPU is about to execute the instruction at a linear address, by a breakpoint on that vCPU
    /// alone.
    ///
    /// # Errors
    /// As for [`Self::run`], and no debug register is free.
    pub fn run_until(
        self: &Arc<Self>,
        vcpu: u32,
        address: u64,
        timeout: Option<Duration>,
        host: &dyn Host,
    ) -> Result<Outcome, DebugError> {
        if vcpu >= self.config().vcpus {
            return Ok(Err(RunError::NoVcpu { vcpu }));
        }
        if hits_of_code(&self.debug.of(vcpu), address) != 0 {
            return Ok(self.run(timeout, host));
        }
        let number = self.set_breakpoint(Breakpoint { address, size: 1, on: On::Execute }, Some(vcpu))?;
        let outcome = self.run(timeout, host);
        self.debug.clear(number);
        Ok(outcome)
    }

    /// Takes one away. Nothing happens if it is not there.
    ///
    /// # Errors
    /// The machine runs.
    pub fn clear_breakpoint(&self, number: u8) -> Result<(), DebugError> {
        self.control.require("remove a breakpoint", &[Phase::Created, Phase::Paused, Phase::Stopped, Phase::Closed])?;
        self.debug.clear(number);
        Ok(())
    }
}

#[cfg(test)]
#[path = "debug_test.rs"]
mod tests;
