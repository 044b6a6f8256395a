//! Guest-physical memory: regions of kind ram, rom or mmio, added and taken away at any time.
//!
//! A region is a part of a memfd at a gpa ([`block`]); an alias is a second place for pages that have one. Here is what
//! lies where, for this process and for the accelerator's slots; `access` reads, writes and views it, [`dma`] does that for
//! devices, `dirty` tells which pages were written. Layout and slots change under one lock, that of [`Link`]; who only reads
//! the layout takes a copy of a pointer and never waits for an ioctl. A slot's mapping is kept by the VM itself
//! (`accel::Slot`), so that nothing is unmapped while a vCPU could touch it. vm-memory stays private to this module and `boot`.

mod access;
mod base;
mod block;
mod dirty;
pub mod dma;
pub(crate) mod error;
mod file;
mod fork;
mod image;
mod layout;
mod link;
mod mapped;
mod marks;
mod node;
mod restore;
mod table;
mod view;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

pub use self::block::{Mapping, Pages};
pub use self::dirty::Written;
pub(crate) use self::file::begin_write_back;
pub use self::fork::Forked;
pub use self::image::{Filling, Image, ImageBlock};
use self::layout::{Backed, Layout, Part, check_range};
pub use self::layout::{Kind, PAGE_SIZE, RegionInfo};
use self::link::Link;
pub use self::mapped::Mapped;
pub use self::restore::{Difference, Restored, Restoring};
pub use self::view::View;
use crate::accel::{AccelError, Vm};
use crate::arch::x86_64::layout::{HIGH_RAM_START, MMIO_HOLE_START};
use crate::error::MemoryError;

/// The guest-physical memory of a machine.
#[derive(Debug, Default)]
pub struct Memory {
    layout: Mutex<Arc<Layout>>,
    link: Mutex<Link>,
    /// Read while the host writes, so that nobody does while a block is given another file.
    writing: RwLock<()>,
}

impl Memory {
    /// Memory with `size` bytes of RAM laid out as on a PC: from 0 to the hole below 4 GiB, the rest above 4 GiB.
    /// No page is committed before it is touched.
    ///
    /// # Errors
    /// `size` is not of whole pages or too large, or the host has no memory to map.
    pub fn with_ram(size: u64) -> Result<Self, MemoryError> {
        Self::with_ram_in(size, Pages::Small)
    }

    /// The same with huge pages.
    ///
    /// # Errors
    /// As for [`Self::with_ram`]; or the host's pool of huge pages has too few.
    pub fn with_ram_in(size: u64, pages: Pages) -> Result<Self, MemoryError> {
        let memory = Self::default();
        let low = size.min(MMIO_HOLE_START);
        memory.add_in(0, low, Kind::Ram, "ram", pages)?;
        if size > low {
            memory.add_in(HIGH_RAM_START, size - low, Kind::Ram, "ram above 4G", pages)?;
        }
        Ok(memory)
    }

    /// Bytes of the RAM that lies as [`Self::with_ram`] lays it, as a PC's CMOS tells of it. What else there is only a
    /// memory map can tell.
    #[must_use]
    pub fn pc_ram(&self) -> u64 {
        let layout = self.layout();
        let at = |gpa| {
            let part = layout.parts.iter().find(|part| part.info.gpa == gpa);
            part.filter(|part| part.info.kind == Kind::Ram && part.info.alias_of.is_none()).map_or(0, |p| p.info.len)
        };
        let low = at(0).min(MMIO_HOLE_START);
        if low == MMIO_HOLE_START { low + at(HIGH_RAM_START) } else { low }
    }

    fn layout(&self) -> Arc<Layout> {
        self.layout.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn link(&self) -> MutexGuard<'_, Link> {
        self.link.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Held while the host writes.
    fn write_lock(&self) -> RwLockReadGuard<'_, ()> {
        self.writing.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Nobody of the host writes while it is held, except through views.
    fn still(&self) -> RwLockWriteGuard<'_, ()> {
        self.writing.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the layout. Only who holds the link may.
    fn publish(&self, _link: &mut Link, change: impl FnOnce(&mut Layout)) {
        change(Arc::make_mut(&mut self.layout.lock().unwrap_or_else(PoisonError::into_inner)));
    }

    /// The regions by ascending address.
    #[must_use]
    pub fn regions(&self) -> Vec<RegionInfo> {
        self.layout().parts.iter().map(|part| part.info.clone()).collect()
    }

    /// Whether the machine has been closed and its memory given back.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.layout().closed
    }

    /// How many regions with memory the accelerator takes.
    pub(crate) fn limit_slots(&self, most: u32) {
        self.link().most = most;
    }

    /// Refuses a range that no region can have, wherever others are.
    pub(crate) fn check(gpa: u64, len: u64, kind: Kind, pages: Pages) -> Result<(), MemoryError> {
        let info = RegionInfo { gpa, len, kind, name: "".into(), writable: false, pages, alias_of: None };
        check_range(&info).map(drop)
    }

    /// Adds a region, whether vCPUs exist or not.
    ///
    /// # Errors
    /// The range is empty, unaligned, too large, wraps, overlaps another region, or the host has no memory to map.
    pub fn add(&self, gpa: u64, len: u64, kind: Kind, name: &str) -> Result<(), MemoryError> {
        self.add_in(gpa, len, kind, name, Pages::Small)
    }

    /// The same with huge pages.
    ///
    /// # Errors
    /// As for [`Self::add`]; or the host's pool of huge pages has too few.
    pub fn add_in(&self, gpa: u64, len: u64, kind: Kind, name: &str, pages: Pages) -> Result<(), MemoryError> {
        let backed = kind != Kind::Mmio;
        let pages = if backed { pages } else { Pages::Small };
        let info = RegionInfo { gpa, len, kind, name: name.into(), writable: kind == Kind::Ram, pages, alias_of: None };
        self.insert(info, |_| {
            if !backed {
                return Ok(None);
            }
            let made = Mapping::new(len, pages, name).map(|mapping| (Arc::new(mapping), 0));
            made.map(Some).map_err(|source| MemoryError::Host { gpa, len, pages, source })
        })
    }

    /// Adds a second place for `len` bytes that are at `of` within one region, with its kind. A write at one place is
    /// seen at the other.
    ///
    /// # Errors
    /// As for [`Self::add`]; or there is no memory at `of`.
    pub fn alias(&self, gpa: u64, of: u64, len: u64, name: &str) -> Result<(), MemoryError> {
        let missing = || MemoryError::Access { gpa: of, len };
        let layout = self.layout();
        let part = layout.holding(of).ok_or_else(|| self.gone(missing()))?;
        let Backed { mapping, at: start, .. } = part.backed.as_ref().ok_or_else(missing)?;
        let at = of - part.info.gpa;
        if len > part.info.len - at {
            return Err(missing());
        }
        let RegionInfo { kind, pages, .. } = part.info;
        if !at.is_multiple_of(pages.size()) {
            return Err(MemoryError::Unaligned { gpa: of, len, pages });
        }
        let alias_of = Some(part.info.alias_of.unwrap_or(part.info.gpa) + at);
        let info = RegionInfo { gpa, len, kind, name: name.into(), writable: kind == Kind::Ram, pages, alias_of };
        let at = start + usize::try_from(at).map_err(|_| missing())?;
        self.insert(info, |now| {
            // What was looked up may have been taken away meanwhile.
            let there = now.holding(of).and_then(|part| part.backed.as_ref());
            let there = there.filter(|backed| Arc::ptr_eq(&backed.mapping, mapping)).ok_or_else(missing)?;
            Ok(Some((there.mapping.clone(), at)))
        })
    }

    fn insert(
        &self,
        info: RegionInfo,
        back: impl FnOnce(&Layout) -> Result<Option<(Arc<Mapping>, usize)>, MemoryError>,
    ) -> Result<(), MemoryError> {
        let last = check_range(&info)?;
        let RegionInfo { gpa, len, kind, pages, .. } = info;
        let mut link = self.link();
        let now = self.layout();
        if now.closed {
            return Err(MemoryError::Closed);
        }
        if let Some(other) = now.overlapping(gpa, last) {
            return Err(MemoryError::Overlap { gpa, len, other: other.info.gpa });
        }
        let id = if kind == Kind::Mmio { None } else { Some(link.take_slot(gpa, len)?) };
        let made = back(&now).and_then(|mapping| {
            let backed = id.zip(mapping).map(|(slot, (mapping, at))| Backed { slot, mapping, at });
            let part = Part { info, backed };
            if let (true, Some(mapping)) = (link.tracking, part.owned()) {
                mapping.remember().map_err(|source| MemoryError::Host { gpa, len, pages, source })?;
            }
            if let (Some(vm), Some(slot)) = (link.vm(), part.slot(link.logs())) {
                vm.map(&slot)?;
            }
            Ok(part)
        });
        drop(now); // so that the layout is changed in place
        match made {
            Ok(part) => self.publish(&mut link, |layout| {
                let at = layout.parts.partition_point(|part| part.info.gpa < gpa);
                layout.parts.insert(at, part);
            }),
            Err(error) => {
                link.free.extend(id);
                return Err(error);
            }
        }
        Ok(())
    }

    /// Takes the region that begins at `gpa` away. What the guest does there is an exit from then on; views keep theirs.
    ///
    /// # Errors
    /// There is none, it has an alias, or the accelerator refuses.
    pub fn remove(&self, gpa: u64) -> Result<(), MemoryError> {
        let mut link = self.link();
        let layout = self.layout();
        let (_, part) = layout.at(gpa).map_err(|error| self.gone(error))?;
        if let Some(mapping) = part.owned() {
            let alias = |other: &&Part| {
                let same = other.backed.as_ref().is_some_and(|backed| Arc::ptr_eq(&backed.mapping, mapping));
                same && other.info.alias_of.is_some()
            };
            if let Some(alias) = layout.parts.iter().find(alias) {
                return Err(MemoryError::Aliased { gpa, alias: alias.info.gpa });
            }
        }
        if let Some(backed) = &part.backed {
            if let Some(vm) = link.vm() {
                vm.unmap(backed.slot)?;
            }
            link.free.push(backed.slot);
        }
        let taken = layout.clone(); // unmapped outside of the layout's lock
        drop(layout);
        self.publish(&mut link, |layout| layout.parts.retain(|part| part.info.gpa != gpa));
        drop(link);
        drop(taken);
        Ok(())
    }

    /// Makes the region that begins at `gpa` read-only for the guest, or writable. KVM knows no change of that kind: the
    /// slot is taken away and made anew, so that no vCPU may be in the guest meanwhile.
    ///
    /// # Errors
    /// There is none or no memory is behind it, or the accelerator refuses.
    pub(crate) fn protect(&self, gpa: u64, writable: bool) -> Result<(), MemoryError> {
        let mut link = self.link();
        let index = self.layout().at(gpa).map(|(index, _)| index).map_err(|error| self.gone(error))?;
        self.protect_part(&mut link, index, writable)
    }

    /// The same for the part of this number.
    fn protect_part(&self, link: &mut Link, index: usize, writable: bool) -> Result<(), MemoryError> {
        let layout = self.layout();
        let Some(part) = layout.parts.get(index) else { return Ok(()) };
        let gpa = part.info.gpa;
        let Some(backed) = &part.backed else { return Err(MemoryError::NotMemory { gpa }) };
        if part.info.writable == writable {
            return Ok(());
        }
        let mut changed = part.clone();
        changed.info.writable = writable;
        if let (Some(vm), Some(old), Some(new)) = (link.vm(), part.slot(link.logs()), changed.slot(link.logs())) {
            if link.logs() {
                vm.mark_written()?;
            }
            vm.unmap(backed.slot)?;
            if let Err(error) = vm.map(&new) {
                if vm.map(&old).is_err() {
                    link.free.push(backed.slot);
                    drop(layout);
                    self.publish(link, |layout| layout.parts.retain(|part| part.info.gpa != gpa));
                }
                return Err(error.into());
            }
        }
        drop(layout);
        self.publish(link, |layout| {
            if let Some(part) = layout.parts.get_mut(index) {
                *part = changed;
            }
        });
        Ok(())
    }

    /// The first region that shares an address with `base..base + len` and has memory behind it.
    #[must_use]
    pub fn overlapping(&self, base: u64, len: u64) -> Option<RegionInfo> {
        let last = base.saturating_add(len.saturating_sub(1));
        let layout = self.layout();
        let mut backed = layout.parts.iter().filter(|part| part.backed.is_some()).map(|part| &part.info);
        backed.find(|info| info.gpa <= last && base <= info.last()).cloned()
    }

    /// Gives every region to a VM, and each change from now on.
    pub(crate) fn connect(&self, vm: &Arc<dyn Vm>) -> Result<(), AccelError> {
        let mut link = self.link();
        for slot in self.layout().parts.iter().filter_map(|part| part.slot(link.logs())) {
            vm.map(&slot)?;
        }
        link.vm = Some(Arc::downgrade(vm));
        Ok(())
    }

    /// All RAM as it is at power-on: zeros, given back to the host. What is mapped stays mapped, views too; ROM stays as
    /// it is. The VM is forgotten, until the next [`Self::connect`].
    pub(crate) fn reset(&self) {
        let mut link = self.link();
        let vm = link.vm.take();
        let layout = self.layout();
        // What a VM that is gone has logged nobody knows any more.
        if link.logs() && vm.is_some_and(|vm| vm.upgrade().is_none_or(|vm| vm.mark_written().is_err())) {
            for backed in layout.parts.iter().filter(|part| part.info.writable).filter_map(|part| part.backed.as_ref())
            {
                backed.mapping.mark(0, usize::MAX);
            }
        }
        for (info, mapping) in layout.blocks().filter(|(info, _)| info.kind == Kind::Ram) {
            mapping.renew(&info.name);
        }
    }

    /// Lets go of all memory; views keep theirs.
    pub(crate) fn clear(&self) {
        let mut link = self.link();
        link.vm = None;
        let empty = Arc::new(Layout { closed: true, ..Layout::default() });
        let old = std::mem::replace(&mut *self.layout.lock().unwrap_or_else(PoisonError::into_inner), empty);
        drop(link);
        drop(old); // unmapping happens outside the locks
    }

    /// The error, unless it is the closed machine's.
    fn gone(&self, error: MemoryError) -> MemoryError {
        if self.is_closed() { MemoryError::Closed } else { error }
    }
}

#[cfg(any(test, fuzzing))]
#[path = "mod_fuzz.rs"]
pub mod fuzz;
#[cfg(test)]
#[path = "model_test.rs"]
mod model_tests;
#[cfg(test)]
#[path = "memory_test.rs"]
mod tests;
