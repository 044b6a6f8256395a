//! A range of guest memory that stays mapped for as long as somebody has it, and what it means for written pages.

use std::sync::Arc;

use super::block::{Mapping, Range};
use super::marks::pages_of;
use crate::kvm::thread::fork_generation;

/// A range of guest memory that stays mapped for as long as this value lives, for a zero-copy view.
#[derive(Debug)]
pub struct View {
    mapping: Arc<Mapping>,
    at: usize,
    len: usize,
    /// Pages that count as written while it lives, and once more when it is gone.
    written: Option<Range>,
    /// The process that it belongs to.
    forks: u64,
}

impl View {
    pub(super) fn new(mapping: Arc<Mapping>, at: usize, len: usize, writable: bool) -> Self {
        let written = writable.then(|| pages_of(at, len));
        mapping.views().extend(written);
        Self { mapping, at, len, written, forks: fork_generation() }
    }
    /// Host-virtual address of the first byte. The guest may change what is there at any moment.
    #[must_use]
    pub fn hva(&self) -> u64 {
        self.mapping.hva() + self.at as u64
    }
    /// Length in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }
    /// Whether the view has no bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
    /// Whether it may be written through.
    #[must_use]
    pub fn is_writable(&self) -> bool {
        self.written.is_some()
    }
}

impl Drop for View {
    fn drop(&mut self) {
        // In the child of a fork nobody may hold the lock any more, and what is written is the parent's to know.
        let Some(range) = self.written.filter(|_| self.forks == fork_generation()) else { return };
        let mut views = self.mapping.views();
        if let Some(at) = views.iter().position(|other| *other == range) {
            views.swap_remove(at);
        }
        self.mapping.mark(range.0, range.1);
    }
}

#[cfg(test)]
#[path = "view_test.rs"]
mod tests;
