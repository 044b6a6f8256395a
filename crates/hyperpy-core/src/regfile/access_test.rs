//! Every access to every kind of register under every rule, against the model (`model_test`).
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::cast_possible_truncation)]

#[path = "random_test.rs"]
mod random;

use super::pair::layouts::{KINDS, Named};
use super::pair::{Pair, RULES};
use super::*;

/// Each access, written as all ones, as zeros, and as bytes that differ; from two states.
fn every_access(named: &Named, rule: Rule, plain: bool) {
    let layout = Arc::new(Layout::new(named.cells.clone(), named.size, rule, plain).unwrap());
    for seed in [1, 2] {
        for is_quick in [true, false] {
            for size in 1..=8 {
                for offset in 0..=named.size - u64::from(size) {
                    for written in [None, Some(u64::MAX), Some(0), Some(0x8179_0063_4d35_1f02)] {
                        let mut pair = Pair::new(&layout, is_quick);
                        pair.fill(seed);
                        pair.access(offset, size, written);
                    }
                }
            }
        }
    }
}

// fault row 13, 14
#[test]
fn test_access_of_every_size_at_every_offset_under_each_rule_does_what_the_model_says() {
    for named in KINDS.iter().map(|make| make()) {
        for rule in RULES {
            for plain in [false, true] {
                every_access(&named, rule, plain);
            }
        }
    }
}

// fault row 13
#[test]
fn test_access_that_no_guest_makes_does_nothing() {
    for named in KINDS.iter().map(|make| make()) {
        for rule in RULES {
            let layout = Arc::new(Layout::new(named.cells.clone(), named.size, rule, false).unwrap());
            let mut pair = Pair::new(&layout, true);
            pair.fill(3);
            for offset in [0, 1, named.size - 1, named.size, u64::MAX - 7, u64::MAX] {
                for size in [0, 9, 16, 64, u8::MAX] {
                    let at = Access { offset, size, vcpu: 0 };
                    assert_eq!((pair.file.quick_read(at), pair.file.quick_write(at, u64::MAX)), (Some(0), true));
                    assert_eq!(pair.file.read(at, &pair.log), 0);
                    assert_eq!(pair.file.write(at, u64::MAX, &pair.log), Action::Continue);
                }
            }
            assert_eq!(*pair.log.0.lock().unwrap(), []);
            pair.compare(named.name);
        }
    }
}

// fault row 13
#[test]
fn test_access_beyond_the_device_takes_no_more_than_what_is_there() {
    for named in KINDS.iter().map(|make| make()) {
        for rule in RULES {
            let layout = Arc::new(Layout::new(named.cells.clone(), named.size, rule, false).unwrap());
            for size in 1..=8 {
                for offset in [named.size - 1, named.size, u64::MAX - 8, u64::MAX - 1, u64::MAX] {
                    let mut pair = Pair::new(&layout, true);
                    pair.fill(5);
                    pair.access(offset, size, None);
                    pair.access(offset, size, Some(u64::MAX));
                }
            }
        }
    }
}
