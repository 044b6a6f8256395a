//! What a view leaves alone in a forked child.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::kvm::thread::tests::ends_in_child;
use crate::memory::{PAGE_SIZE, Pages};

// fault row 34
#[test]
fn test_view_dropped_in_the_child_waits_for_no_lock_that_the_parent_held() {
    let mapping = Arc::new(Mapping::new(PAGE_SIZE, Pages::Small, "test").unwrap());
    let mut view = Some(View::new(mapping.clone(), 0, 8, true));
    let held = mapping.views();
    assert!(ends_in_child(|| drop(view.take())));
    drop(held);
    drop(view);
    assert_eq!(*mapping.views(), []);
}
