//! Registers by ascending offset as one side sees them, reads or writes: what is at an offset.
//!
//! Each place has at hand what the usual access wants to know, so that it looks nowhere else before the register itself.

use super::layout::{Cell, Kind, LayoutError, Tell, When};
use super::parts::Part;
use crate::bus::Access;

/// A register at a place.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) offset: u64,
    len: u64,
    pub(super) cell: u32,
    pub(super) when: Option<When>,
    /// What an access to all of it comes to.
    whole: Whole,
    /// A window: it has no width of its own.
    is_window: bool,
    /// Its bits that a read shows, or that a write stores.
    pub(super) mask: u64,
}

/// What an access to all of a register comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Whole {
    /// Its value is read and stays, or is replaced.
    Value,
    /// What becomes of its value depends on what it is.
    Bits,
    /// It is not only about a value: of another kind, in another order, or somebody wants to know.
    More,
}

impl Place {
    fn new(cell: &Cell, id: u32, offset: u64, is_read: bool) -> Self {
        let (is_told, is_value) = if is_read {
            (cell.on_read, !cell.bits.changes_when_read())
        } else {
            (cell.on_write != Tell::Never, cell.bits.stored == cell.all())
        };
        let whole = match cell.kind {
            Kind::Plain if is_told || cell.big_endian && cell.width > 1 => Whole::More,
            Kind::Plain if is_value => Whole::Value,
            Kind::Plain => Whole::Bits,
            _ => Whole::More,
        };
        Self {
            offset,
            len: cell.len(),
            cell: id,
            when: cell.when,
            whole,
            is_window: matches!(cell.kind, Kind::Ram { .. }),
            mask: if is_read { cell.bits.readable } else { cell.bits.stored },
        }
    }

    /// What an access comes to if it is to all of this and nothing else.
    #[inline]
    pub(super) fn whole(&self, at: Access) -> Whole {
        if self.offset == at.offset && self.len == u64::from(at.size) { self.whole } else { Whole::More }
    }

    /// Whether an access that begins here ends here.
    pub(super) fn covers(&self, at: Access) -> bool {
        self.len - (at.offset - self.offset) >= u64::from(at.size)
    }

    /// Whether an access that ends here is to one register at its width.
    pub(super) fn is_exact(&self, at: Access) -> bool {
        self.is_window || (self.offset == at.offset && self.len == u64::from(at.size))
    }

    /// Its bytes of an access, of which `done` bytes come before `offset` and up to `left` from there on.
    pub(super) fn part(&self, offset: u64, done: u8, left: u8, is_widened: bool) -> Part {
        let from = offset - self.offset;
        let len = u8::try_from(self.len - from).unwrap_or(left).min(left);
        Part { cell: self.cell, from, len, shift: 8 * u32::from(done), whole: is_widened && !self.is_window }
    }
}

/// Most entries of a side's table: 128 KiB for a class of devices.
const MOST_UNITS: u64 = 1 << 16;

/// Places by ascending offset. Of those that share one the register without a condition is first.
#[derive(Clone, Debug, Default)]
pub(super) struct Side {
    pub(super) places: Vec<Place>,
    /// How many places begin in each unit of the device's range or before it; each begins at the start of one. As long as
    /// there are not too many: what is beyond the table is searched for.
    begun: Box<[u16]>,
    /// A unit is two to this power of bytes.
    shift: u32,
}

impl Side {
    /// The places of the registers that guests can read, or write.
    pub(super) fn new(cells: &[Cell], is_read: bool) -> Result<Self, LayoutError> {
        let mut places: Vec<Place> = Vec::new();
        for (cell, id) in cells.iter().zip(0..) {
            let is_there = if is_read { cell.sides.0 } else { cell.sides.1 };
            if let Some(offset) = cell.offset.filter(|_| is_there) {
                places.push(Place::new(cell, id, offset, is_read));
            }
        }
        // Stable: as declared where all else is equal.
        places.sort_by_key(|place| (place.offset, place.when.is_some()));
        for (at, place) in places.iter().enumerate() {
            // All before it that reach into it: those at its own place, and the last one of another.
            for before in places.get(..at).unwrap_or_default().iter().rev() {
                let shares = before.offset == place.offset && before.len == place.len && apart(before, place);
                if before.offset + before.len > place.offset && !shares {
                    return Err(LayoutError::Overlap { cell: place.cell, other: before.cell, offset: place.offset });
                }
                if before.offset < place.offset {
                    break;
                }
            }
        }
        let mut side = Self { places, ..Self::default() };
        side.index();
        Ok(side)
    }

    /// Makes the table.
    fn index(&mut self) {
        let Some(last) = self.places.last().filter(|_| u16::try_from(self.places.len()).is_ok()) else { return };
        self.shift = self.places.iter().fold(last.offset, |all, place| all | place.offset).trailing_zeros().min(63);
        let units = (last.offset >> self.shift) + 1;
        if units <= MOST_UNITS {
            let begun = (0..units).map(|unit| u16::try_from(self.begun_by(unit << self.shift)).unwrap_or(u16::MAX));
            self.begun = begun.collect();
        }
    }

    /// How many places begin at or before an offset.
    fn begun_by(&self, offset: u64) -> usize {
        self.places.partition_point(|place| place.offset <= offset)
    }

    /// The register whose bytes hold `offset`, of those whose condition `holds`.
    #[inline]
    pub(super) fn find(&self, offset: u64, holds: impl Fn(&When) -> bool) -> Option<&Place> {
        let unit = usize::try_from(offset >> self.shift).unwrap_or(usize::MAX);
        let begun = self.begun.get(unit).map_or_else(|| self.begun_by(offset), |&begun| begun.into());
        let mut at = begun.checked_sub(1)?;
        loop {
            let place = self.places.get(at)?;
            if offset - place.offset >= place.len {
                return None;
            }
            if place.when.as_ref().is_none_or(&holds) {
                return Some(place);
            }
            at = at.checked_sub(1)?;
            self.places.get(at).filter(|before| before.offset == place.offset)?;
        }
    }

    /// All places that an access touches, whatever their conditions.
    pub(super) fn touched(&self, at: Access) -> impl Iterator<Item = &Place> {
        let end = at.offset.saturating_add(at.size.into());
        // Those that share the last place before it may reach into it.
        let inside = self.places.partition_point(|place| place.offset < at.offset);
        let before = inside.checked_sub(1).and_then(|last| self.places.get(last));
        let first = before.map_or(inside, |last| self.places.partition_point(|place| place.offset < last.offset));
        let places = self.places.get(first..).unwrap_or_default().iter();
        places.take_while(move |place| place.offset < end).filter(move |place| place.offset + place.len > at.offset)
    }
}

/// Whether two at one place are never there at once, or the second has precedence while it is there.
fn apart(one: &Place, two: &Place) -> bool {
    match (one.when, two.when) {
        (None, None) => false,
        (None, Some(_)) | (Some(_), None) => true,
        (Some(one), Some(two)) => {
            let common = one.mask & two.mask;
            one.cell == two.cell && one.equals & common != two.equals & common
        }
    }
}
