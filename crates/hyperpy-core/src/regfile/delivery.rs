//! How a register's owner gets to know of writes: at once, later, or by a signal that costs no exit; and what of a layout the
//! kernel is told for it.

use super::Owner;
use super::layout::{Cell, Layout, LayoutError, Tell};
use super::side::{Place, Side};
use super::touch::in_order;
use crate::bus::{BellAt, Shortcuts};

/// How the owner is told of a register's writes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Delivery {
    /// At once, while the guest waits.
    #[default]
    Now,
    /// Later, in order.
    Posted,
    /// Later, in order; and the writes wait in the kernel's ring.
    Stream,
    /// By a signal for each of these values; for none of them, one for any write, whose value nobody knows.
    Bell(Vec<u64>),
}

impl Delivery {
    /// Whether the kernel takes writes by the register's place alone, so that nothing else can be there.
    pub(super) fn is_in_kernel(&self) -> bool {
        matches!(self, Self::Stream | Self::Bell(_))
    }
}

/// Who can be told of a write while it is made. Said once for all of an access, so that it is done as a whole or not at all.
#[derive(Clone, Copy)]
pub(super) enum To<'a> {
    /// Its owner, at once.
    Owner(&'a dyn Owner),
    /// Of a posted register: its owner, later.
    Late,
    /// Nobody: no more writes can wait.
    Nobody,
}

impl To<'_> {
    /// Whether who wants to know of a register's writes gets to know.
    pub(super) fn takes(self, cell: &Cell) -> bool {
        match self {
            Self::Owner(_) => true,
            Self::Late => cell.delivery == Delivery::Posted,
            Self::Nobody => false,
        }
    }
}

/// Refuses a register whose writes the kernel takes, and which shares its place.
pub(super) fn check(cells: &[Cell], writes: &Side) -> Result<(), LayoutError> {
    for place in &writes.places {
        let Place { cell: id, offset, .. } = *place;
        let Some(cell) = cells.get(id as usize).filter(|cell| cell.delivery.is_in_kernel()) else { continue };
        let same = |other: &&Place| other.offset == offset && other.cell != id;
        if let Some(other) = writes.places.iter().find(same) {
            return Err(LayoutError::Shared { cell: id, other: other.cell, offset });
        }
        if cell.when.is_some() {
            return Err(LayoutError::Shared { cell: id, other: id, offset });
        }
        if let Delivery::Bell(values) = &cell.delivery
            && let Some(&value) = values.iter().find(|&&value| value & !cell.all() != 0)
        {
            return Err(LayoutError::Value { cell: id, value });
        }
    }
    Ok(())
}

impl Layout {
    /// What the kernel can take of this device's writes.
    #[must_use]
    pub fn shortcuts(&self) -> Shortcuts {
        // Those behind a port have no place, and are posted all the same.
        let late = self.cells.iter().any(|cell| matches!(cell.delivery, Delivery::Posted | Delivery::Stream));
        let mut found = Shortcuts { late, ..Shortcuts::default() };
        for &Place { offset, cell, .. } in &self.writes.places {
            let Some(cell) = self.cells.get(cell as usize) else { continue };
            match &cell.delivery {
                Delivery::Now | Delivery::Posted => {}
                Delivery::Stream => found.streams.push((offset, u32::from(cell.width))),
                // Nobody to tell: an exit does no more.
                Delivery::Bell(_) if cell.on_write == Tell::Never => {}
                Delivery::Bell(values) => {
                    let bell = |value| BellAt { offset, size: cell.width, value };
                    found.bells.extend(values.iter().map(|&value| bell(Some(in_order(cell, value)))));
                    if values.is_empty() {
                        found.bells.push(bell(None));
                    }
                }
            }
        }
        found
    }
}
