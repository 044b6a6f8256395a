//! One round: all vCPUs run, leave, and what comes of it is settled.
//!
//! A round of `start()` is settled by the last vCPU that leaves it, one of `run()` by its caller, so that nobody else
//! takes the outcome that it waits for. A look for a halt that finds none begins the round again with a new epoch.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use super::request::is_final;
use super::{Cause, Control, Crew, Host, Inner, Leave, Outcome, Phase, Turn, paused};
use crate::error::{RunError, StateError};
use crate::exit::Exit;
use crate::vcpu::Shared;

impl Control {
    /// Begins a round. A caller that drives a vCPU owns the round until [`Self::wait_round`] gives it an outcome. `None` if
    /// an earlier round left an outcome, which is returned before any vCPU enters again.
    pub(crate) fn begin(&self, verb: &'static str, crew: Crew, from: &[Phase]) -> Result<Option<Turn>, StateError> {
        let mut inner = self.lock();
        if !from.contains(&inner.visible()) {
            return Err(StateError::new(verb, inner.visible()));
        }
        if !inner.outcomes.is_empty() {
            return Ok(None);
        }
        inner.phase = Phase::Running;
        inner.started = Some(Instant::now());
        inner.crew = crew;
        inner.owned = crew != Crew::Threads;
        self.tell(true);
        Ok(Some(self.next_round(&mut inner)))
    }

    /// The caller of `run()` leaves, whatever vCPUs are still doing: they are asked to stop, and the last one settles.
    fn disown(&self) {
        let mut inner = self.lock();
        inner.owned = false;
        if inner.phase == Phase::Running {
            inner.ask(Cause::Outcome);
            if inner.active == 0 {
                self.settle(&mut inner);
            }
        }
        drop(inner);
        self.changed.notify_all();
        self.kick_all();
    }

    pub(super) fn next_round(&self, inner: &mut Inner) -> Turn {
        inner.epoch += 1;
        inner.cause = None;
        inner.aside = None;
        inner.active = match inner.crew {
            Crew::One(_) => 1,
            Crew::Nobody => 0,
            Crew::Threads | Crew::Caller => u32::try_from(self.vcpus().len()).unwrap_or(u32::MAX),
        };
        let turn = Turn { epoch: inner.epoch, unpark: inner.all_parked };
        self.changed.notify_all();
        turn
    }

    /// Waits until the vCPU has a round to run after `epoch`; `None` when its thread shall end.
    pub(crate) fn wait_turn(&self, vcpu: u32, epoch: u64) -> Option<Turn> {
        let mut inner = self.lock();
        loop {
            // A round that has begun counts on this vCPU to leave it, even if the machine closes meanwhile.
            if inner.phase == Phase::Running && inner.epoch != epoch && inner.crew.is_thread(vcpu) {
                return Some(Turn { epoch: inner.epoch, unpark: inner.all_parked });
            }
            if inner.closing {
                return None;
            }
            inner = self.changed.wait(inner).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// A vCPU has left the round. The last one settles it, unless the caller of `run()` will.
    pub(crate) fn leave(&self, vcpu: u32, leave: Leave) {
        let mut inner = self.lock();
        let wanted = match leave {
            Leave::Asked => false,
            Leave::Parked => {
                inner.last_parked = vcpu;
                false
            }
            Leave::Host => inner.ask(Cause::Outcome),
            Leave::Outcome(outcome) => {
                inner.outcomes.push_back(outcome);
                inner.ask(Cause::Outcome)
            }
        };
        inner.active = inner.active.saturating_sub(1);
        if inner.active == 0 && !inner.owned {
            self.settle(&mut inner);
        }
        drop(inner);
        self.changed.notify_all();
        if wanted {
            self.kick_all();
        }
    }

    /// Whether every vCPU of the round looked halted for good the last time that it looked. While one runs alone nobody
    /// can wake it, whatever the others would do.
    pub(crate) fn all_quiet(&self) -> bool {
        self.quiet(&self.lock())
    }

    fn quiet(&self, inner: &Inner) -> bool {
        let is_quiet = |vcpu: &Arc<Shared>| vcpu.quiet.load(Ordering::SeqCst);
        match inner.crew {
            Crew::One(id) => self.vcpus().get(id as usize).is_some_and(is_quiet),
            Crew::Threads | Crew::Caller => self.vcpus().iter().all(is_quiet),
            Crew::Nobody => false,
        }
    }

    /// Ends a round that every vCPU has left, or begins it again: the new turn, if a halt was none.
    pub(super) fn settle(&self, inner: &mut Inner) -> Option<Turn> {
        if inner.cause == Some(Cause::Still) && inner.outcomes.is_empty() && !inner.closing {
            // Or nobody wants it to stand still any more.
            return if self.settle_still(inner) { None } else { Some(self.next_round(inner)) };
        }
        let parked = inner.cause.is_none() && !inner.closing;
        // One that ran alone tells nothing of others: they are where they were.
        let is_all = !matches!(inner.crew, Crew::One(_)) || self.vcpus().len() == 1;
        inner.all_parked = parked && (inner.all_parked || is_all);
        match inner.cause {
            _ if inner.closing => {}
            Some(Cause::CheckHalt) if !self.quiet(inner) => return Some(self.next_round(inner)),
            None | Some(Cause::CheckHalt) => {
                let vcpu = if let Crew::One(id) = inner.crew { id } else { inner.last_parked };
                inner.outcomes.push_back(Ok(Exit::Halt { vcpu }));
            }
            Some(Cause::Timeout) if inner.outcomes.is_empty() => inner.aside = Some(Exit::Timeout),
            Some(Cause::Pause) if inner.outcomes.is_empty() => {
                inner.aside = Some(paused());
                inner.last.clone_from(&inner.aside);
                inner.pauses += 1;
            }
            Some(_) => {}
        }
        let stopped = inner.cause == Some(Cause::Stop) || inner.outcomes.iter().any(is_final);
        inner.phase = if stopped { Phase::Stopped } else { Phase::Paused };
        inner.cause = None;
        inner.settled += 1;
        self.tell(false);
        inner.ran += inner.started.take().map_or(Duration::ZERO, |started| started.elapsed());
        self.changed.notify_all();
        None
    }

    /// Waits, on the thread of the round's owner, until the others have left the round too, and settles it. Gives a new
    /// turn when the round goes on (a halt that was none). Once the host wants its thread back (`interrupted`), a vCPU
    /// that does not come out of a device is not waited for: it settles the round when it does.
    pub(crate) fn wait_round(
        &self,
        mut interrupted: bool,
        host: &dyn Host,
        deadline: Option<Instant>,
    ) -> Result<Outcome, Turn> {
        let _owner = Owner(self);
        let mut inner = self.lock();
        loop {
            if inner.active == 0 {
                if let Some(turn) = self.settle(&mut inner) {
                    return Err(turn);
                }
                inner.owned = false;
                if interrupted {
                    // What others left is for the next run.
                    return Ok(Err(RunError::Host));
                }
                if let Some(outcome) = inner.take() {
                    return Ok(outcome);
                }
                let aside = inner.aside.take().filter(|_| !inner.closing);
                inner.last.clone_from(&aside);
                return Ok(aside.ok_or_else(|| StateError::new("run", inner.visible()).into()));
            }
            let (now, woken) = self.sleep(inner, deadline);
            inner = now;
            if woken {
                continue;
            }
            drop(inner);
            if interrupted {
                self.disown();
                return Ok(Err(RunError::Host));
            }
            if host.poll() {
                interrupted = true;
                self.request(Cause::Outcome, None);
            } else if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                self.request(Cause::Timeout, None);
            }
            inner = self.lock();
        }
    }
}

/// Gives the round up if the host's poll panics: the other vCPUs must not wait for its caller.
struct Owner<'a>(&'a Control);

impl Drop for Owner<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.disown();
        }
    }
}

#[cfg(test)]
#[path = "round_test.rs"]
mod tests;
