//! The regions at one moment, and what each is: found by address, by ascending gpa, without overlap.

use std::sync::Arc;

use super::block::{Mapping, Pages};
use crate::accel::Slot;
use crate::arch::x86_64::layout::GPA_END;
use crate::error::MemoryError;

/// Bytes in a page.
pub const PAGE_SIZE: u64 = 4096;

/// Most bytes of one region: what KVM takes as a slot (KVM_MEM_MAX_NR_PAGES).
pub(super) const MOST: u64 = ((1 << 31) - 1) * PAGE_SIZE;

/// What a region is to the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Readable and, unless it is protected, writable.
    Ram,
    /// Readable; a guest's write is an exit. The host can write it.
    Rom,
    /// Set aside for devices: no memory is behind it, every access is an exit.
    Mmio,
}

/// One region, as `m.map` shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegionInfo {
    /// First guest-physical address.
    pub gpa: u64,
    /// Length in bytes.
    pub len: u64,
    /// What it is to the guest.
    pub kind: Kind,
    /// Shown in maps.
    pub name: Arc<str>,
    /// Whether the guest can write it: ram as long as it is not protected, rom never unless it is unprotected.
    pub writable: bool,
    /// How the host backs it.
    pub pages: Pages,
    /// The gpa of the same pages in the region that they belong to, if this is an alias.
    pub alias_of: Option<u64>,
}

impl RegionInfo {
    /// The last address.
    #[must_use]
    pub fn last(&self) -> u64 {
        self.gpa + (self.len - 1)
    }

    /// Whether it has pages, and no other region lends them.
    #[must_use]
    pub fn has_own_pages(&self) -> bool {
        self.kind != Kind::Mmio && self.alias_of.is_none()
    }
}

/// A region and what is behind it.
#[derive(Clone, Debug)]
pub(super) struct Part {
    pub(super) info: RegionInfo,
    /// None behind mmio.
    pub(super) backed: Option<Backed>,
}

/// The memory of a region.
#[derive(Clone, Debug)]
pub(super) struct Backed {
    /// Number of its slot.
    pub(super) slot: u32,
    /// The block, which an alias shares with the region that it is of.
    pub(super) mapping: Arc<Mapping>,
    /// Where the region begins in it.
    pub(super) at: usize,
}

impl Part {
    pub(super) fn slot(&self, logged: bool) -> Option<Slot> {
        let Backed { slot: id, mapping, at } = self.backed.clone()?;
        let RegionInfo { gpa, len, writable, .. } = self.info;
        Some(Slot { id, gpa, len, mapping, at, writable, logged: logged && writable })
    }

    /// The block, if the region is the one that its pages belong to.
    pub(super) fn owned(&self) -> Option<&Arc<Mapping>> {
        self.backed.as_ref().filter(|_| self.info.alias_of.is_none()).map(|backed| &backed.mapping)
    }
}

#[derive(Clone, Debug, Default)]
pub(super) struct Layout {
    /// The machine has been closed.
    pub(super) closed: bool,
    /// By ascending gpa, without overlap.
    pub(super) parts: Vec<Part>,
}

impl Layout {
    /// The blocks, each once, with the region that it belongs to.
    pub(super) fn blocks(&self) -> impl Iterator<Item = (&RegionInfo, &Arc<Mapping>)> {
        self.parts.iter().filter_map(|part| Some((&part.info, part.owned()?)))
    }

    pub(super) fn holding(&self, gpa: u64) -> Option<&Part> {
        let index = self.parts.partition_point(|part| part.info.gpa <= gpa).checked_sub(1)?;
        self.parts.get(index).filter(|part| gpa <= part.info.last())
    }

    /// The part that begins at `gpa`.
    pub(super) fn at(&self, gpa: u64) -> Result<(usize, &Part), MemoryError> {
        let index = self.parts.binary_search_by_key(&gpa, |part| part.info.gpa);
        let found = index.ok().and_then(|index| Some((index, self.parts.get(index)?)));
        found.ok_or(MemoryError::NoRegion { gpa })
    }

    pub(super) fn overlapping(&self, base: u64, last: u64) -> Option<&Part> {
        let next = self.parts.partition_point(|part| part.info.last() < base);
        self.parts.get(next).filter(|part| part.info.gpa <= last)
    }
}

/// Refuses a range that no region can have; its last address otherwise.
pub(super) fn check_range(info: &RegionInfo) -> Result<u64, MemoryError> {
    let RegionInfo { gpa, len, kind, pages, .. } = *info;
    if len == 0 || !gpa.is_multiple_of(pages.size()) || !len.is_multiple_of(pages.size()) {
        return Err(MemoryError::Unaligned { gpa, len, pages });
    }
    let last = gpa.checked_add(len - 1).ok_or(MemoryError::Wraps { gpa, len })?;
    if kind == Kind::Mmio {
        return Ok(last);
    }
    if len > MOST {
        return Err(MemoryError::TooLarge { gpa, len, most: MOST });
    }
    if last >= GPA_END {
        return Err(MemoryError::Beyond { gpa, len, end: GPA_END });
    }
    Ok(last)
}
