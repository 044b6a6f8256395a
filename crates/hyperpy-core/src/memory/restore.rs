//! Putting guest memory back to what it was when an image was taken, at the cost of the pages that differ.

use std::fmt;
use std::sync::{Arc, MutexGuard};

use super::dirty::Written;
use super::image::{Image, begin};
use super::layout::{Kind, Layout, Part, RegionInfo};
use super::marks::{BITS, each_word, pages_of};
use super::{Link, Mapping, Memory, PAGE_SIZE, Pages};
use crate::error::MemoryError;

/// What a restore did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Restored {
    /// Pages that were copied.
    pub pages: u64,
    /// Bytes of regions that were given other memory, because what they had is of another origin than the image.
    pub remapped: u64,
}

/// How the regions of memory are others than those of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Difference {
    /// The image has a region that memory has not.
    Missing(RegionInfo),
    /// Memory has a region that the image has not.
    Added(RegionInfo),
    /// Both have a region there, but not the same one: what memory has, and what the image has.
    Changed(RegionInfo, RegionInfo),
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing(info) => write!(f, "{}, here it is not", Told(info)),
            Self::Added(info) => write!(f, "{}, only here", Told(info)),
            Self::Changed(now, then) => write!(f, "{}, here {}", Told(then), Told(now)),
        }
    }
}

/// A region in words.
struct Told<'a>(&'a RegionInfo);

impl fmt::Display for Told<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let RegionInfo { gpa, len, kind, pages, alias_of, .. } = self.0;
        let kind = match kind {
            Kind::Ram => "ram",
            Kind::Rom => "rom",
            Kind::Mmio => "mmio",
        };
        write!(f, "{kind} at {gpa:#x} + {len:#x}")?;
        match pages {
            Pages::Small => {}
            Pages::Transparent => write!(f, " in huge pages")?,
            Pages::Huge2M => write!(f, " in pages of 2 MiB")?,
            Pages::Huge1G => write!(f, " in pages of 1 GiB")?,
        }
        alias_of.map_or(Ok(()), |of| write!(f, " of {of:#x}"))
    }
}

/// Names are no difference, and what the guest may write is put back.
fn is_same(one: &RegionInfo, other: &RegionInfo) -> bool {
    let shape = |info: &RegionInfo| (info.gpa, info.len, info.kind, info.alias_of, info.pages.pooled());
    shape(one) == shape(other)
}

fn check_layout(layout: &Layout, image: &Image) -> Result<(), MemoryError> {
    let (now, then) = (&layout.parts, image.regions());
    if now.len() == then.len() && now.iter().zip(then).all(|(part, then)| is_same(&part.info, then)) {
        return Ok(());
    }
    let mut differs = Vec::new();
    for part in now {
        match then.iter().find(|then| then.gpa == part.info.gpa) {
            None => differs.push(Difference::Added(part.info.clone())),
            Some(then) if is_same(&part.info, then) => {}
            Some(then) => differs.push(Difference::Changed(part.info.clone(), then.clone())),
        }
    }
    let missing = then.iter().filter(|then| !now.iter().any(|part| part.info.gpa == then.gpa));
    differs.extend(missing.cloned().map(Difference::Missing));
    Err(MemoryError::OtherLayout { differs })
}

/// Refuses ranges that are not of whole pages, or where no memory is.
fn check_spared(layout: &Layout, spared: &[Written]) -> Result<(), MemoryError> {
    for &(gpa, len) in spared {
        let size = usize::try_from(len).unwrap_or(usize::MAX);
        if !gpa.is_multiple_of(PAGE_SIZE) || !len.is_multiple_of(PAGE_SIZE) {
            return Err(MemoryError::Unaligned { gpa, len, pages: Pages::Small });
        }
        if !layout.walk(gpa, size, |_, _, _| true) {
            return Err(MemoryError::Access { gpa, len });
        }
    }
    Ok(())
}

/// The pages of 64 of a block that are to stay, one bit each.
fn spared_of(layout: &Layout, spared: &[Written], block: &Arc<Mapping>, word: usize) -> u64 {
    let mut bits = 0;
    for &(gpa, len) in spared {
        layout.walk(gpa, usize::try_from(len).unwrap_or(usize::MAX), |mapping, at, range| {
            if std::ptr::eq(mapping, &raw const **block) {
                let (first, count) = pages_of(at, range.len());
                let from = first.clamp(word * BITS, (word + 1) * BITS);
                let to = (first + count).clamp(word * BITS, (word + 1) * BITS);
                each_word(from, to - from, |_, mask| bits |= mask);
            }
            true
        });
    }
    bits
}

/// A restore that fits and has not changed anything yet. The regions stay as they are while it lives: who adds one or takes one
/// away waits for it.
#[derive(Debug)]
pub struct Restoring<'a> {
    memory: &'a Memory,
    link: MutexGuard<'a, Link>,
    layout: Arc<Layout>,
    image: &'a Image,
    spared: &'a [Written],
}

impl Restoring<'_> {
    /// Puts every page back that differs from the image, without an allocation; those of spared ranges stay as they are. What is put
    /// back counts as written for [`Memory::dirty`], and so does all of a region whose memory is of another origin than the image.
    ///
    /// # Errors
    /// The accelerator refuses what the guest may write, or the host has no memory for an image of another origin: what is in
    /// memory then is neither.
    pub fn put(self) -> Result<Restored, MemoryError> {
        let Self { memory, mut link, layout, image, spared } = self;
        let layout = memory.protect_as(&mut link, layout, image.regions())?;
        let mut restored = Restored::default();
        for ((info, mapping), node) in layout.blocks().zip(&image.nodes) {
            let RegionInfo { gpa, len, pages, .. } = *info;
            let done = mapping
                .restore(&mut mapping.backing(), node, link.tracking, |word| spared_of(&layout, spared, mapping, word));
            let (copied, remapped) = done.map_err(|source| MemoryError::Host { gpa, len, pages, source })?;
            restored.pages += copied;
            restored.remapped += if remapped { len } else { 0 };
        }
        Ok(restored)
    }
}

impl Memory {
    /// Refuses what [`Self::begin_restore`] would, but what the accelerator says.
    ///
    /// # Errors
    /// The machine is closed, the regions are not those of the image, or a spared range is not memory or not of whole pages.
    pub fn check_restore(&self, image: &Image, spared: &[Written]) -> Result<(), MemoryError> {
        let layout = self.layout();
        if layout.closed {
            return Err(MemoryError::Closed);
        }
        check_layout(&layout, image)?;
        check_spared(&layout, spared)
    }

    /// Begins to put back what was in memory; `spared` ranges, of whole pages, are to stay as they are. No vCPU may run, and nobody
    /// may be waited for who changes regions.
    ///
    /// # Errors
    /// As for [`Self::check_restore`], or the accelerator refuses: nothing has changed then.
    pub fn begin_restore<'a>(&'a self, image: &'a Image, spared: &'a [Written]) -> Result<Restoring<'a>, MemoryError> {
        let mut link = self.link();
        self.check_restore(image, spared)?;
        let layout = self.layout();
        begin(&mut link, &layout)?;
        Ok(Restoring { memory: self, link, layout, image, spared })
    }

    /// All of it at once.
    ///
    /// # Errors
    /// As for [`Self::begin_restore`] and [`Restoring::put`].
    pub fn restore(&self, image: &Image, spared: &[Written]) -> Result<Restored, MemoryError> {
        self.begin_restore(image, spared)?.put()
    }

    /// Has the guest write what it may in these regions, which have the layout's shape; the layout then.
    fn protect_as(
        &self,
        link: &mut Link,
        layout: Arc<Layout>,
        then: &[RegionInfo],
    ) -> Result<Arc<Layout>, MemoryError> {
        let differs = |(part, then): (&Part, &RegionInfo)| part.info.writable != then.writable;
        if !layout.parts.iter().zip(then).any(differs) {
            return Ok(layout);
        }
        drop(layout); // so that it is changed in place
        for (index, then) in then.iter().enumerate().filter(|(_, then)| then.kind != Kind::Mmio) {
            self.protect_part(link, index, then.writable)?;
        }
        Ok(self.layout())
    }
}

#[cfg(test)]
#[path = "restore_test.rs"]
mod tests;
