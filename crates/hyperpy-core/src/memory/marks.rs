//! One bit for each 4 KiB page of a block: written since somebody last asked. Set by the host's own writes, and by what the
//! accelerator's log is drained into; KVM's log has no page that the host or a device writes (docs/design.md, run loop,
//! rule 9). Whoever asks finds the few words that have bits by a bit for each word, so that it costs what was written and
//! not how much memory there is.

use std::alloc::{Layout, alloc_zeroed};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use vm_memory::bitmap::{Bitmap, RefSlice, WithBitmapSlice};

use super::PAGE_SIZE;

/// Pages of one word.
pub(super) const BITS: usize = u64::BITS as usize;
#[allow(clippy::cast_possible_truncation)] // 4096
pub(super) const PAGE: usize = PAGE_SIZE as usize;

/// The bits of one block.
#[derive(Debug)]
pub(super) struct Bits {
    pages: usize,
    words: Box<[AtomicU64]>,
    /// A bit for each word that may have some: set after the word, cleared before it is taken.
    heads: Box<[AtomicU64]>,
}

impl Bits {
    /// Bits for `pages` pages, all clear. They cost no memory before they are touched.
    pub(super) fn new(pages: usize) -> io::Result<Self> {
        let words = pages.div_ceil(BITS).max(1);
        Ok(Self { pages, words: zeroed(words)?, heads: zeroed(words.div_ceil(BITS))? })
    }

    /// Sets the bits of `count` pages; those beyond the end are left out.
    pub(super) fn set(&self, first: usize, count: usize) {
        let count = count.min(self.pages.saturating_sub(first));
        each_word(first, count, |index, mask| self.or_word(index, mask));
    }

    /// Sets 64 bits at once, from page `first` on, which may lie across two words.
    pub(super) fn or(&self, first: usize, bits: u64) {
        let (index, shift) = (first / BITS, first % BITS);
        self.or_word(index, bits << shift);
        if shift != 0 {
            self.or_word(index.saturating_add(1), bits >> (BITS - shift));
        }
    }

    /// Sets bits of one word; those beyond the end are left out.
    pub(super) fn or_word(&self, index: usize, bits: u64) {
        let left = self.pages.saturating_sub(index.saturating_mul(BITS));
        let bits = bits & if left >= BITS { u64::MAX } else { !(u64::MAX << left) };
        let (Some(word), Some(head)) = (self.words.get(index), self.heads.get(index / BITS)) else { return };
        if bits == 0 {
            return;
        }
        word.fetch_or(bits, Ordering::SeqCst);
        let bit = 1 << (index % BITS);
        if head.load(Ordering::SeqCst) & bit == 0 {
            head.fetch_or(bit, Ordering::SeqCst);
        }
    }

    /// Calls `f` with each word that has bits, as (number, bits); clears them if asked to.
    pub(super) fn words(&self, clear: bool, mut f: impl FnMut(usize, u64)) {
        for (number, head) in self.heads.iter().enumerate() {
            if head.load(Ordering::SeqCst) == 0 {
                continue; // no write to what nobody has touched
            }
            let mut left = if clear { head.swap(0, Ordering::SeqCst) } else { head.load(Ordering::SeqCst) };
            while left != 0 {
                let index = number * BITS + left.trailing_zeros() as usize;
                left &= left - 1;
                let Some(word) = self.words.get(index) else { continue };
                let bits = if clear { word.swap(0, Ordering::SeqCst) } else { word.load(Ordering::SeqCst) };
                if bits != 0 {
                    f(index, bits);
                }
            }
        }
    }

    /// Calls `f` with each run of set bits, as (first page, pages); clears them if asked to. A run may be cut where a word
    /// ends.
    pub(super) fn runs(&self, clear: bool, mut f: impl FnMut(usize, usize)) {
        self.words(clear, |index, mut left| {
            while left != 0 {
                let start = left.trailing_zeros() as usize;
                let length = (left >> start).trailing_ones() as usize;
                f(index * BITS + start, length);
                left &= !(ones(length) << start);
            }
        });
    }

    /// The bits of one word.
    pub(super) fn word(&self, index: usize) -> u64 {
        self.words.get(index).map_or(0, |word| word.load(Ordering::SeqCst))
    }

    /// How many there are bits for.
    pub(super) fn pages(&self) -> usize {
        self.pages
    }

    /// Clears every bit.
    pub(super) fn clear(&self) {
        self.words(true, |_, _| {});
    }
}

/// Words that are zero and cost no memory before they are touched.
fn zeroed(count: usize) -> io::Result<Box<[AtomicU64]>> {
    let layout = Layout::array::<AtomicU64>(count.max(1)).map_err(io::Error::other)?;
    // SAFETY: the layout is not of zero bytes.
    let start = unsafe { alloc_zeroed(layout) }.cast::<AtomicU64>();
    if start.is_null() {
        return Err(io::Error::from_raw_os_error(libc::ENOMEM));
    }
    // SAFETY: as many words from the global allocator with the layout of the boxed slice; zero is a valid AtomicU64.
    Ok(unsafe { Box::from_raw(std::ptr::slice_from_raw_parts_mut(start, count.max(1))) })
}

/// The lowest `count` bits, 1 to 64.
fn ones(count: usize) -> u64 {
    u64::MAX >> (BITS - count.clamp(1, BITS))
}

/// The words that hold `count` bits from `first`, each with the mask of those bits.
pub(super) fn each_word(first: usize, count: usize, mut f: impl FnMut(usize, u64)) {
    let (mut at, mut left) = (first, count);
    while left > 0 {
        let here = left.min(BITS - at % BITS);
        f(at / BITS, ones(here) << (at % BITS));
        (at, left) = (at + here, left - here);
    }
}

/// The pages that hold `len` bytes at `at`: (first, count).
pub(super) fn pages_of(at: usize, len: usize) -> (usize, usize) {
    let first = at / PAGE;
    match len.checked_sub(1) {
        Some(span) => (first, (at.saturating_add(span) / PAGE).saturating_sub(first) + 1),
        None => (first, 0),
    }
}

/// The bits as vm-memory sets them.
#[derive(Clone, Debug)]
pub(super) struct Marks(pub(super) Arc<Bits>);

impl<'a> WithBitmapSlice<'a> for Marks {
    type S = RefSlice<'a, Self>;
}

impl Bitmap for Marks {
    fn mark_dirty(&self, offset: usize, len: usize) {
        let (first, count) = pages_of(offset, len);
        self.0.set(first, count);
    }

    fn dirty_at(&self, offset: usize) -> bool {
        let page = offset / PAGE;
        self.0.word(page / BITS) & 1 << (page % BITS) != 0
    }

    fn slice_at(&self, offset: usize) -> RefSlice<'_, Self> {
        RefSlice::new(self, offset)
    }
}

#[cfg(test)]
#[path = "marks_test.rs"]
mod tests;
