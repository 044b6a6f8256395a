//! From a guest's linear address to the guest-physical one, through the guest's own page tables.
//!
//! Nothing here touches memory: an entry is asked of a closure. Tables are hostile data. A walk has as many steps as its
//! mode has levels, whatever the entries say, so that none can loop, and an entry outside memory ends it. What an access
//! may do there is told as the tables say it; protection keys, SMEP, SMAP and CR0.WP are not applied, and address bits
//! that the processor may lack (MAXPHYADDR) are taken as they are. SDM vol. 3, chapter 4.

use std::fmt;

use super::Sregs;

/// CR0.PG.
const CR0_PG: u64 = 1 << 31;
/// CR4.PSE, CR4.PAE and CR4.LA57.
const CR4_PSE: u64 = 1 << 4;
const CR4_PAE: u64 = 1 << 5;
const CR4_LA57: u64 = 1 << 12;
/// IA32_EFER.LMA and IA32_EFER.NXE.
const EFER_LMA: u64 = 1 << 10;
const EFER_NXE: u64 = 1 << 11;

/// Bits of an entry, the same in every mode (SDM vol. 3, tables 4-5 to 4-20).
const PRESENT: u64 = 1;
const WRITABLE: u64 = 1 << 1;
const USER: u64 = 1 << 2;
const LARGE: u64 = 1 << 7;
const NO_EXECUTE: u64 = 1 << 63;

/// Bits 51 to 12: where the next table or a 4 KiB page begins.
const FRAME: u64 = 0x000f_ffff_ffff_f000;
/// Bits 31 to 12, the same of a 32-bit entry.
const FRAME_32: u64 = 0xffff_f000;
/// Bits 62 to 52, which only IA-32e paging leaves to software.
const HIGH: u64 = 0x7ff0_0000_0000_0000;
/// Bits 2, 1 and 8 to 5 of a PDPTE of PAE paging, where it has no rights (table 4-8).
const PDPTE_PAE: u64 = 0x1e6;

/// How linear addresses are translated (SDM vol. 3, 4.1.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Paging {
    /// Not at all: real mode, or protected mode before paging.
    Off,
    /// Two levels of 4-byte entries.
    Bits32,
    /// Three levels of 8-byte entries, for 32-bit addresses.
    Pae,
    /// Four levels: 48-bit addresses.
    Level4,
    /// Five levels: 57-bit addresses.
    Level5,
}

/// One kind of table: its name and the lowest bit of its index in a linear address. Each index has 9 bits, or 10 with
/// 32-bit paging; what is above the address itself is zero or a copy of its sign.
type Table = (&'static str, u32);

impl Paging {
    /// The mode that these registers select.
    #[must_use]
    pub fn of(sregs: &Sregs) -> Self {
        match (sregs.cr0 & CR0_PG != 0, sregs.efer & EFER_LMA != 0, sregs.cr4) {
            (false, ..) => Self::Off,
            (_, true, cr4) if cr4 & CR4_LA57 != 0 => Self::Level5,
            (_, true, _) => Self::Level4,
            (.., cr4) if cr4 & CR4_PAE != 0 => Self::Pae,
            _ => Self::Bits32,
        }
    }

    /// The word for it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Off => "no paging",
            Self::Bits32 => "32-bit paging",
            Self::Pae => "PAE paging",
            Self::Level4 => "4-level paging",
            Self::Level5 => "5-level paging",
        }
    }

    fn tables(self) -> &'static [Table] {
        const FIVE: &[Table] = &[("PML5", 48), ("PML4", 39), ("PDPT", 30), ("PD", 21), ("PT", 12)];
        match (self, FIVE) {
            (Self::Off, _) => &[],
            (Self::Bits32, _) => &[("PD", 22), ("PT", 12)],
            (Self::Pae, [_, _, three @ ..]) => three,
            (Self::Level4, [_, four @ ..]) => four,
            _ => FIVE,
        }
    }

    /// Bits of a linear address, and whether those above copy the highest one (canonical, SDM vol. 1, 3.3.7.1).
    fn address_bits(self) -> (u32, bool) {
        match self {
            Self::Off | Self::Bits32 | Self::Pae => (32, false),
            Self::Level4 => (48, true),
            Self::Level5 => (57, true),
        }
    }

    fn has_address(self, gva: u64) -> bool {
        let (bits, is_signed) = self.address_bits();
        let unused = 64 - bits;
        let low = gva << unused;
        gva == if is_signed { (low.cast_signed() >> unused).cast_unsigned() } else { low >> unused }
    }
}

/// One entry that a walk has read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Level {
    /// PML5, PML4, PDPT, PD or PT.
    pub name: &'static str,
    /// Where the table begins.
    pub table_gpa: u64,
    /// Which entry of it.
    pub index: u16,
    /// Where the entry is.
    pub entry_gpa: u64,
    /// The entry.
    pub entry: u64,
}

/// The page that a walk has found. Rights are those that every level gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Page {
    /// What the address is translated to.
    pub gpa: u64,
    /// Bytes of the page: 4 KiB, 2 MiB, 4 MiB or 1 GiB; all 4 GiB where there is no paging.
    pub size: u64,
    /// It may be written.
    pub is_writable: bool,
    /// User-mode code may use it.
    pub is_user: bool,
    /// It may be executed.
    pub is_executable: bool,
}

/// How a walk ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// At a page.
    Page(Page),
    /// Before it began: the mode has no such address.
    NoAddress,
    /// The next entry is where no memory is.
    NoMemory {
        /// The table's name.
        name: &'static str,
        /// Where the entry should be.
        entry_gpa: u64,
    },
    /// The last entry is not present.
    NotPresent,
    /// The last entry has bits set that must be zero.
    Reserved {
        /// Those bits.
        bits: u64,
    },
}

/// A walk: what it read, and how it ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Walk {
    /// The linear address.
    pub gva: u64,
    /// The mode.
    pub paging: Paging,
    /// What was read, from the root on.
    pub levels: Vec<Level>,
    /// How it ended.
    pub end: End,
}

impl Walk {
    /// The page, if there is one.
    #[must_use]
    pub fn page(&self) -> Option<Page> {
        if let End::Page(page) = self.end { Some(page) } else { None }
    }
}

impl fmt::Display for Walk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (gva, mode) = (self.gva, self.paging.name());
        if let End::Page(page) = self.end {
            return write!(f, "gva {gva:#x} is gpa {:#x}", page.gpa);
        }
        write!(f, "gva {gva:#x} is not mapped, {mode}: ")?;
        match (self.end, self.levels.last()) {
            (End::NoMemory { name, entry_gpa }, _) => write!(f, "no memory for the {name} entry at gpa {entry_gpa:#x}"),
            (End::Reserved { bits }, Some(Level { name, index, entry_gpa, entry, .. })) => write!(
                f,
                "{name} entry {index:#x} at gpa {entry_gpa:#x} has bits set that must be zero, {bits:#x}: {entry:#x}"
            ),
            (End::NotPresent, Some(Level { name, index, entry_gpa, entry, .. })) => {
                write!(f, "{name} entry {index:#x} at gpa {entry_gpa:#x} is not present: {entry:#x}")
            }
            _ => write!(f, "there are no such addresses"),
        }
    }
}

/// Translates a linear address. `read` gives the 8 bytes at an aligned gpa, or nothing where no memory is.
pub fn walk(gva: u64, sregs: &Sregs, read: impl FnMut(u64) -> Option<u64>) -> Walk {
    let paging = Paging::of(sregs);
    let mut levels = Vec::new();
    let end = if paging.has_address(gva) { descend(gva, sregs, read, &mut levels) } else { End::NoAddress };
    Walk { gva, paging, levels, end }
}

fn descend(gva: u64, sregs: &Sregs, mut read: impl FnMut(u64) -> Option<u64>, levels: &mut Vec<Level>) -> End {
    let paging = Paging::of(sregs);
    let mut page = Page { gpa: gva, size: 1 << 32, is_writable: true, is_user: true, is_executable: true };
    let mut table_gpa = match paging {
        Paging::Bits32 => sregs.cr3 & FRAME_32,
        // The table of four entries is aligned to 32 bytes (SDM vol. 3, table 4-7).
        Paging::Pae => sregs.cr3 & 0xffff_ffe0,
        _ => sregs.cr3 & FRAME,
    };
    let (width, index_bits) = if paging == Paging::Bits32 { (4, 10) } else { (8, 9) };
    for &(name, shift) in paging.tables() {
        let index = gva >> shift & ((1 << index_bits) - 1);
        let entry_gpa = table_gpa + index * width;
        let Some(both) = read(entry_gpa & !7) else {
            return End::NoMemory { name, entry_gpa };
        };
        let entry = if width == 8 { both } else { both >> (entry_gpa % 8 * 8) & 0xffff_ffff };
        #[allow(clippy::cast_possible_truncation)] // at most 10 bits
        levels.push(Level { name, table_gpa, index: index as u16, entry_gpa, entry });
        if entry & PRESENT == 0 {
            return End::NotPresent;
        }
        let is_large = entry & LARGE != 0 && may_be_large(paging, name, sregs);
        let bits = entry & reserved(paging, name, is_large, sregs);
        if bits != 0 {
            return End::Reserved { bits };
        }
        if (paging, name) != (Paging::Pae, "PDPT") {
            page.is_writable &= entry & WRITABLE != 0;
            page.is_user &= entry & USER != 0;
            page.is_executable &= entry & NO_EXECUTE == 0;
        }
        table_gpa = entry & if width == 8 { FRAME } else { FRAME_32 };
        if is_large || name == "PT" {
            page.size = 1 << shift;
            page.gpa = table_gpa & !(page.size - 1) | gva & (page.size - 1);
            if paging == Paging::Bits32 && is_large {
                // Bits 20 to 13 are bits 39 to 32 of the address (PSE-36, table 4-4).
                page.gpa |= (entry >> 13 & 0xff) << 32;
            }
            return End::Page(page);
        }
    }
    End::Page(page) // no tables: no paging
}

/// Whether bit 7 of an entry of this table makes it a page.
fn may_be_large(paging: Paging, name: &str, sregs: &Sregs) -> bool {
    match (paging, name) {
        (Paging::Bits32, "PD") => sregs.cr4 & CR4_PSE != 0,
        (Paging::Pae, "PD") => true,
        (Paging::Level4 | Paging::Level5, "PD" | "PDPT") => true,
        _ => false,
    }
}

/// Bits of an entry of this table that must be zero (SDM vol. 3, 4.3 to 4.5).
fn reserved(paging: Paging, name: &str, is_large: bool, sregs: &Sregs) -> u64 {
    let no_execute = if sregs.efer & EFER_NXE == 0 { NO_EXECUTE } else { 0 };
    let below_page = match (paging, name, is_large) {
        (Paging::Bits32, _, true) => return 1 << 21,
        (Paging::Bits32, ..) => return 0,
        (_, "PDPT", true) => 0x3fff_e000,
        (_, "PD", true) => 0x1f_e000,
        _ => 0,
    };
    match (paging, name) {
        (Paging::Pae, "PDPT") => NO_EXECUTE | HIGH | PDPTE_PAE,
        (Paging::Pae, _) => no_execute | HIGH | below_page,
        (_, "PML5" | "PML4") => no_execute | LARGE,
        _ => no_execute | below_page,
    }
}

#[cfg(test)]
#[path = "paging_test.rs"]
mod tests;
