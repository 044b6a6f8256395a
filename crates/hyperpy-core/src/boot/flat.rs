//! Flat images: bytes of the user, put where the user says and entered at their first byte.
//!
//! | mode | code runs | addresses | beside the image |
//! |---|---|---|---|
//! | real | 16-bit, cs:ip so that ip is `at` below 64 KiB, and its low 16 bits above | 1 MiB | a stack |
//! | protected | 32-bit, flat segments, no paging | 4 GiB | a stack and a GDT |
//! | long | 64-bit, flat segments, first 4 GiB mapped to itself, SSE on | 4 GiB | a stack, a GDT and page tables |
//!
//! The stack pointer is [`BOOT_STACK_POINTER`], the GDT at [`GDT_START`], the page tables at [`PAGE_TABLES_START`]; what
//! the image covers of these goes to the lowest free page instead. At least [`STACK_ROOM`] bytes below the stack pointer
//! are free of the image. General registers are 0, interrupts off, no interrupt handler set.

use super::ram::{Ram, Span};
use super::tables::{GDT_LEN, MAPPED_END, PAGE_TABLES_LEN, gdt, identity_map};
use super::{Entry, EntryMode, RFLAGS_CLEAR};
use crate::arch::x86_64::Regs;
use crate::arch::x86_64::layout::{BOOT_STACK_POINTER, GDT_START, PAGE_TABLES_START};
use crate::error::{BootError, MemoryError};
use crate::memory::Memory;

/// Bytes below the stack pointer that the loader keeps free.
pub const STACK_ROOM: u64 = 0xff0;
/// First address that real mode does not reach with A20 off.
const REAL_END: u64 = 0x10_0000;

/// The mode that an image is entered in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// 16-bit real mode.
    Real,
    /// 32-bit protected mode without paging.
    Protected,
    /// 64-bit long mode.
    Long,
}

impl Mode {
    /// Its name, and the first address that it does not reach.
    fn reach(self) -> (&'static str, u64) {
        match self {
            Self::Real => ("real", REAL_END),
            Self::Protected => ("protected", 1 << 32),
            Self::Long => ("long", MAPPED_END),
        }
    }
}

/// Puts `image` at gpa `at`, with what `mode` needs beside it.
///
/// # Errors
/// The image is empty, is not all in memory, is out of reach of the mode, or leaves no RAM for what the mode needs.
pub fn flat(memory: &Memory, image: &[u8], at: u64, mode: Mode) -> Result<Entry, BootError> {
    if image.is_empty() {
        return Err(BootError::FlatEmpty);
    }
    let len = image.len() as u64;
    let (name, end) = mode.reach();
    let out_of_reach = BootError::FlatOutOfReach { mode: name, at, len, end };
    let Some(code) = Span::at(at, len).filter(|s| s.end <= end) else {
        return Err(out_of_reach);
    };
    if !memory.holds(at, image.len()) {
        return Err(MemoryError::Access { gpa: at, len }.into());
    }
    let mut beside = Beside { ram: Ram::of(memory), taken: vec![code], end };
    let stack = beside.place("stack", BOOT_STACK_POINTER - STACK_ROOM, STACK_ROOM)?.end;
    let mut regs = Regs { rip: at, rsp: stack, rflags: RFLAGS_CLEAR, ..Regs::default() };
    let mode = match mode {
        Mode::Real => {
            let (cs, ip) = real_address(at);
            let (ss, sp) = real_address(stack);
            regs.rip = ip;
            regs.rsp = sp;
            EntryMode::Real { cs, ss }
        }
        Mode::Protected => {
            let table = beside.place("descriptor table", GDT_START, GDT_LEN.into())?.start;
            memory.write(table, &gdt(false))?;
            EntryMode::Protected { gdt: table }
        }
        Mode::Long => {
            let table = beside.place("descriptor table", GDT_START, GDT_LEN.into())?.start;
            let cr3 = beside.place("page tables", PAGE_TABLES_START, PAGE_TABLES_LEN)?.start;
            memory.write(table, &gdt(true))?;
            memory.write(cr3, &identity_map(cr3))?;
            EntryMode::Long { gdt: table, cr3 }
        }
    };
    memory.write(at, image)?;
    Ok(Entry { regs, mode })
}

/// What is placed beside the image.
struct Beside {
    ram: Ram,
    taken: Vec<Span>,
    end: u64,
}

impl Beside {
    fn place(&mut self, what: &'static str, preferred: u64, len: u64) -> Result<Span, BootError> {
        let place = self.ram.room(&self.taken, preferred, len, self.end);
        let place = place.ok_or(BootError::NoRoom { what, len, end: self.end })?;
        self.taken.push(place);
        Ok(place)
    }
}

/// Selector and offset of an address below 1 MiB: the offset is the address itself in the first 64 KiB.
fn real_address(linear: u64) -> (u16, u64) {
    (((linear >> 4) & 0xf000) as u16, linear & 0xffff)
}
