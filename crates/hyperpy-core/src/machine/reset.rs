//! The machine's reset button: the power-on state restored.
//!
//! KVM's objects are dropped and made anew when next needed: nothing of the old vCPUs can survive. Threads, kicks and
//! statistics belong to the halves of vCPUs that stay (`vcpu::Shared`). Meanwhile the machine counts as running, in a
//! round in which nobody runs.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use super::{Machine, next_id};
use crate::bus::Region;
use crate::control::{Before, Host, Parked, Phase};
use crate::error::RunError;
use crate::run;
use crate::vcpu::Inside;

thread_local! {
    /// The machine that this thread is resetting, which may be loaded again by it.
    static RESETTING: Cell<Option<u64>> = const { Cell::new(None) };
}

impl Machine {
    /// Restores the power-on state: fresh vCPUs, RAM of zeros, devices reset, lines low, nothing queued. ROM, statistics
    /// and what is attached where stay. `reload` puts back what was loaded.
    ///
    /// # Errors
    /// The machine runs or is closed; a device panicked; or `reload` failed, and the machine is reset all the same.
    /// [`RunError::Host`] before that: the host wants its thread back, and nothing was done.
    pub fn reset(&self, host: &dyn Host, reload: impl FnOnce() -> Result<(), RunError>) -> Result<(), RunError> {
        self.check("reset")?;
        let before = self.control.still("reset", false, host)?;
        let _inside = Inside::enter(self.id);
        let mut ending = Ending { machine: self, before: Some(before), outer: RESETTING.replace(Some(self.id)) };
        self.drop_objects(host)?;
        ending.before = None;
        // The new processors are those that the machine was made with, which a snapshot may have replaced.
        self.kin.store(next_id(), Ordering::SeqCst);
        *self.entry.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.has_generation.store(false, Ordering::SeqCst);
        self.clock.reset();
        self.lines.reset();
        self.posts.reset();
        self.control.bells.reset();
        self.memory.reset();
        let devices = self.reset_devices();
        let reloaded = reload();
        drop(ending);
        self.ended(devices, host)?;
        reloaded
    }

    /// Resets every attached device, each once wherever it is attached.
    fn reset_devices(&self) -> Result<(), RunError> {
        let (pio, mmio) = (self.pio.map(), self.mmio.map());
        let mut seen = BTreeSet::new();
        let mut result = Ok(());
        for region in pio.regions().iter().chain(mmio.regions()) {
            if !seen.insert(identity(region)) {
                continue;
            }
            let reset = catch_unwind(AssertUnwindSafe(|| region.device.reset()));
            if let (Err(panic), Ok(())) = (reset, &result) {
                result = Err(run::panicked(Some(region.name.clone()), panic.as_ref()));
            }
        }
        result
    }

    /// Refuses to load into a machine that runs, has ended, or is closed. The thread that resets it may.
    ///
    /// # Errors
    /// It does.
    pub fn require_load(&self) -> Result<(), RunError> {
        if self.is_resetting() {
            return Ok(());
        }
        Ok(self.control.require("load", &[Phase::Created, Phase::Paused])?)
    }

    /// Whether this thread is resetting this machine.
    #[must_use]
    pub fn is_resetting(&self) -> bool {
        RESETTING.get() == Some(self.id)
    }
}

pub(super) fn identity(region: &Region) -> usize {
    region.device.identity().unwrap_or_else(|| Arc::as_ptr(&region.device).cast::<()>() as usize)
}

/// Ends the reset, whatever happens in it.
struct Ending<'a> {
    machine: &'a Machine,
    /// What it was doing, as long as nothing was done.
    before: Option<Before>,
    outer: Option<u64>,
}

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        RESETTING.set(self.outer);
        match self.before {
            Some(before) => self.machine.control.end_still(before),
            None => self.machine.control.end_as(Phase::Created, Parked::default()),
        }
        self.machine.close_if_forsaken();
    }
}

#[cfg(test)]
#[path = "reset_test.rs"]
mod tests;
