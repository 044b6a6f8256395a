//! The input that this process executes, where another one finds it if this one dies of it: in a file that is mapped by both.
//!
//! A process has one or none. The file is a length of 8 bytes, little-endian and one more than it is, 0 while nothing is executed; and then
//! the bytes. The length is written last.

use std::fs::File;
use std::io;
use std::sync::OnceLock;

use super::LONGEST;
use crate::memory::Mapped;

/// Bytes of the length.
const HEAD: usize = 8;
/// Bytes that the file has.
pub const SIZE: usize = HEAD + LONGEST;

static SLOT: OnceLock<Mapped> = OnceLock::new();

/// Has inputs of this process noted there from now on, once for its life.
///
/// # Errors
/// The file is shorter than [`SIZE`], or cannot be mapped.
pub fn open(file: File) -> io::Result<()> {
    let mapped = Mapped::new(file, SIZE)?;
    SLOT.set(mapped).map_err(|_| io::Error::from(io::ErrorKind::AlreadyExists))
}

/// An input that is being executed for as long as this lives.
#[derive(Debug)]
pub struct Noted(());

impl Noted {
    /// Notes it.
    #[must_use]
    pub fn new(input: &[u8]) -> Self {
        if let Some(slot) = SLOT.get() {
            write(slot, input);
        }
        Self(())
    }
}

impl Drop for Noted {
    fn drop(&mut self) {
        if let Some(slot) = SLOT.get() {
            slot.write(0, &[0; HEAD]);
        }
    }
}

fn write(slot: &Mapped, input: &[u8]) {
    slot.write(0, &[0; HEAD]);
    let len = slot.write(HEAD, input) as u64;
    slot.write(0, &(len + 1).to_le_bytes());
}

#[cfg(test)]
#[path = "slot_test.rs"]
mod tests;
