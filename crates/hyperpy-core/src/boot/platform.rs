//! The tables by which an operating system learns of the platform, ACPI's and the MP table, written around a loader: what
//! cannot be described or has no memory is refused before the loader runs, and a refused load leaves no tables.

use super::acpi::{self, Platform};
use super::{Entry, mp};
use crate::arch::x86_64::layout::{ACPI_START, MP_TABLE_START};
use crate::error::{BootError, MemoryError};
use crate::memory::Memory;

/// Runs a loader, which gets the gpa of the RSDP, and writes the tables if it has loaded.
///
/// # Errors
/// The platform cannot be described, the BIOS area has no memory, or the loader's own. Memory is then as the loader
/// left it.
pub fn describe(
    memory: &Memory,
    platform: &Platform,
    load: impl FnOnce(u64) -> Result<Entry, BootError>,
) -> Result<Entry, BootError> {
    let tables = [(ACPI_START, acpi::build(platform)?), (MP_TABLE_START, mp::build(platform))];
    for (gpa, bytes) in &tables {
        if !memory.holds(*gpa, bytes.len()) {
            return Err(MemoryError::Access { gpa: *gpa, len: bytes.len() as u64 }.into());
        }
    }
    let entry = load(ACPI_START)?;
    for (gpa, bytes) in &tables {
        memory.write(*gpa, bytes)?;
    }
    Ok(entry)
}
