//! A file of which a part is mapped and shared: what is written there another process sees without a call, also once this one is dead.
//!
//! It is no memory of a guest. Bytes are copied into it; no reference to them is formed.

use std::fs::File;
use std::io;

use vm_memory::mmap::MmapRegionError;
use vm_memory::{FileOffset, MmapRegion, VolatileMemory};

/// The first bytes of a file.
#[derive(Debug)]
pub struct Mapped {
    region: MmapRegion,
}

impl Mapped {
    /// Maps so many bytes of a file that is as long.
    ///
    /// # Errors
    /// It is shorter, or cannot be mapped.
    pub fn new(file: File, len: usize) -> io::Result<Self> {
        // A page beyond its end would be a signal (SIGBUS) where it is written.
        if file.metadata()?.len() < len as u64 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let region = MmapRegion::from_file(FileOffset::new(file, 0), len).map_err(|error| match error {
            MmapRegionError::Mmap(error) => error,
            other => io::Error::other(other),
        })?;
        Ok(Self { region })
    }

    /// Writes bytes, as far as there is room for them; how many that were.
    pub fn write(&self, at: usize, bytes: &[u8]) -> usize {
        let room = self.region.size().saturating_sub(at).min(bytes.len());
        let Ok(slice) = self.region.get_slice(at, room) else { return 0 };
        slice.copy_from(bytes.get(..room).unwrap_or_default());
        room
    }
}

#[cfg(test)]
#[path = "mapped_test.rs"]
mod tests;
