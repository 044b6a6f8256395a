//! What backs guest memory: a sealed memfd ([`Block`]) and its mappings into this process ([`Mapping`]). A block lives
//! for as long as anything maps it, a mapping for as long as a region, a VM or a view holds it; nothing here knows where
//! a guest sees it. memfd_create(2), madvise(2), fallocate(2); huge pages: Linux admin-guide/mm/hugetlbpage.rst.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::fs::MetadataExt;
use std::sync::{Arc, Mutex, PoisonError};

use vm_memory::mmap::{MmapRegionBuilder, MmapRegionError};
use vm_memory::{FileOffset, MmapRegion, VolatileMemory};

use super::PAGE_SIZE;
use super::marks::{Bits, Marks, PAGE};
use crate::kvm::thread::fork_generation;

/// Unit of `st_blocks` (stat(2)).
const BLOCK: u64 = 512;

/// How the host backs memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pages {
    /// In pages of 4 KiB.
    #[default]
    Small,
    /// In huge pages where the host has them at hand (MADV_HUGEPAGE).
    Transparent,
    /// In huge pages of 2 MiB from the host's pool (hugetlb).
    Huge2M,
    /// In huge pages of 1 GiB from the host's pool.
    Huge1G,
}

impl Pages {
    /// Bytes of which addresses and lengths must be multiples.
    #[must_use]
    pub fn size(self) -> u64 {
        match self {
            Self::Small | Self::Transparent => PAGE_SIZE,
            Self::Huge2M => 2 << 20,
            Self::Huge1G => 1 << 30,
        }
    }

    /// Whether they come from a pool that can be empty.
    #[must_use]
    pub fn pooled(self) -> bool {
        matches!(self, Self::Huge2M | Self::Huge1G)
    }
}

/// Bytes of the huge pages that the host makes of small ones: what the processor maps by one entry (SDM vol. 3, 5.5.4).
const HUGE: usize = 2 << 20;

/// Pages of a memory file that a live view may write at any time: (first, count).
type Range = (usize, usize);

/// A memory file.
#[derive(Debug)]
pub(super) struct Block {
    file: Arc<File>,
    pages: Pages,
    pub(super) bits: Arc<Bits>,
    writable_views: Mutex<Vec<Range>>,
}

impl Block {
    pub(super) fn new(len: u64, pages: Pages, name: &str) -> io::Result<Arc<Self>> {
        let bits = Arc::new(Bits::new(pages_in(len)?)?);
        let label = CString::new(format!("hyperpy:{name}")).map_err(io::Error::other)?;
        let kind = match pages {
            Pages::Small | Pages::Transparent => 0,
            Pages::Huge2M => libc::MFD_HUGETLB | libc::MFD_HUGE_2MB,
            Pages::Huge1G => libc::MFD_HUGETLB | libc::MFD_HUGE_1GB,
        };
        // SAFETY: `label` is a NUL-terminated string that outlives the call; the flags are constants.
        let fd = unsafe { libc::memfd_create(label.as_ptr(), libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING | kind) };
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
        Ok(Arc::new(Self { file: Arc::new(file), pages, bits, writable_views: Mutex::default() }))
    }

    /// Bytes of host memory that it takes up: pages that were touched.
    pub(super) fn committed(&self) -> u64 {
        self.file.metadata().map_or(0, |meta| meta.blocks() * BLOCK)
    }

    /// Marks what live writable views may have written.
    pub(super) fn mark_views(&self) {
        for &(first, count) in self.views().iter() {
            self.bits.set(first, count);
        }
    }

    #[cfg(test)]
    pub(super) fn shorten(&self) -> io::Result<()> {
        self.file.set_len(0)
    }

    fn views(&self) -> std::sync::MutexGuard<'_, Vec<Range>> {
        self.writable_views.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn pages_in(len: u64) -> io::Result<usize> {
    usize::try_from(len / PAGE_SIZE).map_err(io::Error::other)
}

/// Part of a memory file, mapped into this process for as long as this lives. What is in it may change at any moment.
#[derive(Debug)]
pub struct Mapping {
    region: MmapRegion<Marks>,
    /// The region's addresses, where it does not own them itself.
    _place: Option<Place>,
    block: Arc<Block>,
    /// Bytes from the start of the file.
    offset: u64,
}

impl Mapping {
    pub(super) fn new(block: &Arc<Block>, offset: u64, len: u64) -> io::Result<Self> {
        let size = usize::try_from(len).map_err(io::Error::other)?;
        let marks = Marks { bits: block.bits.clone(), offset: usize::try_from(offset).map_err(io::Error::other)? };
        // No swap is set aside: a large machine costs what it touches. Huge pages are: without, a touch of one that the
        // pool does not have would be a SIGBUS.
        let reserve = if block.pages.pooled() { 0 } else { libc::MAP_NORESERVE };
        let (prot, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED | reserve);
        let builder = MmapRegionBuilder::new_with_bitmap(size, marks)
            .with_file_offset(FileOffset::from_arc(block.file.clone(), offset))
            .with_mmap_prot(prot)
            .with_mmap_flags(flags)
            .with_hugetlbfs(block.pages.pooled());
        let place =
            if block.pages.pooled() || size < HUGE { None } else { Some(Place::map(block, offset, size, flags)?) };
        let builder = match &place {
            // SAFETY: the place is a mapping of this size with this protection and these flags, and is kept with the region.
            Some(place) => unsafe { builder.with_raw_mmap_pointer(place.start as *mut u8) },
            None => builder,
        };
        let region = builder.build().map_err(|error| match error {
            MmapRegionError::Mmap(error) => error,
            other => io::Error::other(other),
        })?;
        if block.pages == Pages::Transparent {
            // SAFETY: the range is the mapping that was just made; the advice changes no content.
            let advised = unsafe { libc::madvise(region.as_ptr().cast(), size, libc::MADV_HUGEPAGE) };
            if advised != 0 {
                return Err(io::Error::last_os_error());
            }
        }
        Ok(Self { region, _place: place, block: block.clone(), offset })
    }

    /// Host-virtual address of the first byte.
    #[must_use]
    pub fn hva(&self) -> u64 {
        self.region.as_ptr() as u64
    }

    /// Length in bytes, of whole pages.
    #[must_use]
    #[allow(clippy::len_without_is_empty)] // never empty
    pub fn len(&self) -> u64 {
        self.region.size() as u64
    }

    pub(super) fn block(&self) -> &Arc<Block> {
        &self.block
    }

    /// Bytes from the start of the file.
    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    /// Number of the first page in the file, and how many there are.
    pub(super) fn range(&self) -> Range {
        self.part(0, self.region.size())
    }

    /// The pages of the file that hold `len` bytes at `at`.
    fn part(&self, at: usize, len: usize) -> Range {
        let page = |byte: u64| usize::try_from(byte / PAGE_SIZE).unwrap_or(usize::MAX);
        let start = self.offset + at as u64;
        let first = page(start);
        (first, if len == 0 { 0 } else { page(start + (len as u64 - 1)) - first + 1 })
    }

    /// Copies bytes out; false if they are not all here.
    pub(super) fn read(&self, at: usize, buffer: &mut [u8]) -> bool {
        self.region.get_slice(at, buffer.len()).is_ok_and(|slice| slice.copy_to(buffer) == buffer.len())
    }

    /// Copies bytes in and marks their pages; false if there is not room for all.
    pub(super) fn write(&self, at: usize, bytes: &[u8]) -> bool {
        self.region.get_slice(at, bytes.len()).map(|slice| slice.copy_from(bytes)).is_ok()
    }

    /// Makes `len` bytes zero and gives the whole pages among them back to the host. Pages from a pool are kept: what is
    /// given back there could be gone when it is touched again. False if not all is here.
    pub(super) fn zero(&self, at: usize, len: usize) -> bool {
        let Some(end) = at.checked_add(len).filter(|end| *end <= self.region.size()) else { return false };
        let (first, last) = (at.next_multiple_of(PAGE), end / PAGE * PAGE);
        if self.block.pages.pooled() || first >= last || self.punch(first, last - first).is_err() {
            return self.fill(at, end);
        }
        let (page, count) = self.part(first, last - first);
        self.block.bits.set(page, count);
        self.fill(at, first) && self.fill(last, end)
    }

    /// Has the host put `len` bytes at `at` into huge pages, and a little around them: it commits them, and content
    /// stays. False where it cannot (MADV_COLLAPSE: Linux 6.1, and memory in one piece), or would be of no use.
    pub(super) fn gather(&self, at: usize, len: usize) -> bool {
        let Some(end) = at.checked_add(len).filter(|end| *end <= self.region.size()) else { return false };
        let base = self.region.as_ptr() as usize;
        let first = ((base + at) / HUGE * HUGE).max(base.next_multiple_of(HUGE));
        let last = (base + end).next_multiple_of(HUGE).min((base + self.region.size()) / HUGE * HUGE);
        // It does not gather what has no page at all.
        let mut starts = (first..last).step_by(HUGE);
        if self.block.pages.pooled() || first >= last || !starts.all(|hva| self.read(hva - base, &mut [0])) {
            return false;
        }
        // SAFETY: the range lies in this mapping; the advice changes no content.
        unsafe { libc::madvise(first as *mut libc::c_void, last - first, libc::MADV_COLLAPSE) == 0 }
    }

    fn fill(&self, from: usize, to: usize) -> bool {
        let zeros = [0; PAGE];
        let starts = (from..to).step_by(PAGE);
        starts.map(|at| (at, zeros.get(..to - at).unwrap_or(&zeros))).all(|(at, zeros)| self.write(at, zeros))
    }

    fn punch(&self, at: usize, len: usize) -> io::Result<()> {
        let number = |value: u64| libc::off_t::try_from(value).map_err(io::Error::other);
        let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
        let (offset, len) = (number(self.offset + at as u64)?, number(len as u64)?);
        // SAFETY: plain system call on a descriptor that the block owns; the file keeps its size, so that what is mapped
        // stays valid and reads as zeros.
        match unsafe { libc::fallocate(self.block.file.as_raw_fd(), mode, offset, len) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

/// Addresses of this process with a part of a memory file behind them, given back when it is dropped. They lie to huge
/// pages as the part does to the file's, so that the host can map it by whole ones and KVM too.
#[derive(Debug)]
struct Place {
    start: usize,
    len: usize,
}

impl Place {
    fn map(block: &Block, offset: u64, len: usize, flags: i32) -> io::Result<Self> {
        let bytes = libc::off_t::try_from(offset).map_err(io::Error::other)?;
        let room = len.checked_add(HUGE).ok_or(io::ErrorKind::OutOfMemory)?;
        let nowhere = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: a new mapping where the host likes.
        let around = unsafe { libc::mmap(std::ptr::null_mut(), room, libc::PROT_NONE, nowhere, -1, 0) };
        if around == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let around = around as usize;
        let start = around + (bytes as usize).wrapping_sub(around) % HUGE;
        let fd = block.file.as_raw_fd();
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: over a part of the mapping made above, which nobody else knows.
        let mapped = unsafe { libc::mmap(start as *mut _, len, protection, flags | libc::MAP_FIXED, fd, bytes) };
        let failed = (mapped == libc::MAP_FAILED).then(io::Error::last_os_error);
        let place = Self { start, len };
        for (from, to) in [(around, start), (start + len, around + room)] {
            if from < to {
                // SAFETY: what is left of the mapping made above before and behind the place.
                unsafe { libc::munmap(from as *mut _, to - from) };
            }
        }
        failed.map_or(Ok(place), Err)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // SAFETY: the mapping is this value's own; the region that refers to it is dropped before it.
        unsafe { libc::munmap(self.start as *mut _, self.len) };
    }
}

/// A range of guest memory that stays mapped for as long as this value lives, for a zero-copy view.
#[derive(Debug)]
pub struct View {
    mapping: Arc<Mapping>,
    at: usize,
    len: usize,
    /// Pages that count as written while it lives, and once more when it is gone.
    written: Option<Range>,
    /// The process that it belongs to.
    forks: u64,
}

impl View {
    pub(super) fn new(mapping: Arc<Mapping>, at: usize, len: usize, writable: bool) -> Self {
        let written = writable.then(|| mapping.part(at, len));
        mapping.block.views().extend(written);
        Self { mapping, at, len, written, forks: fork_generation() }
    }
    /// Host-virtual address of the first byte. The guest may change what is there at any moment.
    #[must_use]
    pub fn hva(&self) -> u64 {
        self.mapping.hva() + self.at as u64
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
    /// Whether it may be written through.
    #[must_use]
    pub fn is_writable(&self) -> bool {
        self.written.is_some()
    }
}

impl Drop for View {
    fn drop(&mut self) {
        // In the child of a fork nobody may hold the lock any more, and what is written is the parent's to know.
        let Some(range) = self.written.filter(|_| self.forks == fork_generation()) else { return };
        let block = &self.mapping.block;
        let mut views = block.views();
        if let Some(at) = views.iter().position(|other| *other == range) {
            views.swap_remove(at);
        }
        block.bits.set(range.0, range.1);
    }
}

#[cfg(test)]
#[path = "block_test.rs"]
mod tests;
