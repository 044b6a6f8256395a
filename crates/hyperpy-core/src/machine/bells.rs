//! Doorbells of a machine: the thread that calls their devices while it runs, and vCPUs that see to them when they leave.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Weak;

use super::Machine;
use crate::bells::Bell;
use crate::bus::Place;
use crate::clock::Firing;
use crate::control::{Cause, Control, Host};
use crate::error::RunError;
use crate::kvm::thread::block_signals;
use crate::run::panicked;
use crate::vcpu::{Inside, Shared};

impl Machine {
    /// Has the host make the thread that serves doorbells, if there are some and there is none.
    ///
    /// # Errors
    /// The host can make no thread.
    pub fn spawn_ringer(&self, host: &dyn Host) -> Result<(), RunError> {
        if !self.control.bells.is_empty() && self.control.claim_ringer() {
            host.spawn_ringer().inspect_err(|_| self.control.give_ringer_back())?;
        }
        Ok(())
    }

    /// The life of the thread that serves doorbells, until the machine closes. Holds no reference to the machine.
    pub fn serve_bells(machine: &Weak<Self>, id: u64, control: &Control) {
        block_signals();
        if !control.rings() {
            return;
        }
        while control.bells.wait() && control.enter_ringer() {
            let (inside, firing) = (Inside::enter(id), Firing::enter());
            for bell in control.bells.rung() {
                if control.bells.serves(Some(&bell)) {
                    // Whoever runs it keeps it.
                    let machine = machine.upgrade();
                    ring(&bell, control, || machine.iter().for_each(|it| it.serve_before(&bell)));
                }
                if control.wants_callback_out() {
                    break;
                }
            }
            control.bells.serves(None);
            drop((inside, firing));
            control.leave_callback();
        }
        control.ringer_gone();
        if let Some(machine) = machine.upgrade() {
            machine.close_if_forsaken();
        }
    }

    /// Serves what has rung, on the thread of a vCPU that leaves its round. What others ring meanwhile they see to.
    pub(super) fn serve_rung(&self, shared: &Shared) {
        // Each look is at some of them, in turn.
        for _ in 0..self.control.bells.looks() {
            shared.presence.enter();
            let rung = self.control.bells.rung();
            for bell in &rung {
                let place = bell.place();
                shared.presence.go_to(Place::of(place.space, place.region));
                ring(bell, &self.control, || self.serve_before(bell));
                shared.presence.back();
            }
            shared.presence.leave();
            if rung.is_empty() {
                return;
            }
        }
    }
}

/// Calls a device that was rung, after `before`. Nothing unwinds out of it.
pub(super) fn ring(bell: &Bell, control: &Control, before: impl FnOnce()) {
    match catch_unwind(AssertUnwindSafe(|| bell.serve(before))) {
        Ok(action) => control.asks(None, action),
        Err(panic) => control.request(Cause::Outcome, Some(Err(panicked(Some("doorbell".into()), panic.as_ref())))),
    }
}

#[cfg(test)]
#[path = "bells_test.rs"]
mod tests;
