//! Registers as their owner sees them, while guests run: values by number, queues, windows, and counts of accesses.

use std::sync::atomic::Ordering;

use super::RegisterFile;
use super::Slot;
use super::layout::{Cell, Kind};
use super::queue::Queue;
use super::window::Window;

/// How often guests touched a register.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HitCounts {
    /// Reads of it.
    pub reads: u64,
    /// Writes to it.
    pub writes: u64,
    /// Those of both that its owner's method was called for.
    pub told: u64,
    /// Writes that rang a doorbell: no exit, and one call for any number of them.
    pub rings: u64,
}

impl RegisterFile {
    fn at(&self, id: u32) -> Option<(&Cell, &Slot)> {
        Some((self.layout.cells.get(id as usize)?, self.slots.get(id as usize)?))
    }

    /// What a register holds, its hidden bits included; what a counter or a level shows. Nothing happens to it.
    #[must_use]
    pub fn get(&self, id: u32) -> Option<u64> {
        let (cell, slot) = self.at(id)?;
        Some(match cell.kind {
            Kind::Counter { .. } | Kind::Level { .. } => self.shown(cell, slot),
            _ => slot.value.load(Ordering::Acquire) & cell.all(),
        })
    }

    /// Sets the bits of `mask`, and no others, whatever guests can do to them.
    pub fn set(&self, id: u32, value: u64, mask: u64) {
        let Some((cell, slot)) = self.at(id) else { return };
        let mask = mask & cell.all();
        match cell.kind {
            Kind::Counter { .. } => {
                self.set_count(cell, slot, value, mask);
            }
            _ if mask == cell.all() => slot.value.store(value & mask, Ordering::Release),
            _ => {
                let after = |held: u64| Some((held & !mask) | (value & mask));
                let _ = slot.value.fetch_update(Ordering::AcqRel, Ordering::Acquire, after);
            }
        }
    }

    /// Runs `f` on a queue register's items; `None` where there is no queue.
    fn with_queue<T>(&self, id: u32, f: impl FnOnce(&Cell, &mut Queue) -> T) -> Option<T> {
        let (cell, slot) = self.at(id)?;
        self.queue(slot).filter(|_| matches!(cell.kind, Kind::Fifo { .. })).map(|mut queue| f(cell, &mut queue))
    }

    /// Puts an item into a queue, cut to its width; false if one was lost.
    #[must_use]
    pub fn push(&self, id: u32, item: u64) -> bool {
        self.with_queue(id, |cell, queue| queue.push(item & cell.all())).unwrap_or(false)
    }

    /// Takes the oldest item of a queue.
    #[must_use]
    pub fn pop(&self, id: u32) -> Option<u64> {
        self.with_queue(id, |_, queue| queue.pop())?
    }

    /// The oldest item, which stays.
    #[must_use]
    pub fn front(&self, id: u32) -> Option<u64> {
        self.with_queue(id, |_, queue| queue.front())?
    }

    /// How many items a queue has, and how many did not fit since the last reset.
    #[must_use]
    pub fn level(&self, id: u32) -> (usize, u64) {
        self.with_queue(id, |_, queue| (queue.len(), queue.lost())).unwrap_or_default()
    }

    /// From which level on the owner is told of accesses to a queue.
    #[must_use]
    pub fn threshold(&self, id: u32) -> usize {
        self.with_queue(id, |_, queue| queue.threshold()).unwrap_or_default()
    }

    /// Changes that level, until the next reset; the depth of the queue stands for all above it.
    pub fn set_threshold(&self, id: u32, threshold: usize) {
        self.with_queue(id, |_, queue| queue.set_threshold(threshold));
    }

    /// A queue's items, oldest first.
    #[must_use]
    pub fn items(&self, id: u32) -> Vec<u64> {
        self.with_queue(id, |_, queue| queue.items()).unwrap_or_default()
    }

    /// Gives a queue these items, as many as fit, and a number of lost ones.
    pub fn set_items(&self, id: u32, items: &[u64], lost: u64) {
        self.with_queue(id, |cell, queue| queue.load(items.iter().map(|item| item & cell.all()), lost));
    }

    /// Copies bytes out of a window; false if they are not all in it.
    #[must_use]
    pub fn read_window(&self, id: u32, offset: u64, into: &mut [u8]) -> bool {
        self.window(id).is_some_and(|window| window.copy_out(offset, into))
    }

    /// Copies bytes into a window; false, and none of them, if they do not all fit.
    #[must_use]
    pub fn write_window(&self, id: u32, offset: u64, from: &[u8]) -> bool {
        self.window(id).is_some_and(|window| window.copy_in(offset, from))
    }

    fn window(&self, id: u32) -> Option<&Window> {
        let (cell, slot) = self.at(id)?;
        self.windows.get(slot.extra).filter(|_| matches!(cell.kind, Kind::Ram { .. }))
    }

    /// How often guests touched a register since the last [`Self::reset_hits`].
    #[must_use]
    pub fn hits(&self, id: u32) -> HitCounts {
        let Some((_, slot)) = self.at(id) else { return HitCounts::default() };
        let load = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
        HitCounts {
            reads: load(&slot.hits.reads),
            writes: load(&slot.hits.writes),
            told: load(&slot.hits.told),
            rings: load(&slot.hits.rings),
        }
    }

    /// Counts begin again.
    pub fn reset_hits(&self) {
        for slot in &self.slots {
            for counter in [&slot.hits.reads, &slot.hits.writes, &slot.hits.told, &slot.hits.rings] {
                counter.store(0, Ordering::Relaxed);
            }
        }
    }

    /// The power-on state: reset values, empty queues, windows of zeros, no write that waits. Counts of accesses stay.
    pub fn reset(&self) {
        self.late.clear();
        for (cell, slot) in self.layout.cells.iter().zip(&self.slots) {
            match cell.kind {
                Kind::Counter { .. } => {
                    self.set_count(cell, slot, cell.reset, cell.all());
                }
                _ => slot.value.store(cell.reset, Ordering::Release),
            }
            if let (Kind::Fifo { threshold, .. }, Some(mut queue)) = (cell.kind, self.queue(slot)) {
                queue.reset(threshold);
            }
        }
        for window in &self.windows {
            window.clear();
        }
    }
}
