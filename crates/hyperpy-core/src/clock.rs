//! A machine's time: nanoseconds since its start, which go by only while it runs.
//!
//! It is read by counters on the path of every exit, so a reading takes no lock: one writer at a time changes the time's
//! base, the host's moment that belongs to it and the rate, and a reader that met a change reads again (a sequence lock).
//! The host's clock is the monotonic one: what somebody does to the time of day does not matter. Timers are in `timers`, what a snapshot
//! has of a clock in `kept`, the
//! thread that fires a machine's in `machine`.

mod held;
mod kept;
mod queue;
mod timers;

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};
use std::sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Instant;

pub use self::held::Held;
pub use self::kept::{Carried, Kept, KeptTimer};
use self::queue::Queue;
#[cfg(any(test, fuzzing))]
pub use self::timers::fuzz;
pub use self::timers::{Callback, Fired, Raised, Timer, When, is_firing};
pub(crate) use self::timers::{Due, Firing};

/// How often a reader spins for a change to be complete before it gives its processor away.
const SPINS: u32 = 64;

/// Nanoseconds since the first reading in this process.
fn host_ns() -> u64 {
    static FIRST: OnceLock<Instant> = OnceLock::new();
    // 584 years fit.
    u64::try_from(FIRST.get_or_init(Instant::now).elapsed().as_nanos()).unwrap_or(u64::MAX)
}

/// What is behind the lock: what decides on the rate, and the timers.
#[derive(Debug)]
struct State {
    /// Nanoseconds of this clock for one of the host's, while the machine runs.
    scale: f64,
    /// Whether it runs; a manual clock never does.
    is_running: bool,
    queue: Queue,
    /// The thread that fires timers sleeps until something changes.
    is_awaited: bool,
}

/// Time that goes by while a machine runs, or only by steps. It never goes back, but for a reset.
#[derive(Debug)]
pub struct Clock {
    /// Odd while a change is made.
    sequence: AtomicU64,
    /// The time at `since`.
    base: AtomicU64,
    /// The host's moment, in nanoseconds.
    since: AtomicU64,
    /// The bits of an `f64`: 0 while it stands still.
    rate: AtomicU64,
    is_manual: bool,
    /// How many threads it stands still for.
    holds: AtomicU32,
    state: Mutex<State>,
    /// Something changed for the thread that fires timers.
    wake: Condvar,
    /// A callback has returned.
    returned: Condvar,
}

impl Clock {
    fn made(is_manual: bool) -> Self {
        Self {
            sequence: AtomicU64::new(0),
            base: AtomicU64::new(0),
            since: AtomicU64::new(0),
            rate: AtomicU64::new(0),
            is_manual,
            holds: AtomicU32::new(0),
            state: Mutex::new(State { scale: 1.0, is_running: false, queue: Queue::default(), is_awaited: false }),
            wake: Condvar::new(),
            returned: Condvar::new(),
        }
    }

    /// A machine's: it stands still until the machine runs.
    #[must_use]
    pub(crate) fn of_machine() -> Self {
        Self::made(false)
    }

    /// One that stands still until it is stepped: for tests, and for devices without a machine.
    #[must_use]
    pub fn manual() -> Self {
        Self::made(true)
    }

    /// Whether it was made by [`Self::manual`].
    #[must_use]
    pub fn is_manual(&self) -> bool {
        self.is_manual
    }

    /// Nanoseconds since the machine's start. Takes no lock.
    #[must_use]
    #[inline]
    pub fn now(&self) -> u64 {
        if let Some(held) = self.held() {
            return held;
        }
        let mut spins = 0;
        loop {
            let before = self.sequence.load(Ordering::Acquire);
            let now = self.reading(host_ns);
            // The host's moment was read before this: a reading that stands is not later than a change that comes after.
            fence(Ordering::Acquire);
            if before & 1 == 0 && self.sequence.load(Ordering::Relaxed) == before {
                return now;
            }
            spins += 1;
            if spins < SPINS { std::hint::spin_loop() } else { std::thread::yield_now() }
        }
    }

    /// The time by what is stored, and by the host's clock if it goes.
    #[inline]
    #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    fn reading(&self, host_ns: impl FnOnce() -> u64) -> u64 {
        let (base, since) = (self.base.load(Ordering::Relaxed), self.since.load(Ordering::Relaxed));
        let rate = f64::from_bits(self.rate.load(Ordering::Relaxed));
        if rate == 0.0 {
            return base;
        }
        let elapsed = host_ns().saturating_sub(since);
        // Rounding keeps the order; a cast of what is too large gives the largest.
        let gone = if rate.to_bits() == 1.0_f64.to_bits() { elapsed } else { (elapsed as f64 * rate) as u64 };
        base.saturating_add(gone)
    }

    /// Nanoseconds of this clock for one of the host's, while the machine runs.
    #[must_use]
    pub fn scale(&self) -> f64 {
        self.lock().scale
    }

    /// Changes that from now on; 0 stops it. Says false and changes nothing for what is not finite, or below 0.
    pub fn set_scale(&self, scale: f64) -> bool {
        let is_valid = scale.is_finite() && scale >= 0.0;
        if is_valid {
            self.change(|state, now| {
                state.scale = scale;
                now
            });
        }
        is_valid
    }

    /// Goes on (true) or stands still (false). A manual one always stands still.
    pub(crate) fn run(&self, is_running: bool) {
        self.change(|state, now| {
            state.is_running = is_running && !self.is_manual;
            now
        });
    }

    /// The machine's start is now. No timer is left.
    pub(crate) fn reset(&self) {
        let mut timers = Vec::new();
        self.change(|state, _| {
            timers = state.queue.clear();
            0
        });
        drop(timers); // unlocked: it may run any code
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the pace or, by what it returns, the time.
    fn change(&self, to: impl FnOnce(&mut State, u64) -> u64) {
        self.change_locked(&mut self.lock(), to);
    }

    fn change_locked(&self, state: &mut State, to: impl FnOnce(&mut State, u64) -> u64) {
        let sequence = self.sequence.load(Ordering::Relaxed);
        self.sequence.store(sequence.wrapping_add(1), Ordering::Relaxed);
        fence(Ordering::SeqCst);
        // The host's moment is read after readers know of a change: none that stands can be later.
        let since = host_ns();
        let base = to(state, self.reading(|| since));
        self.base.store(base, Ordering::Relaxed);
        self.since.store(since, Ordering::Relaxed);
        let rate = if state.is_running { state.scale } else { 0.0 };
        self.rate.store(rate.to_bits(), Ordering::Relaxed);
        self.sequence.store(sequence.wrapping_add(2), Ordering::Release);
        self.wake(state);
    }

    /// Has the thread that fires timers look again.
    fn wake(&self, state: &State) {
        if state.is_awaited {
            self.wake.notify_all();
        }
    }
}

#[cfg(test)]
#[path = "clock_test.rs"]
mod tests;
