//! An allocator that counts, to hold "no allocation on the exit path". A program installs it by `#[global_allocator]`.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

thread_local! {
    /// Constant, and without anything to drop: reading it allocates nothing.
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
    /// Bytes that this thread has, and the most that it has had.
    static BYTES: Cell<usize> = const { Cell::new(0) };
    static MOST: Cell<usize> = const { Cell::new(0) };
}

/// Allocations and reallocations of this thread so far; 0 for ever in a program that did not install [`Counting`]. What other
/// threads do meanwhile, a test's harness for one, is not counted.
#[must_use]
pub fn allocations() -> u64 {
    ALLOCATIONS.get()
}

/// The most bytes that `f` has at once on this thread, beyond those that the thread has before.
pub fn most_bytes<T>(f: impl FnOnce() -> T) -> (T, usize) {
    let before = BYTES.get();
    MOST.set(before);
    let result = f();
    (result, MOST.get().saturating_sub(before))
}

fn count() {
    ALLOCATIONS.set(ALLOCATIONS.get() + 1);
}

/// What other threads have allocated may be given back here: never below 0.
fn weigh(more: usize, less: usize) {
    let now = BYTES.get().saturating_add(more);
    MOST.set(MOST.get().max(now));
    BYTES.set(now.saturating_sub(less));
}

/// The system's allocator, counting.
#[derive(Debug)]
pub struct Counting;

// SAFETY: every call goes to the system's allocator unchanged; the counter touches no memory of the caller's.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        weigh(layout.size(), 0);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, start: *mut u8, layout: Layout) {
        weigh(0, layout.size());
        // SAFETY: as above.
        unsafe { System.dealloc(start, layout) }
    }
    unsafe fn realloc(&self, start: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        weigh(size, layout.size()); // both are there while it is copied
        // SAFETY: as above.
        unsafe { System.realloc(start, layout, size) }
    }
}
