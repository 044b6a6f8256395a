//! What `pause()` and `close()` do to the state, and what they wait for.

use std::sync::PoisonError;

use super::{Cause, Control, Host, POLL, Phase, Served};
use crate::error::{RunError, StateError};

impl Control {
    /// `pause()`: asks every vCPU to leave and waits until all stand still. A host that wants its thread back ends the
    /// wait, not the request.
    pub(crate) fn pause(&self, host: &dyn Host) -> Result<(), RunError> {
        let mut inner = self.lock();
        let settled = inner.settled;
        if inner.visible() == Phase::Running && inner.ask(Cause::Pause) {
            drop(inner);
            self.kick_all();
            inner = self.lock();
        }
        while inner.visible() == Phase::Running && inner.settled == settled {
            inner = self.sleep_beside(inner, host)?;
        }
        match inner.visible() {
            Phase::Paused => Ok(()),
            // It stood still, and someone has resumed it meanwhile.
            Phase::Running => Ok(()),
            phase => Err(StateError::new("pause", phase).into()),
        }
    }

    /// Begins to close: vCPUs leave, threads end, nothing starts again.
    pub fn begin_close(&self) {
        self.lock().closing = true;
        self.clock.close();
        self.bells.close();
        self.changed.notify_all();
        self.kick_all();
    }

    /// The same for somebody who does not wait: the last one to leave finds [`Self::was_forsaken`].
    pub(crate) fn forsake(&self) {
        self.begin_close();
        self.lock().forsaken = true;
    }

    /// Waits until no vCPU runs and no thread serves one. A host that wants its thread back ends the wait: the last one to
    /// leave then finds [`Self::was_forsaken`].
    pub(crate) fn wait_closed(&self, host: Option<&dyn Host>) -> Result<(), RunError> {
        let mut inner = self.lock();
        inner.forsaken = false;
        while inner.is_occupied() {
            let (now, _) = self.changed.wait_timeout(inner, POLL).unwrap_or_else(PoisonError::into_inner);
            inner = now;
            let Some(host) = host else { continue };
            // Also when it was woken: vCPUs that come and go must not keep a signal waiting.
            drop(inner);
            let is_wanted = host.poll();
            inner = self.lock();
            if is_wanted {
                inner.forsaken = true;
                return Err(RunError::Host);
            }
        }
        self.closed(&mut inner);
        Ok(())
    }

    /// Whether the caller of `close()` gave up waiting, and everyone has left since: who is told so closes the machine.
    pub(crate) fn was_forsaken(&self) -> bool {
        let mut inner = self.lock();
        let is_over = inner.closing && inner.forsaken && !inner.is_occupied();
        if is_over {
            inner.forsaken = false;
            self.closed(&mut inner);
        }
        is_over
    }

    fn closed(&self, inner: &mut super::Inner) {
        inner.phase = Phase::Closed;
        inner.outcomes.clear();
        self.tell(false);
    }
}

impl super::Inner {
    fn is_occupied(&self) -> bool {
        let threads = self.threads.iter().chain([&self.caller, &self.ringer]);
        self.active > 0 || self.owned || threads.into_iter().any(|&served| served != Served::No)
    }
}

#[cfg(test)]
#[path = "verbs_test.rs"]
mod tests;
