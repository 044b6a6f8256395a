//! What an execution covers: a map of counters, and what all executions together have counted so far.
//!
//! A *feature* is any number that says what happened: a line after another line of a device's code, a register read with some
//! value, two registers after each other. It falls onto one of the counters by its hash. As AFL does, a count is taken for one
//! of eight buckets (1, 2, 3, 4 to 7, 8 to 15, 16 to 31, 32 to 127, more), and an execution is of interest if it has a
//! counter in a bucket in which it never was.

use super::rng::mixed;

/// Counters of a map.
pub const SLOTS: usize = 1 << 17;
/// Buckets of a count.
pub(super) const BUCKETS: u32 = 8;

/// The counters of one execution.
#[derive(Clone, Debug)]
pub struct Counters {
    counts: Box<[u8]>,
    /// Those that are not 0, in the order in which they were counted first.
    touched: Vec<u32>,
}

impl Default for Counters {
    fn default() -> Self {
        Self { counts: vec![0; SLOTS].into(), touched: Vec::with_capacity(1 << 10) }
    }
}

impl Counters {
    /// Counts a feature.
    #[inline]
    pub fn hit(&mut self, feature: u64) {
        self.add(slot_of(feature), 1);
    }

    /// Counts a feature that is there or is not: how often does not matter.
    #[inline]
    pub fn mark(&mut self, feature: u64) {
        let slot = slot_of(feature);
        if self.count(slot) == 0 {
            self.add(slot, 1);
        }
    }

    /// Counts on a counter, so many times.
    #[inline]
    pub fn add(&mut self, slot: u32, times: u8) {
        if let Some(count) = self.counts.get_mut(slot as usize) {
            if *count == 0 && times != 0 {
                self.touched.push(slot);
            }
            *count = count.saturating_add(times);
        }
    }

    /// Adds those of another map.
    pub fn merge(&mut self, other: &Self) {
        for &slot in &other.touched {
            self.add(slot, other.count(slot));
        }
    }

    /// What a counter is at.
    #[must_use]
    #[inline]
    pub fn count(&self, slot: u32) -> u8 {
        self.counts.get(slot as usize).copied().unwrap_or_default()
    }

    /// How many counters are not 0.
    #[must_use]
    pub fn len(&self) -> usize {
        self.touched.len()
    }

    /// Whether nothing was counted.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.touched.is_empty()
    }

    /// Whether a feature is among them.
    #[must_use]
    pub fn has(&self, feature: u32) -> bool {
        let count = self.count(feature / BUCKETS);
        count != 0 && bucket(count) == feature % BUCKETS
    }

    /// Each counter with its bucket, as one number.
    pub fn features(&self) -> impl Iterator<Item = u32> {
        self.touched.iter().map(|&slot| slot * BUCKETS + bucket(self.count(slot)))
    }

    /// The counters that are not 0, in the order in which they were counted first.
    pub fn slots(&self) -> impl Iterator<Item = u32> {
        self.touched.iter().copied()
    }

    /// Sets all to 0.
    pub fn clear(&mut self) {
        for &slot in &self.touched {
            if let Some(count) = self.counts.get_mut(slot as usize) {
                *count = 0;
            }
        }
        self.touched.clear();
    }
}

/// The counter of a feature.
#[must_use]
#[inline]
pub fn slot_of(feature: u64) -> u32 {
    u32::try_from(mixed(feature) & (SLOTS as u64 - 1)).unwrap_or_default()
}

/// Which bucket a count is in, from 0.
#[must_use]
#[inline]
pub fn bucket(count: u8) -> u32 {
    match count {
        0..=3 => u32::from(count.saturating_sub(1)),
        4..=7 => 3,
        8..=15 => 4,
        16..=31 => 5,
        32..=127 => 6,
        _ => 7,
    }
}

/// What the value of a field comes to as a feature: itself while it is small, else its length in bits. More would make each
/// value of a register an input of its own.
#[must_use]
#[inline]
pub fn coarse(value: u64) -> u64 {
    if value < 16 { value } else { 12 + u64::from(64 - value.leading_zeros()) }
}

/// What a value of which nothing is declared comes to: 0, 1, or its length in bytes.
#[must_use]
#[inline]
pub fn coarsest(value: u64) -> u64 {
    if value < 2 { value } else { 2 + u64::from(71 - value.leading_zeros()) / 8 }
}

/// The buckets in which the counters of any execution were.
#[derive(Clone, Debug)]
pub struct Seen {
    buckets: Box<[u8]>,
    slots: usize,
}

impl Default for Seen {
    fn default() -> Self {
        Self { buckets: vec![0; SLOTS].into(), slots: 0 }
    }
}

impl Seen {
    /// Adds an execution, and says whether something is new of it; `fresh` gets the features that are.
    pub fn add(&mut self, counters: &Counters, fresh: &mut Vec<u32>) -> bool {
        fresh.clear();
        for &slot in &counters.touched {
            let bucket = bucket(counters.count(slot));
            if let Some(seen) = self.buckets.get_mut(slot as usize).filter(|seen| **seen & 1 << bucket == 0) {
                self.slots += usize::from(*seen == 0);
                *seen |= 1 << bucket;
                fresh.push(slot * BUCKETS + bucket);
            }
        }
        !fresh.is_empty()
    }

    /// How many counters were not 0 in some execution.
    #[must_use]
    pub fn slots(&self) -> usize {
        self.slots
    }
}

#[cfg(test)]
#[path = "coverage_test.rs"]
mod tests;
