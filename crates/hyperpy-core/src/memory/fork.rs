//! A second memory with the same content: of one that goes on, which shares every page that neither has written since their
//! common files, or of an image.

use std::io;
use std::sync::{Arc, RwLock};

use super::block::Mapping;
use super::image::{Image, begin};
use super::layout::{Backed, Kind, Layout, Part, RegionInfo};
use super::{Link, Memory};
use crate::error::MemoryError;

/// What a fork cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Forked {
    /// Pages that were copied for the child, because they were not the files' any more.
    pub pages: u64,
    /// Bytes of regions for which new files were written first.
    pub rebased: u64,
}

impl Memory {
    /// A memory of its own with the regions and the content of this one, and no VM yet. No vCPU may run. It costs a copy of
    /// the pages that were written since the files were; where these are more than a quarter of a region a new file is
    /// written first, which further children share.
    ///
    /// # Errors
    /// The machine is closed, the host has no memory, or the accelerator refuses. Memory can be used as before then.
    pub fn fork(&self) -> Result<(Self, Forked), MemoryError> {
        let mut link = self.link();
        let layout = self.layout();
        if layout.closed {
            return Err(MemoryError::Closed);
        }
        let _still = self.still();
        begin(&mut link, &layout)?;
        let regions: Vec<RegionInfo> = layout.parts.iter().map(|part| part.info.clone()).collect();
        let mut blocks = layout.blocks();
        let mut forked = Forked::default();
        let child = Self::assemble(&regions, |info| {
            let Some((_, mapping)) = blocks.next() else { return Err(io::ErrorKind::InvalidInput.into()) };
            let mut backing = mapping.backing();
            if mapping.rebase(&mut backing, &info.name)? {
                forked.rebased += info.len;
            }
            let (child, pages) = mapping.child(&mut backing, &info.name)?;
            forked.pages += pages;
            Ok(child)
        })?;
        Ok((child, forked))
    }

    /// A memory with the regions and the content of an image, and no VM yet.
    ///
    /// # Errors
    /// The host has no memory.
    pub fn from_image(image: &Image) -> Result<Self, MemoryError> {
        let mut nodes = image.nodes.iter();
        Self::assemble(image.regions(), |info| {
            let Some(node) = nodes.next() else { return Err(io::ErrorKind::InvalidInput.into()) };
            Mapping::of(node, info)
        })
    }

    /// A memory of these regions, `make` making the blocks of those that have pages of their own, in their order.
    fn assemble(
        regions: &[RegionInfo],
        mut make: impl FnMut(&RegionInfo) -> io::Result<Mapping>,
    ) -> Result<Self, MemoryError> {
        let mut own = Vec::new();
        for info in regions.iter().filter(|info| info.has_own_pages()) {
            let RegionInfo { gpa, len, pages, .. } = *info;
            let made = make(info).map_err(|source| MemoryError::Host { gpa, len, pages, source })?;
            own.push((info, Arc::new(made)));
        }
        let mut link = Link { keeping: true, ..Link::default() };
        let mut parts = Vec::new();
        for info in regions {
            let RegionInfo { gpa, len, .. } = *info;
            let of = info.alias_of.unwrap_or(gpa);
            let backed = match own.iter().find(|(owner, _)| owner.gpa <= of && of <= owner.last()) {
                _ if info.kind == Kind::Mmio => None,
                Some((owner, mapping)) => Some(Backed {
                    slot: link.take_slot(gpa, len)?,
                    mapping: mapping.clone(),
                    at: usize::try_from(of - owner.gpa).unwrap_or(usize::MAX),
                }),
                None => return Err(MemoryError::Access { gpa: of, len }),
            };
            parts.push(Part { info: info.clone(), backed });
        }
        let layout = Arc::new(Layout { closed: false, parts });
        Ok(Self { layout: layout.into(), link: link.into(), writing: RwLock::default() })
    }
}

#[cfg(test)]
#[path = "fork_test.rs"]
mod tests;
