//! Keeping vCPUs out of the guest without ending their round: for a change that no vCPU may see half done (`hold`), and
//! while the machine has used its share of processor time (`limits`).
//!
//! A vCPU that is kept out has seen KVM_RUN interrupted and waits here, on the control's condition variable; whoever
//! wants it to leave the round wakes it. The exit path knows nothing of it.

use std::sync::PoisonError;
use std::time::{Duration, Instant};

use super::{Control, POLL, Phase};

/// How long a holder waits for vCPUs to come out of their devices.
const PATIENCE: Duration = Duration::from_secs(1);

/// While it lives, no vCPU of the machine is in the guest.
#[derive(Debug)]
pub(crate) struct Held<'a>(&'a Control);

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.let_go();
    }
}

impl Control {
    /// Takes every vCPU out of the guest until the result is dropped; `None` if one does not come out of its device. Not
    /// to be called on a thread that drives one of them.
    pub(crate) fn hold(&self) -> Option<Held<'_>> {
        self.lock().holds += 1;
        self.kick_all();
        let deadline = Instant::now() + PATIENCE;
        let mut inner = self.lock();
        while inner.phase == Phase::Running && inner.active > inner.resting {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                drop(inner);
                self.let_go();
                return None;
            }
            inner = self.changed.wait_timeout(inner, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        Some(Held(self))
    }

    /// Makes every vCPU look what it may do, as after a change of the machine's limits.
    pub fn look(&self) {
        self.kick_all();
    }

    fn let_go(&self) {
        self.lock().holds -= 1;
        self.changed.notify_all();
    }

    /// Called by a vCPU that is out of the guest and not wanted for anything else: waits for as long as it is held or the
    /// time `until` is not there, but not past a request, the `deadline` or the next poll of the host. True: look what is
    /// wanted, and come here again. False: enter the guest.
    pub(crate) fn rest(&self, until: Option<Instant>, deadline: Option<Instant>) -> bool {
        let mut inner = self.lock();
        let now = Instant::now();
        let left = |until: Instant| until.saturating_duration_since(now);
        let capped = until.map(left).filter(|left| !left.is_zero());
        if inner.holds == 0 && capped.is_none() {
            return false;
        }
        let nap = [capped.filter(|_| inner.holds == 0), deadline.map(left)].into_iter().flatten().min();
        let wake = now + nap.map_or(POLL, |nap| nap.min(POLL));
        inner.resting += 1;
        if inner.holds > 0 {
            self.changed.notify_all(); // who holds counts
        }
        // Woken by what concerns others, it sleeps on: several that rest would keep each other awake.
        while inner.cause.is_none() && !inner.closing && (inner.holds > 0 || capped.is_some()) {
            let left = wake.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            inner = self.changed.wait_timeout(inner, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        inner.resting -= 1;
        true
    }
}

#[cfg(test)]
#[path = "hold_test.rs"]
mod tests;
