//! What an operating system learns the platform from besides its boot protocol: ACPI's tables, the MP table, and the two
//! words that a BIOS leaves below 0x500 about its own memory (Xen puts its first code below what they say). Written
//! around a loader: what cannot be described or has no memory is refused before the loader runs, and a refused load
//! leaves nothing.

use super::acpi::{self, Platform};
use super::{Entry, mp};
use crate::arch::x86_64::layout::{ACPI_START, BDA_BASE_MEMORY, BDA_EBDA_SEGMENT, EBDA_START, MP_TABLE_START};
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
    let word = |value: u64| (value as u16).to_le_bytes().to_vec();
    let tables = [
        (ACPI_START, acpi::build(platform)?),
        (MP_TABLE_START, mp::build(platform)),
        (BDA_EBDA_SEGMENT, word(EBDA_START >> 4)),
        (BDA_BASE_MEMORY, word(EBDA_START >> 10)),
        // The area begins with its length in KiB.
        (EBDA_START, vec![1]),
    ];
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
