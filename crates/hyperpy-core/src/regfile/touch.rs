//! What an access does to one register.

use std::sync::atomic::Ordering;

use super::layout::{Cell, Kind, Tell};
use super::parts::Part;
use super::{Owner, RegisterFile, Slot};
use crate::bus::{Action, ones};

/// Nanoseconds of a second.
const SECOND: u128 = 1_000_000_000;

impl RegisterFile {
    /// Reads a register that holds its value.
    #[inline]
    pub(super) fn read_plain(&self, id: u32, cell: &Cell, lanes: u64) -> Option<u64> {
        let slot = self.slots.get(id as usize)?;
        slot.hits.reads.fetch_add(1, Ordering::Relaxed);
        let held = if cell.bits.changes_when_read() {
            let after = |held| Some(cell.bits.after_read(held, lanes));
            slot.value.fetch_update(Ordering::AcqRel, Ordering::Acquire, after).unwrap_or_default()
        } else {
            slot.value.load(Ordering::Acquire)
        };
        Some(held & cell.bits.readable)
    }

    /// Writes a register that holds its value; what it held.
    #[inline]
    pub(super) fn write_plain(&self, id: u32, cell: &Cell, value: u64, lanes: u64) -> Option<u64> {
        let slot = self.slots.get(id as usize)?;
        slot.hits.writes.fetch_add(1, Ordering::Relaxed);
        let after = |held| Some(cell.bits.after_write(held, value, lanes));
        slot.value.fetch_update(Ordering::AcqRel, Ordering::Acquire, after).ok()
    }

    fn target(&self, part: &Part) -> Option<(&Cell, &Slot)> {
        Some((self.layout.cells.get(part.cell as usize)?, self.slots.get(part.cell as usize)?))
    }

    /// Whether the owner is asked when this is read.
    pub(super) fn is_told_read(&self, part: &Part) -> bool {
        self.target(part).is_some_and(|(cell, _)| cell.on_read)
    }

    /// Whether the owner may have to be told when this is written.
    pub(super) fn is_told_write(&self, part: &Part, given: u64) -> bool {
        self.target(part).is_some_and(|(cell, _)| match cell.on_write {
            // What it holds decides: `write` looks.
            Tell::If(_) if part.whole => true,
            tell => tell.wants(in_order(cell, (given << (8 * part.from)) & cell.all())),
        })
    }

    /// A port's number moves on.
    fn step(&self, part: &Part) {
        if let Some(Kind::Port { index, mask, step, .. }) =
            part.port.and_then(|port| Some(self.layout.cells.get(port as usize)?.kind))
            && step != 0
            && let Some(slot) = self.slots.get(index as usize)
        {
            let after = |held: u64| Some((held & !mask) | (held.wrapping_add(step) & mask));
            let _ = slot.value.fetch_update(Ordering::AcqRel, Ordering::Acquire, after);
        }
    }

    pub(super) fn read_part(&self, part: &Part, owner: Option<&dyn Owner>) -> u64 {
        let Some((cell, slot)) = self.target(part) else {
            self.strays.miss(false);
            self.step(part);
            return 0;
        };
        let value = if let Kind::Ram { len } = cell.kind {
            slot.hits.reads.fetch_add(1, Ordering::Relaxed);
            self.window(slot, len, part)
                .fold(0, |value, (byte, at)| value | u64::from(byte.load(Ordering::Acquire)) << at)
        } else {
            let lanes = if part.whole { cell.all() } else { lanes(cell, part) };
            let held = self.take(part.cell, cell, slot, lanes);
            let answer = owner.filter(|_| cell.on_read).and_then(|owner| {
                slot.hits.told.fetch_add(1, Ordering::Relaxed);
                owner.read(part.cell, held)
            });
            in_order(cell, answer.unwrap_or(held)) >> (8 * part.from)
        };
        self.step(part);
        value & ones(part.len)
    }

    /// What a guest's read of a register finds, with all that the read does to it.
    fn take(&self, id: u32, cell: &Cell, slot: &Slot, lanes: u64) -> u64 {
        match cell.kind {
            Kind::Fifo { guest_takes: true, empty, .. } => {
                slot.hits.reads.fetch_add(1, Ordering::Relaxed);
                self.queue(slot).and_then(|mut queue| queue.pop()).unwrap_or(empty)
            }
            Kind::Counter { .. } => {
                slot.hits.reads.fetch_add(1, Ordering::Relaxed);
                self.count(cell, slot)
            }
            _ => self.read_plain(id, cell, lanes).unwrap_or_default(),
        }
    }

    pub(super) fn write_part(&self, part: &Part, given: u64, owner: Option<&dyn Owner>) -> Action {
        let Some((cell, slot)) = self.target(part) else {
            self.strays.miss(true);
            self.step(part);
            return Action::Continue;
        };
        // Bits that were written.
        let mut told = u64::MAX;
        let value = match cell.kind {
            Kind::Ram { len } => {
                slot.hits.writes.fetch_add(1, Ordering::Relaxed);
                for (byte, at) in self.window(slot, len, part) {
                    byte.store((given >> at) as u8, Ordering::Release);
                }
                given
            }
            Kind::Fifo { guest_takes: false, .. } => {
                slot.hits.writes.fetch_add(1, Ordering::Relaxed);
                let item = in_order(cell, given << (8 * part.from)) & cell.all();
                if let Some(mut queue) = self.queue(slot) {
                    queue.push(item);
                }
                item
            }
            Kind::Counter { .. } => {
                slot.hits.writes.fetch_add(1, Ordering::Relaxed);
                let value = merged(self.count(cell, slot), cell, part, given);
                self.set_count(cell, slot, value);
                value
            }
            _ => {
                let (value, lanes) = whole_from_part(cell, slot, part, given);
                self.write_plain(part.cell, cell, value, lanes);
                told = lanes;
                value
            }
        };
        self.step(part);
        match owner {
            Some(owner) if cell.on_write.wants(value & told) => {
                slot.hits.told.fetch_add(1, Ordering::Relaxed);
                owner.write(part.cell, value)
            }
            _ => Action::Continue,
        }
    }

    /// What a counter shows now. Its slot holds what is added to the time.
    pub(super) fn count(&self, cell: &Cell, slot: &Slot) -> u64 {
        slot.value.load(Ordering::Acquire).wrapping_add(self.ticks(cell)) & cell.all()
    }

    pub(super) fn set_count(&self, cell: &Cell, slot: &Slot, value: u64) {
        slot.value.store(value.wrapping_sub(self.ticks(cell)), Ordering::Release);
    }

    fn ticks(&self, cell: &Cell) -> u64 {
        let Kind::Counter { hz } = cell.kind else { return 0 };
        (u128::from(self.now()) * u128::from(hz) / SECOND) as u64
    }

    /// Bytes of a window that an access covers, with the bits below them.
    fn window(&self, slot: &Slot, len: u64, part: &Part) -> impl Iterator<Item = (&std::sync::atomic::AtomicU8, u32)> {
        let begin = slot.extra.saturating_add(usize::try_from(part.from.min(len)).unwrap_or(usize::MAX));
        let end = begin.saturating_add(part.len.into());
        self.ram.get(begin..end).unwrap_or_default().iter().zip((0..).step_by(8))
    }
}

/// A register's value as its bytes lie in the guest's view, and back.
fn in_order(cell: &Cell, value: u64) -> u64 {
    if cell.big_endian { value.swap_bytes() >> (64 - 8 * u32::from(cell.width)) } else { value }
}

/// The bits of a register that are covered.
fn lanes(cell: &Cell, part: &Part) -> u64 {
    in_order(cell, (ones(part.len) << (8 * part.from)) & cell.all())
}

/// What is written, merged into what a register holds.
fn merged(held: u64, cell: &Cell, part: &Part, given: u64) -> u64 {
    let lanes = lanes(cell, part);
    (held & !lanes) | (in_order(cell, (given << (8 * part.from)) & cell.all()) & lanes)
}

/// What a write of the whole register that does the same would be, and the bits that are written.
fn whole_from_part(cell: &Cell, slot: &Slot, part: &Part, given: u64) -> (u64, u64) {
    let held = slot.value.load(Ordering::Acquire);
    if part.whole {
        // The device writes back what a read shows, whatever that does.
        (merged(held & cell.bits.readable, cell, part, given), cell.all())
    } else {
        (merged(cell.bits.neutral(held), cell, part, given), lanes(cell, part))
    }
}
