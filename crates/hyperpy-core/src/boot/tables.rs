//! Descriptor and page tables that loaders write (SDM vol. 3, 3.4.5 and 4.5.4).
//!
//! One GDT serves every mode: null, null, code at 0x10, data at 0x18, which are also Linux's `__BOOT_CS` and
//! `__BOOT_DS`. Page tables map the first 4 GiB to itself, in pages of 2 MiB, because not every processor has
//! pages of 1 GiB.

/// Selector of the code segment.
pub(super) const CODE_SELECTOR: u16 = 0x10;
/// Selector of the data segment.
pub(super) const DATA_SELECTOR: u16 = 0x18;
/// Bytes in the GDT.
pub(super) const GDT_LEN: u16 = 32;
/// Flat code, 32-bit: present, accessed, execute and read, 4 KiB units.
const CODE32: u64 = 0x00cf_9b00_0000_ffff;
/// Flat code, 64-bit.
const CODE64: u64 = 0x00af_9b00_0000_ffff;
/// Flat data: present, accessed, read and write, 4 KiB units.
const DATA: u64 = 0x00cf_9300_0000_ffff;

/// Bytes in a table of 512 entries.
const TABLE: u64 = 0x1000;
/// Page directories: one for each GiB that is mapped.
const DIRECTORIES: u64 = 4;
/// Bytes in the page tables: a PML4, a PDPT and the directories.
pub(super) const PAGE_TABLES_LEN: u64 = (2 + DIRECTORIES) * TABLE;
/// First address that the page tables do not map.
pub(super) const MAPPED_END: u64 = DIRECTORIES << 30;
/// Present and writable.
const ENTRY: u64 = 0b11;
/// Maps a page of 2 MiB (PS).
const LARGE: u64 = 1 << 7;

/// The GDT, with the code segment of the mode.
pub(super) fn gdt(long: bool) -> Vec<u8> {
    let code = if long { CODE64 } else { CODE32 };
    [0, 0, code, DATA].iter().flat_map(|d| d.to_le_bytes()).collect()
}

/// The page tables, to be put at `base`, which is also CR3.
pub(super) fn identity_map(base: u64) -> Vec<u8> {
    let pointers =
        |count: u64, first: u64| (0..512).map(move |i| if i < count { (first + i * TABLE) | ENTRY } else { 0 });
    let pml4 = pointers(1, base + TABLE);
    let pdpt = pointers(DIRECTORIES, base + 2 * TABLE);
    let pages = (0..DIRECTORIES * 512).map(|i| (i << 21) | LARGE | ENTRY);
    pml4.chain(pdpt).chain(pages).flat_map(u64::to_le_bytes).collect()
}
