//! Guest-physical memory: regions of kind ram, rom or mmio, each a memfd mapped into this process.
//!
//! Every access goes through vm-memory's volatile copies: the guest may change a byte at any moment, so no Rust
//! reference into guest memory is ever formed. Pages that the host or a device writes are marked in a bitmap of our
//! own, because KVM's dirty log does not have them (docs/design.md, run loop, rule 9). vm-memory stays private to
//! this module and `boot`; KVM's slots are made from [`Memory::regions`].

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::fs::MetadataExt;
use std::sync::{Arc, Mutex, PoisonError};

use vm_memory::bitmap::{AtomicBitmap, Bitmap};
use vm_memory::{Bytes, FileOffset, GuestAddress, GuestMemoryBackend, GuestMemoryRegion, GuestRegionMmap, MmapRegion};

use crate::accel::{AccelError, Vm};
use crate::arch::x86_64::layout::{HIGH_RAM_START, MMIO_HOLE_START};
use crate::error::MemoryError;

/// vm-memory's collection of regions, with our bitmap of pages that the host wrote.
pub(crate) type Backing = vm_memory::GuestMemoryMmap<AtomicBitmap>;

/// Unit of `st_blocks` (stat(2)).
const BLOCK: u64 = 512;

/// Bytes in a page.
pub const PAGE_SIZE: u64 = 4096;

/// Most bytes of one region: what KVM takes as a slot (KVM_MEM_MAX_NR_PAGES). It also bounds the bitmap, which is not of
/// the host's to refuse.
const MOST: u64 = ((1 << 31) - 1) * PAGE_SIZE;

/// What a region is to the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Readable and writable.
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
    /// Host-virtual address of the first byte; 0 for [`Kind::Mmio`].
    pub hva: u64,
}

#[derive(Debug, Default)]
struct Layout {
    /// The accelerator has these regions: no more can be added.
    sealed: bool,
    regions: Vec<RegionInfo>,
    backing: Backing,
}

/// The guest-physical memory of a machine.
#[derive(Debug, Default)]
pub struct Memory {
    layout: Mutex<Arc<Layout>>,
}

/// A range of guest memory that stays mapped for as long as this value lives, for a zero-copy view.
#[derive(Debug)]
pub struct View {
    hva: u64,
    len: usize,
    _keep: Arc<GuestRegionMmap<AtomicBitmap>>,
}

impl View {
    /// Host-virtual address of the first byte. The guest may change what is there at any moment.
    #[must_use]
    pub fn hva(&self) -> u64 {
        self.hva
    }
    /// Length in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }
    /// Whether the view has no bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

impl Memory {
    /// Memory with `size` bytes of RAM laid out as on a PC: from 0 to the hole below 4 GiB, the rest above 4 GiB.
    /// No page is committed before it is touched.
    ///
    /// # Errors
    /// `size` is not of whole pages or too large, or the host has no memory to map.
    pub fn with_ram(size: u64) -> Result<Self, MemoryError> {
        let memory = Self::default();
        let low = size.min(MMIO_HOLE_START);
        memory.add(0, low, Kind::Ram, "ram")?;
        if size > low {
            memory.add(HIGH_RAM_START, size - low, Kind::Ram, "ram above 4G")?;
        }
        Ok(memory)
    }

    fn layout(&self) -> Arc<Layout> {
        self.layout.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The regions by ascending address.
    #[must_use]
    pub fn regions(&self) -> Vec<RegionInfo> {
        self.layout().regions.clone()
    }

    /// Adds a region.
    ///
    /// # Errors
    /// The range is empty, unaligned, too large, wraps, overlaps another region, or the host has no memory to map.
    pub fn add(&self, gpa: u64, len: u64, kind: Kind, name: &str) -> Result<(), MemoryError> {
        if len == 0 || !gpa.is_multiple_of(PAGE_SIZE) || !len.is_multiple_of(PAGE_SIZE) {
            return Err(MemoryError::Unaligned { gpa, len });
        }
        let last = gpa.checked_add(len - 1).ok_or(MemoryError::Wraps { gpa, len })?;
        if len > MOST && kind != Kind::Mmio {
            return Err(MemoryError::TooLarge { gpa, len, most: MOST });
        }
        let mut layout = self.layout.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(other) = layout.regions.iter().find(|r| r.gpa <= last && gpa <= r.gpa + (r.len - 1)) {
            return Err(MemoryError::Overlap { gpa, len, other: other.gpa });
        }
        if layout.sealed {
            return Err(MemoryError::Sealed { gpa, len });
        }
        let mut backing = layout.backing.clone();
        let mut hva = 0;
        if kind != Kind::Mmio {
            let host = |source| MemoryError::Host { gpa, len, source };
            let region = Arc::new(map_memfd(gpa, len, name).map_err(host)?);
            hva = region.as_ptr() as u64;
            backing = backing.insert_region(region).map_err(|e| host(io::Error::other(e)))?;
        }
        let mut regions = layout.regions.clone();
        let at = regions.partition_point(|r| r.gpa < gpa);
        regions.insert(at, RegionInfo { gpa, len, kind, name: name.into(), hva });
        *layout = Arc::new(Layout { sealed: false, regions, backing });
        Ok(())
    }

    /// The first region that shares an address with `base..base + len` and has memory behind it.
    #[must_use]
    pub fn overlapping(&self, base: u64, len: u64) -> Option<RegionInfo> {
        let last = base.saturating_add(len.saturating_sub(1));
        let layout = self.layout();
        let mut backed = layout.regions.iter().filter(|r| r.kind != Kind::Mmio);
        backed.find(|r| r.gpa <= last && base <= r.gpa + (r.len - 1)).cloned()
    }

    /// Gives every region to a VM; none can be added after. Keep the result for as long as the VM lives: it holds the
    /// mappings.
    pub(crate) fn seal_into(&self, vm: &dyn Vm) -> Result<Backing, AccelError> {
        let sealed = {
            let mut layout = self.layout.lock().unwrap_or_else(PoisonError::into_inner);
            let (regions, backing) = (layout.regions.clone(), layout.backing.clone());
            *layout = Arc::new(Layout { sealed: true, regions, backing });
            layout.clone()
        };
        for (slot, region) in (0..).zip(&sealed.regions) {
            // SAFETY: `add` mapped hva..hva+len, or left hva 0 for a region without memory; the caller keeps the
            // mappings that are returned until the VM and its vCPUs are gone.
            unsafe { vm.map(slot, region) }?;
        }
        Ok(sealed.backing.clone())
    }

    /// All RAM as it is at power-on: zeros, given back to the host. What is mapped stays mapped, views too; ROM stays as
    /// it is. Regions can be added again, until the next [`Self::seal_into`].
    pub(crate) fn reset(&self) -> Result<(), MemoryError> {
        let layout = {
            let mut layout = self.layout.lock().unwrap_or_else(PoisonError::into_inner);
            let (regions, backing) = (layout.regions.clone(), layout.backing.clone());
            *layout = Arc::new(Layout { sealed: false, regions, backing });
            layout.clone()
        };
        for info in layout.regions.iter().filter(|region| region.kind == Kind::Ram) {
            let Some(region) = layout.backing.find_region(GuestAddress(info.gpa)) else { continue };
            let Some(file) = region.file_offset() else { continue };
            punch(file.file(), info.len).map_err(|source| MemoryError::Host {
                gpa: info.gpa,
                len: info.len,
                source,
            })?;
            // These pages changed, and not by the guest.
            region.bitmap().mark_dirty(0, usize::try_from(info.len).unwrap_or(usize::MAX));
        }
        Ok(())
    }

    /// Lets go of all memory; views keep theirs.
    pub(crate) fn clear(&self) {
        let empty = Arc::new(Layout { sealed: true, ..Layout::default() });
        let old = std::mem::replace(&mut *self.layout.lock().unwrap_or_else(PoisonError::into_inner), empty);
        drop(old); // unmapping happens outside the lock
    }

    /// Copies guest memory into `buffer`, across adjoining regions.
    ///
    /// # Errors
    /// A byte of the range has no memory; nothing useful is in `buffer` then.
    pub fn read(&self, gpa: u64, buffer: &mut [u8]) -> Result<(), MemoryError> {
        let len = buffer.len() as u64;
        self.layout().backing.read_slice(buffer, GuestAddress(gpa)).map_err(|_| MemoryError::Access { gpa, len })
    }

    /// Copies `bytes` into guest memory and marks the pages as written by the host. The range is checked first, so a
    /// refused write changes nothing.
    ///
    /// # Errors
    /// A byte of the range has no memory.
    pub fn write(&self, gpa: u64, bytes: &[u8]) -> Result<(), MemoryError> {
        let len = bytes.len() as u64;
        let layout = self.layout();
        if !layout.backing.check_range(GuestAddress(gpa), bytes.len()) {
            return Err(MemoryError::Access { gpa, len });
        }
        layout.backing.write_slice(bytes, GuestAddress(gpa)).map_err(|_| MemoryError::Access { gpa, len })
    }

    /// Whether every byte of the range has memory behind it.
    #[must_use]
    pub fn holds(&self, gpa: u64, len: usize) -> bool {
        self.layout().backing.check_range(GuestAddress(gpa), len)
    }

    /// Bytes of host memory that the regions take up: pages that were touched.
    #[must_use]
    pub fn committed(&self) -> u64 {
        let layout = self.layout();
        let files = layout.backing.iter().filter_map(|region| region.file_offset());
        files.filter_map(|file| file.file().metadata().ok()).map(|meta| meta.blocks() * BLOCK).sum()
    }

    /// A zero-copy window onto memory within one region.
    ///
    /// # Errors
    /// The range leaves its region.
    pub fn view(&self, gpa: u64, len: usize) -> Result<View, MemoryError> {
        let missing = MemoryError::Access { gpa, len: len as u64 };
        let layout = self.layout();
        let Some(region) = layout.backing.find_region(GuestAddress(gpa)) else {
            return Err(missing);
        };
        let offset = gpa - region.start_addr().0;
        if region.len() - offset < len as u64 {
            return Err(missing);
        }
        let hva = region.as_ptr() as u64 + offset;
        // The collection gives its owned regions only by removal, here from a copy of the list.
        let Ok((_, region)) = layout.backing.remove_region(region.start_addr(), region.len()) else {
            return Err(missing);
        };
        Ok(View { hva, len, _keep: region })
    }
}

/// Makes a hole of a whole file: its pages are given back, and read as zeros.
fn punch(file: &File, len: u64) -> io::Result<()> {
    let len = libc::off_t::try_from(len).map_err(io::Error::other)?;
    let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
    // SAFETY: plain system call on a descriptor that `file` owns. What is mapped of it stays mapped.
    if unsafe { libc::fallocate(file.as_raw_fd(), mode, 0, len) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

fn map_memfd(gpa: u64, len: u64, name: &str) -> io::Result<GuestRegionMmap<AtomicBitmap>> {
    let size = usize::try_from(len).map_err(io::Error::other)?;
    let label = CString::new(format!("hyperpy:{name}")).map_err(io::Error::other)?;
    // SAFETY: `label` is a NUL-terminated string that outlives the call; the flags are constants.
    let fd = unsafe { libc::memfd_create(label.as_ptr(), libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: memfd_create returned this descriptor and nobody else owns it.
    let file = unsafe { File::from_raw_fd(fd) };
    file.set_len(len)?;
    // Nobody who opens it through /proc can shorten it under the mapping.
    // SAFETY: plain system call on a descriptor that `file` owns.
    if unsafe { libc::fcntl(file.as_raw_fd(), libc::F_ADD_SEALS, libc::F_SEAL_SHRINK | libc::F_SEAL_SEAL) } < 0 {
        return Err(io::Error::last_os_error());
    }
    let region = MmapRegion::build(
        Some(FileOffset::new(file, 0)),
        size,
        libc::PROT_READ | libc::PROT_WRITE,
        // No swap is set aside: a large machine costs what it touches.
        libc::MAP_SHARED | libc::MAP_NORESERVE,
    )
    .map_err(io::Error::other)?;
    GuestRegionMmap::new(region, GuestAddress(gpa)).ok_or_else(|| io::Error::other("region wraps the address space"))
}

#[cfg(test)]
#[path = "memory_test.rs"]
mod tests;
