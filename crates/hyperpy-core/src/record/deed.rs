//! What a recorded device does by itself: to its lines, by messages, and to guest memory.

use std::sync::Arc;

use crate::memory::dma::Range;

/// So many bytes of guest memory take up as much of a recording as an event.
const BYTES: usize = 64;

/// Something that a device did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Deed {
    /// It drove a line, which was elsewhere before.
    Line {
        /// The number of the line.
        wire: usize,
        /// Asserted.
        high: bool,
    },
    /// It sent a message.
    Message {
        /// The number of the line that sends it, or of what sends them.
        wire: usize,
        /// Where to.
        address: u64,
        /// The message.
        data: u64,
        /// Whether a local APIC took it, as the device was told.
        is_taken: bool,
    },
    /// It read or wrote guest memory. Shared, since it may be large.
    Memory(Arc<Moved>),
}

/// An access of a device to guest memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Moved {
    /// Or it read.
    pub is_write: bool,
    /// Which memory.
    pub ranges: Vec<Range>,
    /// What it read or wrote, one range behind the other.
    pub data: Vec<u8>,
    /// Why it was refused, if it was, and at which address and length.
    pub refused: Option<(String, u64, u64)>,
}

impl Deed {
    /// How much of a recording it takes up, in events.
    #[must_use]
    pub fn cost(&self) -> usize {
        match self {
            Self::Memory(moved) => moved.ranges.len().max(1).saturating_add(moved.data.len() / BYTES),
            Self::Line { .. } | Self::Message { .. } => 1,
        }
    }
}

/// An interrupt line of a device, or what sends its messages.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wire {
    /// Where a line is.
    pub is_high: bool,
    /// Address and data of the message that a line sends whenever it is driven high.
    pub message: Option<(u64, u32)>,
}

impl Wire {
    /// It is driven; what that is, if anything. That of a line which sends a message goes low means nothing but to who looks
    /// at its level, which the device knows of what it does itself.
    pub(super) fn driven(&mut self, wire: usize, high: bool, is_inside: bool) -> Option<Deed> {
        let was_high = std::mem::replace(&mut self.is_high, high);
        match self.message {
            Some((address, data)) if high => Some(Deed::Message { wire, address, data: data.into(), is_taken: true }),
            Some(_) if is_inside => None,
            _ => (was_high != high).then_some(Deed::Line { wire, high }),
        }
    }
}
