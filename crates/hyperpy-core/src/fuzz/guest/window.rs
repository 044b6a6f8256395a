//! A window of the guest's memory in which its own code counts what it covers: compiled in by a sanitizer's instrumentation, or by hand.
//!
//! The host clears it before each execution and reads it after; a restore leaves it alone. What is in it is the guest's.

use super::error::GuestError;
use crate::fuzz::coverage::Counters;
use crate::fuzz::rng::mixed;
use crate::memory::{Memory, PAGE_SIZE, Written};

/// Most bytes of a window.
const MOST: u64 = 16 << 20;
const WORD: usize = 8;
const PAGE: usize = PAGE_SIZE as usize;

/// What is where in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// A byte for each place, counting (`-fsanitize-coverage=inline-8bit-counters`).
    Counters,
    /// A number, and then so many addresses of 8 bytes, in their order (Linux's kcov, KCOV_TRACE_PC).
    Kcov,
}

/// A window.
#[derive(Debug)]
pub struct Window {
    gpa: u64,
    layout: Layout,
    bytes: Vec<u8>,
    /// Pages that were not zeros when it was collected.
    used: Vec<bool>,
    /// Nothing has run since.
    is_collected: bool,
}

impl Window {
    /// A window over memory.
    ///
    /// # Errors
    /// It is not of whole pages, or there is no memory.
    pub fn new(memory: &Memory, gpa: u64, len: u64, layout: Layout) -> Result<Self, GuestError> {
        let wrong = GuestError::Window { gpa, len };
        if len == 0 || len > MOST || !gpa.is_multiple_of(PAGE_SIZE) || !len.is_multiple_of(PAGE_SIZE) {
            return Err(wrong);
        }
        let size = usize::try_from(len).map_err(|_| wrong)?;
        let mut bytes = vec![0; size];
        memory.read(gpa, &mut bytes)?;
        // Whatever is in it now goes before the first execution.
        Ok(Self { gpa, layout, bytes, used: vec![false; size / PAGE], is_collected: false })
    }

    /// What a restore is to leave alone.
    #[must_use]
    pub fn spared(&self) -> Written {
        (self.gpa, self.bytes.len() as u64)
    }

    /// Clears what the last execution has left.
    ///
    /// # Errors
    /// Memory is gone.
    pub fn clear(&mut self, memory: &Memory) -> Result<(), GuestError> {
        if self.layout == Layout::Kcov {
            return Ok(memory.write(self.gpa, &[0; WORD])?); // what follows is not looked at without its number
        }
        let is_collected = std::mem::take(&mut self.is_collected);
        for (page, &is_used) in (0_u64..).zip(&self.used) {
            if is_used || !is_collected {
                memory.write(self.gpa + page * PAGE_SIZE, &[0; PAGE])?;
            }
        }
        Ok(())
    }

    /// Counts what is in it.
    ///
    /// # Errors
    /// Memory is gone.
    pub fn collect(&mut self, memory: &Memory, counters: &mut Counters) -> Result<(), GuestError> {
        match self.layout {
            Layout::Counters => {
                memory.read(self.gpa, &mut self.bytes)?;
                self.is_collected = true;
                let pages = self.bytes.chunks_exact(PAGE).zip(&mut self.used);
                for (page, (bytes, is_used)) in (0_u64..).zip(pages) {
                    *is_used = false;
                    for (word, eight) in (0_u64..).zip(bytes.chunks_exact(WORD)) {
                        if eight.iter().all(|&byte| byte == 0) {
                            continue;
                        }
                        *is_used = true;
                        let first = page * PAGE_SIZE + word * WORD as u64;
                        for (at, &count) in (first..).zip(eight).filter(|(_, count)| **count != 0) {
                            counters.add(crate::fuzz::coverage::slot_of(at | 1 << 60), count);
                        }
                    }
                }
            }
            Layout::Kcov => {
                let head = self.bytes.get_mut(..WORD).unwrap_or_default();
                memory.read(self.gpa, head)?;
                let count = word_of(head);
                let most = self.bytes.len() / WORD - 1;
                let size = usize::try_from(count).unwrap_or(usize::MAX).min(most) * WORD;
                let places = self.bytes.get_mut(WORD..WORD + size).unwrap_or_default();
                memory.read(self.gpa + WORD as u64, places)?;
                let mut last = 0;
                for place in places.chunks_exact(WORD).map(word_of) {
                    // One place after another: what is told of is the way, as AFL's edges.
                    counters.hit(mixed(last) ^ place);
                    last = place;
                }
            }
        }
        Ok(())
    }
}

fn word_of(bytes: &[u8]) -> u64 {
    let mut word = [0; WORD];
    word.iter_mut().zip(bytes).for_each(|(into, &byte)| *into = byte);
    u64::from_le_bytes(word)
}

#[cfg(test)]
#[path = "window_test.rs"]
mod tests;
