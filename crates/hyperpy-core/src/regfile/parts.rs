//! How an access falls onto registers: the device's rule for what is narrow, wide, unaligned or across two of them.

use std::sync::atomic::Ordering;

use super::RegisterFile;
use super::layout::{Kind, Rule, Side};
use crate::bus::{Access, ones};

/// The number of no register.
const NOBODY: u32 = u32::MAX;

/// An access has at most 8 bytes, so it touches at most 8 registers.
const MOST: usize = 8;

/// The bytes of one register that an access covers.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Part {
    /// The register: the one behind the port, where one is touched. A number that no register has: there is none.
    pub(super) cell: u32,
    /// The port that leads to it.
    pub(super) port: Option<u32>,
    /// The register's first byte that is covered.
    pub(super) from: u64,
    /// How many bytes.
    pub(super) len: u8,
    /// Bits of the access below them.
    pub(super) shift: u32,
    /// The rest of the register is touched as well.
    pub(super) whole: bool,
}

impl Part {
    /// Its bytes of what is written, in the low bits.
    pub(super) fn given(&self, value: u64) -> u64 {
        (value >> self.shift) & ones(self.len)
    }
}

/// The registers that an access touches, by ascending address.
#[derive(Debug, Default)]
pub(super) struct Parts {
    parts: [Part; MOST],
    len: usize,
    /// The device refuses such an access.
    pub(super) refused: bool,
}

impl Parts {
    pub(super) fn iter(&self) -> impl Iterator<Item = &Part> {
        self.parts.iter().take(self.len)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    fn push(&mut self, part: Part) {
        if let Some(free) = self.parts.get_mut(self.len) {
            *free = part;
            self.len += 1;
        }
    }
}

impl RegisterFile {
    pub(super) fn parts(&self, side: &Side, at: Access) -> Parts {
        let (mut found, mut done, mut is_exact) = (Parts::default(), 0_u64, true);
        let size = u64::from(at.size);
        let whole = self.layout.rule == Rule::Widen;
        while done < size {
            // Offsets of an access lie within the device's region: the bus has seen to it.
            let offset = at.offset.saturating_add(done);
            let Some(slot) = side.find(offset, |when| self.holds(when)) else {
                is_exact = false;
                let next = side.next_after(offset).unwrap_or(u64::MAX);
                done += (next - offset).max(1).min(size - done);
                continue;
            };
            let from = offset - slot.offset;
            let len = (slot.len - from).min(size - done);
            let is_window = self.kind(slot.cell).is_some_and(|kind| matches!(kind, Kind::Ram { .. }));
            // A window has no width of its own.
            is_exact &= if is_window { len == size } else { from == 0 && len == slot.len && len == size };
            let (cell, port) = self.behind(slot.cell);
            let shift = u32::try_from(8 * done).unwrap_or_default();
            let whole = whole && !is_window;
            found.push(Part { cell, port, from, len: u8::try_from(len).unwrap_or(8), shift, whole });
            done += len;
        }
        match self.layout.rule {
            // What touches nothing is no access to a register.
            Rule::Refuse if !(is_exact || found.is_empty() && self.layout.plain) => {
                Parts { refused: true, ..Parts::default() }
            }
            Rule::Exact if !is_exact => Parts::default(),
            _ => found,
        }
    }

    /// The register that an access to this one touches in the end, and the port that it came by.
    fn behind(&self, id: u32) -> (u32, Option<u32>) {
        let Some(Kind::Port { index, mask, first, count, .. }) = self.kind(id) else { return (id, None) };
        let number = self.slots.get(index as usize).map(|slot| slot.value.load(Ordering::Acquire) & mask);
        let number = number.and_then(|number| u32::try_from(number).ok()).filter(|&number| number < count);
        (number.and_then(|number| first.checked_add(number)).unwrap_or(NOBODY), Some(id))
    }

    fn kind(&self, cell: u32) -> Option<Kind> {
        self.layout.cells.get(cell as usize).map(|cell| cell.kind)
    }
}
