//! What a view leaves alone in a forked child.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::kvm::thread::tests::ends_in_child;

// fault row 34
#[test]
fn test_view_dropped_in_the_child_waits_for_no_lock_that_the_parent_held() {
    let block = Block::new(PAGE_SIZE, Pages::Small, "test").unwrap();
    let mapping = Arc::new(Mapping::new(&block, 0, PAGE_SIZE).unwrap());
    let mut view = Some(View::new(mapping, 0, 8, true));
    let held = block.views();
    assert!(ends_in_child(|| drop(view.take())));
    drop(held);
    drop(view);
    assert_eq!(*block.views(), []);
}
