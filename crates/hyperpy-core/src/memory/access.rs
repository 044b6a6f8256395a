//! The host's way into guest memory: copies, across adjoining regions, and views within one.
//!
//! Every copy is vm-memory's volatile one: the guest may change a byte at any moment, so no Rust reference into guest
//! memory is ever formed. Pages that are written here are marked in the bits of their block.

use std::sync::Arc;

use super::block::Mapping;
use super::view::View;
use super::{Layout, Memory};
use crate::error::MemoryError;

impl Layout {
    /// Calls `f` with each mapping that holds a part of `gpa..gpa + len`: (mapping, offset in it, range of the whole).
    /// False, and nothing more is called, where a byte has no memory.
    pub(super) fn walk(
        &self,
        gpa: u64,
        len: usize,
        mut f: impl FnMut(&Mapping, usize, std::ops::Range<usize>) -> bool,
    ) -> bool {
        let mut done = 0;
        while done < len {
            let Some(at) = gpa.checked_add(done as u64) else { return false };
            let Some(part) = self.holding(at) else { return false };
            let Some(backed) = &part.backed else { return false };
            let offset = at - part.info.gpa;
            let here = (len - done).min(usize::try_from(part.info.len - offset).unwrap_or(usize::MAX));
            let Ok(offset) = usize::try_from(offset) else { return false };
            if !f(&backed.mapping, backed.at + offset, done..done + here) {
                return false;
            }
            done += here;
        }
        true
    }
}

impl Memory {
    /// Copies guest memory into `buffer`, across adjoining regions.
    ///
    /// # Errors
    /// A byte of the range has no memory; nothing useful is in `buffer` then.
    pub fn read(&self, gpa: u64, buffer: &mut [u8]) -> Result<(), MemoryError> {
        let len = buffer.len();
        let copied = self.layout().walk(gpa, len, |mapping, offset, range| {
            buffer.get_mut(range).is_some_and(|into| mapping.read(offset, into))
        });
        if copied { Ok(()) } else { Err(MemoryError::Access { gpa, len: len as u64 }) }
    }

    /// Copies `bytes` into guest memory and marks the pages as written by the host. The range is checked first, so a
    /// refused write changes nothing.
    ///
    /// # Errors
    /// A byte of the range has no memory.
    pub fn write(&self, gpa: u64, bytes: &[u8]) -> Result<(), MemoryError> {
        let _writing = self.write_lock();
        let (layout, len) = (self.layout(), bytes.len());
        let copied = layout.walk(gpa, len, |_, _, _| true)
            && layout.walk(gpa, len, |mapping, offset, range| {
                bytes.get(range).is_some_and(|from| mapping.write(offset, from))
            });
        if copied { Ok(()) } else { Err(MemoryError::Access { gpa, len: len as u64 }) }
    }

    /// Whether every byte of the range has memory behind it.
    #[must_use]
    pub fn holds(&self, gpa: u64, len: usize) -> bool {
        self.layout().walk(gpa, len, |_, _, _| true)
    }

    /// Bytes of host memory that the regions take up: pages that were touched.
    #[must_use]
    pub fn committed(&self) -> u64 {
        self.layout().blocks().map(|(_, mapping)| mapping.committed()).sum()
    }

    /// A zero-copy window onto memory within one region. A writable one counts as written while it lives.
    ///
    /// # Errors
    /// The range leaves its region.
    pub fn view(&self, gpa: u64, len: usize, writable: bool) -> Result<View, MemoryError> {
        let missing = MemoryError::Access { gpa, len: len as u64 };
        // Who gives a block another file has looked for writable views before.
        let _writing = self.write_lock();
        let layout = self.layout();
        let Some(part) = layout.holding(gpa) else { return Err(missing) };
        let at = gpa - part.info.gpa;
        match (&part.backed, usize::try_from(at)) {
            (Some(backed), Ok(offset)) if part.info.len - at >= len as u64 => {
                Ok(View::new(Arc::clone(&backed.mapping), backed.at + offset, len, writable))
            }
            _ => Err(missing),
        }
    }

    /// Makes a range zero and gives its whole pages back to the host: what nobody has touched costs nothing to clear.
    ///
    /// # Errors
    /// A byte of the range has no memory; nothing is changed then.
    pub fn zero(&self, gpa: u64, len: u64) -> Result<(), MemoryError> {
        let missing = MemoryError::Access { gpa, len };
        let _writing = self.write_lock();
        let (layout, Ok(size)) = (self.layout(), usize::try_from(len)) else { return Err(missing) };
        let zeroed = layout.walk(gpa, size, |_, _, _| true)
            && layout.walk(gpa, size, |mapping, offset, range| mapping.zero(offset, range.len()));
        if zeroed { Ok(()) } else { Err(missing) }
    }

    /// Has the host back a range with huge pages, for memory that is about to be filled: one fault then stands for 512.
    /// It is committed by that; its content stays. False if nothing came of it.
    pub(crate) fn gather(&self, gpa: u64, len: u64) -> bool {
        let len = usize::try_from(len).unwrap_or(usize::MAX);
        self.layout().walk(gpa, len, |mapping, offset, range| mapping.gather(offset, range.len()))
    }
}
