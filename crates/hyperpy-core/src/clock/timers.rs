//! Timers on a clock: set, taken off, fired in order of deadline, and then of creation (`queue`).
//!
//! A machine's are fired by one thread of its own, while it runs (`machine/timers.rs`); those of a manual clock by whoever
//! steps it, with the time at each deadline. A callback runs without any lock, and may set and cancel timers.

use std::any::Any;
use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use super::{Clock, State};
use crate::control::POLL;
use crate::exit::StopReason;

/// Longer than this the thread does not sleep at once: it looks again.
const LONGEST: Duration = Duration::from_secs(3600);

/// What a timer calls.
pub trait Callback: Any + Send + Sync {
    /// The time has come. A reason stops the machine.
    ///
    /// # Errors
    /// It failed, and keeps why: the machine pauses and `run()` fails, or the step of a manual clock ends.
    fn fire(&self, fired: Fired) -> Result<Option<StopReason>, Raised>;
}

/// The callback failed, and keeps why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Raised;

/// Which firing it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fired {
    /// When the timer was due, in nanoseconds.
    pub deadline: u64,
    /// The time by which the next firing is set.
    pub now: u64,
    /// It will not fire again.
    pub is_last: bool,
}

/// When a timer fires, in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// Once, so long after now.
    After(u64),
    /// Once, at this time; at once if that is over.
    At(u64),
    /// So long after now and then again and again; not 0. Times that are missed are left out.
    Every(u64),
}

/// A timer that was set.
#[derive(Clone, Debug)]
pub struct Timer(pub(super) Arc<Shared>);

#[derive(Debug)]
pub(super) struct Shared {
    /// Tells it from every other of the process, and orders those of one deadline.
    id: u64,
    pub(super) deadline: AtomicU64,
    pub(super) is_active: AtomicBool,
    /// Where its clock has it.
    pub(super) slot: usize,
}

impl Shared {
    pub(super) fn new(id: u64, deadline: u64, slot: usize) -> Self {
        Self { id, deadline: AtomicU64::new(deadline), is_active: AtomicBool::new(true), slot }
    }
}

impl Timer {
    /// Tells it from every other of the process.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.0.id
    }

    /// One of that number that is off, and whose clock nobody knows.
    #[must_use]
    pub fn spent(id: u64) -> Self {
        let shared = Shared::new(id, 0, usize::MAX);
        shared.is_active.store(false, Ordering::Release);
        Self(Arc::new(shared))
    }

    /// When it fires next, or was to fire last, in nanoseconds.
    #[must_use]
    pub fn deadline(&self) -> u64 {
        self.0.deadline.load(Ordering::Acquire)
    }

    /// Whether it will fire.
    #[must_use]
    pub fn is_active(&self) -> bool {
        self.0.is_active.load(Ordering::Acquire)
    }
}

/// A timer that fires now.
pub(crate) struct Due {
    pub(crate) callback: Arc<dyn Callback>,
    pub(crate) fired: Fired,
}

/// The first deadline after `now`.
pub(super) fn following(deadline: u64, period: u64, now: u64) -> Option<u64> {
    let missed = now.saturating_sub(deadline) / period;
    deadline.checked_add(period.checked_mul(missed.checked_add(1)?)?)
}

/// A number that no other timer of the process has: later ones have larger ones.
pub(super) fn next_id() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

thread_local! {
    static FIRING: Cell<bool> = const { Cell::new(false) };
}

/// Whether this thread is in the callback of a machine's timer.
#[must_use]
pub fn is_firing() -> bool {
    FIRING.get()
}

/// Marks the thread that calls back.
pub(crate) struct Firing;

impl Firing {
    /// Until the result is dropped.
    pub(crate) fn enter() -> Self {
        FIRING.set(true);
        Self
    }
}

impl Drop for Firing {
    fn drop(&mut self) {
        FIRING.set(false);
    }
}

impl Clock {
    /// Sets a timer of `owner`, any number; `None` once the machine is closed. A machine's clock wants
    /// [`Machine::arm`](crate::machine::Machine::arm), which also sees to the thread that fires it.
    pub fn arm(&self, when: When, owner: u64, callback: Arc<dyn Callback>) -> Option<Timer> {
        let mut state = self.lock();
        if state.queue.is_closed {
            return None;
        }
        let now = self.now();
        let (deadline, period) = match when {
            When::After(ns) => (now.saturating_add(ns), 0),
            When::At(ns) => (ns, 0),
            When::Every(ns) => (now.saturating_add(ns.max(1)), ns.max(1)),
        };
        let id = next_id();
        let is_first = state.queue.first().is_none_or(|first| deadline < first);
        let timer = state.queue.arm(id, deadline, period, owner, callback);
        if is_first {
            self.wake(&state);
        }
        Some(timer)
    }

    /// Takes a timer off; false if it was to fire no more. A callback that has begun runs to its end.
    pub fn cancel(&self, timer: &Timer) -> bool {
        let (was_set, callback) = self.lock().queue.remove(timer);
        drop(callback); // unlocked
        was_set
    }

    /// Takes off every timer of an owner.
    pub fn cancel_of(&self, owner: u64) {
        let off = self.lock().queue.take(owner);
        drop(off);
    }

    /// Takes off every timer for good: no snapshot has it any more either.
    pub fn cancel_all(&self) {
        let off = self.lock().queue.forget();
        drop(off);
    }

    /// How many timers are set.
    #[must_use]
    pub fn timers(&self) -> usize {
        self.lock().queue.len()
    }

    /// Shows the callback of every timer, those that snapshots have included; none if somebody is changing them.
    pub fn visit(&self, visitor: &mut dyn FnMut(&dyn Any)) {
        if let Ok(state) = self.state.try_lock() {
            state.queue.visit(&mut |callback| visitor(callback));
        }
    }

    /// Moves the time forward by `ns`, whether it goes by itself or not. A manual clock fires what is due on the way, in
    /// order and on this thread, with the time at each deadline; a machine's thread fires its own, while it runs.
    ///
    /// # Errors
    /// A callback failed: the time stands at its deadline, and later timers are still to come.
    pub fn step(&self, ns: u64) -> Result<(), Raised> {
        if !self.is_manual() {
            self.change(|_, now| now.saturating_add(ns));
            return Ok(());
        }
        let until = self.now().saturating_add(ns);
        while let Some(due) = self.advance(until) {
            due.callback.fire(due.fired)?;
        }
        Ok(())
    }

    /// Moves a manual clock forward to a time, and fires nothing: what is due then waits for [`Self::fire_first`], or a step.
    pub fn move_to(&self, ns: u64) {
        self.change(|_, now| now.max(ns));
    }

    /// When the first timer is due.
    #[must_use]
    pub fn first_deadline(&self) -> Option<u64> {
        self.lock().queue.first()
    }

    /// Fires the first timer of a manual clock, if it is due, with the time as it is; whether one was.
    ///
    /// # Errors
    /// The callback failed.
    pub fn fire_first(&self) -> Result<bool, Raised> {
        let now = self.now();
        let due = self.lock().queue.pop(now, now);
        due.map_or(Ok(false), |(due, _)| due.callback.fire(due.fired).map(|_| true))
    }

    /// Moves a manual clock to its next timer that is due at `until`, or else there.
    fn advance(&self, until: u64) -> Option<Due> {
        let mut state = self.lock();
        let due = state.queue.pop(self.now(), until);
        let to = due.as_ref().map_or(until, |(due, _)| due.fired.deadline);
        self.change_locked(&mut state, |_, now| now.max(to));
        due.map(|(due, _)| due)
    }

    /// Closes the clock: no timer fires any more, and none can be set. They stay, for whoever drops them.
    pub(crate) fn close(&self) {
        let mut state = self.lock();
        state.queue.is_closed = true;
        self.wake(&state);
    }

    /// Waits until a timer is due while the machine runs. False: the clock is closed.
    pub(crate) fn wait_due(&self) -> bool {
        let mut state = self.lock();
        while !state.queue.is_closed {
            let left = match state.queue.first() {
                Some(deadline) if state.is_running => {
                    let left = deadline.saturating_sub(self.now());
                    if left == 0 {
                        return true;
                    }
                    host_time(left, state.scale)
                }
                _ => None,
            };
            state.is_awaited = true;
            state = match left {
                Some(left) => self.wake.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0,
                None => self.wake.wait(state).unwrap_or_else(PoisonError::into_inner),
            };
            state.is_awaited = false;
        }
        false
    }

    /// The next timer that is due while the machine runs. What was taken before has returned.
    pub(crate) fn take_due(&self) -> Option<Due> {
        let mut state = self.lock();
        let barred = state.queue.barred.clone();
        let off: Vec<_> = barred.into_iter().map(|owner| state.queue.take(owner)).collect();
        let now = self.now();
        let due = if state.is_running && !state.queue.is_closed { state.queue.pop(now, now) } else { None };
        self.returned(&mut state, due.as_ref().map(|(_, owner)| *owner));
        drop((state, off)); // in this order
        due.map(|(due, _)| due)
    }

    /// The callback that [`Self::take_due`] gave last has returned.
    pub(crate) fn called(&self) {
        self.returned(&mut self.lock(), None);
    }

    fn returned(&self, state: &mut State, next: Option<u64>) {
        state.queue.firing = next;
        if !state.queue.barred.is_empty() {
            self.returned.notify_all();
        }
    }

    /// Takes off every timer of an owner and waits until none of its callbacks runs on the machine's thread; what they have
    /// set meanwhile is taken off too. False if the host wants its thread back before.
    pub(crate) fn cancel_and_wait(&self, owner: u64, is_wanted: impl Fn() -> bool) -> bool {
        let mut state = self.lock();
        let mut off = state.queue.take(owner);
        state.queue.barred.push(owner);
        let mut is_over = true;
        while is_over && state.queue.firing == Some(owner) {
            state = self.returned.wait_timeout(state, POLL).unwrap_or_else(PoisonError::into_inner).0;
            drop(state);
            is_over = !is_wanted();
            state = self.lock();
        }
        if let Some(at) = state.queue.barred.iter().position(|&barred| barred == owner) {
            state.queue.barred.swap_remove(at);
        }
        off.extend(state.queue.take(owner));
        drop((state, off)); // in this order
        is_over
    }
}

/// How long the host's clock takes for `ns` of one of this scale: at least a nanosecond; `None`: for ever.
#[allow(clippy::cast_precision_loss)]
fn host_time(ns: u64, scale: f64) -> Option<Duration> {
    let seconds = ns as f64 / scale / 1e9;
    let time = Duration::try_from_secs_f64(seconds).map_or(LONGEST, |time| time.min(LONGEST));
    (scale > 0.0).then(|| time.max(Duration::from_nanos(1)))
}

#[cfg(any(test, fuzzing))]
#[path = "timers_fuzz.rs"]
pub mod fuzz;
#[cfg(test)]
#[path = "timers_test.rs"]
mod tests;
