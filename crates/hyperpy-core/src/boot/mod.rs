//! Loaders: they put an image into guest memory and say how a processor enters it.
//!
//! A loader writes memory and returns an [`Entry`]; it runs nothing and knows no accelerator. [`flat`] takes code of
//! the user, [`linux`], [`pvh`] and [`multiboot`] a kernel by the protocol of that name, [`firmware`] a BIOS;
//! [`recognise`] tells for which of them a file is. [`unpack`] frees a kernel from its compressed wrapping, [`platform`]
//! describes the platform to an operating system. Each checks everything before its first write: images are as hostile
//! as guests are, and a refused load leaves memory as it was.

pub mod acpi;
mod dsdt;
mod elf;
pub(crate) mod error;
pub mod firmware;
pub mod flat;
pub mod generation;
mod info;
pub mod linux;
mod mp;
pub mod multiboot;
pub mod platform;
pub mod pvh;
mod ram;
pub mod recognise;
mod setup;
mod tables;
pub mod trim;
pub mod unpack;
mod zero_page;

pub use info::Module;

use crate::arch::x86_64::layout::{BOOT_STACK_POINTER, GDT_START};
use crate::arch::x86_64::{DescriptorTable, Regs, Segment, Sregs};
use tables::{CODE_SELECTOR, DATA_SELECTOR, GDT_LEN};

/// CR0.PE: protected mode (SDM vol. 3, 2.5).
const CR0_PE: u64 = 1 << 0;
/// CR0.MP: with TS, WAIT traps.
const CR0_MP: u64 = 1 << 1;
/// CR0.ET: fixed to 1.
const CR0_ET: u64 = 1 << 4;
/// CR0.NE: x87 errors raise #MF and no external interrupt.
const CR0_NE: u64 = 1 << 5;
/// CR0.NW and CD: caches are off, as at power-on.
const CR0_NW_CD: u64 = 1 << 29 | 1 << 30;
/// CR0.PG: paging.
const CR0_PG: u64 = 1 << 31;
/// CR4.PAE: long mode needs it.
const CR4_PAE: u64 = 1 << 5;
/// CR4.OSFXSR: SSE instructions work.
const CR4_OSFXSR: u64 = 1 << 9;
/// CR4.OSXMMEXCPT: SSE errors raise #XM.
const CR4_OSXMMEXCPT: u64 = 1 << 10;
/// EFER.LME: long mode enabled.
const EFER_LME: u64 = 1 << 8;
/// EFER.LMA: long mode active.
const EFER_LMA: u64 = 1 << 10;
/// Selector and base of cs at reset (SDM vol. 3, table 10-1).
const RESET_CS: u16 = 0xf000;
const RESET_CS_BASE: u64 = 0xffff_0000;
/// RFLAGS with all flags clear: bit 1 is fixed to 1, interrupts are off.
pub(crate) const RFLAGS_CLEAR: u64 = 1 << 1;

/// The state that a processor enters an image in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// General registers, all of them.
    pub regs: Regs,
    mode: EntryMode,
}

/// What [`Entry::apply`] makes of the system registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum EntryMode {
    /// 16-bit, with these selectors.
    Real { cs: u16, ss: u16 },
    /// 16-bit, at the reset vector.
    Reset,
    /// 32-bit, flat, no paging, with the descriptor table at `gdt`.
    Protected { gdt: u64 },
    /// The same with no more in CR0 than protected mode takes (PVH wants it so, Multiboot allows it).
    Bare,
    /// 64-bit, with the page tables at `cr3`.
    Long { gdt: u64, cr3: u64 },
}

impl Entry {
    /// Enters in [`EntryMode::Bare`] at `rip`, with the registers that `set` sets.
    fn bare(rip: u64, set: impl FnOnce(&mut Regs)) -> Self {
        let mut regs = Regs { rip, rsp: BOOT_STACK_POINTER, rflags: RFLAGS_CLEAR, ..Regs::default() };
        set(&mut regs);
        Self { regs, mode: EntryMode::Bare }
    }

    /// Makes a vCPU's system registers at reset those of the entry mode. The local APIC's base stays.
    ///
    /// Interrupts cannot be taken: outside real mode the descriptor table for them is empty, so that an exception
    /// before the image has loaded its own shuts the processor down. SSE is on in long mode, because the x86-64 ABI
    /// lets compilers use it everywhere; caches are on in every mode but at the reset vector, as firmware leaves
    /// them.
    pub fn apply(&self, sregs: &mut Sregs) {
        sregs.cr2 = 0;
        sregs.cr3 = 0;
        sregs.cr4 = 0;
        sregs.efer = 0;
        sregs.ldt = Segment { unusable: true, limit: 0xffff, type_: 0x2, ..Segment::default() };
        // VM entry wants a busy task segment even where nothing uses it (SDM vol. 3, 28.3.1.2).
        sregs.tr = Segment { limit: 0xffff, type_: 0xb, present: true, ..Segment::default() };
        match self.mode {
            EntryMode::Real { cs, ss } => {
                sregs.cr0 = CR0_ET;
                set_real(sregs, real_segment(cs, 0xb), ss);
            }
            EntryMode::Reset => {
                sregs.cr0 = CR0_ET | CR0_NW_CD;
                set_real(sregs, Segment { base: RESET_CS_BASE, ..real_segment(RESET_CS, 0xb) }, 0);
            }
            EntryMode::Bare => {
                sregs.cr0 = CR0_PE | CR0_ET;
                sregs.tr.limit = 0x67; // a task segment of 32 bits, as PVH says
                set_flat(sregs, GDT_START, false);
            }
            EntryMode::Protected { gdt } => {
                sregs.cr0 = CR0_PE | CR0_ET | CR0_NE;
                set_flat(sregs, gdt, false);
            }
            EntryMode::Long { gdt, cr3 } => {
                sregs.cr0 = CR0_PE | CR0_MP | CR0_ET | CR0_NE | CR0_PG;
                sregs.cr3 = cr3;
                sregs.cr4 = CR4_PAE | CR4_OSFXSR | CR4_OSXMMEXCPT;
                sregs.efer = EFER_LME | EFER_LMA;
                set_flat(sregs, gdt, true);
            }
        }
    }
}

fn set_real(sregs: &mut Sregs, cs: Segment, ss: u16) {
    sregs.gdt = DescriptorTable { base: 0, limit: 0xffff };
    sregs.idt = DescriptorTable { base: 0, limit: 0x3ff };
    sregs.cs = cs;
    set_data(sregs, real_segment(0, 0x3));
    sregs.ss = real_segment(ss, 0x3);
}

fn set_flat(sregs: &mut Sregs, gdt: u64, long: bool) {
    sregs.gdt = DescriptorTable { base: gdt, limit: GDT_LEN - 1 };
    sregs.idt = DescriptorTable { base: 0, limit: 0 };
    let flat = Segment { limit: u32::MAX, type_: 0x3, present: true, s: true, g: true, db: true, ..Segment::default() };
    sregs.cs = Segment { selector: CODE_SELECTOR, type_: 0xb, db: !long, l: long, ..flat };
    set_data(sregs, Segment { selector: DATA_SELECTOR, ..flat });
}

fn set_data(sregs: &mut Sregs, data: Segment) {
    sregs.ds = data;
    sregs.es = data;
    sregs.fs = data;
    sregs.gs = data;
    sregs.ss = data;
}

fn real_segment(selector: u16, type_: u8) -> Segment {
    let base = u64::from(selector) << 4;
    Segment { base, limit: 0xffff, selector, type_, present: true, s: true, ..Segment::default() }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]
mod acpi_test;
#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]
mod corpus_test;
#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]
mod firmware_test;
#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]
mod flat_test;
#[cfg(any(test, fuzzing))]
#[path = "mod_fuzz.rs"]
pub mod fuzz;
#[cfg(any(test, fuzzing))]
#[cfg_attr(not(test), allow(dead_code))]
#[allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]
mod images_test;
#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]
mod linux_test;
#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]
mod mp_test;
#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]
mod multiboot_test;
#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]
mod pvh_test;
#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]
mod recognise_test;
#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]
mod unpack_test;
