//! How often a device's own methods were called for guests' accesses, and how long that took: what rung 4 of the ladder
//! costs, by register.
//!
//! Counting is one addition for a call. Time is taken of some calls: two readings of the clock would be a good part of what
//! a short method costs. Not here: accesses that call nobody, which the registers count themselves (`regfile`).

use std::sync::atomic::{AtomicU64, Ordering};

use crate::kvm::thread::monotonic_ns;
use crate::regfile::{Layout, Tell};

/// So many calls are timed from the first one on, so that a method that is seldom called has a figure too.
const FIRST: u64 = 32;
/// Of the calls after these one in so many is timed.
const EVERY: u64 = 32;

/// Calls of one method.
#[derive(Debug, Default)]
pub struct Meter {
    calls: AtomicU64,
    timed: AtomicU64,
    ns: AtomicU64,
    worst_ns: AtomicU64,
}

/// A reading of a [`Meter`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    /// How often it was called.
    pub calls: u64,
    /// How many of these calls were timed.
    pub timed: u64,
    /// How long those took together, in nanoseconds.
    pub ns: u64,
    /// The longest of them.
    pub worst_ns: u64,
}

impl Meter {
    /// Makes a call, and counts it.
    #[inline]
    pub fn time<T>(&self, call: impl FnOnce() -> T) -> T {
        let before = self.calls.fetch_add(1, Ordering::Relaxed);
        if before < FIRST || before.is_multiple_of(EVERY) { self.timed(call) } else { call() }
    }

    fn timed<T>(&self, call: impl FnOnce() -> T) -> T {
        let began = monotonic_ns();
        let done = call();
        let took = monotonic_ns().saturating_sub(began);
        self.ns.fetch_add(took, Ordering::Relaxed);
        self.worst_ns.fetch_max(took, Ordering::Relaxed);
        self.timed.fetch_add(1, Ordering::Relaxed);
        done
    }

    /// What it shows now. Calls may be under way: those count already, and their time does not.
    #[must_use]
    pub fn reading(&self) -> Reading {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Reading {
            calls: load(&self.calls),
            timed: load(&self.timed),
            ns: load(&self.ns),
            worst_ns: load(&self.worst_ns),
        }
    }
}

/// The methods for reads and for writes of one register, or of a whole device.
#[derive(Debug, Default)]
pub struct Pair {
    /// Calls for reads.
    pub read: Meter,
    /// Calls for writes.
    pub write: Meter,
}

/// All methods of one device that accesses call.
#[derive(Debug, Default)]
pub struct Calls {
    /// Those for accesses that touch no register: all, where none is declared.
    pub plain: Pair,
    /// By number of the register; `None` for one whose owner wants to know nothing.
    cells: Box<[Option<Box<Pair>>]>,
}

impl Calls {
    /// For a device with these registers.
    #[must_use]
    pub fn of(layout: &Layout) -> Self {
        let told = layout.cells().iter().map(|cell| cell.on_read || cell.on_write != Tell::Never);
        Self { plain: Pair::default(), cells: told.map(|is_told| is_told.then(Box::default)).collect() }
    }

    /// Those of a register.
    #[must_use]
    pub fn cell(&self, id: u32) -> Option<&Pair> {
        self.cells.get(id as usize)?.as_deref()
    }
}

#[cfg(test)]
#[path = "calls_test.rs"]
mod tests;
