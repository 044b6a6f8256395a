//! The declaration of a device's registers, checked and sorted: what is at an offset, seen from reads and from writes.
//!
//! A layout has no state and is shared by all devices of a class. A register can be at an offset for reads alone, and
//! another for writes; several can share a place, told apart by bits of a third one (`when`).

use super::bits::Bits;
pub use super::check::LayoutError;
use super::check::check;
use super::delivery::{self, Delivery};
use super::side::Side;
use crate::bus::ones;

/// How accesses that are not exactly one register are served. Those to a window are exact at any width.
///
/// Under each of them: of several registers the one of the lowest address is served first, with all that this does, and then
/// it is seen what is at the next address. A read is cut to the bytes of the access. A write does nothing to bytes that it
/// does not give. A queue moves one item for each access that touches it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// Not at all: they read as 0, and writes are dropped.
    Exact,
    /// Each register gives and takes the bytes that the access covers. What a read does to bits, it does to those alone.
    Split,
    /// The same, but what a read does to bits, it does to all of each register that the access touches.
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
    /// When one of these bits is written as 1: of a narrow access only those count that it gives.
    If(u64),
}

impl Tell {
    /// Whether a write that gives these bits as 1 is told.
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
        /// The owner is told of accesses that leave at least so many items where guests put, at most so many where they
        /// take.
        threshold: u32,
    },
    /// Shows how many items a queue has.
    Level {
        /// The queue.
        of: u32,
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
        /// Bits of it that count: the lowest of them is worth 1.
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
    /// When it is told of them, and how they come.
    pub delivery: Delivery,
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

/// Most bytes of windows and queues that one device may declare: state of a device is allocated at once.
pub(super) const MOST: u64 = 1 << 28;

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
    /// Whether the owner wants to know of reads, and of writes: of each register, and of any behind a port.
    pub(super) wants: Box<[(bool, bool)]>,
    /// What they are called, where that was said.
    pub(super) names: Vec<Box<str>>,
    /// Tells what is saved of them from what another version of the class saves.
    pub(super) schema: i64,
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
        let (reads, writes) = (Side::new(&cells, true)?, Side::new(&cells, false)?);
        delivery::check(&cells, &writes)?;
        let wants = cells.iter().map(|cell| wants(&cells, cell)).collect();
        Ok(Self { cells, rule, size, reads, writes, plain, wants, names: Vec::new(), schema: 1 })
    }

    /// The same of another schema than 1.
    #[must_use]
    pub fn of_schema(mut self, schema: i64) -> Self {
        self.schema = schema;
        self
    }

    /// Tells what is saved of them from what another version of the class saves.
    #[must_use]
    pub fn schema(&self) -> i64 {
        self.schema
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

fn wants(cells: &[Cell], cell: &Cell) -> (bool, bool) {
    let of = |cell: &Cell| (cell.on_read, cell.on_write != Tell::Never);
    let Kind::Port { first, count, .. } = cell.kind else { return of(cell) };
    let behind = cells.iter().skip(first as usize).take(count as usize).map(of);
    behind.fold((false, false), |(reads, writes), (read, write)| (reads || read, writes || write))
}
