//! Single steps, and what a vCPU does about breakpoints before it runs freely.
//!
//! While a vCPU steps, breakpoints on code are not in its debug registers: it could not leave an instruction that has
//! one. Whether a step has led to one is seen here, by address. A run that begins where a breakpoint was reported
//! makes one step before they are set. KVM reports no step for an instruction whose write left the guest, so a
//! step that makes an access ends where that access is complete.

use super::{Entered, Steps, Watch, enter, interrupted, left, rest};
use crate::accel::{AccelError, AccelExit};
use crate::control::Leave;
use crate::debug::{Breakpoints, DR6_ONES, DR6_STEP, DebugControl, On, has_hit, hits_of_code};
use crate::exit::Exit;
use crate::kvm::thread::Sitting;
use crate::machine::Machine;
use crate::vcpu::{Unserved, Vcpu};

/// How a step ended.
enum Stepped {
    /// It was made.
    Done { pc: u64, dr6: u64 },
    /// Something else came first.
    Left(Leave),
}

impl From<AccelError> for Stepped {
    fn from(error: AccelError) -> Self {
        Self::Left(Leave::Outcome(Err(error.into())))
    }
}

/// Where a round begins: the steps that it consists of, or one off the breakpoint that stopped the last round. `None`: the
/// vCPU may run freely.
pub(super) fn first(vcpu: &mut Vcpu, machine: &Machine, sitting: &Sitting<'_>, watch: &Watch<'_>) -> Option<Leave> {
    let breakpoints = machine.debug.of(vcpu.id());
    if let Some(Steps { left, each }) = &watch.steps {
        while left.get() > 0 {
            let (pc, dr6) = match step(vcpu, machine, sitting, watch, &breakpoints) {
                Stepped::Done { pc, dr6 } => (pc, dr6 | hits_of_code(&breakpoints, pc)),
                Stepped::Left(leave) => return Some(leave),
            };
            left.set(left.get() - 1);
            let goes_on = each.is_none_or(|each| each(vcpu, pc));
            if left.get() == 0 || has_hit(dr6) || !goes_on {
                return Some(report(vcpu, machine, pc, dr6));
            }
        }
        return Some(Leave::Asked); // no steps were asked for
    }
    if let Some(pc) = vcpu.reported.take()
        && hits_of_code(&breakpoints, pc) != 0
        && let Some(leave) = step_off(vcpu, machine, sitting, watch, &breakpoints, pc)
    {
        return Some(leave);
    }
    let control = DebugControl { step: false, breakpoints, int3: machine.debug.int3() };
    if vcpu.debug != control
        && let Err(error) = apply(vcpu, control)
    {
        return Some(Leave::Outcome(Err(error.into())));
    }
    None
}

/// Leaves the breakpoint at `pc`, where it was reported, if the vCPU still stands there.
fn step_off(
    vcpu: &mut Vcpu,
    machine: &Machine,
    sitting: &Sitting<'_>,
    watch: &Watch<'_>,
    breakpoints: &Breakpoints,
    pc: u64,
) -> Option<Leave> {
    let stepped = match linear_rip(vcpu) {
        Ok(rip) if rip == pc => step(vcpu, machine, sitting, watch, breakpoints),
        Ok(_) => return None,
        Err(error) => error.into(),
    };
    match stepped {
        Stepped::Done { pc, dr6 } if has_hit(dr6) => Some(report(vcpu, machine, pc, dr6)),
        Stepped::Done { .. } => None,
        Stepped::Left(leave) => {
            vcpu.reported = Some(pc);
            Some(leave)
        }
    }
}

/// A debug event for the caller, unless a device asked for something meanwhile, which goes before.
fn report(vcpu: &mut Vcpu, machine: &Machine, pc: u64, dr6: u64) -> Leave {
    vcpu.reported = Some(pc);
    if machine.control.wants_out() {
        return Leave::Asked;
    }
    Leave::Outcome(Ok(Exit::Debug { vcpu: vcpu.id(), pc, dr6 }))
}

fn apply(vcpu: &mut Vcpu, control: DebugControl) -> Result<(), AccelError> {
    vcpu.accel.set_debug(&control)?;
    vcpu.debug = control;
    Ok(())
}

fn linear_rip(vcpu: &mut Vcpu) -> Result<u64, AccelError> {
    let rip = vcpu.accel.regs()?.rip;
    Ok(vcpu.accel.sregs()?.linear_rip(rip))
}

/// One instruction; watchpoints are watched.
fn step(
    vcpu: &mut Vcpu,
    machine: &Machine,
    sitting: &Sitting<'_>,
    watch: &Watch<'_>,
    breakpoints: &Breakpoints,
) -> Stepped {
    // An access that is served is the step: what comes first is its completion, which takes no time.
    let is_served = vcpu.unfinished && vcpu.pending.is_none();
    if !is_served && let Some(leave) = rest(vcpu, machine, sitting, watch) {
        return Stepped::Left(leave);
    }
    let breakpoints = breakpoints.map(|slot| slot.filter(|it| it.on != On::Execute));
    // Each time: KVM arms a step for the instruction that is the next one now.
    if let Err(error) = apply(vcpu, DebugControl { step: true, breakpoints, int3: machine.debug.int3() }) {
        return error.into();
    }
    if vcpu.unfinished {
        return complete(vcpu, machine, sitting, watch);
    }
    loop {
        match enter::<true>(vcpu, machine) {
            Entered::Access(access) => {
                let unserved = vcpu.serve(machine, access);
                vcpu.record_answer(&access, !matches!(unserved.as_deref(), Some(Unserved::Exit(_))));
                if let Some(unserved) = unserved
                    && let Some(leave) = left(vcpu, machine, sitting, watch, *unserved)
                {
                    return Stepped::Left(leave);
                }
                return complete(vcpu, machine, sitting, watch);
            }
            Entered::Exit(AccelExit::Debug { pc, dr6 }) => return done(vcpu, pc, dr6),
            Entered::Exit(AccelExit::Halt) => {
                vcpu.parked = true;
                return Stepped::Left(Leave::Parked);
            }
            Entered::Exit(other) => {
                if let Some(exit) = vcpu.exit_for_caller(machine, &other) {
                    return Stepped::Left(Leave::Outcome(Ok(exit)));
                }
            }
            Entered::Kicked => {
                if let Some(leave) = interrupted(vcpu, machine, sitting, watch) {
                    return Stepped::Left(leave);
                }
            }
            Entered::Failed(error) => return (*error).into(),
        }
    }
}

fn done(vcpu: &Vcpu, pc: u64, dr6: u64) -> Stepped {
    Stepped::Done { pc, dr6: vcpu.debug.without_strangers(dr6) }
}

/// Ends a step by completing the access that its instruction has made. Requests that came meanwhile are looked at before
/// the next entry, or by `report`.
fn complete(vcpu: &mut Vcpu, machine: &Machine, sitting: &Sitting<'_>, watch: &Watch<'_>) -> Stepped {
    let shared = vcpu.shared.clone();
    shared.kick.arm();
    let stepped = loop {
        match enter::<true>(vcpu, machine) {
            Entered::Access(part) => {
                let unserved = vcpu.serve(machine, part);
                vcpu.record_answer(&part, !matches!(unserved.as_deref(), Some(Unserved::Exit(_))));
                if let Some(unserved) = unserved
                    && let Some(leave) = left(vcpu, machine, sitting, watch, *unserved)
                {
                    break Stepped::Left(leave);
                }
                shared.kick.arm(); // who looked for requests has cleared it
            }
            Entered::Exit(AccelExit::Nothing) => {}
            Entered::Exit(AccelExit::Debug { pc, dr6 }) => break done(vcpu, pc, dr6),
            Entered::Exit(AccelExit::Halt) => {
                vcpu.parked = true;
                break Stepped::Left(Leave::Parked);
            }
            Entered::Exit(other) => {
                if let Some(exit) = vcpu.exit_for_caller(machine, &other) {
                    break Stepped::Left(Leave::Outcome(Ok(exit)));
                }
            }
            Entered::Kicked => {
                break match linear_rip(vcpu) {
                    Ok(pc) => Stepped::Done { pc, dr6: DR6_ONES | DR6_STEP },
                    Err(error) => {
                        // Complete, but where it ended is not known: the next step tells.
                        vcpu.unfinished = true;
                        error.into()
                    }
                };
            }
            Entered::Failed(error) => break (*error).into(),
        }
    };
    shared.kick.clear();
    stepped
}

#[cfg(test)]
#[path = "step_test.rs"]
mod tests;
