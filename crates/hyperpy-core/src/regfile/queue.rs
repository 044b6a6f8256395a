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
}

impl Queue {
    /// An empty one, whose room is there from the beginning: nothing is allocated on the path of an access.
    pub(super) fn new(depth: u32, overflow: Overflow) -> Self {
        let depth = depth as usize;
        Self { items: VecDeque::with_capacity(depth), depth, overflow, lost: 0 }
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

    pub(super) fn items(&self) -> Vec<u64> {
        self.items.iter().copied().collect()
    }

    /// Empty, and nothing lost.
    pub(super) fn reset(&mut self) {
        self.items.clear();
        self.lost = 0;
    }

    /// Takes these items, as many as fit, and no others.
    pub(super) fn load(&mut self, items: &[u64], lost: u64) {
        self.items.clear();
        self.items.extend(items.iter().take(self.depth));
        self.lost = lost;
    }
}
