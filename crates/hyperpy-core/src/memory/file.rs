//! Memory files and the addresses of this process behind which they are: every system call that makes, seals, maps or
//! replaces one is here. What is in them, and who may see it, is not. memfd_create(2), mmap(2), fcntl(2) on seals, lseek(2)
//! on holes, sync_file_range(2), which std has not, for any file; huge pages: Linux admin-guide/mm/hugetlbpage.rst.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::fs::FileExt;

use super::block::Pages;
use super::marks::PAGE;

/// Bytes of the huge pages that the host makes of small ones: what the processor maps by one entry (SDM vol. 3, 5.5.4).
pub(super) const HUGE: usize = 2 << 20;

/// What makes a file one that nobody can change any more.
const FINAL: i32 = libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_WRITE;

/// A memory file of `len` zeros, which nobody who opens it through /proc can shorten under a mapping.
pub(super) fn create(len: u64, pages: Pages, name: &str) -> io::Result<File> {
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
    add_seals(&file, libc::F_SEAL_SHRINK)?;
    Ok(file)
}

/// Has nobody write it any more, by whatever descriptor; the private pages of a mapping are none of it.
///
/// # Errors
/// Somebody has it mapped for writing (EBUSY), or the kernel cannot.
pub(super) fn seal(file: &File) -> io::Result<()> {
    add_seals(file, FINAL)
}

fn add_seals(file: &File, seals: i32) -> io::Result<()> {
    // SAFETY: plain system call on a descriptor that `file` owns.
    if unsafe { libc::fcntl(file.as_raw_fd(), libc::F_ADD_SEALS, seals) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Whether nobody can change it any more.
pub(super) fn is_sealed(file: &File) -> bool {
    // SAFETY: plain system call on a descriptor that `file` owns.
    let seals = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GET_SEALS) };
    seals >= 0 && seals & FINAL == FINAL
}

/// Calls `f` with each range of the file that has pages, (first byte, end). What is between reads as zeros, and looking at
/// it would give it a page.
pub(super) fn each_data(file: &File, len: u64, mut f: impl FnMut(u64, u64)) -> io::Result<()> {
    let mut at = 0;
    while at < len {
        let start = match seek(file, at, libc::SEEK_DATA) {
            Err(error) if error.raw_os_error() == Some(libc::ENXIO) => return Ok(()),
            found => found?,
        };
        let end = seek(file, start, libc::SEEK_HOLE)?.min(len);
        if end <= start {
            return Ok(());
        }
        f(start, end);
        at = end;
    }
    Ok(())
}

fn seek(file: &File, at: u64, whence: i32) -> io::Result<u64> {
    let at = libc::off_t::try_from(at).map_err(io::Error::other)?;
    // SAFETY: plain system call on a descriptor that `file` owns; nobody uses its offset.
    let found = unsafe { libc::lseek(file.as_raw_fd(), at, whence) };
    u64::try_from(found).map_err(|_| io::Error::last_os_error())
}

/// Asks the host to begin bringing these bytes of a file, which have been written, to its disk. Where it does not, nothing is lost but
/// time: only `fsync` says that they are there, or why not.
pub(crate) fn begin_write_back(file: &File, from: u64, len: u64) {
    let (Ok(from), Ok(len)) = (libc::off64_t::try_from(from), libc::off64_t::try_from(len)) else { return };
    // SAFETY: plain system call on a descriptor that `file` owns; it changes no byte.
    let _ = unsafe { libc::sync_file_range(file.as_raw_fd(), from, len, libc::SYNC_FILE_RANGE_WRITE) };
}

/// Gives `len` bytes of a file that is not sealed back to the host; they are zeros then, wherever it is mapped.
pub(super) fn punch(file: &File, at: usize, len: usize) -> io::Result<()> {
    let number = |value: usize| libc::off_t::try_from(value).map_err(io::Error::other);
    let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
    let (at, len) = (number(at)?, number(len)?);
    // SAFETY: plain system call on a descriptor that `file` owns; the file keeps its size, so that what is mapped stays
    // valid and reads as zeros.
    match unsafe { libc::fallocate(file.as_raw_fd(), mode, at, len) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// What is behind addresses.
#[derive(Clone, Copy, Debug)]
pub(super) enum Behind<'a> {
    /// The file itself: what is written is in it.
    Shared(&'a File),
    /// The file's content until it is written: a page that is written is this place's own.
    Private(&'a File),
    /// Zeros until they are written.
    Zeros,
}

/// Addresses of this process with memory behind them, given back when it is dropped. Unless it is small a shared file lies
/// to huge pages as its addresses do, so that the host can map it by whole ones and KVM too.
#[derive(Debug)]
pub(super) struct Place {
    start: usize,
    len: usize,
    pages: Pages,
    protection: i32,
}

impl Place {
    /// Writable addresses for the first `len` bytes of what is behind.
    pub(super) fn new(behind: Behind<'_>, len: usize, pages: Pages) -> io::Result<Self> {
        Self::map(behind, len, pages, libc::PROT_READ | libc::PROT_WRITE)
    }

    /// Addresses for reading a file that nobody writes.
    pub(super) fn to_read(behind: Behind<'_>, len: usize) -> io::Result<Self> {
        Self::map(behind, len, Pages::Small, libc::PROT_READ)
    }

    fn map(behind: Behind<'_>, len: usize, pages: Pages, protection: i32) -> io::Result<Self> {
        // Of a private mapping small pages are copied, whatever the file has.
        if pages.pooled() || len < HUGE || !matches!(behind, Behind::Shared(_)) {
            let place = Self { start: map(None, len, protection, behind, pages)?, len, pages, protection };
            place.advise(0, len)?;
            return Ok(place);
        }
        let room = len.checked_add(HUGE).ok_or(io::ErrorKind::OutOfMemory)?;
        let around = map(None, room, libc::PROT_NONE, Behind::Zeros, Pages::Small)?;
        let start = around.next_multiple_of(HUGE);
        let failed = map(Some(start), len, protection, behind, pages).err();
        let place = Self { start, len, pages, protection };
        for (from, to) in [(around, start), (start + len, around + room)] {
            if from < to {
                // SAFETY: what is left of the mapping made above before and behind the place.
                unsafe { libc::munmap(from as *mut _, to - from) };
            }
        }
        if let Some(error) = failed {
            return Err(error);
        }
        place.advise(0, len)?;
        Ok(place)
    }

    /// Puts other memory behind `len` bytes at `at`, both of whole pages: the same bytes of a file as these are of the place.
    /// Whoever touches them meanwhile finds the one or the other. A failure leaves what was there: the kernel looks for
    /// what it can refuse before it takes anything away.
    pub(super) fn replace(&self, at: usize, len: usize, behind: Behind<'_>) -> io::Result<()> {
        let end = at.checked_add(len).filter(|end| *end <= self.len);
        if end.is_none() || !at.is_multiple_of(PAGE) || !len.is_multiple_of(PAGE) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        if len == 0 {
            return Ok(());
        }
        map_at(Some(self.start + at), len, self.protection, behind, self.pages, at)?;
        // It is only advice once the memory is there.
        let _ = self.advise(at, len);
        Ok(())
    }

    fn advise(&self, at: usize, len: usize) -> io::Result<()> {
        if self.pages != Pages::Transparent {
            return Ok(());
        }
        // SAFETY: the range lies in this place; the advice changes no content.
        match unsafe { libc::madvise((self.start + at) as *mut _, len, libc::MADV_HUGEPAGE) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Has the host give pages of its own to `count` pages from `first` on, all at once and not at each one's first write. They
    /// are only there sooner, or else they are not.
    pub(super) fn populate(&self, first: usize, count: usize) {
        let (at, len) = (first.saturating_mul(PAGE), count.saturating_mul(PAGE));
        if at.checked_add(len).is_some_and(|end| end <= self.len) {
            // SAFETY: the range lies in this place; the advice (Linux 5.14) changes no content.
            unsafe { libc::madvise((self.start + at) as *mut _, len, libc::MADV_POPULATE_WRITE) };
        }
    }

    /// The first address.
    pub(super) fn start(&self) -> usize {
        self.start
    }

    /// Bytes.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Calls `f` with the number of each page that is the place's own: written since a file was put behind it privately.
    pub(super) fn each_own_page(&self, mut f: impl FnMut(usize)) -> io::Result<()> {
        // Kernel: admin-guide/mm/pagemap.rst.
        const PRESENT: u64 = 1 << 63;
        const SWAPPED: u64 = 1 << 62;
        const OF_A_FILE: u64 = 1 << 61;
        const ENTRY: usize = size_of::<u64>();
        let map = File::open("/proc/self/pagemap")?;
        let (first, count) = (self.start / PAGE, self.len / PAGE);
        let mut buffer = [0; 512 * ENTRY];
        let mut page = 0;
        while page < count {
            let bytes = (count - page).saturating_mul(ENTRY).min(buffer.len());
            let Some(entries) = buffer.get_mut(..bytes) else { break };
            map.read_exact_at(entries, ((first + page) * ENTRY) as u64)?;
            for entry in entries.chunks_exact(ENTRY) {
                let entry = u64::from_le_bytes(entry.try_into().unwrap_or_default());
                if entry & (PRESENT | SWAPPED) != 0 && entry & OF_A_FILE == 0 {
                    f(page);
                }
                page += 1;
            }
        }
        Ok(())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // SAFETY: the addresses are this value's own; whatever refers to them is dropped before it.
        unsafe { libc::munmap(self.start as *mut _, self.len) };
    }
}

fn map(at: Option<usize>, len: usize, protection: i32, behind: Behind<'_>, pages: Pages) -> io::Result<usize> {
    map_at(at, len, protection, behind, pages, 0)
}

/// mmap, at `at` in place of what is there, or where the host likes.
fn map_at(
    at: Option<usize>,
    len: usize,
    protection: i32,
    behind: Behind<'_>,
    pages: Pages,
    offset: usize,
) -> io::Result<usize> {
    let (kind, fd) = match behind {
        Behind::Shared(file) => (libc::MAP_SHARED, file.as_raw_fd()),
        Behind::Private(file) => (libc::MAP_PRIVATE, file.as_raw_fd()),
        Behind::Zeros => (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1),
    };
    // No swap is set aside: a large machine costs what it touches. Huge pages are: without, a touch of one that the
    // pool does not have would be a SIGBUS.
    let reserve = if pages.pooled() { 0 } else { libc::MAP_NORESERVE };
    let fixed = if at.is_some() { libc::MAP_FIXED } else { 0 };
    let offset = if fd < 0 { 0 } else { libc::off_t::try_from(offset).map_err(io::Error::other)? };
    let start = at.unwrap_or_default() as *mut libc::c_void;
    // SAFETY: a new mapping where the host likes, or over a part of one that the caller owns, which stays mapped.
    let mapped = unsafe { libc::mmap(start, len, protection, kind | reserve | fixed, fd, offset) };
    if mapped == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(mapped as usize) }
}
