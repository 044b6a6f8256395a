//! Edits by bits: what was not touched goes on following the table.
#![allow(clippy::unwrap_used)]

use super::*;

fn leaf(number: u32, ecx: u32) -> Leaf {
    Leaf { leaf: number, ecx, eax: 7, ..Leaf::default() }
}

#[test]
fn test_edit_keeps_what_was_changed_and_lets_the_rest_follow() {
    let mut edits = CpuidEdits::default();
    edits.set(Some(&leaf(1, 0b1010)), &leaf(1, 0b0010));
    let mut later = vec![leaf(1, 0b1101_1000)];
    edits.apply(&mut later);
    assert_eq!(later, [leaf(1, 0b1101_0000)]);
    // A second change of other bits, and the first one taken back.
    edits.set(Some(&leaf(1, 0b0010)), &leaf(1, 0b1011));
    let mut later = vec![leaf(1, 0b0100)];
    edits.apply(&mut later);
    assert_eq!(later, [leaf(1, 0b1101)]);
}

#[test]
fn test_edit_adds_and_removes_leaves() {
    let mut edits = CpuidEdits::default();
    assert!(edits.is_empty());
    let new = Leaf { leaf: 0x4000_0100, eax: 1, edx: u32::MAX, ..Leaf::default() };
    edits.set(None, &new);
    for leaf in [2, 3] {
        edits.add(&[], CpuidChange::Remove { leaf, subleaf: 0 });
    }
    let mut table = vec![leaf(1, 0), leaf(2, 0)];
    edits.apply(&mut table);
    assert_eq!(table, [leaf(1, 0), new]);
    // Removed and set again: as new.
    edits.add(&[leaf(1, 0)], CpuidChange::Set(leaf(2, 9)));
    let mut table = vec![leaf(2, 0xff)];
    edits.apply(&mut table);
    assert_eq!(table, [leaf(2, 9), new]);
}

#[test]
fn test_physical_bits_that_are_impossible_are_the_least_there_are() {
    assert_eq!(physical_bits(&[]), 36);
    assert_eq!(physical_bits(&[Leaf { leaf: 0x8000_0008, eax: 0x3030, ..Leaf::default() }]), 48);
    assert_eq!(physical_bits(&[Leaf { leaf: 0x8000_0008, eax: 200, ..Leaf::default() }]), 36);
}
