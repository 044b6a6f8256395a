//! How a register's owner gets to know of writes: at once, later, or by a signal that costs no exit; and what of a layout the
//! kernel is told for it.

use super::layout::{Cell, Layout, LayoutError, Side, Slot, Tell};
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
    fn is_in_kernel(&self) -> bool {
        matches!(self, Self::Stream | Self::Bell(_))
    }
}

/// Refuses a register whose writes the kernel takes, and which shares its place.
pub(super) fn check(cells: &[Cell], writes: &Side) -> Result<(), LayoutError> {
    for slot in writes.slots() {
        let Some(cell) = cells.get(slot.cell as usize).filter(|cell| cell.delivery.is_in_kernel()) else { continue };
        let same = |other: &&Slot| other.offset == slot.offset && other.cell != slot.cell;
        if let Some(other) = writes.slots().iter().find(same) {
            return Err(LayoutError::Shared { cell: slot.cell, other: other.cell, offset: slot.offset });
        }
        if cell.when.is_some() {
            return Err(LayoutError::Shared { cell: slot.cell, other: slot.cell, offset: slot.offset });
        }
        if let Delivery::Bell(values) = &cell.delivery
            && let Some(&value) = values.iter().find(|&&value| value & !cell.all() != 0)
        {
            return Err(LayoutError::Value { cell: slot.cell, value });
        }
    }
    Ok(())
}

impl Layout {
    /// What the kernel can take of this device's writes.
    #[must_use]
    pub fn shortcuts(&self) -> Shortcuts {
        let mut found = Shortcuts::default();
        for slot in self.writes.slots() {
            let Some(cell) = self.cells.get(slot.cell as usize) else { continue };
            match &cell.delivery {
                Delivery::Now => {}
                Delivery::Posted => found.late = true,
                Delivery::Stream => {
                    found.late = true;
                    found.streams.push((slot.offset, u32::from(cell.width)));
                }
                // Nobody to tell: an exit does no more.
                Delivery::Bell(_) if cell.on_write == Tell::Never => {}
                Delivery::Bell(values) => {
                    let bell = |value| BellAt { offset: slot.offset, size: cell.width, value };
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
