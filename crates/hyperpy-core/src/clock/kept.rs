//! A clock's time and timers as a snapshot has them.
//!
//! What a timer calls stays with its clock, which keeps it as long as a snapshot has the timer: so one that has fired, or was
//! taken off since, is set again with what it called. On the clock of another machine a snapshot sets the time alone: whoever makes
//! a copy of a machine says what calls what there ([`Clock::carry`]).

use std::any::Any;
use std::sync::{Arc, Weak};

use super::Clock;
use super::timers::{Callback, Timer};
use crate::snapshot::{Fields, Form, Saved, StateFault, Value, misfit};

/// What a snapshot has of a timer that was set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeptTimer {
    /// Its number.
    pub id: u64,
    /// When it was to fire, in nanoseconds.
    pub deadline: u64,
    /// So long after that it fires again, and again; 0: it fires once.
    pub period: u64,
    /// Whose it is.
    pub owner: u64,
    pub(super) slot: usize,
}

/// A timer of another machine's clock that is to be set here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Carried {
    /// The number that it has there.
    pub id: u64,
    /// When it is to fire, in nanoseconds.
    pub deadline: u64,
    /// So long after that it fires again, and again; 0: it fires once.
    pub period: u64,
}

/// What a snapshot has of a clock.
#[derive(Debug)]
pub struct Kept {
    clock: Weak<Clock>,
    now: u64,
    scale: f64,
    timers: Vec<KeptTimer>,
}

impl Kept {
    /// The time, in nanoseconds since the machine's start.
    #[must_use]
    pub fn now(&self) -> u64 {
        self.now
    }

    /// Nanoseconds of the clock for one of the host's.
    #[must_use]
    pub fn scale(&self) -> f64 {
        self.scale
    }

    /// The timers that were set, in the order in which they were to fire.
    #[must_use]
    pub fn timers(&self) -> &[KeptTimer] {
        &self.timers
    }

    /// Shows what a timer calls; `None`: its clock is gone.
    pub fn with_callback<T>(&self, timer: &KeptTimer, f: impl FnOnce(&dyn Any) -> T) -> Option<T> {
        // Held as long as it is looked at, but without the lock.
        let callback = self.clock.upgrade()?.lock().queue.callback(timer)?.clone();
        Some(f(&*callback as &dyn Any))
    }
}

impl Saved for Kept {
    /// Without what timers call.
    fn value(&self) -> Value {
        let timer = |it: &KeptTimer| {
            Value::map([("id", it.id.into()), ("deadline", it.deadline.into()), ("period", it.period.into())])
        };
        let timers = Value::List(self.timers.iter().map(timer).collect());
        Value::map([("now", self.now.into()), ("scale", Value::Float(self.scale)), ("timers", timers)])
    }
}

impl Form for Kept {
    /// The time and the scale: what timers of another process have called is not there.
    fn of(value: &Value) -> Result<Self, StateFault> {
        let fields = Fields::new(value, &["now", "scale", "timers"])?;
        let scale = match fields.get::<Value>("scale")? {
            Value::Float(scale) if scale.is_finite() && scale >= 0.0 => scale,
            _ => return Err(misfit("the scale of the clock is none")),
        };
        Ok(Self { clock: Weak::new(), now: fields.get("now")?, scale, timers: Vec::new() })
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        if let Some(clock) = self.clock.upgrade().filter(|_| !self.timers.is_empty()) {
            let off = clock.lock().queue.release(&self.timers);
            drop(off); // unlocked
        }
    }
}

impl Clock {
    /// What a snapshot has of it, while it stands still and no callback runs.
    #[must_use]
    pub fn save(self: &Arc<Self>) -> Kept {
        let mut state = self.lock();
        let timers = state.queue.keep();
        Kept { clock: Arc::downgrade(self), now: self.now(), scale: state.scale, timers }
    }

    /// The time goes back, or forward, to then, and with it the scale. Of its own timers those that were set then are set again,
    /// those that have fired or were taken off since included, and no others are. Of another clock's none is: see [`Self::carry`].
    pub fn load(&self, kept: &Kept) {
        let is_own = std::ptr::eq(kept.clock.as_ptr(), self);
        let mut state = self.lock();
        self.change_locked(&mut state, |state, _| {
            state.scale = kept.scale;
            kept.now
        });
        state.queue.restore(if is_own { &kept.timers } else { &[] });
        self.wake(&state);
        let mut off = state.queue.take_room();
        drop(state);
        off.clear(); // unlocked: it may run any code
        self.lock().queue.give_room(off);
    }

    /// Sets a timer of a snapshot of another clock here, to call this; `None` once the machine is closed. They are to be set in
    /// their order, after [`Self::load`].
    pub fn carry(&self, timer: Carried, owner: u64, callback: Arc<dyn Callback>) -> Option<Timer> {
        let mut state = self.lock();
        if state.queue.is_closed {
            return None;
        }
        let set = state.queue.arm(super::timers::next_id(), timer.deadline, timer.period, owner, callback);
        state.queue.carry(timer.id, &set);
        self.wake(&state);
        Some(set)
    }

    /// A timer by its number; of a copy of a machine also by the number that it had in the other one. One that nobody knows any
    /// more is off.
    #[must_use]
    pub fn timer(&self, id: u64) -> Timer {
        self.lock().queue.find(id).unwrap_or_else(|| Timer::spent(id))
    }
}

#[cfg(test)]
#[path = "kept_test.rs"]
mod tests;
