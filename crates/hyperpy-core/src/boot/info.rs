//! What PVH and Multiboot kernels are told, and the modules beside them: both protocols have a structure in memory that
//! points at a command line, a list of modules and a memory map. Which fields it has is not known here.
//!
//! The structure and all that it points at but the command line lie in one area below 1 MiB, from
//! [`INFO_START`](crate::arch::x86_64::layout::INFO_START). Modules lie one after the other behind the kernel, each on
//! pages of its own, as GRUB puts them.

use super::ram::Ram;
use super::tables::MAPPED_END;
use crate::arch::x86_64::layout::{CMDLINE_START, GDT_START, INFO_END, INFO_START};
use crate::error::BootError;
use crate::memory::{Memory, PAGE_SIZE};

/// A file that a kernel finds in memory beside itself.
#[derive(Clone, Copy, Debug, Default)]
pub struct Module<'a> {
    /// Its contents.
    pub bytes: &'a [u8],
    /// A line of text for it, without a NUL.
    pub cmdline: &'a [u8],
}

/// A command line with its NUL, which must have at most `most` bytes before it.
pub(super) fn command_line(cmdline: &[u8], most: usize, ram: &Ram) -> Result<Vec<u8>, BootError> {
    if cmdline.len() > most {
        return Err(BootError::CommandLineTooLong { len: cmdline.len(), most });
    }
    let bytes = text(cmdline)?;
    ram.require("the command line", CMDLINE_START, bytes.len() as u64)?;
    Ok(bytes)
}

fn text(line: &[u8]) -> Result<Vec<u8>, BootError> {
    match line.iter().position(|b| *b == 0) {
        Some(at) => Err(BootError::CommandLineNul { at }),
        None => Ok([line, &[0]].concat()),
    }
}

/// The area while it is filled. Its beginning is the structure itself, which is known last.
pub(super) struct Info {
    bytes: Vec<u8>,
}

impl Info {
    /// An area whose structure has `len` bytes. There must be RAM for it, and for the descriptor table.
    pub(super) fn new(len: usize, ram: &Ram) -> Result<Self, BootError> {
        ram.require("the boot information", GDT_START, INFO_END - GDT_START)?;
        Ok(Self { bytes: vec![0; len] })
    }

    /// Appends bytes and returns their gpa, a multiple of 8.
    pub(super) fn put(&mut self, bytes: &[u8]) -> u64 {
        self.bytes.resize(self.bytes.len().next_multiple_of(8), 0);
        let at = INFO_START + self.bytes.len() as u64;
        self.bytes.extend(bytes);
        at
    }

    /// Appends a line of text with its NUL and returns its gpa; 0 for one of no bytes.
    pub(super) fn put_text(&mut self, line: &[u8]) -> Result<u64, BootError> {
        if line.is_empty() {
            return Ok(0);
        }
        let most = (INFO_END - INFO_START) as usize;
        if line.len() > most {
            return Err(BootError::CommandLineTooLong { len: line.len(), most });
        }
        Ok(self.put(&text(line)?))
    }

    /// The whole area, with the structure at its beginning.
    pub(super) fn finish(mut self, structure: Vec<u8>) -> Result<Vec<u8>, BootError> {
        let (len, most) = (self.bytes.len() as u64, INFO_END - INFO_START);
        if len > most {
            return Err(BootError::InfoTooLong { len, most });
        }
        let head = structure.len().min(self.bytes.len());
        self.bytes.splice(..head, structure);
        Ok(self.bytes)
    }
}

/// Where each module begins, from the first page at or after `after`.
pub(super) fn place_modules(modules: &[Module], after: u64, ram: &Ram) -> Result<Vec<u64>, BootError> {
    let mut at = after;
    let place = |module: &Module| {
        let len = module.bytes.len() as u64;
        // `after` and all that was placed lie below 4 GiB.
        let start = at.next_multiple_of(PAGE_SIZE);
        ram.require("a module", start, len)?;
        if start + len > MAPPED_END {
            return Err(BootError::NoRam { what: "a module below 4 GiB", gpa: start, len });
        }
        at = start + len;
        Ok(start)
    };
    modules.iter().map(place).collect()
}

/// Copies modules to their places.
pub(super) fn write_modules(memory: &Memory, modules: &[Module], places: &[u64]) -> Result<(), BootError> {
    modules.iter().zip(places).try_for_each(|(module, at)| Ok(memory.write(*at, module.bytes)?))
}
