//! Declared registers: what a device in Python describes and Rust serves, rung 3 of the ladder.
//!
//! A [`Layout`] says what is where (`layout`, checked in `check` and sorted in `side`), a [`RegisterFile`] holds one device's
//! state. Guests reach it by [`quick_read`](RegisterFile::quick_read) and [`quick_write`](RegisterFile::quick_write), which do all
//! that needs nobody else, without an allocation, and without a lock but that of a queue; what the owner wants to know of goes
//! through [`read`](RegisterFile::read) and [`write`](RegisterFile::write) with its [`Owner`], or waits for it in `late`. The owner
//! sees the same state by `get` and `set` (`state`), while guests run; a snapshot has it as an [`Image`]. How an access falls onto registers is in `parts`; what it
//! does to one register is in `touch`, how its owner gets to know of it in `delivery`. Each register is changed at once, whoever
//! else does: what is across several is done one after the other.

mod bits;
mod check;
mod counts;
mod delivery;
mod image;
mod late;
mod layout;
mod measure;
mod names;
mod parts;
mod queue;
mod side;
mod state;
mod touch;
mod window;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

pub use self::bits::Bits;
pub use self::check::{Contradiction, LayoutError};
pub use self::counts::StrayCounts;
use self::counts::Strays;
pub use self::delivery::Delivery;
use self::delivery::To;
pub use self::image::Image;
use self::late::Late;
pub use self::late::{Batch, DEPTH};
pub use self::layout::{Cell, Kind, Layout, Overflow, Rule, Tell, When};
use self::parts::Fall;
use self::queue::Queue;
use self::side::{Place, Whole};
pub use self::state::HitCounts;
use self::window::Window;
use crate::bus::{Access, Action};
use crate::clock::Clock;

/// Who declared the registers, for what Rust does not do by itself.
pub trait Owner {
    /// The guest reads a register that holds `held`; what it gets instead, if anything.
    fn read(&self, cell: u32, held: u64) -> Option<u64>;
    /// The guest has written a register; `value` is what a write of its whole width would have been.
    fn write(&self, cell: u32, value: u64) -> Action;
    /// An access that touches no register, and is the owner's.
    fn plain_read(&self, at: Access) -> u64;
    /// The same for a write.
    fn plain_write(&self, at: Access, value: u64) -> Action;
    /// The guest made an access that the device refuses; it reads as 0.
    fn refused(&self, at: Access, written: Option<u64>);
}

/// How often guests touched a register.
#[derive(Debug, Default)]
struct Hits {
    reads: AtomicU64,
    writes: AtomicU64,
    /// Those of both that the owner was asked or told of.
    told: AtomicU64,
    /// Writes that rang a doorbell, of which the owner is told besides.
    rings: AtomicU64,
}

/// State of one register beside its value.
#[derive(Debug)]
struct Slot {
    value: AtomicU64,
    hits: Hits,
    /// Which queue, or which window.
    extra: usize,
}

impl Slot {
    /// Reads the bits in `lanes` of a register that holds its value, and returns what it held.
    #[inline]
    fn take(&self, bits: &Bits, lanes: u64) -> u64 {
        let after = |held| Some(bits.after_read(held, lanes));
        self.value.fetch_update(Ordering::AcqRel, Ordering::Acquire, after).unwrap_or_default()
    }

    /// Writes the bits in `lanes` of a register that holds its value, and returns what it held.
    #[inline]
    fn put(&self, bits: &Bits, given: u64, lanes: u64) -> u64 {
        let after = |held| Some(bits.after_write(held, given, lanes));
        self.value.fetch_update(Ordering::AcqRel, Ordering::Acquire, after).unwrap_or_default()
    }
}

/// One device's registers.
#[derive(Debug)]
pub struct RegisterFile {
    layout: Arc<Layout>,
    slots: Box<[Slot]>,
    strays: Strays,
    queues: Box<[Mutex<Queue>]>,
    windows: Box<[Window]>,
    clock: RwLock<Arc<Clock>>,
    late: Late,
}

impl RegisterFile {
    /// Registers as they are at power-on.
    #[must_use]
    pub fn new(layout: Arc<Layout>) -> Self {
        let (mut queues, mut windows) = (Vec::new(), Vec::new());
        let mut slots = Vec::with_capacity(layout.cells.len());
        for cell in &layout.cells {
            let extra = match cell.kind {
                Kind::Fifo { depth, overflow, threshold, .. } => {
                    queues.push(Mutex::new(Queue::new(depth, overflow, threshold)));
                    queues.len() - 1
                }
                Kind::Ram { len } => {
                    windows.push(Window::new(len));
                    windows.len() - 1
                }
                _ => 0,
            };
            slots.push(Slot { value: AtomicU64::new(cell.reset), hits: Hits::default(), extra });
        }
        let clock = RwLock::new(Arc::new(Clock::manual()));
        let (strays, late) = (Strays::default(), Late::default());
        Self { layout, slots: slots.into(), strays, queues: queues.into(), windows: windows.into(), clock, late }
    }

    /// The time that counters count from now on.
    pub fn set_clock(&self, clock: Arc<Clock>) {
        *self.clock.write().unwrap_or_else(PoisonError::into_inner) = clock;
    }

    /// What it holds is declared here.
    #[must_use]
    pub fn layout(&self) -> &Arc<Layout> {
        &self.layout
    }

    /// Serves a read, if the owner need not be asked.
    #[inline]
    #[must_use]
    pub fn quick_read(&self, at: Access) -> Option<u64> {
        // Nearly always it is one register that needs nothing.
        let first = self.layout.reads.find(at.offset, |when| self.holds(when));
        if let Some(place) = first
            && let whole @ (Whole::Value | Whole::Bits) = place.whole(at)
            && let Some((cell, slot)) = self.target(place.cell)
        {
            slot.hits.reads.fetch_add(1, Ordering::Relaxed);
            let held = if whole == Whole::Value {
                slot.value.load(Ordering::Acquire)
            } else {
                slot.take(&cell.bits, u64::MAX)
            };
            return Some(held & place.mask);
        }
        self.read_as(at, first, None)
    }

    /// Serves a write, if the owner need not be told; whether it did.
    #[inline]
    pub fn quick_write(&self, at: Access, value: u64) -> bool {
        let first = self.layout.writes.find(at.offset, |when| self.holds(when));
        if let Some(place) = first
            && let whole @ (Whole::Value | Whole::Bits) = place.whole(at)
            && let Some((cell, slot)) = self.target(place.cell)
        {
            slot.hits.writes.fetch_add(1, Ordering::Relaxed);
            if whole == Whole::Value {
                slot.value.store(value & place.mask, Ordering::Release);
            } else {
                slot.put(&cell.bits, value, u64::MAX);
            }
            return true;
        }
        let to = if self.late.has_room() { To::Late } else { To::Nobody };
        self.write_as(at, value, first, to).is_some()
    }

    /// Serves a read, asking the owner where it wants to be.
    pub fn read(&self, at: Access, owner: &dyn Owner) -> u64 {
        let first = self.layout.reads.find(at.offset, |when| self.holds(when));
        self.read_as(at, first, Some(owner)).unwrap_or_default()
    }

    /// Serves a write, telling the owner where it wants to be.
    pub fn write(&self, at: Access, value: u64, owner: &dyn Owner) -> Action {
        let first = self.layout.writes.find(at.offset, |when| self.holds(when));
        self.write_as(at, value, first, To::Owner(owner)).unwrap_or(Action::Continue)
    }

    /// Serves the rings of a doorbell, so many since the last time: its owner is told once.
    pub fn ring(&self, at: Access, value: u64, times: u64, owner: &dyn Owner) -> Action {
        let place = self.layout.writes.find(at.offset, |when| self.holds(when));
        let Some((place, (cell, slot))) = place.and_then(|place| Some((place, self.target(place.cell)?))) else {
            return Action::Continue;
        };
        slot.hits.writes.fetch_add(times, Ordering::Relaxed);
        slot.hits.rings.fetch_add(times, Ordering::Relaxed);
        let value = touch::in_order(cell, value);
        slot.put(&cell.bits, value, cell.all());
        owner.write(place.cell, value)
    }

    /// Without an owner `None` says that it is needed, and that nothing was done.
    #[inline(never)]
    fn read_as(&self, at: Access, first: Option<&Place>, owner: Option<&dyn Owner>) -> Option<u64> {
        let side = &self.layout.reads;
        match self.fall(side, at, first) {
            Fall::One(part) => self.read_part(&part, owner),
            Fall::Several if owner.is_none() && side.touched(at).any(|place| self.asks(place.cell)) => None,
            Fall::Several => {
                let mut value = 0;
                self.each_part(side, at, |part| {
                    value |= self.read_part(part, owner).unwrap_or_default() << part.shift;
                });
                Some(value)
            }
            Fall::Owners => owner.map(|owner| owner.plain_read(at)),
            Fall::Nothing => {
                self.strays.miss(false);
                Some(0)
            }
            Fall::Refused => owner.map(|owner| {
                self.strays.refuse(false);
                owner.refused(at, None);
                0
            }),
        }
    }

    /// The same for a write. Of several registers the first thing that was asked for is done.
    #[inline(never)]
    fn write_as(&self, at: Access, value: u64, first: Option<&Place>, to: To<'_>) -> Option<Action> {
        let side = &self.layout.writes;
        let owner = if let To::Owner(owner) = to { Some(owner) } else { None };
        match self.fall(side, at, first) {
            Fall::One(part) => self.write_part(&part, at, part.given(value), to),
            Fall::Several if side.touched(at).any(|place| self.tells(place.cell, to)) => None,
            Fall::Several => {
                let mut asked = Action::Continue;
                self.each_part(side, at, |part| {
                    let action = self.write_part(part, at, part.given(value), to);
                    if let (Action::Continue, Some(action)) = (&asked, action) {
                        asked = action;
                    }
                });
                Some(asked)
            }
            Fall::Owners => owner.map(|owner| owner.plain_write(at, value)),
            Fall::Nothing => {
                self.strays.miss(true);
                Some(Action::Continue)
            }
            Fall::Refused => owner.map(|owner| {
                self.strays.refuse(true);
                owner.refused(at, Some(value));
                Action::Continue
            }),
        }
    }

    fn holds(&self, when: &layout::When) -> bool {
        self.slots.get(when.cell as usize).is_some_and(|it| it.value.load(Ordering::Acquire) & when.mask == when.equals)
    }

    fn queue(&self, slot: &Slot) -> Option<MutexGuard<'_, Queue>> {
        self.queues.get(slot.extra).map(Self::lock)
    }

    fn lock(queue: &Mutex<Queue>) -> MutexGuard<'_, Queue> {
        queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> u64 {
        self.clock.read().unwrap_or_else(PoisonError::into_inner).now()
    }
}

#[cfg(any(test, fuzzing))]
#[path = "mod_fuzz.rs"]
pub mod fuzz;
#[cfg(any(test, fuzzing))]
#[cfg_attr(not(test), allow(dead_code))]
#[path = "pair_test.rs"]
mod pair;

#[cfg(test)]
#[path = "access_test.rs"]
mod access_tests;
#[cfg(test)]
#[path = "kinds_test.rs"]
mod kinds_tests;
#[cfg(test)]
#[path = "layout_test.rs"]
mod layout_tests;
#[cfg(test)]
#[path = "threads_test.rs"]
mod threads_tests;
