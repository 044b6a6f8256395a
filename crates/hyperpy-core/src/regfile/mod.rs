//! Declared registers: what a device in Python describes and Rust serves, rung 3 of the ladder.
//!
//! A [`Layout`] says what is where (`layout`), a [`RegisterFile`] holds one device's state. Guests reach it by
//! [`quick_read`](RegisterFile::quick_read) and [`quick_write`](RegisterFile::quick_write), which do all that needs nobody else,
//! without a lock or an allocation; what the owner wants to know of goes through [`read`](RegisterFile::read) and
//! [`write`](RegisterFile::write) with its [`Owner`]. The owner sees the same state by `get` and `set` (`state`), while guests run.
//! How an access falls onto registers is in `parts`; what it does to one register is in `touch`.

mod bits;
mod counts;
mod layout;
mod measure;
mod names;
mod parts;
mod queue;
mod state;
mod touch;

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

pub use self::bits::Bits;
pub use self::counts::StrayCounts;
use self::counts::Strays;
pub use self::layout::{Cell, Kind, Layout, LayoutError, Overflow, Rule, Tell, When};
use self::parts::Parts;
use self::queue::Queue;
pub use self::state::HitCounts;
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
}

/// State of one register beside its value.
#[derive(Debug)]
struct Slot {
    value: AtomicU64,
    hits: Hits,
    /// Which queue, or where in `ram` it begins.
    extra: usize,
}

/// One device's registers.
#[derive(Debug)]
pub struct RegisterFile {
    layout: Arc<Layout>,
    slots: Box<[Slot]>,
    strays: Strays,
    queues: Box<[Mutex<Queue>]>,
    ram: Box<[AtomicU8]>,
    clock: RwLock<Arc<Clock>>,
}

impl RegisterFile {
    /// RegisterFile as they are at power-on.
    #[must_use]
    pub fn new(layout: Arc<Layout>) -> Self {
        let (mut queues, mut ram) = (Vec::new(), 0_usize);
        let mut slots = Vec::with_capacity(layout.cells.len());
        for cell in &layout.cells {
            let extra = match cell.kind {
                Kind::Fifo { depth, overflow, .. } => {
                    queues.push(Mutex::new(Queue::new(depth, overflow)));
                    queues.len() - 1
                }
                Kind::Ram { len } => {
                    let begin = ram;
                    ram = ram.saturating_add(usize::try_from(len).unwrap_or(usize::MAX));
                    begin
                }
                _ => 0,
            };
            slots.push(Slot { value: AtomicU64::new(cell.reset), hits: Hits::default(), extra });
        }
        let ram = std::iter::repeat_with(AtomicU8::default).take(ram).collect();
        let clock = RwLock::new(Arc::new(Clock::manual()));
        Self { layout, slots: slots.into(), strays: Strays::default(), queues: queues.into(), ram, clock }
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
        let slot = self.layout.reads.find(at.offset, |when| self.holds(when));
        if let Some(slot) = slot
            && slot.offset == at.offset
            && slot.len == u64::from(at.size)
            && let Some(cell) = self.layout.cells.get(slot.cell as usize)
            && cell.kind == Kind::Plain
            && !cell.on_read
            && !cell.big_endian
        {
            return self.read_plain(slot.cell, cell, u64::MAX);
        }
        self.quick_read_parts(at)
    }

    #[cold]
    fn quick_read_parts(&self, at: Access) -> Option<u64> {
        let parts = self.parts(&self.layout.reads, at);
        let is_owners = parts.iter().any(|part| self.is_told_read(part)) || self.is_elsewhere(&parts);
        (!is_owners).then(|| self.read_parts(&parts, None))
    }

    /// Serves a write, if the owner need not be told; whether it did.
    #[inline]
    pub fn quick_write(&self, at: Access, value: u64) -> bool {
        let slot = self.layout.writes.find(at.offset, |when| self.holds(when));
        if let Some(slot) = slot
            && slot.offset == at.offset
            && slot.len == u64::from(at.size)
            && let Some(cell) = self.layout.cells.get(slot.cell as usize)
            && cell.kind == Kind::Plain
            && cell.on_write == Tell::Never
            && !cell.big_endian
        {
            return self.write_plain(slot.cell, cell, value, u64::MAX).is_some();
        }
        self.quick_write_parts(at, value)
    }

    #[cold]
    fn quick_write_parts(&self, at: Access, value: u64) -> bool {
        let parts = self.parts(&self.layout.writes, at);
        if parts.iter().any(|part| self.is_told_write(part, part.given(value))) || self.is_elsewhere(&parts) {
            return false;
        }
        // Nobody is told, so nobody asks for anything.
        let _ = self.write_parts(&parts, value, None);
        true
    }

    /// Serves a read, asking the owner where it wants to be.
    pub fn read(&self, at: Access, owner: &dyn Owner) -> u64 {
        let parts = self.parts(&self.layout.reads, at);
        if parts.refused {
            self.strays.refuse(false);
            owner.refused(at, None);
            return 0;
        }
        if parts.is_empty() && self.layout.plain {
            return owner.plain_read(at);
        }
        self.read_parts(&parts, Some(owner))
    }

    /// Serves a write, telling the owner where it wants to be.
    pub fn write(&self, at: Access, value: u64, owner: &dyn Owner) -> Action {
        let parts = self.parts(&self.layout.writes, at);
        if parts.refused {
            self.strays.refuse(true);
            owner.refused(at, Some(value));
            return Action::Continue;
        }
        if parts.is_empty() && self.layout.plain {
            return owner.plain_write(at, value);
        }
        self.write_parts(&parts, value, Some(owner))
    }

    fn is_elsewhere(&self, parts: &Parts) -> bool {
        parts.refused || (parts.is_empty() && self.layout.plain)
    }

    fn read_parts(&self, parts: &Parts, owner: Option<&dyn Owner>) -> u64 {
        if parts.is_empty() {
            self.strays.miss(false);
        }
        parts.iter().fold(0, |value, part| value | (self.read_part(part, owner) << part.shift))
    }

    /// The first thing that was asked for is done.
    fn write_parts(&self, parts: &Parts, value: u64, owner: Option<&dyn Owner>) -> Action {
        if parts.is_empty() {
            self.strays.miss(true);
        }
        let mut asked = Action::Continue;
        for part in parts.iter() {
            let action = self.write_part(part, part.given(value), owner);
            if asked == Action::Continue {
                asked = action;
            }
        }
        asked
    }

    fn holds(&self, when: &layout::When) -> bool {
        self.slots.get(when.cell as usize).is_some_and(|it| it.value.load(Ordering::Acquire) & when.mask == when.equals)
    }

    fn queue(&self, slot: &Slot) -> Option<MutexGuard<'_, Queue>> {
        Some(self.queues.get(slot.extra)?.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn now(&self) -> u64 {
        self.clock.read().unwrap_or_else(PoisonError::into_inner).now()
    }
}
