//! An unpacked kernel without the zeros that it ends in, for the cache: of a vmlinux they are tens of megabytes.
//!
//! Only what the loaders read stays (`elf`): 64-bit files, program headers, their bytes. Sections go.

use super::elf::Fields;

/// Bytes in the file header.
const EHDR_LEN: u64 = 64;
/// Bytes in a program header.
const PHDR_LEN: u64 = 56;
/// p_type of a segment to be loaded.
const PT_LOAD: u32 = 1;
/// Where the program header has p_offset and p_filesz.
const P_OFFSET: u64 = 8;
const P_FILESZ: u64 = 32;

/// The same kernel in a shorter file: segments end with their last byte that is not zero, and there are no sections. One whose
/// segments have the headers, which would be other ones, comes back as it is too.
/// What is no such file comes back as it is.
#[must_use]
pub fn trimmed(mut image: Vec<u8>) -> Vec<u8> {
    let Some((segments, end)) = without_zeros(&image) else { return image };
    let sections = [(40, [0; 8].as_slice()), (60, [0; 4].as_slice())]; // e_shoff; e_shnum and e_shstrndx
    let lengths = segments.iter().map(|(at, kept)| (*at, kept.as_slice()));
    for (at, bytes) in sections.into_iter().chain(lengths) {
        if let Some(field) = image.get_mut(at..at + bytes.len()) {
            field.copy_from_slice(bytes);
        }
    }
    image.truncate(end);
    image
}

/// Where a p_filesz is, and what it is to be.
type Length = (usize, [u8; 8]);

/// Each segment's length without zeros at the end, and how long the file is then. All segments together are no longer than
/// the file: thousands of headers for the same bytes would be as many times the work.
fn without_zeros(image: &[u8]) -> Option<(Vec<Length>, usize)> {
    // ELFCLASS64
    if image.get(4) != Some(&2) {
        return None;
    }
    let header = Fields { image, what: "the ELF header" };
    let fields = Fields { image, what: "the ELF program headers" };
    let (table, count) = (header.word(32, true).ok()?, u64::from(header.u16(56).ok()?));
    let mut segments = Vec::new();
    let mut total = 0_u64;
    let table_end = table.checked_add(count * PHDR_LEN)?;
    let mut end = table_end.max(EHDR_LEN);
    for i in 0..count {
        let at = table + i * PHDR_LEN;
        let (offset, mut len) = (fields.word(at + P_OFFSET, true).ok()?, fields.word(at + P_FILESZ, true).ok()?);
        if fields.u32(at).ok()? == PT_LOAD {
            total = total.checked_add(len).filter(|total| *total <= image.len() as u64)?;
            // A kernel that has its own headers in memory shall find them there as they were.
            let has = |from, to| len > 0 && offset < to && offset.saturating_add(len) > from;
            if has(0, EHDR_LEN) || has(table, table_end) {
                return None;
            }
            let last = fields.slice(offset, len).ok()?.iter().rposition(|byte| *byte != 0);
            len = last.map_or(0, |last| last as u64 + 1);
            segments.push((usize::try_from(at + P_FILESZ).ok()?, len.to_le_bytes()));
        }
        end = end.max(offset.checked_add(len)?);
    }
    Some((segments, usize::try_from(end).ok()?))
}
