//! Masks, and that a thread gets its own back.
#![allow(clippy::unwrap_used)]

use super::*;

#[test]
fn test_set_holds_what_it_was_made_of() {
    assert_eq!(CpuSet::new([3, 0, 3, 1023]).unwrap().iter().collect::<Vec<_>>(), [0, 3, 1023]);
    assert!(CpuSet::new([1024]).is_none() && CpuSet::new([u32::MAX]).is_none());
    assert_eq!(format!("{:?}", CpuSet::new([2]).unwrap()), "{2}");
}

#[test]
fn test_enter_pins_the_thread_until_it_is_dropped() {
    let before = CpuSet::current().unwrap();
    let one = CpuSet::new(before.iter().last()).unwrap();
    let pinned = one.enter().unwrap();
    assert_eq!(CpuSet::current().unwrap(), one);
    drop(pinned);
    assert_eq!(CpuSet::current().unwrap(), before);
}

#[test]
fn test_enter_of_processors_that_are_not_there_is_an_error_and_changes_nothing() {
    let before = CpuSet::current().unwrap();
    assert_eq!(CpuSet::new([1023]).unwrap().enter().unwrap_err().raw_os_error(), Some(libc::EINVAL));
    assert_eq!(CpuSet::current().unwrap(), before);
}
