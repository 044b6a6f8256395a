//! ELF kernels of either class: which bytes of the file go where, and notes (System V gABI, chapter 5; ELF-64 object
//! file format). How a kernel is entered is not known here.
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
/// ELFCLASS32 and ELFCLASS64.
const CLASS_32: u64 = 1;
const CLASS_64: u64 = 2;
/// EM_386 and EM_X86_64.
const I386: u64 = 3;
const X86_64: u64 = 62;
/// p_type of a segment to be loaded.
const PT_LOAD: u32 = 1;
/// p_type of notes.
const PT_NOTE: u32 = 4;
/// What an image is looked through by for zeros.
static ZEROS: [u8; 1 << 16] = [0; 1 << 16];

/// Whether a file begins as ELF files do.
pub(super) fn is_elf(image: &[u8]) -> bool {
    image.starts_with(MAGIC)
}

/// Refuses a file that is not of the 64-bit class, for x86-64.
pub(super) fn require_wide(image: &[u8]) -> Result<(), BootError> {
    let header = Fields { image, what: "the ELF header" };
    check("EI_CLASS", header.bytes::<1>(4)?[0].into(), |v| v == CLASS_64)?;
    check("e_machine", header.u16(18)?.into(), |v| v == X86_64)
}

/// An ELF file whose headers are read, and not yet judged.
pub(super) struct Headers<'a> {
    image: &'a [u8],
    /// e_entry.
    pub(super) entry: u64,
    programs: Vec<Program>,
}

/// A program header.
struct Program {
    kind: u32,
    offset: u64,
    vaddr: u64,
    paddr: u64,
    filesz: u64,
    memsz: u64,
}

impl<'a> Headers<'a> {
    /// Reads the headers of a little-endian x86 file of either class.
    pub(super) fn parse(image: &'a [u8]) -> Result<Self, BootError> {
        let header = Fields { image, what: "the ELF header" };
        let class = header.bytes::<1>(4)?[0].into();
        check("EI_CLASS", class, |v| v == CLASS_32 || v == CLASS_64)?;
        check("EI_DATA", header.bytes::<1>(5)?[0].into(), |v| v == 1)?;
        check("e_machine", header.u16(18)?.into(), |v| v == I386 || v == X86_64)?;
        let wide = class == CLASS_64;
        // Offsets of e_phoff, e_phentsize and e_phnum; size of a program header.
        let (phoff, phentsize, phnum, len) = if wide { (32, 54, 56, 56) } else { (28, 42, 44, 32) };
        let (entry, table) = (header.word(24, wide)?, header.word(phoff, wide)?);
        check("e_phentsize", header.u16(phentsize)?.into(), |v| v == len)?;
        let count = u64::from(header.u16(phnum)?);
        check("e_phoff", table, |v| v.checked_add(count * len).is_some())?;
        let programs = (0..count).map(|i| program(image, table + i * len, wide)).collect::<Result<_, _>>()?;
        Ok(Self { image, entry, programs })
    }

    /// Finds the bytes and the place of every segment; each must have RAM between 1 MiB and 4 GiB, and none another's.
    pub(super) fn place(&self, ram: &Ram) -> Result<Elf<'a>, BootError> {
        let mut segments = Vec::new();
        for program in self.programs.iter().filter(|p| p.kind == PT_LOAD && p.memsz != 0) {
            segments.push(segment(self.image, program, ram)?);
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
        Ok(Elf { area, segments })
    }

    /// What the first note of this owner and type holds. All notes together are no longer than the file: thousands of
    /// headers for the same bytes would be as many times the work.
    pub(super) fn note(&self, owner: &[u8], kind: u32) -> Result<Option<&'a [u8]>, BootError> {
        let mut total = 0_u64;
        for program in self.programs.iter().filter(|p| p.kind == PT_NOTE && p.filesz != 0) {
            let what = "the ELF notes";
            total = total.saturating_add(program.filesz);
            let notes = Fields { image: self.image, what }.slice(program.offset, program.filesz)?;
            check("p_filesz of all notes", total, |v| v <= self.image.len() as u64)?;
            let notes = Fields { image: notes, what };
            let mut at = 0;
            while at < notes.image.len() as u64 {
                let (name_len, len) = (u64::from(notes.u32(at)?), u64::from(notes.u32(at + 4)?));
                // Names and contents are padded to 4 bytes; the sums of two 32-bit lengths and an offset do not wrap.
                let name = notes.slice(at + 12, name_len)?;
                let from = at + 12 + name_len.next_multiple_of(4);
                if name == owner && notes.u32(at + 8)? == kind {
                    return notes.slice(from, len).map(Some);
                }
                at = from + len.next_multiple_of(4);
            }
        }
        Ok(None)
    }
}

/// Segments that all have a place.
pub(super) struct Elf<'a> {
    /// From the first byte of the lowest segment to the last of the highest.
    pub(super) area: Span,
    segments: Vec<Segment<'a>>,
}

struct Segment<'a> {
    at: Span,
    vaddr: u64,
    bytes: &'a [u8],
}

impl Elf<'_> {
    /// Refuses an entry that is in no segment.
    pub(super) fn require_entry(&self, entry: u64) -> Result<u64, BootError> {
        let inside = self.segments.iter().any(|s| (s.at.start..s.at.end).contains(&entry));
        if inside { Ok(entry) } else { Err(BootError::EntryOutside { entry }) }
    }

    /// The physical address of a virtual entry, as the segment says that holds it.
    pub(super) fn physical_entry(&self, entry: u64) -> Result<u64, BootError> {
        let inside = |s: &Segment| entry.checked_sub(s.vaddr).filter(|at| *at < s.at.end - s.at.start);
        let found = self.segments.iter().find_map(|s| Some(s.at.start + inside(s)?));
        found.ok_or(BootError::EntryOutside { entry })
    }

    /// Copies the segments, and clears what each has beyond the file's bytes: memory may have been used before.
    pub(super) fn write(&self, memory: &Memory, gathered: bool) -> Result<(), BootError> {
        self.segments.iter().try_for_each(|s| write_cleared(memory, s.at, s.bytes, gathered))
    }
}

/// Copies bytes to the beginning of a range and clears the rest of it: memory may have been used before. Zeros among the
/// bytes are cleared too, so that they take up no memory: a kernel has tens of megabytes of them.
pub(super) fn write_cleared(memory: &Memory, range: Span, bytes: &[u8], gathered: bool) -> Result<(), BootError> {
    let mut at = range.start;
    for piece in bytes.chunks(ZEROS.len()) {
        if ZEROS.starts_with(piece) {
            clear(memory, at, piece.len() as u64, gathered)?;
        } else {
            memory.write(at, piece)?;
        }
        at += piece.len() as u64;
    }
    clear(memory, at, range.end.saturating_sub(at), gathered)
}

/// Memory that is gathered into huge pages is written: to give a part of it back would take such a page to pieces.
fn clear(memory: &Memory, gpa: u64, len: u64, gathered: bool) -> Result<(), BootError> {
    if !gathered {
        return Ok(memory.zero(gpa, len)?);
    }
    let pieces = (0..len).step_by(ZEROS.len());
    pieces
        .map(|done| (gpa + done, ZEROS.get(..(len - done) as usize).unwrap_or(&ZEROS)))
        .try_for_each(|(at, zeros)| Ok(memory.write(at, zeros)?))
}

fn program(image: &[u8], at: u64, wide: bool) -> Result<Program, BootError> {
    let header = Fields { image, what: "the ELF program headers" };
    let kind = header.u32(at)?;
    // Offsets of p_offset, p_vaddr, p_paddr, p_filesz and p_memsz.
    let fields: [u64; 5] = if wide { [8, 16, 24, 32, 40] } else { [4, 8, 12, 16, 20] };
    let [offset, vaddr, paddr, filesz, memsz] = fields.map(|field| header.word(at.saturating_add(field), wide));
    Ok(Program { kind, offset: offset?, vaddr: vaddr?, paddr: paddr?, filesz: filesz?, memsz: memsz? })
}

fn segment<'a>(image: &'a [u8], program: &Program, ram: &Ram) -> Result<Segment<'a>, BootError> {
    let Program { offset, vaddr, paddr, filesz, memsz, .. } = *program;
    check("p_filesz", filesz, |v| v <= memsz)?;
    check("p_paddr", paddr, |v| v >= KERNEL_START)?;
    ram.require("an ELF segment", paddr, memsz)?;
    let at = Span { start: paddr, end: paddr + memsz };
    if at.end > MAPPED_END {
        return Err(BootError::NoRam { what: "an ELF segment below 4 GiB", gpa: paddr, len: memsz });
    }
    // Where a segment has no bytes in the file, its offset may be anywhere.
    let offset = if filesz == 0 { 0 } else { offset };
    let bytes = Fields { image, what: "an ELF segment" }.slice(offset, filesz)?;
    Ok(Segment { at, vaddr, bytes })
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
    /// A field of 8 bytes in files of the 64-bit class, of 4 in others.
    pub(super) fn word(&self, at: u64, wide: bool) -> Result<u64, BootError> {
        if wide { Ok(u64::from_le_bytes(self.bytes(at)?)) } else { Ok(self.u32(at)?.into()) }
    }
    pub(super) fn u32(&self, at: u64) -> Result<u32, BootError> {
        Ok(u32::from_le_bytes(self.bytes(at)?))
    }
    pub(super) fn u16(&self, at: u64) -> Result<u16, BootError> {
        Ok(u16::from_le_bytes(self.bytes(at)?))
    }
}
