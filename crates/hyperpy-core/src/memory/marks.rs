//! One bit for each 4 KiB page of a memory file: written since somebody last asked. Set by the host's own writes, and by
//! what the accelerator's log is drained into; KVM's log has no page that the host or a device writes (docs/design.md,
//! run loop, rule 9). Every place of the same pages (an alias) shares the bits.

use std::alloc::{Layout, alloc_zeroed};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use vm_memory::bitmap::{Bitmap, RefSlice, WithBitmapSlice};

use super::PAGE_SIZE;

const BITS: usize = u64::BITS as usize;
#[allow(clippy::cast_possible_truncation)] // 4096
pub(super) const PAGE: usize = PAGE_SIZE as usize;

/// The bits of one memory file.
#[derive(Debug)]
pub(super) struct Bits {
    words: Box<[AtomicU64]>,
}

impl Bits {
    /// Bits for `pages` pages, all clear. They cost no memory before they are touched.
    pub(super) fn new(pages: usize) -> io::Result<Self> {
        let count = pages.div_ceil(BITS).max(1);
        let layout = Layout::array::<AtomicU64>(count).map_err(io::Error::other)?;
        // SAFETY: the layout is not of zero bytes.
        let start = unsafe { alloc_zeroed(layout) }.cast::<AtomicU64>();
        if start.is_null() {
            return Err(io::Error::from_raw_os_error(libc::ENOMEM));
        }
        // SAFETY: `count` words from the global allocator with the layout of the boxed slice; zero is a valid AtomicU64.
        let words = unsafe { Box::from_raw(std::ptr::slice_from_raw_parts_mut(start, count)) };
        Ok(Self { words })
    }

    /// Sets the bits of `count` pages; those beyond the end are left out.
    pub(super) fn set(&self, first: usize, count: usize) {
        each_word(first, count, |index, mask| {
            if let Some(word) = self.words.get(index) {
                word.fetch_or(mask, Ordering::SeqCst);
            }
        });
    }

    /// Sets 64 bits at once, from page `first` on, which may lie across two words.
    pub(super) fn or(&self, first: usize, bits: u64) {
        let (index, shift) = (first / BITS, first % BITS);
        let parts = [bits << shift, if shift == 0 { 0 } else { bits >> (BITS - shift) }];
        for (word, part) in self.words.iter().skip(index).zip(parts) {
            if part != 0 {
                word.fetch_or(part, Ordering::SeqCst);
            }
        }
    }

    /// Calls `f` with each run of set bits in `count` pages from `first`, as (first page, pages); clears them if asked to.
    /// A run may be cut where a word ends.
    pub(super) fn runs(&self, first: usize, count: usize, clear: bool, mut f: impl FnMut(usize, usize)) {
        each_word(first, count, |index, mask| {
            let Some(word) = self.words.get(index) else { return };
            if word.load(Ordering::SeqCst) & mask == 0 {
                return; // no write to a page of bits that nobody has touched
            }
            let seen = if clear { word.fetch_and(!mask, Ordering::SeqCst) } else { word.load(Ordering::SeqCst) };
            let mut left = seen & mask;
            while left != 0 {
                let start = left.trailing_zeros() as usize;
                let length = (left >> start).trailing_ones() as usize;
                f(index * BITS + start, length);
                left &= !(ones(length) << start);
            }
        });
    }

    /// Clears every bit.
    pub(super) fn clear(&self) {
        for word in &self.words {
            if word.load(Ordering::Relaxed) != 0 {
                word.store(0, Ordering::SeqCst);
            }
        }
    }
}

/// The lowest `count` bits, 1 to 64.
fn ones(count: usize) -> u64 {
    u64::MAX >> (BITS - count.clamp(1, BITS))
}

/// The words that hold `count` bits from `first`, each with the mask of those bits.
fn each_word(first: usize, count: usize, mut f: impl FnMut(usize, u64)) {
    let (mut at, mut left) = (first, count);
    while left > 0 {
        let here = left.min(BITS - at % BITS);
        f(at / BITS, ones(here) << (at % BITS));
        (at, left) = (at + here, left - here);
    }
}

/// The bits of a mapping that begins somewhere in its file.
#[derive(Clone, Debug)]
pub(super) struct Marks {
    pub(super) bits: Arc<Bits>,
    /// Bytes from the start of the file.
    pub(super) offset: usize,
}

impl<'a> WithBitmapSlice<'a> for Marks {
    type S = RefSlice<'a, Self>;
}

impl Bitmap for Marks {
    fn mark_dirty(&self, offset: usize, len: usize) {
        let Some(last) = len.checked_sub(1) else { return };
        // Within a mapping of the file, so nothing wraps.
        let start = self.offset.wrapping_add(offset);
        let first = start / PAGE;
        self.bits.set(first, (start.wrapping_add(last) / PAGE).saturating_sub(first) + 1);
    }

    fn dirty_at(&self, offset: usize) -> bool {
        let mut dirty = false;
        self.bits.runs(self.offset.wrapping_add(offset) / PAGE, 1, false, |_, _| dirty = true);
        dirty
    }

    fn slice_at(&self, offset: usize) -> RefSlice<'_, Self> {
        RefSlice::new(self, offset)
    }
}

#[cfg(test)]
#[path = "marks_test.rs"]
mod tests;
