//! A machine's timers: setting them, and the thread that fires them while it runs.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Weak};

use super::Machine;
use crate::clock::{Callback, Carried, Due, Firing, Timer, When};
use crate::control::{Cause, Control, Host, Phase};
use crate::error::{RunError, StateError};
use crate::exit::Exit;
use crate::kvm::thread::block_signals;
use crate::run::panicked;
use crate::vcpu::Inside;

impl Machine {
    /// Sets a timer on the machine's clock. The first one has the host make the thread that fires them all.
    ///
    /// # Errors
    /// The machine is closed, or belongs to the parent of a forked process; or the host can make no thread.
    pub fn arm(&self, when: When, owner: u64, callback: Arc<dyn Callback>, host: &dyn Host) -> Result<Timer, RunError> {
        let verb = "set a timer";
        if self.is_forked() {
            return Err(RunError::Forked { verb });
        }
        let timer = self.clock.arm(when, owner, callback).ok_or(StateError::new(verb, Phase::Closed))?;
        self.spawn_caller(host).inspect_err(|_| {
            self.clock.cancel(&timer);
        })?;
        Ok(timer)
    }

    /// Sets a timer of another machine, of which this one is a copy, as [`Clock::carry`](crate::clock::Clock::carry).
    ///
    /// # Errors
    /// As for [`Self::arm`].
    pub fn carry(
        &self,
        timer: Carried,
        owner: u64,
        callback: Arc<dyn Callback>,
        host: &dyn Host,
    ) -> Result<Timer, RunError> {
        let verb = "set a timer";
        if self.is_forked() {
            return Err(RunError::Forked { verb });
        }
        let timer = self.clock.carry(timer, owner, callback).ok_or(StateError::new(verb, Phase::Closed))?;
        self.spawn_caller(host).inspect_err(|_| {
            self.clock.cancel(&timer);
        })?;
        Ok(timer)
    }

    /// Has the host make the thread that fires timers, unless there is one.
    pub(super) fn spawn_caller(&self, host: &dyn Host) -> Result<(), RunError> {
        if self.control.claim_caller() {
            host.spawn_timers().inspect_err(|_| self.control.give_caller_back())?;
        }
        Ok(())
    }

    /// Takes off every timer of an owner and returns when none of its callbacks runs; inside a device or a callback it does
    /// not wait.
    ///
    /// # Errors
    /// [`RunError::Host`]: the host wants its thread back.
    pub fn disarm(&self, owner: u64, host: &dyn Host) -> Result<(), RunError> {
        if Inside::any() {
            self.clock.cancel_of(owner);
            return Ok(());
        }
        if self.clock.cancel_and_wait(owner, || host.poll()) { Ok(()) } else { Err(RunError::Host) }
    }

    /// The life of the thread that fires timers, until the machine closes. Holds no reference to the machine.
    pub fn serve_timers(machine: &Weak<Self>, id: u64, control: &Control) {
        block_signals();
        if !control.calls_back() {
            return;
        }
        while control.clock.wait_due() {
            if !control.enter_callback() {
                continue; // the clock stands still by now, or goes again
            }
            let (inside, firing) = (Inside::enter(id), Firing::enter());
            while let Some(due) = control.clock.take_due() {
                fire(due, control);
                if control.wants_callback_out() {
                    break;
                }
            }
            control.clock.called();
            drop((inside, firing));
            control.leave_callback();
        }
        control.caller_gone();
        if let Some(machine) = machine.upgrade() {
            machine.close_if_forsaken();
        }
    }
}

/// Calls back. Nothing unwinds out of it.
fn fire(due: Due, control: &Control) {
    let called = catch_unwind(AssertUnwindSafe(|| {
        let stop = due.callback.fire(due.fired);
        drop(due.callback); // it may be the last reference to anything
        stop
    }));
    let outcome = match called {
        Ok(Ok(None)) => return,
        Ok(Ok(Some(reason))) => Ok(Exit::Stopped { vcpu: None, reason }),
        Ok(Err(_)) => Err(RunError::Device),
        Err(panic) => Err(panicked(Some("timer".into()), panic.as_ref())),
    };
    control.request(Cause::Outcome, Some(outcome));
}

#[cfg(test)]
#[path = "timers_test.rs"]
mod tests;
