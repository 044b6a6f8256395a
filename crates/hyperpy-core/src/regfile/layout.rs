//! The declaration of a device's registers, checked and sorted: what is at an offset, seen from reads and from writes.
//!
//! A layout has no state and is shared by all devices of a class. A register can be at an offset for reads alone, and
//! another for writes; several can share a place, told apart by bits of a third one (`when`).

use thiserror::Error;

use super::bits::Bits;
use crate::bus::ones;

/// How accesses that are not exactly one register are served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// Not at all: they read as 0, and writes are dropped.
    Exact,
    /// Byte by byte: each register gives and takes the bytes that the access covers, and no others.
    Split,
    /// Each register that the access touches is read, or written, whole; bytes that were not given keep what it holds.
    Widen,
    /// They are an error of the driver's, which the owner is told.
    Refuse,
}

/// When the owner of a register is told of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tell {
    /// Never.
    Never,
    /// At each write.
    Always,
    /// When one of these bits is written as 1.
    If(u64),
}

impl Tell {
    /// Whether a write of `value` is told.
    #[inline]
    pub(super) fn wants(self, value: u64) -> bool {
        match self {
            Self::Never => false,
            Self::Always => true,
            Self::If(mask) => value & mask != 0,
        }
    }
}

/// What a queue does with an item that does not fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overflow {
    /// The new one is lost.
    Drop,
    /// The oldest one is lost.
    Overwrite,
}

/// What a register is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It holds its value.
    Plain,
    /// A queue of items: the guest takes from it, or puts into it.
    Fifo {
        /// Items that it holds.
        depth: u32,
        /// The guest's reads take from it; otherwise its writes put into it.
        guest_takes: bool,
        /// What happens to one item too many.
        overflow: Overflow,
        /// What a read of an empty one gives.
        empty: u64,
    },
    /// Counts the machine's time; a write sets it.
    Counter {
        /// Counts a second.
        hz: u64,
    },
    /// Memory of the device: a window of bytes, accessed at any width.
    Ram {
        /// Its length in bytes.
        len: u64,
    },
    /// A port to registers that have no offset: which one is said by another register.
    Port {
        /// The register that holds the number.
        index: u32,
        /// Bits of it that count.
        mask: u64,
        /// The first of the registers behind it.
        first: u32,
        /// How many there are.
        count: u32,
        /// Added to the number after each access.
        step: u64,
    },
}

/// A condition for a register to be at its place: bits of another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct When {
    /// That register.
    pub cell: u32,
    /// Its bits that count.
    pub mask: u64,
    /// What they must be.
    pub equals: u64,
}

/// One register as declared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cell {
    /// Where it is; `None`: behind a port.
    pub offset: Option<u64>,
    /// 1, 2, 4 or 8 bytes.
    pub width: u8,
    /// What it is.
    pub kind: Kind,
    /// What accesses do to its bits.
    pub bits: Bits,
    /// What it holds at power-on.
    pub reset: u64,
    /// Its first byte is the most significant.
    pub big_endian: bool,
    /// Guests can read it, guests can write it.
    pub sides: (bool, bool),
    /// It is at its place only then.
    pub when: Option<When>,
    /// The owner answers reads.
    pub on_read: bool,
    /// The owner is told of writes.
    pub on_write: Tell,
}

impl Cell {
    /// Bytes that it takes of the device's range.
    #[must_use]
    pub fn len(&self) -> u64 {
        if let Kind::Ram { len } = self.kind { len } else { self.width.into() }
    }

    /// Never: a register has bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        false
    }

    /// All of its bits.
    #[must_use]
    pub fn all(&self) -> u64 {
        ones(self.width)
    }
}

/// A declaration that cannot be. Indices count registers as they were given.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum LayoutError {
    /// A width that no register has.
    #[error("width of a register is not 1, 2, 4 or 8: {width}")]
    Width {
        /// Which.
        cell: u32,
        /// Its width.
        width: u8,
    },
    /// It ends outside of the device.
    #[error("register leaves the device: {offset:#x} + {len:#x} is above {size:#x}")]
    Outside {
        /// Which.
        cell: u32,
        /// Where it is.
        offset: u64,
        /// Its length.
        len: u64,
        /// The device's.
        size: u64,
    },
    /// A value that has bits which the register has not.
    #[error("value is wider than its register: {value:#x}")]
    Value {
        /// Which.
        cell: u32,
        /// The value.
        value: u64,
    },
    /// Two at one place.
    #[error("registers overlap at {offset:#x}")]
    Overlap {
        /// Which.
        cell: u32,
        /// The other.
        other: u32,
        /// Where the later one begins.
        offset: u64,
    },
    /// It refers to a register that is not there or is of no use there.
    #[error("register refers to another that it cannot use: {other}")]
    Reference {
        /// Which.
        cell: u32,
        /// The other.
        other: u32,
    },
    /// A queue or window of no length, or too long.
    #[error("length is out of range: {len}")]
    Length {
        /// Which.
        cell: u32,
        /// Its length.
        len: u64,
    },
}

impl LayoutError {
    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Width { .. } => "1, 2, 4 or 8 bytes",
            Self::Outside { .. } => "a larger `size`, or none: then it is computed",
            Self::Value { .. } => "fewer bits, or a wider register",
            Self::Overlap { .. } => "give them other offsets, or a `when` each",
            Self::Reference { .. } => "`when` and `index` name a plain register of the same class",
            Self::Length { .. } => "queues and windows of a device have up to 256 MiB together",
        }
    }
}

/// A register at a place.
#[derive(Clone, Copy, Debug)]
pub(super) struct Slot {
    pub(super) offset: u64,
    pub(super) len: u64,
    pub(super) cell: u32,
    pub(super) when: Option<When>,
}

/// RegisterFile by ascending offset, seen from one side. Of those that share a place the one without a condition is first.
#[derive(Clone, Debug, Default)]
pub(super) struct Side {
    starts: Vec<u64>,
    slots: Vec<Slot>,
}

impl Side {
    /// The last slot that begins at or before an offset; those that share its place are before it.
    #[inline]
    fn last_at(&self, offset: u64) -> Option<usize> {
        self.starts.partition_point(|&start| start <= offset).checked_sub(1)
    }

    /// The register whose bytes hold `offset`, of those whose condition `holds`.
    #[inline]
    pub(super) fn find(&self, offset: u64, holds: impl Fn(&When) -> bool) -> Option<&Slot> {
        let mut at = self.last_at(offset)?;
        loop {
            let slot = self.slots.get(at)?;
            if offset - slot.offset >= slot.len {
                return None;
            }
            if slot.when.as_ref().is_none_or(&holds) {
                return Some(slot);
            }
            at = at.checked_sub(1).filter(|&before| self.starts.get(before) == Some(&slot.offset))?;
        }
    }

    /// All that share the place whose bytes hold `offset`.
    pub(super) fn all_at(&self, offset: u64) -> &[Slot] {
        let Some(last) = self.last_at(offset) else { return &[] };
        let slots = self.slots.get(..=last).unwrap_or_default();
        let Some(slot) = slots.last().filter(|slot| offset - slot.offset < slot.len) else { return &[] };
        slots.get(slots.partition_point(|other| other.offset < slot.offset)..).unwrap_or_default()
    }

    /// The first place after `offset` where a register begins.
    pub(super) fn next_after(&self, offset: u64) -> Option<u64> {
        self.starts.get(self.starts.partition_point(|&start| start <= offset)).copied()
    }
}

/// Most bytes of windows, and items of queues, that one device may declare: state of a device is allocated at once.
const MOST: u64 = 1 << 28;

/// The registers of a class of devices.
#[derive(Clone, Debug)]
pub struct Layout {
    pub(super) cells: Vec<Cell>,
    pub(super) rule: Rule,
    pub(super) size: u64,
    pub(super) reads: Side,
    pub(super) writes: Side,
    /// What is at no register is the owner's.
    pub(super) plain: bool,
    /// What they are called, where that was said.
    pub(super) names: Vec<Box<str>>,
}

impl Layout {
    /// Checks and sorts a declaration. `plain`: accesses that touch no register go to the owner's own `read` and `write`.
    ///
    /// # Errors
    /// See [`LayoutError`].
    pub fn new(cells: Vec<Cell>, size: u64, rule: Rule, plain: bool) -> Result<Self, LayoutError> {
        let mut total = 0_u64;
        for (cell, id) in cells.iter().zip(0..) {
            check(&cells, cell, id, size)?;
            total = total.saturating_add(match cell.kind {
                Kind::Ram { len } => len,
                Kind::Fifo { depth, .. } => u64::from(depth) * 8,
                _ => 0,
            });
            if total > MOST {
                return Err(LayoutError::Length { cell: id, len: total });
            }
        }
        let reads = sorted(&cells, |cell| cell.sides.0)?;
        let writes = sorted(&cells, |cell| cell.sides.1)?;
        Ok(Self { cells, rule, size, reads, writes, plain, names: Vec::new() })
    }

    /// The registers as declared.
    #[must_use]
    pub fn cells(&self) -> &[Cell] {
        &self.cells
    }

    /// Bytes of the device's range.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }
}

fn check(cells: &[Cell], cell: &Cell, id: u32, size: u64) -> Result<(), LayoutError> {
    if !matches!(cell.width, 1 | 2 | 4 | 8) {
        return Err(LayoutError::Width { cell: id, width: cell.width });
    }
    let len = match cell.kind {
        Kind::Ram { len } => len,
        Kind::Fifo { depth, .. } => depth.into(),
        _ => 1,
    };
    if len == 0 || len > MOST {
        return Err(LayoutError::Length { cell: id, len });
    }
    if let Some(offset) = cell.offset
        && size.checked_sub(offset).is_none_or(|left| left < cell.len())
    {
        return Err(LayoutError::Outside { cell: id, offset, len: cell.len(), size });
    }
    let other = |other: u32| cells.get(other as usize);
    if cell.reset & !cell.all() != 0 {
        return Err(LayoutError::Value { cell: id, value: cell.reset });
    }
    if let Some(when) = cell.when
        && other(when.cell).is_none_or(|it| it.kind != Kind::Plain || when.equals & !when.mask != 0)
    {
        return Err(LayoutError::Reference { cell: id, other: when.cell });
    }
    if let Kind::Port { index, first, count, .. } = cell.kind {
        if other(index).is_none_or(|it| it.kind != Kind::Plain) {
            return Err(LayoutError::Reference { cell: id, other: index });
        }
        for behind in first..first.saturating_add(count) {
            // One behind a port is not itself a port, so that an access ends.
            if other(behind).is_none_or(|it| matches!(it.kind, Kind::Port { .. } | Kind::Ram { .. })) {
                return Err(LayoutError::Reference { cell: id, other: behind });
            }
        }
    }
    Ok(())
}

fn sorted(cells: &[Cell], is_there: impl Fn(&Cell) -> bool) -> Result<Side, LayoutError> {
    let mut slots: Vec<Slot> = Vec::new();
    for (cell, id) in cells.iter().zip(0..) {
        if let Some(offset) = cell.offset.filter(|_| is_there(cell)) {
            slots.push(Slot { offset, len: cell.len(), cell: id, when: cell.when });
        }
    }
    // Stable: as declared where all else is equal.
    slots.sort_by_key(|slot| (slot.offset, slot.when.is_some()));
    for (at, slot) in slots.iter().enumerate() {
        // All before it that reach into it: those at its own place, and the last one of another.
        for before in slots.get(..at).unwrap_or_default().iter().rev() {
            let shares = before.offset == slot.offset && before.len == slot.len && apart(before, slot);
            if before.offset + before.len > slot.offset && !shares {
                return Err(LayoutError::Overlap { cell: slot.cell, other: before.cell, offset: slot.offset });
            }
            if before.offset < slot.offset {
                break;
            }
        }
    }
    Ok(Side { starts: slots.iter().map(|slot| slot.offset).collect(), slots })
}

/// Whether two at one place are never there at once, or the second has precedence while it is there.
fn apart(one: &Slot, two: &Slot) -> bool {
    match (one.when, two.when) {
        (None, None) => false,
        (None, Some(_)) | (Some(_), None) => true,
        (Some(one), Some(two)) => {
            let common = one.mask & two.mask;
            one.cell == two.cell && one.equals & common != two.equals & common
        }
    }
}
