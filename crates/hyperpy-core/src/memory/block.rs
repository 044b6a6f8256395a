//! What backs guest memory: a block, which is a memory file and its one mapping into this process. It lives for as long as a
//! region, a VM or a view holds it, at one address all its life; nothing here knows where a guest sees it.
//!
//! At first the mapping is shared: what is written is in the file. From the first image on the file is sealed and the
//! mapping private ([`node`](super::node)), so that the file stays what it was and every page that is written is this
//! block's own. One block is never mapped twice for that: two private mappings would part.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use vm_memory::mmap::{MmapRegionBuilder, MmapRegionError};
use vm_memory::{MmapRegion, VolatileMemory};

use super::PAGE_SIZE;
use super::file::{self, Behind, HUGE, Place};
use super::marks::{BITS, Bits, Marks, PAGE, pages_of};
use super::node::Node;

/// Unit of `st_blocks` (stat(2)).
const BLOCK: u64 = 512;

/// Zeros of at least so many bytes are memory that is given back, and not written: a mapping of its own is too much for less.
const WORTH_A_MAPPING: usize = HUGE;

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

/// Pages of a block that a live view may write at any time: (first, count).
pub(super) type Range = (usize, usize);

/// A block of guest memory. What is in it may change at any moment.
#[derive(Debug)]
pub struct Mapping {
    region: MmapRegion<Marks>,
    /// The region's addresses: it does not own them itself.
    pub(super) place: Place,
    pub(super) pages: Pages,
    /// Written since the bits were last spread to the two who want to know.
    fresh: Arc<Bits>,
    /// Written since the user asked, once one has.
    told: OnceLock<Bits>,
    /// Written since the node: what is not the same as there.
    pub(super) since: Bits,
    writable_views: Mutex<Vec<Range>>,
    backing: Mutex<Backing>,
}

/// What is behind a block. Changed only by who holds the memory's link.
#[derive(Debug)]
pub(super) struct Backing {
    /// The file, for as long as the mapping is shared.
    pub(super) file: Option<File>,
    /// What was in the block at a moment that `since` counts from; none before the first image.
    pub(super) node: Option<Node>,
}

impl Mapping {
    /// A block of zeros.
    pub(super) fn new(len: u64, pages: Pages, name: &str) -> io::Result<Self> {
        let size = usize::try_from(len).map_err(io::Error::other)?;
        let file = file::create(len, pages, name)?;
        let place = Place::new(Behind::Shared(&file), size, pages)?;
        Self::at(place, pages, Backing { file: Some(file), node: None })
    }

    /// A block at a place that has its memory already.
    pub(super) fn at(place: Place, pages: Pages, backing: Backing) -> io::Result<Self> {
        let count = place.len() / PAGE;
        let fresh = Arc::new(Bits::new(count)?);
        let builder = MmapRegionBuilder::new_with_bitmap(place.len(), Marks(fresh.clone()))
            .with_mmap_prot(libc::PROT_READ | libc::PROT_WRITE)
            .with_mmap_flags(libc::MAP_NORESERVE)
            .with_hugetlbfs(pages.pooled());
        // SAFETY: the place is a mapping of this size with this protection, and is kept with the region.
        let region = unsafe { builder.with_raw_mmap_pointer(place.start() as *mut u8) }.build();
        let region = region.map_err(|error| match error {
            MmapRegionError::Mmap(error) => error,
            other => io::Error::other(other),
        })?;
        let (since, told) = (Bits::new(count)?, OnceLock::new());
        let (writable_views, backing) = (Mutex::default(), Mutex::new(backing));
        Ok(Self { region, place, pages, fresh, told, since, writable_views, backing })
    }

    /// Host-virtual address of the first byte.
    #[must_use]
    pub fn hva(&self) -> u64 {
        self.place.start() as u64
    }

    /// Length in bytes, of whole pages.
    #[must_use]
    #[allow(clippy::len_without_is_empty)] // never empty
    pub fn len(&self) -> u64 {
        self.place.len() as u64
    }

    /// Marks pages as written, as what wrote them does.
    pub(crate) fn mark(&self, first: usize, count: usize) {
        self.fresh.set(first, count);
    }

    /// Marks the pages of a log, one bit each, for `count` pages from `first` on; what it has beyond is left out.
    pub(crate) fn mark_words(&self, first: usize, count: usize, words: &[u64]) {
        for (index, word) in words.iter().enumerate().take(count.div_ceil(BITS)).filter(|(_, word)| **word != 0) {
            let left = count - index * BITS;
            let mask = if left < BITS { (1 << left) - 1 } else { u64::MAX };
            self.fresh.or(first + index * BITS, word & mask);
        }
    }

    /// Begins to remember what was written for the user.
    ///
    /// # Errors
    /// The host has no memory.
    pub(super) fn remember(&self) -> io::Result<()> {
        match self.told.get() {
            Some(told) => told.clear(),
            None => drop(self.told.set(Bits::new(self.since.pages())?)),
        }
        Ok(())
    }

    /// What was written since the user asked, if `wanted` and one ever has.
    pub(super) fn told(&self, wanted: bool) -> Option<&Bits> {
        self.told.get().filter(|_| wanted)
    }

    pub(super) fn views(&self) -> MutexGuard<'_, Vec<Range>> {
        self.writable_views.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn backing(&self) -> MutexGuard<'_, Backing> {
        self.backing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hands what was written to those who want to know: who asks for written pages, and who puts them back.
    pub(super) fn spread(&self, told: bool, since: bool) {
        for &(first, count) in self.views().iter() {
            self.fresh.set(first, count);
        }
        let told = self.told(told);
        self.fresh.words(true, |index, bits| {
            if let Some(told) = told {
                told.or_word(index, bits);
            }
            if since {
                self.since.or_word(index, bits);
            }
        });
    }

    /// Copies bytes out; false if they are not all here.
    pub(super) fn read(&self, at: usize, buffer: &mut [u8]) -> bool {
        self.region.get_slice(at, buffer.len()).is_ok_and(|slice| slice.copy_to(buffer) == buffer.len())
    }

    /// Copies bytes in and marks their pages; false if there is not room for all.
    pub(super) fn write(&self, at: usize, bytes: &[u8]) -> bool {
        self.region.get_slice(at, bytes.len()).map(|slice| slice.copy_from(bytes)).is_ok()
    }

    /// Puts a page back, without a mark; zeros, if there is no content. Nobody may write it meanwhile.
    pub(super) fn put(&self, page: usize, content: Option<&[u8; PAGE]>) {
        let Some(at) = page.checked_mul(PAGE).filter(|at| *at < self.place.len()) else { return };
        let into = (self.place.start() + at) as *mut u8;
        // SAFETY: the page lies in this mapping, which is of whole pages and writable; content is nobody's guest memory, so
        // that the two do not overlap. No reference to guest memory is formed.
        unsafe {
            match content {
                Some(content) => std::ptr::copy_nonoverlapping(content.as_ptr(), into, PAGE),
                None => std::ptr::write_bytes(into, 0, PAGE),
            }
        }
    }

    /// Copies a page of another block of the same size, without a mark. Nobody may write it meanwhile.
    pub(super) fn put_from(&self, other: &Self, page: usize) {
        let least = self.place.len().min(other.place.len());
        let Some(at) = page.checked_mul(PAGE).filter(|at| *at < least) else { return };
        let (from, into) = ((other.place.start() + at) as *const u8, (self.place.start() + at) as *mut u8);
        // SAFETY: the page lies in both mappings, which are of whole pages and do not overlap. No reference to guest memory
        // is formed; a view that is written meanwhile is copied before or after.
        unsafe { std::ptr::copy_nonoverlapping(from, into, PAGE) };
    }

    /// Makes `len` bytes zero and gives the whole pages among them back to the host. Pages from a pool are kept: what is
    /// given back there could be gone when it is touched again. False if not all is here.
    pub(super) fn zero(&self, at: usize, len: usize) -> bool {
        let Some(end) = at.checked_add(len).filter(|end| *end <= self.place.len()) else { return false };
        let (first, last) = (at.next_multiple_of(PAGE), end / PAGE * PAGE);
        if self.pages.pooled() || first >= last || self.give_back(first, last - first).is_err() {
            return self.fill(at, end);
        }
        let (page, count) = pages_of(first, last - first);
        self.mark(page, count);
        self.fill(at, first) && self.fill(last, end)
    }

    /// Whole pages of zeros in place of what is there.
    fn give_back(&self, at: usize, len: usize) -> io::Result<()> {
        let backing = self.backing();
        match &backing.file {
            Some(file) => file::punch(file, at, len),
            // The content that a sealed file has there would come back.
            None if len >= WORTH_A_MAPPING => self.place.replace(at, len, Behind::Zeros),
            None => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    /// All zeros, and nothing of what was there: a new file, in which whatever is written is again. Images keep the old one.
    pub(super) fn renew(&self, name: &str) {
        let mut backing = self.backing();
        if backing.file.is_none() {
            let renewed = file::create(self.len(), self.pages, name).and_then(|file| {
                self.place.replace(0, self.place.len(), Behind::Shared(&file))?;
                Ok(file)
            });
            if let Ok(file) = renewed {
                *backing = Backing { file: Some(file), node: None };
            }
        }
        drop(backing);
        // Which gives everything back where it is a new file or a shared one, and works where there was none to be had.
        self.zero(0, self.place.len());
    }

    /// Bytes of host memory that it takes up: pages that were touched, and those of its file.
    pub(super) fn committed(&self) -> u64 {
        let backing = self.backing();
        let blocks = |file: &File| file.metadata().map_or(0, |meta| meta.blocks() * BLOCK);
        if let Some(file) = &backing.file {
            return blocks(file);
        }
        let mut own = 0;
        let counted = self.place.each_own_page(|_| own += PAGE_SIZE);
        let file = backing.node.as_ref().and_then(|node| node.base.file()).map_or(0, blocks);
        counted.map_or(file, |()| file + own)
    }

    /// Has the host put `len` bytes at `at` into huge pages, and a little around them: it commits them, and content
    /// stays. False where it cannot (MADV_COLLAPSE: Linux 6.1, and memory in one piece), or would be of no use.
    pub(super) fn gather(&self, at: usize, len: usize) -> bool {
        let Some(end) = at.checked_add(len).filter(|end| *end <= self.place.len()) else { return false };
        let base = self.place.start();
        let first = ((base + at) / HUGE * HUGE).max(base.next_multiple_of(HUGE));
        let last = (base + end).next_multiple_of(HUGE).min((base + self.place.len()) / HUGE * HUGE);
        // It does not gather what has no page at all. A page of a sealed file is not ours to gather.
        let mut starts = (first..last).step_by(HUGE);
        if self.pages.pooled()
            || first >= last
            || self.backing().file.is_none()
            || !starts.all(|hva| self.read(hva - base, &mut [0]))
        {
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

    #[cfg(test)]
    pub(super) fn shorten(&self) -> io::Result<()> {
        let backing = self.backing();
        let file = backing.file.as_ref().or_else(|| backing.node.as_ref()?.base.file());
        file.map_or(Ok(()), |file| file.set_len(0))
    }
}
