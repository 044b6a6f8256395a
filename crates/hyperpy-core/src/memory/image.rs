//! Images of guest memory: what was in it at one moment, as a value.
//!
//! The first image copies nothing: the files of the blocks are sealed, and memory goes on in private pages. Each further
//! one copies what was written since the moment that memory descends from, and shares all else with the one before it.
//! An image keeps what it needs and nothing more, in whatever order images, memories and forks go.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use super::base::Base;
use super::block::Pages;
use super::dirty::{harvest, log};
use super::layout::{RegionInfo, check_range};
use super::marks::PAGE;
use super::node::{Node, each_page};
use super::{Layout, Link, Memory, PAGE_SIZE, file};
use crate::error::MemoryError;

/// Guest memory at one moment: its regions and what was in them.
#[derive(Clone, Debug)]
pub struct Image {
    regions: Box<[RegionInfo]>,
    /// Of the regions that have pages of their own, in their order.
    pub(super) nodes: Box<[Node]>,
}

impl Image {
    pub(super) fn new(regions: Vec<RegionInfo>, nodes: Vec<Node>) -> Self {
        Self { regions: regions.into(), nodes: nodes.into() }
    }

    /// An image of these regions, by ascending gpa, with the content of files: one for each region that has memory and is no
    /// alias, in their order, filled by [`Filling`].
    ///
    /// # Errors
    /// Regions overlap or cannot be; or an alias is of nothing; or there are more or fewer files, or one is of another length.
    pub fn from_blocks(regions: Vec<RegionInfo>, files: Vec<Filling>) -> Result<Self, MemoryError> {
        check_regions(&regions)?;
        let mut files = files.into_iter();
        let mut nodes = Vec::new();
        for info in regions.iter().filter(|info| info.has_own_pages()) {
            let RegionInfo { gpa, len, pages, .. } = *info;
            let host = |source| MemoryError::Host { gpa, len, pages, source };
            let file = files.next().ok_or(MemoryError::Access { gpa, len })?;
            file::seal(&file.0).map_err(host)?;
            let size = usize::try_from(len).map_err(|error| host(io::Error::other(error)))?;
            nodes.push(Node::new(Arc::new(Base::of(file.0, size).map_err(host)?)));
        }
        Ok(Self::new(regions, nodes))
    }

    /// The regions by ascending address.
    #[must_use]
    pub fn regions(&self) -> &[RegionInfo] {
        &self.regions
    }

    /// The regions that have pages of their own, which is all but aliases and mmio, with what was in them.
    pub fn blocks(&self) -> impl Iterator<Item = ImageBlock<'_>> {
        let own = self.regions.iter().filter(|info| info.has_own_pages());
        own.zip(&self.nodes).map(|(region, node)| ImageBlock { region, node })
    }

    /// Bytes that the image has in copies of pages, some of which it may share with other images; its files are not among them.
    #[must_use]
    pub fn copied(&self) -> u64 {
        self.nodes.iter().map(|node| node.table.count() as u64 * PAGE_SIZE).sum()
    }

    /// Bytes of its pages that are not known to be zeros, whoever else has them too.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.nodes.iter().map(Node::bytes).sum()
    }

    /// Bytes that the host gets back if it goes now: what no memory and no other image has.
    #[must_use]
    pub fn own_bytes(&self) -> u64 {
        self.nodes.iter().map(|node| node.own_bytes()).sum()
    }
}

fn check_regions(regions: &[RegionInfo]) -> Result<(), MemoryError> {
    let mut before: Option<&RegionInfo> = None;
    for info in regions {
        check_range(info)?;
        if let Some(before) = before.filter(|before| info.gpa <= before.last()) {
            return Err(MemoryError::Overlap { gpa: info.gpa, len: info.len, other: before.gpa });
        }
        before = Some(info);
        let Some(of) = info.alias_of else { continue };
        let missing = || MemoryError::Access { gpa: of, len: info.len };
        let last = of.checked_add(info.len - 1).ok_or_else(missing)?;
        let mut owners = regions.iter().filter(|other| other.has_own_pages());
        let owner = owners.find(|other| other.gpa <= of && last <= other.last()).ok_or_else(missing)?;
        if !(of - owner.gpa).is_multiple_of(owner.pages.size().max(PAGE_SIZE)) || info.kind != owner.kind {
            return Err(missing());
        }
    }
    Ok(())
}

/// What an image has of one region.
#[derive(Clone, Copy, Debug)]
pub struct ImageBlock<'a> {
    /// The region.
    pub region: &'a RegionInfo,
    node: &'a Node,
}

impl<'a> ImageBlock<'a> {
    /// How many pages it has.
    #[must_use]
    pub fn pages(&self) -> usize {
        self.node.base.data().pages()
    }

    /// A page by its number in the region; none if it is zeros, or there is none. Pages of zeros that were written may be told as
    /// what they are.
    #[must_use]
    pub fn page(&self, page: usize) -> Option<&'a [u8; PAGE]> {
        if page < self.pages() { self.node.page(page) } else { None }
    }

    /// Calls `f` with each page that is not known to be zeros, by ascending number, until it says no.
    pub fn each_page(&self, mut f: impl FnMut(usize, &'a [u8; PAGE]) -> bool) {
        let mut goes_on = true;
        self.node.data(|index, bits| {
            each_page(index, bits, |page| {
                if goes_on && let Some(bytes) = self.node.page(page) {
                    goes_on = f(page, bytes);
                }
            });
        });
    }

    /// Whether a page is certainly the same in another image's block of the same region. Pages that are the same by chance
    /// are not found by this.
    #[must_use]
    pub fn shares(&self, page: usize, other: &ImageBlock<'_>) -> bool {
        match (self.page(page), other.page(page)) {
            (None, None) => true,
            (Some(one), Some(other)) => std::ptr::eq(one, other),
            _ => false,
        }
    }
}

/// A file of zeros that is filled and becomes a block of an image.
#[derive(Debug)]
pub struct Filling(File);

impl Filling {
    /// One of `len` bytes.
    ///
    /// # Errors
    /// The host refuses.
    pub fn new(len: u64) -> io::Result<Self> {
        Ok(Self(file::create(len, Pages::Small, "image")?))
    }

    /// Writes bytes; nobody else sees them yet.
    ///
    /// # Errors
    /// The host has no memory, or they lie beyond the end.
    pub fn write(&self, at: u64, bytes: &[u8]) -> io::Result<()> {
        let end = at.checked_add(bytes.len() as u64);
        if end.is_none_or(|end| self.0.metadata().is_ok_and(|meta| end > meta.len())) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        self.0.write_all_at(bytes, at)
    }
}

/// What was written since the node of each block is known from now on.
pub(super) fn begin(link: &mut Link, layout: &Layout) -> Result<(), MemoryError> {
    if !link.logs() {
        log(link, layout, true)?;
    }
    harvest(link, layout)?;
    link.keeping = true;
    Ok(())
}

impl Memory {
    /// What is in memory now. No vCPU may run. The first time no page is copied; later it is those written since memory was
    /// last as an image has it.
    ///
    /// # Errors
    /// The machine is closed, the host has no memory, or the accelerator refuses. Memory can be used as before then.
    pub fn image(&self) -> Result<Arc<Image>, MemoryError> {
        let mut link = self.link();
        let layout = self.layout();
        if layout.closed {
            return Err(MemoryError::Closed);
        }
        begin(&mut link, &layout)?;
        let mut nodes = Vec::new();
        for (info, mapping) in layout.blocks() {
            let RegionInfo { gpa, len, pages, .. } = *info;
            let kept = mapping.keep(&mut mapping.backing());
            nodes.push(kept.map_err(|source| MemoryError::Host { gpa, len, pages, source })?);
        }
        let regions = layout.parts.iter().map(|part| part.info.clone()).collect();
        Ok(Arc::new(Image::new(regions, nodes)))
    }
}

#[cfg(test)]
#[path = "image_test.rs"]
mod tests;
