//! A machine's time: nanoseconds since its start, which go by only while it runs.
//!
//! It is read by counters on the path of every exit, so a reading takes no lock: one writer at a time changes the time's
//! base, the host's moment that belongs to it and the rate, and a reader that met a change reads again (a sequence lock).
//! The host's clock is the monotonic one: what somebody does to the time of day does not matter.

use std::sync::atomic::{AtomicU64, Ordering, fence};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Instant;

/// How often a reader spins for a change to be complete before it gives its processor away.
const SPINS: u32 = 64;

/// Nanoseconds since the first reading in this process.
fn host_ns() -> u64 {
    static FIRST: OnceLock<Instant> = OnceLock::new();
    // 584 years fit.
    u64::try_from(FIRST.get_or_init(Instant::now).elapsed().as_nanos()).unwrap_or(u64::MAX)
}

/// What may change the rate.
#[derive(Debug)]
struct Pace {
    /// Nanoseconds of this clock for one of the host's, while the machine runs.
    scale: f64,
    /// Whether it runs; a manual clock never does.
    is_running: bool,
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
    pace: Mutex<Pace>,
}

impl Clock {
    fn made(is_manual: bool) -> Self {
        Self {
            sequence: AtomicU64::new(0),
            base: AtomicU64::new(0),
            since: AtomicU64::new(0),
            rate: AtomicU64::new(0),
            is_manual,
            pace: Mutex::new(Pace { scale: 1.0, is_running: false }),
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

    /// Moves the time forward by `ns`, whether it goes by itself or not.
    pub fn step(&self, ns: u64) {
        self.change(|_, now| now.saturating_add(ns));
    }

    /// Nanoseconds of this clock for one of the host's, while the machine runs.
    #[must_use]
    pub fn scale(&self) -> f64 {
        self.pace().scale
    }

    /// Changes that from now on; 0 stops it. Says false and changes nothing for what is not finite, or below 0.
    pub fn set_scale(&self, scale: f64) -> bool {
        let is_valid = scale.is_finite() && scale >= 0.0;
        if is_valid {
            self.change(|pace, now| {
                pace.scale = scale;
                now
            });
        }
        is_valid
    }

    /// Goes on (true) or stands still (false). A manual one always stands still.
    pub(crate) fn run(&self, is_running: bool) {
        self.change(|pace, now| {
            pace.is_running = is_running && !self.is_manual;
            now
        });
    }

    /// The machine's start is now.
    pub(crate) fn reset(&self) {
        self.change(|_, _| 0);
    }

    fn pace(&self) -> MutexGuard<'_, Pace> {
        self.pace.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the pace or, by what it returns, the time.
    fn change(&self, to: impl FnOnce(&mut Pace, u64) -> u64) {
        let mut pace = self.pace();
        let sequence = self.sequence.load(Ordering::Relaxed);
        self.sequence.store(sequence.wrapping_add(1), Ordering::Relaxed);
        fence(Ordering::SeqCst);
        // The host's moment is read after readers know of a change: none that stands can be later.
        let since = host_ns();
        let base = to(&mut pace, self.reading(|| since));
        self.base.store(base, Ordering::Relaxed);
        self.since.store(since, Ordering::Relaxed);
        let rate = if pace.is_running { pace.scale } else { 0.0 };
        self.rate.store(rate.to_bits(), Ordering::Relaxed);
        self.sequence.store(sequence.wrapping_add(2), Ordering::Release);
    }
}

#[cfg(test)]
#[path = "clock_test.rs"]
mod tests;
