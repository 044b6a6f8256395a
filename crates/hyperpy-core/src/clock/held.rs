//! A clock that stands still for one thread, while the machine's time goes by for all others.

use std::cell::Cell;
use std::sync::atomic::Ordering;

use super::Clock;

thread_local! {
    /// Which clock stands still, by its address, and at which time; 0: none does.
    static HELD: Cell<(usize, u64)> = const { Cell::new((0, 0)) };
}

/// The time stands still for this thread until this is dropped.
pub struct Held<'a> {
    clock: &'a Clock,
    outer: (usize, u64),
}

impl Clock {
    /// Has this thread read `ns` off this clock until the result is dropped.
    #[must_use]
    pub fn hold(&self, ns: u64) -> Held<'_> {
        self.holds.fetch_add(1, Ordering::Relaxed);
        Held { clock: self, outer: HELD.replace((self.address(), ns)) }
    }

    /// What this thread reads, if it stands still.
    #[inline]
    pub(super) fn held(&self) -> Option<u64> {
        if self.holds.load(Ordering::Relaxed) == 0 {
            return None; // by far the most
        }
        let (clock, ns) = HELD.get();
        (clock == self.address()).then_some(ns)
    }

    fn address(&self) -> usize {
        std::ptr::from_ref(self).addr()
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        HELD.set(self.outer);
        self.clock.holds.fetch_sub(1, Ordering::Relaxed);
    }
}
