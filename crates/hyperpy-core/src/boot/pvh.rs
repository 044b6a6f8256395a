//! Kernels that are entered by the x86/HVM direct boot ABI, "PVH" (Xen: docs/misc/pvh.pandoc;
//! xen/include/public/arch-x86/hvm/start_info.h): ELF files of either class with a note that names a 32-bit entry.
//!
//! The kernel finds the address of a start info structure, version 1, in ebx: command line, modules (the first one is
//! Linux's initrd), memory map, and where the ACPI tables begin. There are no hypercalls and no Xen: a kernel that
//! takes this entry looks for Xen by CPUID and finds KVM.

use super::elf::{Headers, is_elf};
use super::info::{Info, Module, command_line, place_modules, write_modules};
use super::ram::Ram;
use super::tables::gdt;
use super::{Entry, zero_page};
use crate::arch::x86_64::layout::{CMDLINE_MAX, CMDLINE_START, GDT_START, INFO_START};
use crate::error::BootError;
use crate::memory::Memory;

/// Owner of the note, with its NUL.
const OWNER: &[u8] = b"Xen\0";
/// XEN_ELFNOTE_PHYS32_ENTRY.
const PHYS32_ENTRY: u32 = 18;
/// XEN_HVM_START_MAGIC_VALUE.
const MAGIC: u32 = 0x336e_c578;
/// Version of the structure: 1 has a memory map.
const VERSION: u32 = 1;
/// Bytes in the structure.
const START_INFO_LEN: usize = 56;

/// A kernel and what it is to find.
#[derive(Clone, Copy, Debug, Default)]
pub struct Pvh<'a> {
    /// An ELF file with the note.
    pub kernel: &'a [u8],
    /// Modules, Linux's initrd first.
    pub modules: &'a [Module<'a>],
    /// Command line, without a NUL.
    pub cmdline: &'a [u8],
    /// Where the ACPI tables begin.
    pub rsdp: Option<u64>,
}

/// Where a kernel says that it is entered; `None` for one without the note.
pub(super) fn entry(headers: &Headers) -> Result<Option<u64>, BootError> {
    let Some(note) = headers.note(OWNER, PHYS32_ENTRY)? else {
        return Ok(None);
    };
    // It is as long as an address of the kernel's own class; what does not fit 32 bits is no entry.
    if !matches!(note.len(), 4 | 8) {
        return Err(BootError::Header { format: "PVH note", field: "length", value: note.len() as u64 });
    }
    Ok(Some(note.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte))))
}

/// Puts a kernel into memory with its start info, command line, modules and GDT.
///
/// # Errors
/// The kernel is none of this kind, is damaged, or does not fit; so with modules and command line. Memory is then
/// unchanged.
pub fn pvh(memory: &Memory, pvh: &Pvh) -> Result<Entry, BootError> {
    if !is_elf(pvh.kernel) {
        return Err(BootError::NotElf { found: pvh.kernel.iter().copied().take(4).collect() });
    }
    let ram = Ram::of(memory);
    let headers = Headers::parse(pvh.kernel)?;
    let entry = entry(&headers)?.ok_or(BootError::NoPvhNote)?;
    let elf = headers.place(&ram)?;
    let entry = elf.require_entry(entry)?;
    let cmdline = command_line(pvh.cmdline, CMDLINE_MAX - 1, &ram)?;
    let places = place_modules(pvh.modules, elf.area.end, &ram)?;
    let info = start_info(pvh, &places, &ram)?;

    memory.write(GDT_START, &gdt(false))?;
    memory.write(INFO_START, &info)?;
    memory.write(CMDLINE_START, &cmdline)?;
    write_modules(memory, pvh.modules, &places)?;
    elf.write(memory, false)?;
    Ok(Entry::bare(entry, |regs| regs.rbx = INFO_START))
}

fn start_info(pvh: &Pvh, places: &[u64], ram: &Ram) -> Result<Vec<u8>, BootError> {
    let mut info = Info::new(START_INFO_LEN, ram)?;
    let mut list = Vec::new();
    for (module, at) in pvh.modules.iter().zip(places) {
        let cmdline = info.put_text(module.cmdline)?;
        list.extend([*at, module.bytes.len() as u64, cmdline, 0]);
    }
    let modules = if list.is_empty() { 0 } else { info.put(&quads(&list)) };
    let map = zero_page::e820(ram);
    let entries: Vec<u64> = map.iter().flat_map(|e| [e.addr, e.size, e.r#type.into()]).collect();
    let map_at = info.put(&quads(&entries));
    let head = [MAGIC, VERSION, 0, pvh.modules.len() as u32].into_iter().flat_map(u32::to_le_bytes);
    let tail = quads(&[modules, CMDLINE_START, pvh.rsdp.unwrap_or(0), map_at, map.len() as u64]);
    info.finish(head.chain(tail).collect())
}

fn quads(values: &[u64]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}
