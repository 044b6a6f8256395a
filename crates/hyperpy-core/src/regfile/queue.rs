//! A queue register's items.

use std::collections::VecDeque;

use super::layout::Overflow;

/// Items, oldest first, never more than its depth.
#[derive(Debug)]
pub(super) struct Queue {
    items: VecDeque<u64>,
    depth: usize,
    overflow: Overflow,
    lost: u64,
    threshold: usize,
}

impl Queue {
    /// An empty one, whose room is there from the beginning: nothing is allocated on the path of an access.
    pub(super) fn new(depth: u32, overflow: Overflow, threshold: u32) -> Self {
        let (depth, threshold) = (depth as usize, threshold as usize);
        Self { items: VecDeque::with_capacity(depth), depth, overflow, lost: 0, threshold }
    }

    /// Adds an item; false if one was lost.
    pub(super) fn push(&mut self, item: u64) -> bool {
        let fits = self.items.len() < self.depth;
        if !fits {
            self.lost = self.lost.saturating_add(1);
            if self.overflow == Overflow::Drop {
                return false;
            }
            self.items.pop_front();
        }
        self.items.push_back(item);
        fits
    }

    pub(super) fn pop(&mut self) -> Option<u64> {
        self.items.pop_front()
    }

    /// Whether a push fills it to its threshold, or beyond.
    pub(super) fn fills(&self) -> bool {
        self.items.len().saturating_add(1).min(self.depth) >= self.threshold
    }

    /// Whether a pop drains it to its threshold, or below.
    pub(super) fn drains(&self) -> bool {
        self.items.len().saturating_sub(1) <= self.threshold
    }

    pub(super) fn front(&self) -> Option<u64> {
        self.items.front().copied()
    }

    pub(super) fn len(&self) -> usize {
        self.items.len()
    }

    /// Items that did not fit since the last reset.
    pub(super) fn lost(&self) -> u64 {
        self.lost
    }

    pub(super) fn threshold(&self) -> usize {
        self.threshold
    }

    /// Sets it; its depth stands for all above: no more items are ever there.
    pub(super) fn set_threshold(&mut self, threshold: usize) {
        self.threshold = threshold.min(self.depth);
    }

    pub(super) fn items(&self) -> Vec<u64> {
        self.items.iter().copied().collect()
    }

    /// Empty, nothing lost, and the threshold as declared.
    pub(super) fn reset(&mut self, threshold: u32) {
        self.items.clear();
        self.lost = 0;
        self.threshold = threshold as usize;
    }

    /// Takes these items, as many as fit, and no others.
    pub(super) fn load(&mut self, items: impl Iterator<Item = u64>, lost: u64) {
        self.items.clear();
        self.items.extend(items.take(self.depth));
        self.lost = lost;
    }
}
