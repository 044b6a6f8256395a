//! Kernels that speak Multiboot 1 (Multiboot Specification 0.6.96): ELF files of either class, and files of any kind
//! whose header has the address fields.
//!
//! The entry is 32-bit whatever the file's class: GRUB accepts ELF64 files so, and takes their entry for a virtual
//! address of the segment that holds it. The kernel finds a magic in eax and the address of its information in ebx:
//! memory, command line, modules, memory map, and the boot loader's name. It gets no screen: a header that asks for one
//! is refused, as the specification wants. Symbols are not loaded.

use super::elf::{Elf, Fields, Headers, is_elf, write_cleared};
use super::info::{Info, Module, command_line, place_modules, write_modules};
use super::ram::{Ram, Span};
use super::tables::{MAPPED_END, gdt};
use super::{Entry, zero_page};
use crate::arch::x86_64::layout::{CMDLINE_MAX, CMDLINE_START, EBDA_START, GDT_START, INFO_START, KERNEL_START};
use crate::error::BootError;
use crate::memory::Memory;

/// First field of the header.
const MAGIC: u32 = 0x1bad_b002;
/// First field of a header of Multiboot 2.
const MAGIC_2: u32 = 0xe852_50d6;
/// The header lies in so many bytes of the file; one of Multiboot 2 in four times as many.
const SEARCHED: usize = 8192;
/// In eax at the entry.
const LOADED: u64 = 0x2bad_b002;
/// Header flags that are understood: page-aligned modules, and a memory map.
const UNDERSTOOD: u32 = 0b11;
/// Header flag: the kernel wants a video mode.
const WANTS_SCREEN: u32 = 1 << 2;
/// Header flags that a boot loader must refuse if it does not understand them.
const MANDATORY: u32 = 0xffff;
/// Header flag: the address fields are there, and hold also for an ELF file.
const HAS_ADDRESSES: u32 = 1 << 16;
/// Flags of the information: memory sizes, command line, modules, memory map, name of the boot loader.
const GIVEN: u32 = 1 << 0 | 1 << 2 | 1 << 3 | 1 << 6 | 1 << 9;
/// Bytes in the information.
const INFO_LEN: usize = 120;
/// Name of the boot loader. Kernels know from it whether the command line begins with their own name (it does).
const NAME: &[u8] = b"hyperpy";

/// A kernel and what it is to find.
#[derive(Clone, Copy, Debug, Default)]
pub struct Multiboot<'a> {
    /// The kernel's file.
    pub kernel: &'a [u8],
    /// Modules.
    pub modules: &'a [Module<'a>],
    /// Command line, without a NUL.
    pub cmdline: &'a [u8],
}

/// The header: its offset in the file, and its flags.
pub(super) struct Header {
    at: u64,
    flags: u32,
}

/// Looks for the header: 4-byte aligned, with fields that sum to 0.
pub(super) fn header(image: &[u8]) -> Option<Header> {
    let searched = image.get(..SEARCHED).unwrap_or(image);
    let marks = searched.chunks_exact(4).zip((0..).step_by(4)).filter(|(word, _)| *word == MAGIC.to_le_bytes());
    let fields = Fields { image: searched, what: "the Multiboot header" };
    marks.map(|(_, at)| at).find_map(|at: u64| {
        let (flags, checksum) = (fields.u32(at + 4).ok()?, fields.u32(at + 8).ok()?);
        let sum = MAGIC.wrapping_add(flags).wrapping_add(checksum);
        (sum == 0).then_some(Header { at, flags })
    })
}

/// Whether a file has the magic of Multiboot 2 where its header would be.
pub(super) fn is_multiboot_2(image: &[u8]) -> bool {
    let searched = image.get(..4 * SEARCHED).unwrap_or(image);
    searched.chunks_exact(8).any(|bytes| bytes.starts_with(&MAGIC_2.to_le_bytes()))
}

/// What is loaded, and where it is entered.
struct Kernel<'a> {
    area: Span,
    entry: u64,
    code: Code<'a>,
}

enum Code<'a> {
    Raw(&'a [u8]),
    Elf(Elf<'a>),
}

/// Puts a kernel into memory with its information, command line, modules and GDT.
///
/// # Errors
/// The kernel is none of this kind, is damaged, wants what is not there, or does not fit; so with modules and command
/// line. Memory is then unchanged.
pub fn multiboot(memory: &Memory, multiboot: &Multiboot) -> Result<Entry, BootError> {
    let image = multiboot.kernel;
    let Some(header) = header(image) else {
        return Err(if is_multiboot_2(image) { BootError::Multiboot2 } else { BootError::NotMultiboot });
    };
    if header.flags & WANTS_SCREEN != 0 {
        return Err(BootError::WantsScreen);
    }
    if header.flags & MANDATORY & !UNDERSTOOD != 0 {
        return Err(unusable("flags", header.flags));
    }
    let ram = Ram::of(memory);
    let kernel = if header.flags & HAS_ADDRESSES != 0 {
        by_addresses(image, &header, &ram)?
    } else if is_elf(image) {
        let headers = Headers::parse(image)?;
        let elf = headers.place(&ram)?;
        Kernel { area: elf.area, entry: elf.physical_entry(headers.entry)?, code: Code::Elf(elf) }
    } else {
        return Err(BootError::NotElf { found: image.iter().copied().take(4).collect() });
    };
    let cmdline = command_line(multiboot.cmdline, CMDLINE_MAX - 1, &ram)?;
    let places = place_modules(multiboot.modules, kernel.area.end, &ram)?;
    let info = information(multiboot.modules, &places, &ram)?;

    memory.write(GDT_START, &gdt(false))?;
    memory.write(INFO_START, &info)?;
    memory.write(CMDLINE_START, &cmdline)?;
    write_modules(memory, multiboot.modules, &places)?;
    match &kernel.code {
        Code::Raw(code) => write_cleared(memory, kernel.area, code, false)?,
        Code::Elf(elf) => elf.write(memory, false)?,
    }
    Ok(Entry::bare(kernel.entry, |regs| (regs.rax, regs.rbx) = (LOADED, INFO_START)))
}

/// The kernel as the header's address fields say (3.1.3).
fn by_addresses<'a>(image: &'a [u8], header: &Header, ram: &Ram) -> Result<Kernel<'a>, BootError> {
    let fields = Fields { image, what: "the Multiboot header" };
    let field = |at: u64| fields.u32(header.at + at);
    let (header_addr, load, load_end) = (field(12)?, field(16)?, field(20)?);
    let (bss_end, entry) = (field(24)?, u64::from(field(28)?));
    let before = header_addr.checked_sub(load).ok_or(unusable("header_addr", header_addr))?;
    let from = header.at.checked_sub(before.into()).ok_or(unusable("header_addr", header_addr))?;
    let start = u64::from(load);
    if start < KERNEL_START {
        return Err(unusable("load_addr", load));
    }
    // Zero stands for the end of the file, and for no bytes after those of the file.
    let len = match load_end {
        0 => (image.len() as u64).saturating_sub(from),
        end => end.checked_sub(load).ok_or(unusable("load_end_addr", end))?.into(),
    };
    let code = Fields { image, what: "the kernel's code" }.slice(from, len)?;
    let end = match bss_end {
        0 => start + len,
        end if u64::from(end) >= start + len => end.into(),
        end => return Err(unusable("bss_end_addr", end)),
    };
    ram.require("the kernel", start, end - start)?;
    if end > MAPPED_END {
        return Err(BootError::NoRam { what: "the kernel below 4 GiB", gpa: start, len: end - start });
    }
    if !(start..end).contains(&entry) {
        return Err(BootError::EntryOutside { entry });
    }
    Ok(Kernel { area: Span { start, end }, entry, code: Code::Raw(code) })
}

fn unusable(field: &'static str, value: u32) -> BootError {
    BootError::Header { format: "Multiboot", field, value: value.into() }
}

/// The information structure and what it points at (3.3); every address in it lies below 4 GiB.
fn information(modules: &[Module], places: &[u64], ram: &Ram) -> Result<Vec<u8>, BootError> {
    let mut info = Info::new(INFO_LEN, ram)?;
    let name = info.put_text(NAME)?;
    let mut list = Vec::new();
    for (module, at) in modules.iter().zip(places) {
        let string = match info.put_text(module.cmdline)? {
            0 => info.put(&[0]),
            at => at,
        };
        list.extend([*at, at + module.bytes.len() as u64, string, 0]);
    }
    let list = info.put(&words(&list));
    let map: Vec<u8> = zero_page::e820(ram)
        .iter()
        .flat_map(|e| {
            [words(&[20]), e.addr.to_le_bytes().into(), e.size.to_le_bytes().into(), words(&[e.r#type.into()])]
        })
        .flatten()
        .collect();
    let map_at = info.put(&map);
    // KiB from 0, and KiB from 1 MiB to the first hole.
    let end_of = |start: u64| ram.holding(Span { start, end: start + 1 }).map_or(start, |span| span.end);
    let low = end_of(0).min(EBDA_START) >> 10;
    let high = (end_of(KERNEL_START).min(MAPPED_END) - KERNEL_START) >> 10;
    let mut fields = vec![u64::from(GIVEN), low, high, 0, CMDLINE_START, modules.len() as u64, list];
    fields.extend([0, 0, 0, 0, map.len() as u64, map_at, 0, 0, 0, name]);
    info.finish(words(&fields))
}

fn words(values: &[u64]) -> Vec<u8> {
    values.iter().flat_map(|v| (*v as u32).to_le_bytes()).collect()
}
