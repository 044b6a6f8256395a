//! What can go wrong with guest memory, and what to do about it.

use std::io;

use thiserror::Error;

use super::{Difference, Pages};
use crate::accel::{AccelError, hint_for_exhausted};
use crate::control::Phase;
use crate::error::StateError;

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
    #[error("memory region is not of whole pages of {}: {gpa:#x} + {len:#x}", page_words(*.pages))]
    Unaligned {
        /// Guest-physical address.
        gpa: u64,
        /// Length in bytes.
        len: u64,
        /// Which pages.
        pages: Pages,
    },
    /// A region beyond the end of the address space.
    #[error("memory region wraps the address space: {gpa:#x} + {len:#x}")]
    Wraps {
        /// Guest-physical address.
        gpa: u64,
        /// Length in bytes.
        len: u64,
    },
    /// A region beyond what KVM takes as one.
    #[error("memory region is larger than {most:#x} bytes: {gpa:#x} + {len:#x}")]
    TooLarge {
        /// Guest-physical address.
        gpa: u64,
        /// Length in bytes.
        len: u64,
        /// Most bytes.
        most: u64,
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
    /// A region beyond every processor's physical addresses.
    #[error("memory region leaves the guest-physical addresses: {gpa:#x} + {len:#x} is above {end:#x}")]
    Beyond {
        /// Guest-physical address.
        gpa: u64,
        /// Length in bytes.
        len: u64,
        /// The first address that does not exist.
        end: u64,
    },
    /// More regions than the accelerator takes.
    #[error("too many memory regions: {gpa:#x} + {len:#x} would be one more than {most}")]
    TooManySlots {
        /// Guest-physical address.
        gpa: u64,
        /// Length in bytes.
        len: u64,
        /// The most there can be.
        most: u32,
    },
    /// A device is there: it would not be reached any more.
    #[error("memory region lies over device {name} at {other:#x}: {gpa:#x} + {len:#x}")]
    Device {
        /// Guest-physical address.
        gpa: u64,
        /// Length in bytes.
        len: u64,
        /// Base of the device.
        other: u64,
        /// Its name.
        name: String,
    },
    /// The kernel has something there that the guest would reach instead.
    #[error("memory region lies over {name} at {other:#x}: {gpa:#x} + {len:#x}")]
    Kernel {
        /// Guest-physical address.
        gpa: u64,
        /// Length in bytes.
        len: u64,
        /// Base of what the kernel has there.
        other: u64,
        /// What that is.
        name: &'static str,
    },
    /// No region begins there.
    #[error("no memory region begins at {gpa:#x}")]
    NoRegion {
        /// Guest-physical address.
        gpa: u64,
    },
    /// A region without memory behind it.
    #[error("region has no memory behind it: {gpa:#x}")]
    NotMemory {
        /// Guest-physical address.
        gpa: u64,
    },
    /// A region that has an alias cannot be removed.
    #[error("memory region at {gpa:#x} has an alias at {alias:#x}")]
    Aliased {
        /// Guest-physical address.
        gpa: u64,
        /// Where its alias is.
        alias: u64,
    },
    /// Writes are not tracked.
    #[error("dirty pages are not tracked")]
    NotTracked,
    /// A vCPU that is to leave the guest does not come out of its device.
    #[error("cannot {verb}: a vcpu does not come out of its device")]
    Busy {
        /// What was to be done.
        verb: &'static str,
    },
    /// The machine is closed.
    #[error("cannot use the memory: the machine is closed")]
    Closed,
    /// The accelerator failed.
    #[error(transparent)]
    Accel(#[from] AccelError),
    /// The host gave no memory for the last exits of a vCPU.
    #[error("the host gave no memory for a trace of {exits} exits: {}", exhausted())]
    Trace {
        /// How many.
        exits: u32,
    },
    /// Memory has other regions than the image that is to be restored.
    #[error("memory has other regions than the image: {}", list(.differs))]
    OtherLayout {
        /// What differs.
        differs: Vec<Difference>,
    },
    /// The host gave no memory.
    #[error("the host gave no memory for {len:#x} bytes at {gpa:#x} in pages of {}: {source}", page_words(*.pages))]
    Host {
        /// Guest-physical address.
        gpa: u64,
        /// Length in bytes.
        len: u64,
        /// In which pages.
        pages: Pages,
        /// What the host said.
        source: io::Error,
    },
}

fn list(differs: &[Difference]) -> String {
    differs.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

/// What an allocator means that gives none.
fn exhausted() -> io::Error {
    io::Error::from_raw_os_error(libc::ENOMEM)
}

fn page_words(pages: Pages) -> &'static str {
    match pages {
        Pages::Small | Pages::Transparent => "4 KiB",
        Pages::Huge2M => "2 MiB",
        Pages::Huge1G => "1 GiB",
    }
}

impl MemoryError {
    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> String {
        match self {
            Self::Host { pages, len, .. } if pages.pooled() => format!(
                "the host's pool of huge pages has too few, as root: `echo {} > \
                 /sys/kernel/mm/hugepages/hugepages-{}kB/nr_hugepages`; or leave huge_pages out",
                len / pages.size(),
                pages.size() >> 10
            ),
            Self::Host { pages: Pages::Transparent, .. } => {
                "ask for less, or leave huge_pages out: this host may have no transparent huge pages".into()
            }
            Self::Host { source, .. } => {
                hint_for_exhausted(source).unwrap_or("ask for less, or close other machines").into()
            }
            Self::Trace { .. } => "record fewer: Machine(trace=256)".into(),
            Self::Unaligned { .. } => "addresses and sizes are multiples of the page, and a size is not 0".into(),
            Self::TooManySlots { .. } => "make fewer and larger regions".into(),
            Self::Kernel { .. } => "put it elsewhere: RAM goes up to 3 GiB and on at 4 GiB".into(),
            Self::Aliased { .. } => "remove the alias first".into(),
            Self::NotTracked => "m.memory.track_dirty() first".into(),
            Self::OtherLayout { .. } => {
                "an image is restored to the regions that it was taken of: add or remove those that differ, or use a \
                 machine that has the same"
                    .into()
            }
            Self::Busy { .. } => "do it when the machine stands still, or let the device return".into(),
            Self::Closed => StateError::new("use the memory", Phase::Closed).hint().into(),
            Self::Accel(error) => error.hint().into(),
            _ => "look at `m.map` for what is where".into(),
        }
    }
}
