//! Where RAM is, as loaders need it: adjoining regions joined, and room found beside what is taken.
//!
//! A guest is told of what it may use: memory that it can write, and of its places the first. The second place of memory
//! is no more RAM, and what is placed at both would meet. An image that says itself where it goes may go to any.

use crate::arch::x86_64::layout::{BIOS_END, EBDA_START};
use crate::error::BootError;
use crate::memory::{Kind, Memory, PAGE_SIZE, RegionInfo};

/// A range of RAM: first address, and the address after the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) start: u64,
    pub(super) end: u64,
}

impl Span {
    /// The range of `len` bytes at `start`, unless it wraps.
    pub(super) fn at(start: u64, len: u64) -> Option<Self> {
        Some(Self { start, end: start.checked_add(len)? })
    }
    pub(super) fn holds(self, other: Self) -> bool {
        self.start <= other.start && other.end <= self.end
    }
    pub(super) fn overlaps(self, other: Self) -> bool {
        self.start < other.end && other.start < self.end
    }
}

/// RAM by ascending address.
pub(super) struct Ram {
    /// What a guest may use as RAM.
    free: Vec<Span>,
    /// That, second places, and what is protected from being written.
    any: Vec<Span>,
}

impl Ram {
    pub(super) fn of(memory: &Memory) -> Self {
        let regions = memory.regions();
        let ram = || regions.iter().filter(|region| region.kind == Kind::Ram);
        Self { free: joined(ram().filter(|region| region.alias_of.is_none() && region.writable)), any: joined(ram()) }
    }

    /// The joined ranges that a guest may use.
    pub(super) fn all(&self) -> &[Span] {
        &self.free
    }

    /// The joined range that holds all of `range` and that a guest may use.
    pub(super) fn holding(&self, range: Span) -> Option<Span> {
        holding(&self.free, range)
    }

    /// Refuses a piece of an image that is not all in RAM.
    pub(super) fn require(&self, what: &'static str, gpa: u64, len: u64) -> Result<Span, BootError> {
        Span::at(gpa, len).and_then(|range| holding(&self.any, range)).ok_or(BootError::NoRam { what, gpa, len })
    }

    /// Room for `len` bytes that overlaps nothing taken and ends at or below `end`: at `preferred` if that is free,
    /// otherwise at the lowest page that is.
    pub(super) fn room(&self, taken: &[Span], preferred: u64, len: u64, end: u64) -> Option<Span> {
        let pages = |at: u64| at.checked_next_multiple_of(PAGE_SIZE);
        let starts = self.free.iter().map(|s| s.start).chain(taken.iter().map(|t| t.end)).filter_map(pages);
        let mut candidates: Vec<u64> = starts.collect();
        candidates.sort_unstable();
        let free = |range: &Span| {
            range.end <= end && self.holding(*range).is_some() && !taken.iter().any(|t| t.overlaps(*range))
        };
        std::iter::once(preferred).chain(candidates).filter_map(|at| Span::at(at, len)).find(free)
    }

    /// RAM that an operating system may use: all but the BIOS area.
    pub(super) fn usable(&self) -> Vec<Span> {
        let low = self.free.iter().map(|s| Span { start: s.start, end: s.end.min(EBDA_START) });
        let high = self.free.iter().map(|s| Span { start: s.start.max(BIOS_END), end: s.end });
        low.chain(high).filter(|s| s.start < s.end).collect()
    }
}

fn joined<'a>(regions: impl Iterator<Item = &'a RegionInfo>) -> Vec<Span> {
    let mut spans: Vec<Span> = Vec::new();
    for region in regions {
        // A region that ends with the address space is cut by its last page: no image goes there.
        let end = region.gpa.saturating_add(region.len);
        match spans.last_mut() {
            Some(last) if last.end == region.gpa => last.end = end,
            _ => spans.push(Span { start: region.gpa, end }),
        }
    }
    spans
}

fn holding(spans: &[Span], range: Span) -> Option<Span> {
    spans.iter().copied().find(|span| span.holds(range))
}
