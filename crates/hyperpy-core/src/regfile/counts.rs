//! Counts of a whole device: accesses to all of its registers, and those that reach none.
//!
//! The latter are counted since a driver that makes them is often wrong, and so that all accesses to a device add up.

use std::sync::atomic::{AtomicU64, Ordering};

use super::{HitCounts, RegisterFile};

/// Counters of accesses by what became of them: reads, and writes.
#[derive(Debug, Default)]
pub(super) struct Strays {
    missed: [AtomicU64; 2],
    refused: [AtomicU64; 2],
}

impl Strays {
    /// No register takes it: it reads as 0, or is dropped.
    pub(super) fn miss(&self, is_write: bool) {
        let [reads, writes] = &self.missed;
        if is_write { writes } else { reads }.fetch_add(1, Ordering::Relaxed);
    }

    /// The device refuses it.
    pub(super) fn refuse(&self, is_write: bool) {
        let [reads, writes] = &self.refused;
        if is_write { writes } else { reads }.fetch_add(1, Ordering::Relaxed);
    }
}

/// How many accesses reached no register.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StrayCounts {
    /// Reads and writes that no register takes.
    pub missed: [u64; 2],
    /// Reads and writes that the device's rule refuses.
    pub refused: [u64; 2],
}

impl RegisterFile {
    /// How often guests touched registers, all together.
    #[must_use]
    pub fn total_hits(&self) -> HitCounts {
        (0..).zip(&self.slots).map(|(id, _)| self.hits(id)).fold(HitCounts::default(), |sum, hits| HitCounts {
            reads: sum.reads.wrapping_add(hits.reads),
            writes: sum.writes.wrapping_add(hits.writes),
            told: sum.told.wrapping_add(hits.told),
            rings: sum.rings.wrapping_add(hits.rings),
        })
    }

    /// How many accesses reached no register.
    #[must_use]
    pub fn strays(&self) -> StrayCounts {
        let load = |of: &[AtomicU64; 2]| of.each_ref().map(|counter| counter.load(Ordering::Relaxed));
        StrayCounts { missed: load(&self.strays.missed), refused: load(&self.strays.refused) }
    }
}
