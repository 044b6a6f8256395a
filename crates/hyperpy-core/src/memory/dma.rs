//! A device's way into guest memory: it reads what the guest could read there and writes what the guest could write.
//!
//! Ranges come from the guest. All of a list is looked up in one layout before the first byte is copied, so that what is
//! refused changes nothing, and nothing behind a region of kind mmio or a device is ever reached. A copy is one pass of
//! volatile loads or stores; the guest may write at the same time. Taking the lock is a full barrier on x86-64, so that
//! accesses of one device are seen in their order. Nothing is kept alive by it: memory goes with its machine.

use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, Weak};

use thiserror::Error;

use super::{Layout, Memory};

/// A range of guest memory: gpa and bytes.
pub type Range = (u64, u64);

/// Why a device's access to memory was refused. Nothing was copied then.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum DmaError {
    /// A byte of the range has no memory: it is a device's, a hole, beyond the end, or the range wraps.
    #[error("dma reaches no memory at {gpa:#x} for {len:#x} bytes")]
    Access {
        /// Guest-physical address.
        gpa: u64,
        /// Bytes wanted.
        len: u64,
    },
    /// A write to memory that the guest cannot write either.
    #[error("dma writes to read-only memory at {gpa:#x} for {len:#x} bytes")]
    ReadOnly {
        /// Guest-physical address.
        gpa: u64,
        /// Bytes wanted.
        len: u64,
    },
    /// More than the device takes at once.
    #[error("dma reads more than {most:#x} bytes at once: {len:#x} bytes at {gpa:#x}")]
    TooMuch {
        /// Where the range is that is one too many.
        gpa: u64,
        /// Bytes with it.
        len: u64,
        /// The limit.
        most: u64,
    },
    /// A list shorter than the data for it.
    #[error("scatter list has {len:#x} bytes for data of {data:#x}")]
    Short {
        /// Bytes of the list.
        len: u64,
        /// Bytes of the data.
        data: u64,
    },
    /// The device is not attached any more.
    #[error("cannot use the memory: the device is detached")]
    Detached,
    /// The machine is closed.
    #[error("cannot use the memory: the machine is closed")]
    Closed,
}

impl DmaError {
    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Access { .. } => {
                "dma reaches ram, and reads rom; not devices: the guest gave a wrong address or length"
            }
            Self::ReadOnly { .. } => "dma writes where the guest could: not to rom or protected ram",
            Self::TooMuch { .. } => {
                "check lengths that the guest gives; `dma_limit` of the device's class is the limit"
            }
            Self::Short { .. } => "cut the data to what the guest has room for, or take it as the guest's error",
            Self::Detached => "a device has memory from `attach` to `detach`",
            Self::Closed => "make a new machine",
        }
    }
}

/// The memory of a machine for one device, until it is revoked.
#[derive(Debug)]
pub struct Dma {
    /// Read while bytes are copied, so that none is once `revoke` has returned.
    memory: RwLock<Option<Weak<Memory>>>,
    most: u64,
}

impl Dma {
    /// For a device that reads no more than `most` bytes at once.
    #[must_use]
    pub fn new(memory: &Arc<Memory>, most: u64) -> Self {
        Self { memory: RwLock::new(Some(Arc::downgrade(memory))), most }
    }

    /// Takes the memory from the device, and returns when it copies nothing any more.
    pub fn revoke(&self) {
        *self.memory.write().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Whether there is memory.
    #[must_use]
    pub fn is_usable(&self) -> bool {
        self.layout().is_ok()
    }

    /// Bytes of a list that is to be read at once.
    ///
    /// # Errors
    /// They are more than the limit.
    pub fn total(&self, list: &[Range]) -> Result<usize, DmaError> {
        let mut total = 0_u64;
        for &(gpa, len) in list {
            let sum = total.checked_add(len).filter(|sum| *sum <= self.most);
            let len = total.saturating_add(len);
            total = sum.ok_or(DmaError::TooMuch { gpa, len, most: self.most })?;
        }
        usize::try_from(total).map_err(|_| DmaError::TooMuch { gpa: 0, len: total, most: self.most })
    }

    /// Refuses what could not be read, or written, now.
    ///
    /// # Errors
    /// A range is not memory, or not to be written; or the device has no memory any more.
    pub fn check(&self, list: &[Range], is_write: bool) -> Result<(), DmaError> {
        let (_held, layout) = self.layout()?;
        list.iter().try_for_each(|&range| allowed(&layout, range, is_write))
    }

    /// Copies the ranges of a list one behind the other into `buffer`, which is as long as all of them or shorter.
    ///
    /// # Errors
    /// As for [`Self::check`].
    pub fn gather(&self, list: &[Range], buffer: &mut [u8]) -> Result<(), DmaError> {
        let (_held, layout) = self.layout()?;
        list.iter().try_for_each(|&range| allowed(&layout, range, false))?;
        let mut rest = buffer;
        for &(gpa, len) in list {
            let here = rest.len().min(usize::try_from(len).unwrap_or(usize::MAX));
            let (into, after) = rest.split_at_mut_checked(here).ok_or(DmaError::Access { gpa, len })?;
            let copied = layout.walk(gpa, here, |mapping, offset, range| {
                into.get_mut(range).is_some_and(|into| mapping.read(offset, into))
            });
            if !copied {
                return Err(DmaError::Access { gpa, len });
            }
            rest = after;
        }
        Ok(())
    }

    /// Copies `bytes` into the ranges of a list, one behind the other, and marks their pages as written. What the list has
    /// room for beyond stays as it is.
    ///
    /// # Errors
    /// As for [`Self::check`]; or the list has not room for all.
    pub fn scatter(&self, list: &[Range], bytes: &[u8]) -> Result<(), DmaError> {
        let (held, layout) = self.layout()?;
        list.iter().try_for_each(|&range| allowed(&layout, range, true))?;
        let (len, data) = (list.iter().fold(0_u64, |sum, (_, len)| sum.saturating_add(*len)), bytes.len() as u64);
        if len < data {
            return Err(DmaError::Short { len, data });
        }
        let memory = held.as_ref().and_then(Weak::upgrade).ok_or(DmaError::Closed)?;
        let _writing = memory.write_lock();
        let mut rest = bytes;
        for &(gpa, len) in list {
            let here = rest.len().min(usize::try_from(len).unwrap_or(usize::MAX));
            let (from, after) = rest.split_at_checked(here).ok_or(DmaError::Access { gpa, len })?;
            let copied = layout.walk(gpa, here, |mapping, offset, range| {
                from.get(range).is_some_and(|from| mapping.write(offset, from))
            });
            if !copied {
                return Err(DmaError::Access { gpa, len });
            }
            rest = after;
        }
        Ok(())
    }

    /// What is where now, and what keeps `revoke` waiting.
    #[allow(clippy::type_complexity)]
    fn layout(&self) -> Result<(RwLockReadGuard<'_, Option<Weak<Memory>>>, Arc<Layout>), DmaError> {
        let held = self.memory.read().unwrap_or_else(PoisonError::into_inner);
        let memory = held.as_ref().ok_or(DmaError::Detached)?.upgrade().ok_or(DmaError::Closed)?;
        let layout = memory.layout();
        if layout.closed { Err(DmaError::Closed) } else { Ok((held, layout)) }
    }
}

/// Refuses a range of which a byte is no memory, or cannot be written by the guest.
fn allowed(layout: &Layout, (gpa, len): Range, is_write: bool) -> Result<(), DmaError> {
    let missing = DmaError::Access { gpa, len };
    let Some(span) = len.checked_sub(1) else { return Ok(()) };
    let last = gpa.checked_add(span).ok_or(missing)?;
    let (mut at, mut is_writable) = (gpa, true);
    loop {
        let part = layout.holding(at).filter(|part| part.backed.is_some()).ok_or(missing)?;
        is_writable &= part.info.writable;
        if part.info.last() >= last {
            break;
        }
        at = part.info.last() + 1; // below `last`
    }
    if is_write && !is_writable { Err(DmaError::ReadOnly { gpa, len }) } else { Ok(()) }
}

#[cfg(test)]
#[path = "dma_test.rs"]
mod tests;
