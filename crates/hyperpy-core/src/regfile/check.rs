//! What a declaration cannot be: each register by itself, and what it refers to. That two overlap is seen where they are
//! sorted (`side`).

use thiserror::Error;

use super::bits::Bits;
use super::layout::{Cell, Kind, MOST, Tell};

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
    /// The kernel takes its writes, whatever else is at its place.
    #[error("register whose writes bypass its device shares a place: {offset:#x}")]
    Shared {
        /// Which.
        cell: u32,
        /// The other, or itself if it is there only at times.
        other: u32,
        /// Where it is.
        offset: u64,
    },
    /// A queue, window or port of no length, or too long; or a threshold that no queue of that depth comes to.
    #[error("length is out of range: {len}")]
    Length {
        /// Which.
        cell: u32,
        /// Its length.
        len: u64,
    },
    /// What is said of it contradicts itself.
    #[error("register contradicts itself: {}", why.text())]
    Kind {
        /// Which.
        cell: u32,
        /// How.
        why: Contradiction,
    },
}

/// What is said of a register and cannot be true of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Contradiction {
    /// A bit that a write would change in two ways, or a read.
    Bits,
    /// A method wants to know of reads, or of writes, that guests cannot make.
    Unheard,
    /// A queue is put into and taken from by guests.
    Queue,
    /// A level, which is what it is, is written.
    Level,
    /// A window has no width, byte order, methods or value of its own.
    Window,
    /// A port has what belongs to the registers behind it: methods, or a value.
    Port,
    /// A counter that does not count.
    Rate,
}

impl Contradiction {
    /// As part of a message.
    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            Self::Bits => "an access changes a bit in two ways",
            Self::Unheard => "a method is told of accesses that guests cannot make",
            Self::Queue => "guests put into a queue and take from it",
            Self::Level => "guests write the level of a queue",
            Self::Window => "a window has a width, an order, a method or a value",
            Self::Port => "a port has a method or a value",
            Self::Rate => "a counter counts nothing",
        }
    }
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
            Self::Shared { .. } => "give it a place of its own: no `when` goes with `stream` or `doorbell`",
            Self::Reference { .. } => {
                "`when` and `index` name a plain register of the same class; registers behind a port are alike"
            }
            Self::Length { .. } => "queues and windows of a device have up to 256 MiB together",
            Self::Kind { why: Contradiction::Unheard, .. } => "another `access`, or no such method",
            Self::Kind { why: Contradiction::Queue, .. } => {
                "two queues, one for each direction: they can share an offset"
            }
            Self::Kind { .. } => "one kind of register has one meaning: declare two",
        }
    }
}

/// What is wrong with one register of a declaration, whose device has `size` bytes.
pub(super) fn check(cells: &[Cell], cell: &Cell, id: u32, size: u64) -> Result<(), LayoutError> {
    if !matches!(cell.width, 1 | 2 | 4 | 8) {
        return Err(LayoutError::Width { cell: id, width: cell.width });
    }
    let len = match cell.kind {
        Kind::Ram { len } => len,
        Kind::Fifo { depth, .. } => depth.into(),
        Kind::Port { count, .. } => count.into(),
        _ => 1,
    };
    if len == 0 || len > MOST {
        return Err(LayoutError::Length { cell: id, len });
    }
    if let Kind::Fifo { depth, threshold, .. } = cell.kind
        && threshold > depth
    {
        return Err(LayoutError::Length { cell: id, len: threshold.into() });
    }
    if let Some(offset) = cell.offset
        && size.checked_sub(offset).is_none_or(|left| left < cell.len())
    {
        return Err(LayoutError::Outside { cell: id, offset, len: cell.len(), size });
    }
    let empty = if let Kind::Fifo { empty, .. } = cell.kind { empty } else { 0 };
    for value in [cell.reset, empty, cell.bits.any()] {
        if value & !cell.all() != 0 {
            return Err(LayoutError::Value { cell: id, value });
        }
    }
    if let Some(why) = contradiction(cell) {
        return Err(LayoutError::Kind { cell: id, why });
    }
    references(cells, cell).map_err(|other| LayoutError::Reference { cell: id, other })
}

fn contradiction(cell: &Cell) -> Option<Contradiction> {
    let is_told = cell.on_read || cell.on_write != Tell::Never;
    let (is_read, is_written) = cell.sides;
    let is_unheard = cell.on_read && !is_read || cell.on_write != Tell::Never && !is_written;
    let has_value = cell.reset != 0 || cell.bits != Bits::default();
    match cell.kind {
        _ if !cell.bits.is_consistent() => Some(Contradiction::Bits),
        Kind::Ram { .. } if cell.width != 1 || cell.big_endian || is_told || has_value => Some(Contradiction::Window),
        Kind::Port { .. } if is_told || has_value => Some(Contradiction::Port),
        Kind::Fifo { guest_takes, .. } if if guest_takes { is_written } else { is_read } => Some(Contradiction::Queue),
        Kind::Level { .. } if is_written => Some(Contradiction::Level),
        Kind::Counter { hz: 0 } => Some(Contradiction::Rate),
        // One without a place is reached by a port, which has the sides.
        _ if cell.offset.is_some() && is_unheard => Some(Contradiction::Unheard),
        _ => None,
    }
}

/// The register that this one refers to and cannot use.
fn references(cells: &[Cell], cell: &Cell) -> Result<(), u32> {
    let find = |id: u32, is_fit: &dyn Fn(&Cell) -> bool| {
        let found = cells.get(id as usize).filter(|other| is_fit(other));
        found.map(|_| ()).ok_or(id)
    };
    // Bits of a plain register.
    let is_bits_of = |mask: u64| move |other: &Cell| other.kind == Kind::Plain && mask & !other.all() == 0;
    if let Some(when) = cell.when {
        find(when.cell, &|other| is_bits_of(when.mask)(other) && when.equals & !when.mask == 0)?;
    }
    match cell.kind {
        Kind::Level { of } => find(of, &|other| matches!(other.kind, Kind::Fifo { .. })),
        Kind::Port { index, mask, first, count, .. } => {
            find(index, &is_bits_of(mask))?;
            let model = cells.get(first as usize).ok_or(first)?;
            // They are alike but for what is told of them.
            let is_alike = |other: &Cell| {
                (other.kind, other.width, other.big_endian) == (Kind::Plain, cell.width, cell.big_endian)
                    && other.delivery == model.delivery
                    && !other.delivery.is_in_kernel()
            };
            (first..first.saturating_add(count)).try_for_each(|behind| find(behind, &is_alike))
        }
        _ => Ok(()),
    }
}
