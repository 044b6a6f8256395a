//! ELF kernels (vmlinux): which bytes of the file go where (ELF-64 object file format; System V gABI, chapter 5).
//!
//! linux-loader's ELF loader is not used: it checks a segment only when it writes it, accepts 32-bit and foreign
//! files and a file size above the memory size, leaves what follows the file's bytes as it was, and adds offsets of
//! notes without a check.

use super::ram::{Ram, Span};
use super::tables::MAPPED_END;
use crate::arch::x86_64::layout::KERNEL_START;
use crate::error::BootError;
use crate::memory::Memory;

/// First bytes of every ELF file.
pub(super) const MAGIC: &[u8] = b"\x7fELF";
/// Bytes in the file header.
const EHDR_LEN: u64 = 64;
/// Bytes in a program header.
const PHDR_LEN: u64 = 56;
/// p_type of a segment to be loaded.
const PT_LOAD: u32 = 1;
/// Where the program header has p_offset and p_filesz.
const P_OFFSET: u64 = 8;
const P_FILESZ: u64 = 32;
/// What the file is looked through by for zeros.
static ZEROS: [u8; 1 << 16] = [0; 1 << 16];

/// A checked ELF kernel.
pub(super) struct Elf<'a> {
    /// Physical address of the first instruction.
    pub(super) entry: u64,
    /// From the first byte of the lowest segment to the last of the highest.
    pub(super) area: Span,
    segments: Vec<Segment<'a>>,
}

struct Segment<'a> {
    at: Span,
    bytes: &'a [u8],
}

/// Whether a file begins as ELF files do.
pub(super) fn is_elf(image: &[u8]) -> bool {
    image.starts_with(MAGIC)
}

impl<'a> Elf<'a> {
    /// Reads the headers, and checks that every segment has RAM between 1 MiB and the end of the loader's mapping.
    pub(super) fn parse(image: &'a [u8], ram: &Ram) -> Result<Self, BootError> {
        let header = Fields { image, what: "the ELF header" };
        // ELFCLASS64, ELFDATA2LSB, EM_X86_64.
        check("EI_CLASS", header.bytes::<1>(4)?[0].into(), |v| v == 2)?;
        check("EI_DATA", header.bytes::<1>(5)?[0].into(), |v| v == 1)?;
        check("e_machine", header.u16(18)?.into(), |v| v == 62)?;
        let entry = header.u64(24)?;
        let table = header.u64(32)?;
        check("e_phentsize", header.u16(54)?.into(), |v| v == PHDR_LEN)?;
        let count = u64::from(header.u16(56)?);
        check("e_phoff", table, |v| v.checked_add(count * PHDR_LEN).is_some())?;
        let mut segments = Vec::new();
        for i in 0..count {
            segments.extend(segment(image, table + i * PHDR_LEN, ram)?);
        }
        segments.sort_by_key(|s: &Segment| s.at.start);
        for (one, next) in segments.iter().zip(segments.iter().skip(1)) {
            if one.at.overlaps(next.at) {
                let (gpa, len) = (next.at.start, next.at.end - next.at.start);
                return Err(BootError::SegmentsOverlap { gpa, len, other: one.at.start });
            }
        }
        let (Some(first), Some(last)) = (segments.first(), segments.last()) else {
            return Err(BootError::Header { format: "ELF", field: "number of PT_LOAD segments", value: 0 });
        };
        let area = Span { start: first.at.start, end: last.at.end };
        if !segments.iter().any(|s| (s.at.start..s.at.end).contains(&entry)) {
            return Err(BootError::EntryOutside { entry });
        }
        Ok(Self { entry, area, segments })
    }

    /// Copies the segments, and clears what each has beyond the file's bytes: memory may have been used before. Zeros in
    /// the file are cleared too, so that they take up no memory: a kernel has tens of megabytes of them.
    pub(super) fn write(&self, memory: &Memory) -> Result<(), BootError> {
        for segment in &self.segments {
            let mut at = segment.at.start;
            for piece in segment.bytes.chunks(ZEROS.len()) {
                if ZEROS.starts_with(piece) {
                    memory.zero(at, piece.len() as u64)?;
                } else {
                    memory.write(at, piece)?;
                }
                at += piece.len() as u64;
            }
            memory.zero(at, segment.at.end - at)?;
        }
        Ok(())
    }
}

/// The same kernel in a shorter file: segments end with their last byte that is not zero, and there are no sections.
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

/// Each segment's length without zeros at the end, and how long the file is then.
fn without_zeros(image: &[u8]) -> Option<(Vec<Length>, usize)> {
    let header = Fields { image, what: "the ELF header" };
    let fields = Fields { image, what: "the ELF program headers" };
    let (table, count) = (header.u64(32).ok()?, u64::from(header.u16(56).ok()?));
    let mut segments = Vec::new();
    let mut end = table.checked_add(count * PHDR_LEN)?.max(EHDR_LEN);
    for i in 0..count {
        let at = table + i * PHDR_LEN;
        let (offset, mut len) = (fields.u64(at + P_OFFSET).ok()?, fields.u64(at + P_FILESZ).ok()?);
        if u32::from_le_bytes(fields.bytes(at).ok()?) == PT_LOAD {
            let last = fields.slice(offset, len).ok()?.iter().rposition(|byte| *byte != 0);
            len = last.map_or(0, |last| last as u64 + 1);
            segments.push((usize::try_from(at + P_FILESZ).ok()?, len.to_le_bytes()));
        }
        end = end.max(offset.checked_add(len)?);
    }
    Some((segments, usize::try_from(end).ok()?))
}

/// The segment of the program header at `offset`, if it is to be loaded and has bytes.
fn segment<'a>(image: &'a [u8], offset: u64, ram: &Ram) -> Result<Option<Segment<'a>>, BootError> {
    let header = Fields { image, what: "the ELF program headers" };
    let field = |at: u64| header.u64(offset.saturating_add(at));
    let p_type = u32::from_le_bytes(header.bytes(offset)?);
    let (p_offset, p_paddr, p_filesz, p_memsz) = (field(8)?, field(24)?, field(32)?, field(40)?);
    if p_type != PT_LOAD || p_memsz == 0 {
        return Ok(None);
    }
    check("p_filesz", p_filesz, |v| v <= p_memsz)?;
    check("p_paddr", p_paddr, |v| v >= KERNEL_START)?;
    ram.require("an ELF segment", p_paddr, p_memsz)?;
    let at = Span { start: p_paddr, end: p_paddr + p_memsz };
    if at.end > MAPPED_END {
        return Err(BootError::NoRam { what: "an ELF segment below 4 GiB", gpa: p_paddr, len: p_memsz });
    }
    // Where a segment has no bytes in the file, its offset may be anywhere.
    let p_offset = if p_filesz == 0 { 0 } else { p_offset };
    let bytes = Fields { image, what: "an ELF segment" }.slice(p_offset, p_filesz)?;
    Ok(Some(Segment { at, bytes }))
}

fn check(field: &'static str, value: u64, good: impl Fn(u64) -> bool) -> Result<(), BootError> {
    if good(value) { Ok(()) } else { Err(BootError::Header { format: "ELF", field, value }) }
}

/// Little-endian fields of a file, by their offset in it.
pub(super) struct Fields<'a> {
    pub(super) image: &'a [u8],
    /// What is cut off where the file ends too soon.
    pub(super) what: &'static str,
}

impl<'a> Fields<'a> {
    pub(super) fn slice(&self, at: u64, len: u64) -> Result<&'a [u8], BootError> {
        let end = at.saturating_add(len);
        let range = usize::try_from(at).ok().zip(usize::try_from(end).ok());
        let bytes = range.and_then(|(at, end)| self.image.get(at..end));
        bytes.ok_or(BootError::Truncated { what: self.what, need: end, have: self.image.len() as u64 })
    }
    fn bytes<const N: usize>(&self, at: u64) -> Result<[u8; N], BootError> {
        let mut field = [0; N];
        field.copy_from_slice(self.slice(at, N as u64)?);
        Ok(field)
    }
    fn u16(&self, at: u64) -> Result<u16, BootError> {
        Ok(u16::from_le_bytes(self.bytes(at)?))
    }
    fn u64(&self, at: u64) -> Result<u64, BootError> {
        Ok(u64::from_le_bytes(self.bytes(at)?))
    }
}
