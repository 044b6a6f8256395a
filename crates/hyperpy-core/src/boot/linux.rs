//! Linux kernels, and other programs that speak the Linux/x86 boot protocol (Documentation/arch/x86/boot.rst), as a
//! bzImage or as an ELF vmlinux.
//!
//! Below 1 MiB lie what [`layout`](crate::arch::x86_64::layout) names: GDT, zero page, page tables, command line. A
//! relocatable bzImage goes to its preferred address, another to 1 MiB, an ELF file where its segments say. The initrd
//! ends as high below the kernel's limit as low RAM goes. The entry is the 64-bit one where the kernel has it, else the
//! 32-bit one; the kernel's real-mode code is never run. The zero page says nothing of a screen: none is there.

use vm_memory::ByteValued as _;

use super::elf::{Elf, Fields, Headers, is_elf, require_wide};
use super::info::command_line;
use super::ram::{Ram, Span};
use super::setup::Setup;
use super::tables::{MAPPED_END, gdt, identity_map};
use super::{Entry, EntryMode, RFLAGS_CLEAR, zero_page};
use crate::arch::x86_64::Regs;
use crate::arch::x86_64::layout::{
    BOOT_PARAMS_START, BOOT_STACK_POINTER, CMDLINE_MAX, CMDLINE_START, GDT_START, KERNEL_START, PAGE_TABLES_END,
    PAGE_TABLES_START,
};
use crate::error::BootError;
use crate::memory::{Memory, PAGE_SIZE};

/// Oldest boot protocol that is loaded: 2.04 (Linux 2.6.14) is the first with a 32-bit `syssize`.
pub const OLDEST_PROTOCOL: u16 = 0x204;
/// What part of RAM, from its end, Linux soon fills with its tables of pages, and how much of it at most.
const TABLES_SHARE: u64 = 32;
const TABLES_MOST: u64 = 64 << 20;
/// Where the 64-bit entry is in the loaded code.
const ENTRY_64: u64 = 0x200;

/// A kernel and what it is to find.
#[derive(Clone, Copy, Debug, Default)]
pub struct Linux<'a> {
    /// A bzImage, or an ELF vmlinux.
    pub kernel: &'a [u8],
    /// With an ELF `kernel`: the bzImage that it was unpacked from, or its first sectors. Its setup header then goes
    /// into the zero page; without it a header of constants does.
    pub setup: Option<&'a [u8]>,
    /// Contents of the initial RAM disk.
    pub initrd: Option<&'a [u8]>,
    /// Command line, without a NUL.
    pub cmdline: &'a [u8],
    /// Where the ACPI tables begin, as [`platform`](super::platform) tells.
    pub rsdp: Option<u64>,
}

/// What is loaded, and where it is entered.
struct Kernel<'a> {
    setup: Setup,
    /// The kernel, and what it needs before it knows its memory map.
    area: Span,
    /// For the header's `code32_start`.
    load: u64,
    entry: u64,
    long: bool,
    code: Code<'a>,
}

enum Code<'a> {
    Raw(&'a [u8]),
    Elf(Elf<'a>),
}

/// Puts a kernel into memory with its zero page, command line, initrd, GDT and page tables.
///
/// # Errors
/// The kernel is not one, is damaged, or does not fit; so with initrd and command line. Memory is then unchanged.
pub fn linux(memory: &Memory, linux: &Linux) -> Result<Entry, BootError> {
    let ram = Ram::of(memory);
    ram.require("the boot parameters", GDT_START, PAGE_TABLES_END - GDT_START)?;
    let kernel = if is_elf(linux.kernel) { elf(linux, &ram)? } else { bzimage(linux.kernel, &ram)? };
    let cmdline = command_line(linux.cmdline, kernel.setup.cmdline_most().min(CMDLINE_MAX - 1), &ram)?;
    let initrd = linux.initrd.unwrap_or_default();
    let initrd_at = place_initrd(initrd.len() as u64, &kernel, &ram)?;
    let hdr = kernel.setup.filled(kernel.load, CMDLINE_START, (initrd_at, initrd.len() as u64));
    let params = zero_page::params(hdr, &ram, linux.rsdp)?;

    let gathered = gather(memory, kernel.area, &ram);
    memory.write(BOOT_PARAMS_START, params.as_slice())?;
    memory.write(CMDLINE_START, &cmdline)?;
    memory.write(GDT_START, &gdt(kernel.long))?;
    if kernel.long {
        memory.write(PAGE_TABLES_START, &identity_map(PAGE_TABLES_START))?;
    }
    if !initrd.is_empty() {
        memory.write(initrd_at, initrd)?;
    }
    match &kernel.code {
        Code::Raw(code) => memory.write(kernel.load, code)?,
        Code::Elf(elf) => elf.write(memory, gathered)?,
    }
    Ok(entry(&kernel))
}

/// Puts into huge pages what the kernel is sure to touch, while that is still empty: itself, and the end of RAM, where it
/// lays out its tables first. Most of the faults of a boot are there.
fn gather(memory: &Memory, area: Span, ram: &Ram) -> bool {
    let top = ram.all().last().copied().unwrap_or(area);
    let tables = ((top.end - top.start) / TABLES_SHARE).min(TABLES_MOST);
    memory.gather(top.end - tables, tables);
    memory.gather(area.start, area.end - area.start)
}

fn entry(kernel: &Kernel) -> Entry {
    let regs = Regs {
        rip: kernel.entry,
        rsp: BOOT_STACK_POINTER,
        rsi: BOOT_PARAMS_START,
        rflags: RFLAGS_CLEAR,
        ..Regs::default()
    };
    let mode = if kernel.long {
        EntryMode::Long { gdt: GDT_START, cr3: PAGE_TABLES_START }
    } else {
        EntryMode::Protected { gdt: GDT_START }
    };
    Entry { regs, mode }
}

fn elf<'a>(linux: &Linux<'a>, ram: &Ram) -> Result<Kernel<'a>, BootError> {
    let setup = linux.setup.map_or_else(|| Ok(Setup::of_bare_elf()), Setup::parse)?;
    require_wide(linux.kernel)?;
    let headers = Headers::parse(linux.kernel)?;
    let elf = headers.place(ram)?;
    let (area, entry) = (elf.area, elf.require_entry(headers.entry)?);
    Ok(Kernel { setup, area, load: area.start, entry, long: true, code: Code::Elf(elf) })
}

fn bzimage<'a>(image: &'a [u8], ram: &Ram) -> Result<Kernel<'a>, BootError> {
    let setup = Setup::parse(image)?;
    let from = setup.code_offset();
    let long = setup.has_64_bit_entry();
    let entry = if long { ENTRY_64 } else { 0 };
    // One byte past the entry at least.
    let code_len = (image.len() as u64).saturating_sub(from).max(entry + 1);
    let code = Fields { image, what: "the kernel's code" }.slice(from, code_len)?;

    let preferred = setup.preferred_address().unwrap_or(KERNEL_START);
    let unusable = BootError::Header { format: "bzImage", field: "pref_address", value: preferred };
    if !(KERNEL_START..MAPPED_END).contains(&preferred) {
        return Err(unusable);
    }
    // The kernel runs at `runs`, wherever it is loaded: a relocatable one where it is loaded but never below its
    // preferred address, another one always at its preferred address, to which it moves itself.
    let (load, runs) = if setup.relocatable() {
        let load = preferred.next_multiple_of(setup.alignment());
        (load, load)
    } else {
        (KERNEL_START, preferred)
    };
    let area = Span { start: load.min(runs), end: (load + code_len).max(runs + setup.init_size()) };
    let len = area.end - area.start;
    ram.require("the kernel and its init_size", area.start, len)?;
    if area.end > MAPPED_END {
        return Err(BootError::NoRam { what: "the kernel below 4 GiB", gpa: area.start, len });
    }
    Ok(Kernel { setup, area, load, entry: load + entry, long, code: Code::Raw(code) })
}

/// The page that the initrd begins at; 0 if there is none.
fn place_initrd(len: u64, kernel: &Kernel, ram: &Ram) -> Result<u64, BootError> {
    if len == 0 {
        return Ok(0);
    }
    let span = ram.holding(kernel.area).unwrap_or(kernel.area);
    let top = span.end.min(kernel.setup.initrd_end()).min(MAPPED_END);
    let at = top.checked_sub(len).map(|at| at - at % PAGE_SIZE).filter(|at| *at >= kernel.area.end);
    let room = top.saturating_sub(kernel.area.end);
    at.ok_or(BootError::InitrdTooLarge { len, room, top })
}
