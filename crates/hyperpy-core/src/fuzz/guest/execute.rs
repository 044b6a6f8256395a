//! One execution: from the base to where it ends, past the blocks that it covers.

use std::cell::RefCell;
use std::time::{Duration, Instant};

use super::patch::{Patch, Role, Trap};
use super::triage::{ExitKind, Finding, What};
use super::view::View;
use super::{GuestError, GuestLoop};
use crate::accel::AccelError;
use crate::control::Host;
use crate::error::RunError;
use crate::exit::Exit;
use crate::fuzz::slot::Noted;
use crate::kvm::thread::own_time;
use crate::vcpu::Vcpu;

/// So many times of the limit go by on a busy host before an execution is given up that has not used it; and so much more.
const PATIENCE: u32 = 20;
const SLACK: Duration = Duration::from_secs(1);
/// So long, and longer, it takes to see that all vCPUs have halted, where interrupt controllers are in the kernel.
const HALTED: Duration = Duration::from_millis(250);
/// Steps after which the time is looked at.
const LOOK_EVERY: u64 = 16;
/// HLT's one byte.
const HLT: u64 = 0xf4;

/// How the guest is executed.
#[derive(Clone, Copy, Debug)]
pub(super) enum Pace {
    /// As fast as it goes.
    Free,
    /// Instruction by instruction, so many of them.
    Steps {
        /// How many.
        most: u64,
        /// Which follows which is counted.
        edges: bool,
        /// What is compared is told.
        compares: bool,
        /// They may take so long, too.
        time: Option<Duration>,
    },
}

/// How an execution ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// Where an input is done with.
    Stop,
    /// By a crash of this vCPU.
    Crash(What, u32),
    /// It took too long, or too many instructions.
    Hang,
    /// By this exit.
    Exit(Exit),
}

/// The feature that a block is.
pub(super) fn covered(gva: u64) -> u64 {
    gva | 1 << 61
}

/// Processor time of this thread since it was at a number.
fn since(used: u64) -> Duration {
    Duration::from_nanos(own_time().saturating_sub(used))
}

impl GuestLoop {
    /// Puts the machine to the base, and an input into it.
    pub(super) fn begin(&mut self, input: &[u8], host: &dyn Host) -> Result<(), GuestError> {
        let restored = self.machine.restore(&self.base, &self.spared, host)?;
        self.resets.0 += restored.vm + restored.vcpus + restored.memory + restored.devices;
        self.resets.1 += 1;
        self.counters.clear();
        for gva in self.hits.drain(..) {
            self.patches.settle(gva);
        }
        self.steps.clear();
        if let Some(window) = &mut self.window {
            window.clear(&self.machine.memory)?;
        }
        self.placer.put(&self.machine, input, host)
    }

    /// Executes an input, and collects what it covers.
    pub(super) fn execute(&mut self, input: &[u8], host: &dyn Host) -> Result<Ended, GuestError> {
        let _noted = Noted::new(input);
        self.begin(input, host)?;
        let steps = Pace::Steps {
            most: self.plan.instructions.unwrap_or(u64::MAX),
            edges: self.plan.steps,
            compares: self.plan.steps && self.plan.comparisons,
            // Where instructions count, time does not: what hangs is the same on any host.
            time: self.plan.instructions.is_none().then_some(self.plan.time),
        };
        let mut ended = self.go(if self.plan.steps { steps } else { Pace::Free }, host)?;
        if ended == Ended::Hang && !self.plan.steps && self.plan.instructions.is_some() {
            // By the clock it took too long; by instructions is what counts, and comes out the same each time.
            self.begin(input, host)?;
            ended = self.go(steps, host)?;
        }
        if let Some(window) = &mut self.window {
            window.collect(&self.machine.memory, &mut self.counters)?;
        }
        Ok(ended)
    }

    /// Runs the guest from where it stands to an end.
    pub(super) fn go(&mut self, pace: Pace, host: &dyn Host) -> Result<Ended, GuestError> {
        let (began, used) = (Instant::now(), own_time());
        let mut most = self.plan.time;
        loop {
            let exit = match pace {
                Pace::Free => self.machine.run(Some(most), host)?,
                Pace::Steps { .. } if std::mem::take(&mut self.steps.is_at_halt) => {
                    // One that waits there with interrupts on is told by no exit.
                    self.machine.run(Some(self.plan.time), host)?
                }
                Pace::Steps { most, edges, compares, time } => {
                    let over = || time.is_some_and(|time| since(used) >= time);
                    if self.steps.count >= most || over() {
                        return Ok(Ended::Hang);
                    }
                    self.step(most - self.steps.count, edges, compares, &over, host)?
                }
            };
            let (gva, is_after) = match exit {
                Exit::Halt { vcpu } => (self.linear(vcpu, host)?.wrapping_sub(1), true),
                Exit::Debug { pc, .. } => (pc, false),
                Exit::Timeout if matches!(pace, Pace::Steps { .. }) => return Ok(Ended::Hang),
                Exit::Timeout => {
                    if since(used) < self.plan.time && began.elapsed() < self.plan.time * PATIENCE + SLACK {
                        most = most.max(HALTED);
                        continue;
                    }
                    return Ok(Ended::Hang);
                }
                Exit::InternalError { vcpu, .. } if self.patches.has_int3() => {
                    let rip = self.linear(vcpu, host)?;
                    if self.patches.at(rip).is_some_and(|patch| patch.trap == Trap::Int3 && patch.is_live()) {
                        return Err(GuestError::NoBreakpoints { rip });
                    }
                    return Ok(Ended::Exit(exit));
                }
                _ => return Ok(Ended::Exit(exit)),
            };
            if let Some(ended) = self.hit(gva, is_after, &exit, pace, host)? {
                return Ok(ended);
            }
        }
    }

    /// Instructions one by one, as many or up to a patch.
    fn step(
        &mut self,
        most: u64,
        edges: bool,
        compares: bool,
        over: &dyn Fn() -> bool,
        host: &dyn Host,
    ) -> Result<Exit, GuestError> {
        let Self { machine, patches, steps, counters, .. } = self;
        let seen = RefCell::new((steps, counters));
        // Whether to go on: the instruction at `pc` comes next.
        let look = |vcpu: &mut Vcpu, pc: u64, is_again: bool| {
            let mut seen = seen.borrow_mut();
            let (steps, counters) = &mut *seen;
            let (Ok(sregs), Ok(regs)) = (vcpu.accel.sregs(), vcpu.accel.regs()) else { return false };
            let view = View { memory: &machine.memory, sregs: &sregs };
            let is_live = patches.at(pc).is_some_and(Patch::is_live);
            if !is_again {
                steps.count(pc);
                if edges {
                    steps.edge(pc, counters);
                }
            }
            // Where a patch is, the guest's own instruction is there the second time.
            if compares && !is_live && (!is_again || steps.was_live) {
                steps.compare(view, &regs, pc);
            }
            steps.was_live = is_live;
            if is_live || steps.count % LOOK_EVERY == 0 && over() {
                return false;
            }
            // A KVM may make a step of HLT and go past it: it is not stepped over, but run.
            steps.is_at_halt = view.number(pc, 1) == Some(HLT);
            !steps.is_at_halt
        };
        let each = |vcpu: &mut Vcpu, pc: u64| look(vcpu, pc, false);
        let last = seen.borrow().0.last;
        let goes_on = machine.with_vcpu(0, "step", true, host, |vcpu| {
            let (regs, sregs) = (vcpu.accel.regs()?, vcpu.accel.sregs()?);
            let pc = sregs.linear_rip(regs.rip);
            Ok::<_, AccelError>(look(vcpu, pc, last == Some(pc)))
        })?;
        if !goes_on.map_err(RunError::from)? {
            return Ok(Exit::Debug { vcpu: 0, pc: self.linear(0, host)?, dr6: 0 });
        }
        Ok(machine.step_told(0, most, None, host, Some(&each))?)
    }

    /// The guest was stopped at an address; `None`: it goes on.
    fn hit(
        &mut self,
        gva: u64,
        is_after: bool,
        exit: &Exit,
        pace: Pace,
        host: &dyn Host,
    ) -> Result<Option<Ended>, GuestError> {
        let vcpu = exit.vcpu().unwrap_or_default();
        let Some(patch) = self.patches.live(gva) else {
            // Its own; or the end of as many steps as were asked for, which their number tells.
            let goes_on = matches!((exit, pace), (Exit::Debug { .. }, Pace::Steps { .. }));
            return Ok((!goes_on).then(|| Ended::Exit(exit.clone())));
        };
        if patch.is_block {
            self.counters.mark(covered(gva));
        }
        let ended = match &patch.role {
            Role::Block => {
                patch.is_lifted = true;
                self.stops += 1;
                self.machine.memory.write(patch.gpa, &[patch.original])?;
                self.hits.push(gva);
                None
            }
            Role::Stop => return Ok(Some(Ended::Stop)),
            Role::Crash => Some(Ended::Crash(What::Address, vcpu)),
            Role::Handler(vectors) => Some(Ended::Crash(What::Exception(vectors.clone()), vcpu)),
        };
        if is_after {
            self.machine.set_regs(vcpu, host, |regs| regs.rip = regs.rip.wrapping_sub(1))?;
        }
        Ok(ended)
    }

    /// Where a vCPU stands, as a linear address.
    fn linear(&self, vcpu: u32, host: &dyn Host) -> Result<u64, GuestError> {
        let rip = self.machine.regs(vcpu, host)?.rip;
        Ok(self.machine.sregs(vcpu, host)?.linear_rip(rip))
    }

    /// What of an end is a finding.
    pub(super) fn finding(&self, ended: &Ended, host: &dyn Host) -> Result<Option<Finding>, GuestError> {
        let (what, exit, vcpu) = match ended {
            Ended::Stop => return Ok(None),
            Ended::Hang if !self.plan.hangs => return Ok(None),
            Ended::Hang => (What::Hang, None, self.busy(host)?),
            Ended::Crash(what, vcpu) => (what.clone(), None, *vcpu),
            Ended::Exit(exit) => {
                let kind = ExitKind::of(exit);
                if !self.plan.exits.contains(&kind) {
                    return Ok(None);
                }
                (What::Exit(kind), Some(exit), exit.vcpu().unwrap_or_default())
            }
        };
        // What is told of it is the guest's code, not what was put into it; the next execution begins with the base in any case.
        self.take_patches_out()?;
        let (regs, sregs) = (self.machine.regs(vcpu, host)?, self.machine.sregs(vcpu, host)?);
        let view = View { memory: &self.machine.memory, sregs: &sregs };
        Ok(Some(Finding::look(what, exit, vcpu, &view, &regs)))
    }

    /// The first vCPU that does not wait behind an HLT: of a guest that does not end it is the one to be looked at.
    fn busy(&self, host: &dyn Host) -> Result<u32, GuestError> {
        for vcpu in 0..self.machine.config().vcpus {
            let (regs, sregs) = (self.machine.regs(vcpu, host)?, self.machine.sregs(vcpu, host)?);
            let view = View { memory: &self.machine.memory, sregs: &sregs };
            if view.number(sregs.linear_rip(regs.rip).wrapping_sub(1), 1) != Some(HLT) {
                return Ok(vcpu);
            }
        }
        Ok(0)
    }
}
