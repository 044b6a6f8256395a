//! A machine that stands still for a moment: what a reset, a snapshot, a restore and a fork work on.
//!
//! Nobody runs, and for all others the machine is running. One that `start()` set going is taken out of the guest without the end of its
//! round: who waits for it notices nothing, and it goes on afterwards. One that somebody runs by `run()` is refused, since
//! that round is its caller's. Who finds that somebody else has it stand still waits for his turn.

use std::time::Instant;

use super::request::is_final;
use super::{Cause, Control, Crew, Host, Inner, Phase};
use crate::error::{RunError, StateError};
use crate::exit::Exit;

/// What the machine was doing before it stood still.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Before {
    /// It stood still already, in this state.
    Standing(Phase),
    /// It ran, on threads of its own.
    Running,
}

impl Control {
    /// Has the machine stand still, until [`Self::end_still`] or [`Self::end_as`]. `from_running` is whether a machine may be
    /// interrupted for it.
    ///
    /// # Errors
    /// It is closed; or it runs, and may not be interrupted. [`RunError::Host`]: the host wants its thread back.
    pub(crate) fn still(&self, verb: &'static str, from_running: bool, host: &dyn Host) -> Result<Before, RunError> {
        let mut inner = self.lock();
        let mut is_waiting = false;
        loop {
            match inner.visible() {
                Phase::Closed => break,
                before @ (Phase::Created | Phase::Paused | Phase::Stopped) => {
                    inner.still_wanted -= u32::from(is_waiting);
                    inner.phase = Phase::Running;
                    inner.crew = Crew::Nobody;
                    inner.owned = true;
                    return Ok(Before::Standing(before));
                }
                // Whoever has it stand still, it runs and is to go on.
                Phase::Running if !from_running && (inner.crew != Crew::Nobody || inner.is_interrupted) => break,
                Phase::Running if inner.crew == Crew::Nobody && inner.has_settled_still => {
                    inner.has_settled_still = false;
                    inner.still_wanted -= u32::from(is_waiting);
                    return Ok(Before::Running);
                }
                // Somebody else has it stand still.
                Phase::Running if inner.crew == Crew::Nobody => {}
                Phase::Running if inner.crew != Crew::Threads => break,
                Phase::Running => {
                    if !std::mem::replace(&mut is_waiting, true) {
                        inner.still_wanted += 1;
                    }
                    if inner.cause != Some(Cause::Still) && inner.ask(Cause::Still) {
                        drop(inner);
                        self.kick_all();
                        inner = self.lock();
                        continue;
                    }
                }
            }
            inner = match self.sleep_beside(inner, host) {
                Ok(inner) => inner,
                Err(error) => {
                    self.want_no_more(is_waiting);
                    return Err(error);
                }
            };
        }
        let phase = inner.visible();
        drop(inner);
        self.want_no_more(is_waiting);
        Err(StateError::new(verb, phase).into())
    }

    /// Somebody who waited for it to stand still waits no more: it goes on, if nobody else does.
    fn want_no_more(&self, is_waiting: bool) {
        let mut inner = self.lock();
        inner.still_wanted -= u32::from(is_waiting);
        if inner.still_wanted == 0 && std::mem::take(&mut inner.has_settled_still) {
            self.go_on(&mut inner);
        }
        drop(inner);
        self.changed.notify_all();
    }

    /// The last vCPU has left for somebody who wants it to stand still; false if nobody does any more.
    pub(super) fn settle_still(&self, inner: &mut Inner) -> bool {
        if inner.still_wanted == 0 {
            return false;
        }
        inner.crew = Crew::Nobody;
        inner.owned = true;
        inner.cause = None;
        inner.has_settled_still = true;
        inner.is_interrupted = true;
        // Not told to the watcher: for all others it runs.
        self.clock.run(false);
        inner.ran += inner.started.take().map_or_else(Default::default, |started| started.elapsed());
        self.changed.notify_all();
        true
    }

    /// Goes on with the round, unless somebody has asked for something meanwhile.
    fn go_on(&self, inner: &mut Inner) {
        inner.crew = Crew::Threads;
        inner.owned = false;
        inner.has_settled_still = false;
        inner.is_interrupted = false;
        let is_asked = inner.cause.is_some_and(|cause| cause != Cause::Still);
        if inner.closing || is_asked || !inner.outcomes.is_empty() {
            inner.cause.get_or_insert(Cause::Outcome);
            self.settle(inner);
            return;
        }
        inner.started = Some(Instant::now());
        self.clock.run(true);
        self.next_round(inner);
    }

    /// It goes on as it was.
    pub(crate) fn end_still(&self, before: Before) {
        let mut inner = self.lock();
        match before {
            Before::Running => self.go_on(&mut inner),
            Before::Standing(phase) => inner.stand(phase),
        }
        drop(inner);
        self.changed.notify_all();
    }

    /// It is in another state from now on, and what was queued is forgotten. What `stop()` asked for meanwhile holds.
    pub(crate) fn end_as(&self, phase: Phase, parked: Parked) {
        let mut inner = self.lock();
        let is_stop = |exit: &&Exit| matches!(exit, Exit::Stopped { vcpu: None, .. });
        let stop = inner.outcomes.iter().rev().flatten().find(is_stop).cloned();
        let stop = stop.filter(|_| inner.cause == Some(Cause::Stop));
        inner.outcomes.clear();
        inner.stand(if stop.is_some() { Phase::Stopped } else { phase });
        inner.last = stop;
        inner.all_parked = parked.all;
        inner.last_parked = parked.last;
        drop(inner);
        self.changed.notify_all();
    }

    /// The state that a copy begins in: that of before, unless the guest has ended itself since.
    pub(crate) fn standing(&self, before: Before) -> Phase {
        match before {
            _ if self.lock().outcomes.iter().any(is_final) => Phase::Stopped,
            Before::Standing(phase) => phase,
            Before::Running => Phase::Paused,
        }
    }

    /// Which vCPUs are parked together.
    pub(crate) fn parked(&self) -> Parked {
        let inner = self.lock();
        Parked { all: inner.all_parked, last: inner.last_parked }
    }
}

/// Whether every vCPU halted where nobody can wake it, and which one did last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Parked {
    pub(crate) all: bool,
    pub(crate) last: u32,
}

impl Inner {
    /// Stands still, in a state, unless somebody has ended it meanwhile: by `stop()`, or in the completion of an access.
    fn stand(&mut self, phase: Phase) {
        let is_stopped = self.cause == Some(Cause::Stop) || self.outcomes.iter().any(is_final);
        self.phase = if is_stopped { Phase::Stopped } else { phase };
        self.cause = None;
        self.owned = false;
        self.settled += 1;
    }
}

#[cfg(test)]
#[path = "still_test.rs"]
mod tests;
