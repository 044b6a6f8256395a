//! Callbacks of timers, and calls for doorbells, beside the vCPUs of a round: while one runs, it counts among those that have
//! not left the round, so that whoever waits for the machine to stand still waits for it too.
//!
//! One thread calls back and one serves doorbells; they are claimed and given back as those of vCPUs are (`threads`).

use std::sync::PoisonError;

use super::{Control, Crew, Inner, Phase, Served};

impl Control {
    /// Waits until a callback may run; false if the machine stands still, and the time with it.
    pub(crate) fn enter_callback(&self) -> bool {
        let mut inner = self.lock();
        loop {
            if inner.closing || inner.phase != Phase::Running || inner.crew == Crew::Nobody {
                return false;
            }
            // Not once all vCPUs have left: that decides what the round ends with.
            if inner.active > 0 && !inner.keeps_callbacks_out() {
                inner.active += 1;
                return true;
            }
            inner = self.changed.wait(inner).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Waits until a doorbell may be served, through all that the machine stands still; false if it closes.
    pub(crate) fn enter_ringer(&self) -> bool {
        let mut inner = self.lock();
        while !inner.closing {
            let runs = inner.phase == Phase::Running && inner.crew != Crew::Nobody && inner.active > 0;
            if runs && !inner.keeps_callbacks_out() {
                inner.active += 1;
                return true;
            }
            inner = self.changed.wait(inner).unwrap_or_else(PoisonError::into_inner);
        }
        false
    }

    /// Whether the thread that calls back shall leave the round before it calls the next.
    pub(crate) fn wants_callback_out(&self) -> bool {
        let inner = self.lock();
        inner.active <= 1 || inner.keeps_callbacks_out()
    }

    /// It leaves; the last one to leave settles the round, as a vCPU does.
    pub(crate) fn leave_callback(&self) {
        let mut inner = self.lock();
        inner.active = inner.active.saturating_sub(1);
        let is_last = inner.active == 0;
        if is_last && !inner.owned {
            self.settle(&mut inner);
        }
        let is_awaited = is_last || inner.keeps_callbacks_out();
        drop(inner);
        if is_awaited {
            self.changed.notify_all();
        }
    }

    /// Whether more than one has not left the round.
    #[cfg(test)]
    pub(crate) fn is_crowded(&self) -> bool {
        self.lock().active > 1
    }

    /// Whether no thread calls back, nor is about to.
    #[cfg(test)]
    pub(crate) fn has_no_caller(&self) -> bool {
        self.lock().caller != Served::Yes
    }

    /// Whether the caller is to make the thread that calls back: there is none yet, and nobody else makes it.
    pub(crate) fn claim_caller(&self) -> bool {
        let mut inner = self.lock();
        let is_mine = inner.caller == Served::No && !inner.closing;
        if is_mine {
            inner.caller = Served::Claimed;
        }
        is_mine
    }

    /// There will be none, as far as its host knows.
    pub(crate) fn give_caller_back(&self) {
        let mut inner = self.lock();
        if inner.caller == Served::Claimed {
            inner.caller = Served::No;
        }
        drop(inner);
        self.changed.notify_all();
    }

    /// The calling thread calls back until [`Self::caller_gone`]; false if another one does.
    pub(crate) fn calls_back(&self) -> bool {
        std::mem::replace(&mut self.lock().caller, Served::Yes) != Served::Yes
    }

    /// The thread that called back ends.
    pub(crate) fn caller_gone(&self) {
        self.lock().caller = Served::No;
        self.changed.notify_all();
    }

    /// Whether the caller is to make the thread that serves doorbells: there is none yet, and nobody else makes it.
    pub(crate) fn claim_ringer(&self) -> bool {
        let mut inner = self.lock();
        let is_mine = inner.ringer == Served::No && !inner.closing;
        if is_mine {
            inner.ringer = Served::Claimed;
        }
        is_mine
    }

    /// There will be none, as far as its host knows.
    pub(crate) fn give_ringer_back(&self) {
        let mut inner = self.lock();
        if inner.ringer == Served::Claimed {
            inner.ringer = Served::No;
        }
        drop(inner);
        self.changed.notify_all();
    }

    /// The calling thread serves doorbells until [`Self::ringer_gone`]; false if another one does.
    pub(crate) fn rings(&self) -> bool {
        std::mem::replace(&mut self.lock().ringer, Served::Yes) != Served::Yes
    }

    /// The thread that served them ends.
    pub(crate) fn ringer_gone(&self) {
        self.lock().ringer = Served::No;
        self.changed.notify_all();
    }
}

impl Inner {
    fn keeps_callbacks_out(&self) -> bool {
        self.cause.is_some() || self.closing || self.holds > 0
    }
}
