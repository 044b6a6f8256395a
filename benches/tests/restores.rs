//! No allocation on the path of a restore, by rings and by the log, counted where allocations are counted for all.
#![allow(clippy::unwrap_used, missing_docs)]

use hyperpy_benches::alloc::{Counting, allocations};
use hyperpy_benches::restore::Hyperpy;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn test_restore_of_guests_pages_allocates_nothing() {
    for rings in [true, false] {
        let mut guest = Hyperpy::open(64 << 20, rings).unwrap();
        for pages in [1, 10, 1_000, 0] {
            if pages > 0 {
                guest.run(pages).unwrap();
            }
            let before = allocations();
            let restored = guest.restore().unwrap();
            assert_eq!(allocations() - before, 0, "{pages} pages, rings: {rings}");
            assert!((pages..pages + 8).contains(&restored), "{restored} of {pages}");
        }
    }
}
