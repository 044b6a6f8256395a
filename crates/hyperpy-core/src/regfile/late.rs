//! Writes that the owner is told of later: a queue for each device, in the order in which its guests made them.
//!
//! Whoever needs the device to have seen them takes a [`Batch`]: a vCPU before it calls any of the device's methods, at its
//! tick, and when it leaves its round. One thread at a time tells the owner, so that the order holds for all vCPUs; others
//! wait for it, but no longer than [`PATIENCE`]: a method that does not return keeps nobody else from being stopped.
//! No lock is held while the owner is told.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};

use super::{Owner, RegisterFile};
use crate::bus::{Access, Action, Spot};
use crate::record;
use crate::vcpu::{Current, alone};

/// Writes that wait at most; one more is told at once. A ring of the kernel's that is emptied can be added once.
pub const DEPTH: usize = 256;
/// How long a thread waits for another one that tells the owner.
const PATIENCE: Duration = Duration::from_secs(1);
/// Writes beyond those that were there at first, if a method takes its device off the bus: what the ring had is told too.
const MORE: usize = 2 * DEPTH;

/// A write that waits.
#[derive(Clone, Copy, Debug)]
pub(super) struct Item {
    pub(super) at: Access,
    pub(super) value: u64,
    /// The register that holds it already, and whose owner is to be told; `None`: nothing is done yet.
    pub(super) cell: Option<u32>,
}

#[derive(Debug, Default)]
pub(super) struct Late {
    state: Mutex<State>,
    freed: Condvar,
    /// How many wait, those that the owner is being told of included.
    waiting: AtomicUsize,
}

#[derive(Debug, Default)]
struct State {
    items: VecDeque<Item>,
    /// Who tells the owner now.
    server: Option<ThreadId>,
    /// When it began with the write that it tells of.
    since: Option<Instant>,
    /// It has to go on with all that is there: a method that it called asked for that.
    owes: bool,
}

impl Late {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn has_room(&self) -> bool {
        self.waiting.load(Ordering::Acquire) < DEPTH
    }

    pub(super) fn push(&self, item: Item) {
        record::waits();
        // Counted before it can be taken.
        self.waiting.fetch_add(1, Ordering::AcqRel);
        self.lock().items.push_back(item);
    }

    /// Forgets all that nobody is being told of.
    pub(super) fn clear(&self) {
        let items = std::mem::take(&mut self.lock().items);
        self.waiting.fetch_sub(items.len(), Ordering::AcqRel);
    }
}

impl RegisterFile {
    /// Whether writes wait, or the owner is being told of them.
    #[inline]
    #[must_use]
    pub fn has_late(&self) -> bool {
        self.late.waiting.load(Ordering::Acquire) != 0
    }

    /// Takes a write that waited in the ring; whether it is done with. It waits for nobody.
    pub fn defer(&self, at: Access, value: u64) {
        if !self.quick_write(at, value) {
            self.late.push(Item { at, value, cell: None });
        }
    }

    /// What waits now, up to so many, for its owner to be told; `None`: nothing, or this thread is telling it. Waits for another
    /// thread that does, so the caller must hold nothing that a method of the device wants.
    #[must_use]
    pub fn batch(&self, most: usize) -> Option<Batch<'_>> {
        let me = thread::current().id();
        let until = Instant::now() + PATIENCE;
        let mut state = self.late.lock();
        loop {
            if state.server == Some(me) {
                state.owes = true;
                return None;
            }
            if state.server.is_none() {
                break;
            }
            // One method that does not return costs each of the others a second in all, not one each time.
            let until = state.since.map_or(until, |since| until.min(since + PATIENCE));
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break; // overtakes it
            }
            state = self.late.freed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        let left = state.items.len().min(most);
        let has_turn = state.server.is_none() && left > 0;
        if has_turn {
            (state.server, state.since) = (Some(me), None);
        }
        (left > 0).then_some(Batch { file: self, left, more: MORE, has_turn })
    }
}

/// Writes whose owner is told now.
#[derive(Debug)]
pub struct Batch<'a> {
    file: &'a RegisterFile,
    /// No more than were there: others may go on adding.
    left: usize,
    /// How many come beyond that at most, if methods ask for it.
    more: usize,
    has_turn: bool,
}

impl Batch<'_> {
    /// Tells the owner, oldest first: `spot` says where an offset is, `asked` gets what the owner asks for, with the vCPU that
    /// made the write.
    pub fn serve(mut self, spot: &dyn Fn(u64) -> Spot, owner: &dyn Owner, asked: &dyn Fn(u32, Action)) {
        while let Some(item) = self.next() {
            let Item { at, value, cell } = item;
            let spot = spot(at.offset);
            let current = Current {
                machine: spot.machine,
                vcpu: at.vcpu,
                rip: Current::NO_RIP,
                space: Some(spot.space),
                address: spot.base.wrapping_add(at.offset),
                size: at.size,
                is_write: true,
            };
            let tell = || match cell {
                Some(cell) => self.file.tell(cell, value, owner),
                None => self.file.write(at, value, owner),
            };
            let action = alone(current, || record::told(at, value, tell));
            self.file.late.waiting.fetch_sub(1, Ordering::AcqRel);
            if action != Action::Continue {
                asked(at.vcpu, action);
            }
        }
    }

    fn next(&mut self) -> Option<Item> {
        let mut state = self.file.late.lock();
        if self.has_turn && std::mem::take(&mut state.owes) {
            let more = state.items.len().saturating_sub(self.left).min(self.more);
            (self.left, self.more) = (self.left + more, self.more - more);
        }
        self.left = self.left.checked_sub(1)?;
        if self.has_turn {
            state.since = Some(Instant::now());
        }
        state.items.pop_front()
    }
}

impl Drop for Batch<'_> {
    fn drop(&mut self) {
        if self.has_turn {
            let mut state = self.file.late.lock();
            (state.server, state.owes) = (None, false);
            drop(state);
            self.file.late.freed.notify_all();
        }
    }
}

#[cfg(test)]
#[path = "late_test.rs"]
mod tests;
