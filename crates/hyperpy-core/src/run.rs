//! One vCPU, from exit to exit: the loop that everything else exists to keep short.
//!
//! An exit costs one KVM_RUN. Nothing is checked between two of them: whoever wants something sets the vCPU's exit
//! flag, KVM_RUN then completes the pending access and returns at once, and only there requests, signals, time and
//! halts are looked at (docs/design.md, run loop, rules 1, 5, 7 and 10).

mod step;

use std::any::Any;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::accel::{AccelError, AccelExit, Activity, Interruption};
use crate::bus::Space;
use crate::control::{Cause, Host, Leave, Turn};
use crate::error::RunError;
use crate::exit::Exit;
use crate::kvm::affinity::CpuSet;
use crate::kvm::thread::Sitting;
use crate::limits::Allowed;
use crate::machine::Machine;
use crate::vcpu::{Pending, Unserved, Vcpu};

/// How often a running vCPU looks at signals, time and halts.
pub const TICK: Duration = Duration::from_millis(50);

/// What the thread that drives a vCPU looks after besides: the caller of `run()` has a host and a deadline.
pub(crate) struct Watch<'a> {
    pub(crate) host: Option<&'a dyn Host>,
    pub(crate) deadline: Option<Instant>,
    /// Instructions to execute one by one, where that is asked for.
    pub(crate) steps: Option<Steps<'a>>,
}

/// Who is told of each instruction.
pub(crate) type Each<'a> = dyn Fn(&mut Vcpu, u64) -> bool + 'a;

/// Instructions that are executed one by one.
pub(crate) struct Steps<'a> {
    pub(crate) left: Cell<u64>,
    /// Told after each, with the linear address of the next: whether to go on.
    pub(crate) each: Option<&'a Each<'a>>,
}

/// Drives a vCPU through one round.
pub(crate) fn drive(vcpu: &mut Vcpu, machine: &Machine, turn: Turn, watch: &Watch<'_>) -> Leave {
    if vcpu.parked && !turn.unpark {
        return Leave::Parked;
    }
    vcpu.parked = false;
    vcpu.shared.quiet.store(false, Ordering::SeqCst);
    let pinned = machine.limits.cpus.as_ref().map(CpuSet::enter).transpose();
    let _pinned = match pinned {
        Ok(pinned) => pinned,
        Err(source) => {
            return Leave::Outcome(Err(AccelError::Call { call: "sched_setaffinity", source }.into()));
        }
    };
    let shared = vcpu.shared.clone();
    let seated = shared.timed(|_| shared.kick.sit(TICK));
    let sitting = match seated {
        Ok(sitting) => sitting,
        Err(source) => {
            let error = AccelError::Call { call: "timer_create", source };
            return Leave::Outcome(Err(error.into()));
        }
    };
    vcpu.charged_ns = 0;
    let rounds = if shared.trace.is_some() { rounds::<true> } else { rounds::<false> };
    let leave = guarded(vcpu, |vcpu| {
        let first = step::first(vcpu, machine, &sitting, watch);
        first.unwrap_or_else(|| rounds(vcpu, machine, &sitting, watch))
    });
    let leave = leave.unwrap_or_else(|error| Leave::Outcome(Err(error)));
    // Before it stands still: what devices do then may wake it.
    let leave = guarded(vcpu, |vcpu| machine.serve_all(&vcpu.shared))
        .map_or_else(|error| Leave::Outcome(Err(error)), |()| leave);
    if matches!(leave, Leave::Asked) && machine.config().irqchip {
        // The last look, with the vCPU standing still: what `Control` decides a halt by.
        let quiet = is_quiet(vcpu);
        vcpu.shared.quiet.store(quiet, Ordering::SeqCst);
    }
    vcpu.release_maps();
    charge(vcpu, machine);
    shared.timed(|total| {
        *total += shared.kick.elapsed();
        drop(sitting);
    });
    leave
}

/// The loop itself; `TRACED` is whether it records exits, decided here so that it costs nothing where it does not.
fn rounds<const TRACED: bool>(vcpu: &mut Vcpu, machine: &Machine, sitting: &Sitting<'_>, watch: &Watch<'_>) -> Leave {
    // Requests made before this thread sat down did not reach it by signal. Then what the last round left of an access.
    if let Some(leave) = rest(vcpu, machine, sitting, watch) {
        return leave;
    }
    loop {
        match enter::<TRACED>(vcpu, machine) {
            Entered::Access(access) => {
                let unserved = vcpu.serve(machine, access);
                if TRACED {
                    vcpu.record_answer(&access, !matches!(unserved.as_deref(), Some(Unserved::Exit(_))));
                }
                if let Some(unserved) = unserved
                    && let Some(leave) = left(vcpu, machine, sitting, watch, *unserved)
                {
                    return leave;
                }
            }
            Entered::Exit(AccelExit::Halt) => {
                vcpu.parked = true;
                return Leave::Parked;
            }
            Entered::Exit(other) => {
                if let Some(leave) = told(vcpu, machine, &other) {
                    return leave;
                }
            }
            Entered::Kicked => {
                if let Some(leave) = interrupted(vcpu, machine, sitting, watch) {
                    return leave;
                }
            }
            Entered::Failed(error) => return Leave::Outcome(Err((*error).into())),
        }
    }
}

/// Looks who wants what, and then serves what is pending of an access; again and again, if someone else wants something.
#[cold]
fn rest(vcpu: &mut Vcpu, machine: &Machine, sitting: &Sitting<'_>, watch: &Watch<'_>) -> Option<Leave> {
    loop {
        if let Some(leave) = interrupted(vcpu, machine, sitting, watch) {
            return Some(leave);
        }
        let access = vcpu.pending.take()?;
        match *vcpu.serve(machine, access)? {
            Unserved::Exit(exit) => return Some(Leave::Outcome(Ok(exit))),
            Unserved::Rest => {}
        }
    }
}

/// Not all of an access was served.
#[cold]
#[inline(never)]
fn left(
    vcpu: &mut Vcpu,
    machine: &Machine,
    sitting: &Sitting<'_>,
    watch: &Watch<'_>,
    unserved: Unserved,
) -> Option<Leave> {
    match unserved {
        Unserved::Exit(exit) => Some(Leave::Outcome(Ok(exit))),
        Unserved::Rest => rest(vcpu, machine, sitting, watch),
    }
}

/// What is no access: served, or told to the caller of `run()`.
#[cold]
#[inline(never)]
fn told(vcpu: &mut Vcpu, machine: &Machine, other: &AccelExit) -> Option<Leave> {
    let exit = vcpu.exit_for_caller(machine, other)?;
    vcpu.reported = if let Exit::Debug { pc, .. } = exit { Some(pc) } else { None };
    Some(Leave::Outcome(Ok(exit)))
}

enum Entered {
    /// An access, to be served before anything else. It goes from hand to hand, never through the vCPU: a detour through
    /// memory costs as much as all the rest of dispatch.
    Access(Pending),
    Exit(AccelExit),
    Kicked,
    Failed(Box<AccelError>),
}

/// Enters the guest once.
#[inline]
fn enter<const TRACED: bool>(vcpu: &mut Vcpu, machine: &Machine) -> Entered {
    let result = vcpu.accel.run();
    vcpu.open = None;
    vcpu.count_exit();
    if TRACED {
        vcpu.record_exit(&result);
    }
    match result {
        Ok(AccelExit::Pio { port, size, count, is_write }) => {
            let address = u64::from(port);
            Entered::Access(Pending { space: Space::Pio, address, size, is_write, count, next: 0 })
        }
        Ok(AccelExit::Mmio { gpa, size, is_write }) => {
            Entered::Access(Pending { space: Space::Mmio, address: gpa, size, is_write, count: 1, next: 0 })
        }
        // Nobody knows how far it came: completing what is complete does nothing, and where nothing was to be completed, a
        // step is still to be made.
        Err(Interruption::Failed(error)) => Entered::Failed(error),
        // An access is unfinished as soon as it is served; all else leaves nothing to complete.
        Ok(AccelExit::Posted) => {
            vcpu.unfinished = false;
            // They come before what the guest was left for, which the next entry tells.
            vcpu.serve_posted(machine);
            Entered::Exit(AccelExit::Nothing)
        }
        Ok(other) => {
            vcpu.unfinished = false;
            Entered::Exit(other)
        }
        Err(Interruption::Kicked) => {
            vcpu.unfinished = false;
            Entered::Kicked
        }
        Err(Interruption::Again) => {
            vcpu.unfinished = false;
            Entered::Exit(AccelExit::Nothing)
        }
    }
}

/// KVM_RUN was interrupted: clear the flag, then look who wanted what.
#[cold]
fn interrupted(vcpu: &mut Vcpu, machine: &Machine, sitting: &Sitting<'_>, watch: &Watch<'_>) -> Option<Leave> {
    let mut ticked = false;
    loop {
        vcpu.shared.kick.clear();
        if machine.control.wants_out() {
            return Some(Leave::Asked);
        }
        ticked |= vcpu.shared.kick.take_tick();
        let left = watch.deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        if left.is_some_and(|left| left.is_zero()) {
            machine.control.request(Cause::Timeout, None);
            return Some(Leave::Asked); // the host has its thread back: it need not be asked
        }
        if watch.host.is_some_and(Host::poll) {
            return Some(Leave::Host);
        }
        let allowed = charge(vcpu, machine);
        let until = if let Allowed::Rest(until) = allowed { Some(until) } else { None };
        let began = Instant::now();
        if machine.control.rest(until, watch.deadline) {
            if until.is_some() {
                vcpu.shared.counters.add_capped(began.elapsed());
            }
            continue;
        }
        let share = if let Allowed::Run(share) = allowed { Some(share) } else { None };
        if let Some(first) = left.into_iter().chain(share).min().filter(|first| *first < TICK) {
            sitting.tick_in(first, TICK);
        }
        break;
    }
    if ticked {
        machine.serve_late(&vcpu.shared);
    }
    if ticked && machine.config().irqchip {
        let quiet = is_quiet(vcpu);
        vcpu.shared.quiet.store(quiet, Ordering::SeqCst);
        if machine.control.all_quiet() {
            machine.control.request(Cause::CheckHalt, None);
            return Some(Leave::Asked);
        }
    }
    None
}

/// Charges the machine for the processor time of this vCPU's thread since the last time.
fn charge(vcpu: &mut Vcpu, machine: &Machine) -> Allowed {
    if !machine.limits.is_capped() {
        return Allowed::All;
    }
    let used = vcpu.shared.kick.elapsed();
    let new = used.saturating_sub(std::mem::replace(&mut vcpu.charged_ns, used));
    machine.limits.charge(new, machine.control.vcpus().len(), Instant::now())
}

/// Halted with interrupts off, or never started. A vCPU whose state cannot be read counts as running.
fn is_quiet(vcpu: &mut Vcpu) -> bool {
    vcpu.pending.is_none()
        && !vcpu.unfinished
        && matches!(vcpu.accel.activity(), Ok(Activity::Halted { interruptible: false } | Activity::NotStarted))
}

/// Completes the access that the guest waits for, and every further part of it, without running another instruction.
/// Registers may be written after this (rule 7). Parts that nobody claims read as ones. Python may take any time for a
/// value: after one of its `goes_on` is asked, and what is left is pending if it says no.
pub(crate) fn complete(
    vcpu: &mut Vcpu,
    machine: &Machine,
    goes_on: &dyn Fn() -> Result<(), RunError>,
) -> Result<(), RunError> {
    if vcpu.pending.is_none() && !vcpu.unfinished {
        return Ok(());
    }
    let shared = vcpu.shared.clone();
    shared.kick.arm();
    let result = guarded(vcpu, |vcpu| {
        let finished = finish(vcpu, machine, goes_on);
        machine.serve_late(&vcpu.shared);
        finished
    });
    vcpu.release_maps();
    shared.kick.clear();
    result?
}

fn finish(vcpu: &mut Vcpu, machine: &Machine, goes_on: &dyn Fn() -> Result<(), RunError>) -> Result<(), RunError> {
    let mut access = vcpu.pending.take();
    loop {
        while let Some(part) = access {
            // An exit here would be one that the caller cannot answer any more: its read stays all ones.
            let unserved = vcpu.serve(machine, part);
            vcpu.record_answer(&part, !matches!(unserved.as_deref(), Some(Unserved::Exit(_))));
            if matches!(unserved.as_deref(), Some(Unserved::Rest)) {
                goes_on()?;
            }
            access = vcpu.pending.take();
        }
        match enter::<true>(vcpu, machine) {
            // KVM looks at the exit flag after it has completed the access: a further part of it comes first.
            Entered::Access(part) => access = Some(part),
            // The vCPU was stepping: the instruction is complete.
            Entered::Exit(AccelExit::Nothing | AccelExit::Debug { .. }) => {}
            Entered::Kicked => return Ok(()),
            Entered::Exit(other) => {
                // The next run returns it.
                if let Some(exit) = vcpu.exit_for_caller(machine, &other) {
                    machine.control.request(Cause::Outcome, Some(Ok(exit)));
                }
                return Err(RunError::Completion { exit: format!("{other:?}") });
            }
            Entered::Failed(error) => return Err((*error).into()),
        }
    }
}

/// Runs `f`; a panic in a device becomes an error that names it.
pub(crate) fn guarded<T>(vcpu: &mut Vcpu, f: impl FnOnce(&mut Vcpu) -> T) -> Result<T, RunError> {
    catch_unwind(AssertUnwindSafe(|| f(vcpu))).map_err(|panic| panicked(vcpu.escape(), panic.as_ref()))
}

/// What a panic said, with the device that it came from.
pub(crate) fn panicked(device: Option<Arc<str>>, panic: &(dyn Any + Send)) -> RunError {
    let text = panic.downcast_ref::<&str>().map(ToString::to_string);
    let message = text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default();
    RunError::Panic { device: device.as_deref().unwrap_or("?").to_owned(), message }
}

#[cfg(test)]
#[path = "run/completion_test.rs"]
mod completion_tests;
#[cfg(test)]
#[path = "run_test.rs"]
mod tests;
