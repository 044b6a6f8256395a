//! What an access does to one register.
//!
//! Each is done without an owner first, and is not done at all if the owner would have to be asked or told at once: `None`.

use std::sync::atomic::Ordering;

use super::delivery::{Delivery, To};
use super::late::Item;
use super::layout::{Cell, Kind, Tell};
use super::parts::Part;
use super::{Owner, RegisterFile, Slot};
use crate::bus::{Access, Action, ones};

/// Nanoseconds of a second.
const SECOND: u128 = 1_000_000_000;

impl RegisterFile {
    #[inline]
    pub(super) fn target(&self, id: u32) -> Option<(&Cell, &Slot)> {
        Some((self.layout.cells.get(id as usize)?, self.slots.get(id as usize)?))
    }

    /// Whether the owner may want to answer a read of a register, or of those behind it.
    pub(super) fn asks(&self, id: u32) -> bool {
        self.layout.wants.get(id as usize).is_some_and(|&(reads, _)| reads)
    }

    /// Whether the owner may want to be told of a write to a register, or to those behind it, and cannot be.
    pub(super) fn tells(&self, id: u32, to: To<'_>) -> bool {
        let wants = self.layout.wants.get(id as usize).is_some_and(|&(_, writes)| writes);
        wants && self.target(id).is_some_and(|(cell, _)| !to.takes(self.model(cell)))
    }

    /// The register itself; for a port one of those behind it, which are told of in the same way.
    fn model<'a>(&'a self, cell: &'a Cell) -> &'a Cell {
        match cell.kind {
            Kind::Port { first, .. } => self.layout.cells.get(first as usize).unwrap_or(cell),
            _ => cell,
        }
    }

    /// The register that a port leads to, if it leads to one. Its number moves on: each access has a number of its own. `None`, and
    /// nothing is done: it is a register that may not be accessed now. That is asked of the number which is then used, since
    /// another vCPU may set the next one meanwhile.
    fn advance(&self, port: Kind, may: impl Fn(&Cell) -> bool) -> Option<Option<u32>> {
        let Kind::Port { index, mask, first, count, step } = port else { return Some(None) };
        let value = &self.slots.get(index as usize)?.value;
        let low = mask.trailing_zeros();
        let behind = |held: u64| {
            let number = (held & mask).checked_shr(low).unwrap_or_default();
            u32::try_from(number).ok().filter(|&number| number < count).and_then(|number| first.checked_add(number))
        };
        let may = |held| behind(held).and_then(|id| self.layout.cells.get(id as usize)).is_none_or(&may);
        let held = if step == 0 || mask == 0 {
            Some(value.load(Ordering::Acquire)).filter(|&held| may(held))
        } else {
            let after = |held: u64| may(held).then(|| (held & !mask) | (held.wrapping_add(step << low) & mask));
            value.fetch_update(Ordering::AcqRel, Ordering::Acquire, after).ok()
        };
        held.map(behind)
    }

    pub(super) fn read_part(&self, part: &Part, owner: Option<&dyn Owner>) -> Option<u64> {
        let (cell, slot) = self.target(part.cell)?;
        let mut asks = cell.on_read;
        let held = match cell.kind {
            Kind::Fifo { empty, .. } => {
                let mut queue = self.queue(slot)?;
                asks &= queue.drains();
                if asks && owner.is_none() {
                    return None;
                }
                queue.pop().unwrap_or(empty)
            }
            _ if asks && owner.is_none() => return None,
            Kind::Port { .. } => {
                let Some(behind) = self.advance(cell.kind, |behind| owner.is_some() || !behind.on_read)? else {
                    self.strays.miss(false);
                    return Some(0);
                };
                return self.read_part(&Part { cell: behind, ..*part }, owner);
            }
            Kind::Ram { .. } => {
                slot.hits.reads.fetch_add(1, Ordering::Relaxed);
                return Some(self.windows.get(slot.extra)?.read(part.from, part.len));
            }
            Kind::Counter { .. } | Kind::Level { .. } => self.shown(cell, slot),
            Kind::Plain => self.read_plain(cell, slot, if part.whole { cell.all() } else { lanes(cell, part) }),
        };
        slot.hits.reads.fetch_add(1, Ordering::Relaxed);
        let answer = owner.filter(|_| asks).and_then(|owner| {
            slot.hits.told.fetch_add(1, Ordering::Relaxed);
            owner.read(part.cell, held)
        });
        Some((in_order(cell, answer.unwrap_or(held)) >> (8 * part.from)) & ones(part.len))
    }

    /// Reads a register that holds its value, as far as a guest sees it; the bits in `lanes` are those that are read.
    fn read_plain(&self, cell: &Cell, slot: &Slot, lanes: u64) -> u64 {
        let changes = cell.bits.changes_when_read();
        let held = if changes { slot.take(&cell.bits, lanes) } else { slot.value.load(Ordering::Acquire) };
        held & cell.bits.readable
    }

    pub(super) fn write_part(&self, part: &Part, at: Access, given: u64, to: To<'_>) -> Option<Action> {
        let (cell, slot) = self.target(part.cell)?;
        if let Kind::Ram { .. } = cell.kind {
            slot.hits.writes.fetch_add(1, Ordering::Relaxed);
            self.windows.get(slot.extra)?.write(part.from, part.len, given);
            return Some(Action::Continue);
        }
        let lanes = lanes(cell, part);
        // As bits of the register; those that are not given are 0.
        let given_bits = in_order(cell, (given << (8 * part.from)) & cell.all());
        if self.waits_behind(cell, to) {
            return None;
        }
        let mut tells = cell.on_write.wants(given_bits);
        let value = match cell.kind {
            Kind::Fifo { .. } => {
                let mut queue = self.queue(slot)?;
                tells &= queue.fills();
                if tells && !to.takes(cell) {
                    return None;
                }
                queue.push(given_bits);
                given_bits
            }
            _ if tells && !to.takes(cell) => return None,
            Kind::Port { .. } => {
                let may = |behind: &Cell| !behind.on_write.wants(given_bits) || to.takes(behind);
                let Some(behind) = self.advance(cell.kind, may)? else {
                    self.strays.miss(true);
                    return Some(Action::Continue);
                };
                return self.write_part(&Part { cell: behind, ..*part }, at, given, to);
            }
            Kind::Counter { .. } => self.set_count(cell, slot, given_bits, lanes),
            Kind::Level { .. } | Kind::Ram { .. } => given_bits,
            Kind::Plain => {
                let held = slot.put(&cell.bits, given_bits, lanes);
                // As if all of it had been written.
                given_bits | (cell.bits.neutral(held) & !lanes)
            }
        };
        slot.hits.writes.fetch_add(1, Ordering::Relaxed);
        Some(match to {
            _ if !tells => Action::Continue,
            To::Owner(owner) => self.tell(part.cell, value, owner),
            To::Late | To::Nobody => {
                self.late.push(Item { at, value, cell: Some(part.cell) });
                Action::Continue
            }
        })
    }

    /// Whether a write goes behind those that wait: of a stream whose owner is told of some writes, the others would overtake them.
    fn waits_behind(&self, cell: &Cell, to: To<'_>) -> bool {
        cell.delivery == Delivery::Stream
            && cell.on_write != Tell::Never
            && !matches!(to, To::Owner(_))
            && self.has_late()
    }

    /// Tells the owner of a write.
    pub(super) fn tell(&self, id: u32, value: u64, owner: &dyn Owner) -> Action {
        if let Some(slot) = self.slots.get(id as usize) {
            slot.hits.told.fetch_add(1, Ordering::Relaxed);
        }
        owner.write(id, value)
    }

    /// What a counter or a level shows now. A counter's slot holds what is added to the time.
    pub(super) fn shown(&self, cell: &Cell, slot: &Slot) -> u64 {
        match cell.kind {
            Kind::Level { of } => {
                let queue = self.slots.get(of as usize).and_then(|slot| self.queue(slot));
                queue.map_or(0, |queue| u64::try_from(queue.len()).unwrap_or(u64::MAX).min(cell.all()))
            }
            _ => slot.value.load(Ordering::Acquire).wrapping_add(self.ticks(cell)) & cell.all(),
        }
    }

    /// Sets a counter's bits in `lanes`, and returns what it shows then.
    pub(super) fn set_count(&self, cell: &Cell, slot: &Slot, value: u64, lanes: u64) -> u64 {
        // One reading of the time, so that the bits which are not set do not move.
        let ticks = self.ticks(cell);
        let merged = |held: u64| (held.wrapping_add(ticks) & cell.all() & !lanes) | (value & lanes);
        let after = |held| Some(merged(held).wrapping_sub(ticks));
        merged(slot.value.fetch_update(Ordering::AcqRel, Ordering::Acquire, after).unwrap_or_default())
    }

    fn ticks(&self, cell: &Cell) -> u64 {
        if let Kind::Counter { .. } = cell.kind { cell.ticks_at(self.now()) } else { 0 }
    }
}

impl Cell {
    /// What a counter has counted by then.
    pub(super) fn ticks_at(&self, ns: u64) -> u64 {
        let Kind::Counter { hz } = self.kind else { return 0 };
        // Cut to 64 bits: it counts on from 0.
        (u128::from(ns) * u128::from(hz) / SECOND) as u64
    }
}

/// A register's value as its bytes lie in the guest's view, and back.
pub(super) fn in_order(cell: &Cell, value: u64) -> u64 {
    if cell.big_endian { value.swap_bytes() >> (64 - 8 * u32::from(cell.width)) } else { value }
}

/// The bits of a register that are covered.
fn lanes(cell: &Cell, part: &Part) -> u64 {
    in_order(cell, (ones(part.len) << (8 * part.from)) & cell.all())
}
