//! A vCPU's ring of pages that it has written (KVM_CAP_DIRTY_LOG_RING, api.rst 8.29), by atomic and volatile access only.
//!
//! The kernel fills entries and marks them; we take them in order and mark them as taken; KVM_RESET_DIRTY_RINGS gives them
//! back to it and has their pages told anew. What was written costs as much as there is of it, however large memory is.

use std::io;
use std::os::fd::RawFd;
use std::ptr::{addr_of, addr_of_mut, null_mut};
use std::sync::atomic::{AtomicU32, Ordering};

use kvm_bindings::{KVM_DIRTY_LOG_PAGE_OFFSET, kvm_dirty_gfn};

/// Entries of a ring. Some 600 of them KVM keeps for itself, so that 448 pages to 1,400 are told without an exit.
pub(super) const ENTRIES: u32 = 2048;
/// Bytes of a ring: what KVM is told when it is asked for them.
pub(super) const BYTES: usize = ENTRIES as usize * size_of::<kvm_dirty_gfn>();

const PAGE: usize = crate::memory::PAGE_SIZE as usize;
/// KVM_DIRTY_GFN_F_DIRTY and KVM_DIRTY_GFN_F_RESET.
const WRITTEN: u32 = 1;
const TAKEN: u32 = 2;

/// A mapping of a vCPU's ring.
#[derive(Debug)]
pub(super) struct Ring {
    start: *mut kvm_dirty_gfn,
    /// The entry to be taken next.
    next: u32,
}

// SAFETY: the mapping is plain shared memory, touched by volatile and atomic access through `&mut self` alone.
unsafe impl Send for Ring {}

impl Ring {
    pub(super) fn map(vcpu: RawFd) -> io::Result<Self> {
        let offset = libc::off_t::from(KVM_DIRTY_LOG_PAGE_OFFSET) * PAGE as libc::off_t;
        // SAFETY: a fresh shared mapping of a descriptor that the caller holds open; the kernel picks the address.
        let start = unsafe {
            libc::mmap(null_mut(), BYTES, libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED, vcpu, offset)
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Self { start: start.cast(), next: 0 })
    }

    /// Calls `f` with the slot and the page in it of each entry that the kernel has filled; how many. It takes one ring full
    /// at most, which is more than there can be: the kernel leaves some free.
    pub(super) fn take(&mut self, mut f: impl FnMut(u32, u64)) -> u32 {
        for taken in 0..ENTRIES {
            // SAFETY: `next` is below the number of entries, which the mapping holds.
            let entry = unsafe { self.start.add(self.next as usize) };
            // SAFETY: the field lies inside the mapping, which lives as long as self, and is aligned as in the structure; the
            // kernel and we touch it atomically.
            let flags = unsafe { AtomicU32::from_ptr(addr_of_mut!((*entry).flags)) };
            // The kernel fills an entry before it marks it.
            if flags.load(Ordering::Acquire) & (WRITTEN | TAKEN) != WRITTEN {
                return taken;
            }
            // SAFETY: both fields lie inside the mapping; every bit pattern is a valid integer.
            let (slot, page) =
                unsafe { (addr_of!((*entry).slot).read_volatile(), addr_of!((*entry).offset).read_volatile()) };
            f(slot, page);
            flags.store(TAKEN, Ordering::Release);
            self.next = (self.next + 1) % ENTRIES;
        }
        ENTRIES
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // SAFETY: start and length are those of the mapping made in `map`; nothing can borrow from it any more.
        unsafe { libc::munmap(self.start.cast(), BYTES) };
    }
}
