//! What can go wrong, one enum per operation.
//!
//! Every message is lower case with the value after a colon; `hint()` says what to do. The Python crate maps each
//! enum to one exception class.

use std::io;

use thiserror::Error;

/// A device could not be attached or detached.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum BusError {
    /// A region of no bytes.
    #[error("device region is empty: {base:#x}")]
    Empty {
        /// Its base.
        base: u64,
    },
    /// A region that does not fit on the bus.
    #[error("device region leaves the bus: {base:#x} + {len:#x} is above {limit:#x}")]
    OutsideBus {
        /// Its base.
        base: u64,
        /// Its length.
        len: u64,
        /// Last address of the bus.
        limit: u64,
    },
    /// Two regions at one place.
    #[error("device region overlaps {other} at {other_base:#x}: {base:#x} + {len:#x}")]
    Overlap {
        /// Its base.
        base: u64,
        /// Its length.
        len: u64,
        /// Name of the region that is there.
        other: String,
        /// Base of the region that is there.
        other_base: u64,
    },
    /// Detach of something that is not attached.
    #[error("device is not attached to this machine")]
    NotAttached,
}

/// Guest memory could not be made or reached.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum MemoryError {
    /// An access outside every region.
    #[error("no memory at {gpa:#x} for {len:#x} bytes")]
    Access {
        /// Guest-physical address.
        gpa: u64,
        /// Bytes wanted.
        len: u64,
    },
    /// A region of no bytes, or not of whole pages.
    #[error("memory region is not of whole 4 KiB pages: {gpa:#x} + {len:#x}")]
    Unaligned {
        /// Guest-physical address.
        gpa: u64,
        /// Length in bytes.
        len: u64,
    },
    /// A region beyond the end of the address space.
    #[error("memory region wraps the address space: {gpa:#x} + {len:#x}")]
    Wraps {
        /// Guest-physical address.
        gpa: u64,
        /// Length in bytes.
        len: u64,
    },
    /// Two regions at one place.
    #[error("memory region overlaps the one at {other:#x}: {gpa:#x} + {len:#x}")]
    Overlap {
        /// Guest-physical address.
        gpa: u64,
        /// Length in bytes.
        len: u64,
        /// Base of the region that is there.
        other: u64,
    },
    /// The host gave no memory.
    #[error("the host gave no memory for {len:#x} bytes at {gpa:#x}: {source}")]
    Host {
        /// Guest-physical address.
        gpa: u64,
        /// Length in bytes.
        len: u64,
        /// What the host said.
        source: io::Error,
    },
}
