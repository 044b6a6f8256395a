//! The zero page: what a loader tells Linux (Documentation/arch/x86/zero-page.rst).

use linux_loader::loader::bootparam::{boot_e820_entry, boot_params, setup_header};

use super::ram::{Ram, Span};
use crate::arch::x86_64::layout::{BIOS_END, EBDA_START};
use crate::error::BootError;

/// E820 type of RAM that is free.
const E820_RAM: u32 = 1;
/// E820 type of what an operating system must leave alone.
const E820_RESERVED: u32 = 2;

/// The memory map, by ascending address.
pub(super) fn e820(ram: &Ram) -> Vec<boot_e820_entry> {
    let entry = |s: Span, r#type| boot_e820_entry { addr: s.start, size: s.end - s.start, r#type };
    let mut map: Vec<_> = ram.usable().into_iter().map(|s| entry(s, E820_RAM)).collect();
    map.push(entry(Span { start: EBDA_START, end: BIOS_END }, E820_RESERVED));
    map.sort_by_key(|e| e.addr);
    map
}

/// The zero page.
pub(super) fn params(hdr: setup_header, ram: &Ram, rsdp: Option<u64>) -> Result<boot_params, BootError> {
    let mut params = boot_params { hdr, acpi_rsdp_addr: rsdp.unwrap_or(0), ..boot_params::default() };
    let map = e820(ram);
    let mut table = params.e820_table;
    if map.len() > table.len() {
        return Err(BootError::TooManyRegions { count: map.len(), most: table.len() });
    }
    for (to, from) in table.iter_mut().zip(&map) {
        *to = *from;
    }
    params.e820_table = table;
    params.e820_entries = map.len() as u8;
    Ok(params)
}
