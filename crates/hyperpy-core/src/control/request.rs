//! Wishes and what comes of them: who asks the vCPUs to leave, and the queue of outcomes that `run()` and `wait()` return.
//!
//! A wish is stored under the lock and then every vCPU is kicked. When the round that it ends is settled is in `round`.

use super::{Cause, Control, Inner, Outcome, Phase};
use crate::bus::Action;
use crate::error::RunError;
use crate::exit::{Exit, StopReason, SystemEvent};

impl Control {
    /// An outcome that an earlier round left, for `run()` to return before any vCPU enters again.
    pub(crate) fn queued(&self) -> Option<Outcome> {
        let mut inner = self.lock();
        if inner.closing || inner.phase == Phase::Running { None } else { inner.take() }
    }

    /// Asks every vCPU to leave. The first request of a round decides, but a look for a halt, and a moment's stand, give way to any other.
    /// An outcome that comes while nothing runs (a device served by the completion of an access) is kept for the next
    /// `run()`.
    pub(crate) fn request(&self, cause: Cause, outcome: Option<Outcome>) {
        let mut inner = self.lock();
        inner.asked += 1;
        if let Some(outcome) = outcome {
            inner.queue(outcome);
        }
        if inner.phase != Phase::Running {
            return;
        }
        inner.ask(cause);
        drop(inner);
        self.kick_all();
    }

    /// Changes whenever someone asks the machine to stop for something, also while nothing runs.
    pub(crate) fn asked(&self) -> u64 {
        self.lock().asked
    }

    pub(super) fn kick_all(&self) {
        for vcpu in self.vcpus() {
            vcpu.kick.kick();
        }
        // One that rests outside of the guest is woken by this.
        self.changed.notify_all();
    }

    /// A device's answer to a write was something else than "go on".
    #[cold]
    pub(crate) fn device_asks(&self, vcpu: u32, action: Action) {
        self.asks(Some(vcpu), action);
    }

    /// The same, whoever made the write.
    pub(crate) fn asks(&self, vcpu: Option<u32>, action: Action) {
        let event = |kind| Exit::SystemEvent { vcpu: vcpu.unwrap_or_default(), kind, data: Vec::new() };
        let exit = match action {
            Action::Continue => return,
            Action::Stop(StopReason::PowerOff) => event(SystemEvent::PowerOff),
            Action::Stop(reason) => Exit::Stopped { vcpu, reason },
            Action::Reset => event(SystemEvent::Reset),
        };
        self.request(Cause::Outcome, Some(Ok(exit)));
    }

    /// A device could not answer: the machine pauses and `run()` fails with what the device left behind.
    pub fn device_failed(&self) {
        self.request(Cause::Outcome, Some(Err(RunError::Device)));
    }

    /// `stop()`: the guest shall not run on. Does not wait.
    pub fn stop(&self, reason: StopReason) {
        let exit = Exit::Stopped { vcpu: None, reason };
        let mut inner = self.lock();
        inner.asked += 1;
        match inner.phase {
            Phase::Created | Phase::Paused => {
                inner.phase = Phase::Stopped;
                inner.last = Some(exit);
                self.tell(false);
                self.changed.notify_all();
            }
            // The first of several reasons is kept.
            Phase::Running if inner.cause != Some(Cause::Stop) => {
                inner.outcomes.push_back(Ok(exit));
                inner.cause = Some(Cause::Stop);
                drop(inner);
                self.kick_all();
            }
            Phase::Running | Phase::Stopped | Phase::Closed => {}
        }
    }
}

impl Inner {
    /// Stores a wish; whether it is the first of the round, so that vCPUs have not been kicked for one yet.
    pub(super) fn ask(&mut self, cause: Cause) -> bool {
        let first = matches!(self.cause, None | Some(Cause::CheckHalt | Cause::Still));
        if first {
            self.cause = Some(cause);
        }
        first
    }

    /// Keeps what a device asked for. A string instruction can ask a thousand times before it is stopped, and what
    /// Python devices raised is kept elsewhere, all of it together: once is enough.
    pub(super) fn queue(&mut self, outcome: Outcome) {
        let same = |other: &Outcome| match (other, &outcome) {
            (Ok(other), Ok(exit)) => other == exit,
            (Err(RunError::Device), Err(RunError::Device)) => true,
            _ => false,
        };
        if self.closing || self.outcomes.iter().any(same) {
            return;
        }
        if is_final(&outcome) && matches!(self.phase, Phase::Created | Phase::Paused) {
            self.phase = Phase::Stopped;
        }
        self.outcomes.push_back(outcome);
    }

    pub(super) fn take(&mut self) -> Option<Outcome> {
        let outcome = self.outcomes.pop_front()?;
        self.last = outcome.as_ref().ok().cloned();
        Some(outcome)
    }
}

pub(super) fn is_final(outcome: &Outcome) -> bool {
    outcome.as_ref().is_ok_and(Exit::is_final)
}
