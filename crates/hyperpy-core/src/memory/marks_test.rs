//! Runs of set bits, across words and their ends, and what bits cost.
#![allow(clippy::unwrap_used)]

use super::*;

fn runs(bits: &Bits, first: usize, count: usize, clear: bool) -> Vec<(usize, usize)> {
    let mut seen = Vec::new();
    bits.runs(first, count, clear, |first, count| seen.push((first, count)));
    seen
}

#[test]
fn test_runs_are_cut_at_words_and_at_the_range() {
    let bits = Bits::new(200).unwrap();
    bits.set(60, 10);
    bits.set(128, 64);
    assert_eq!(runs(&bits, 0, 200, false), [(60, 4), (64, 6), (128, 64)]);
    assert_eq!(runs(&bits, 62, 4, false), [(62, 2), (64, 2)]);
    assert_eq!(runs(&bits, 62, 4, true), [(62, 2), (64, 2)]);
    assert_eq!(runs(&bits, 0, 128, true), [(60, 2), (66, 4)]);
    assert_eq!(runs(&bits, 0, 200, true), [(128, 64)]);
    assert!(runs(&bits, 0, 200, true).is_empty());
}

#[test]
fn test_bits_beyond_the_end_are_left_out() {
    let bits = Bits::new(3).unwrap();
    bits.set(2, 1000);
    bits.set(usize::MAX - 3, 3);
    bits.or(usize::MAX, u64::MAX);
    assert_eq!(runs(&bits, 0, 3, false), [(2, 1)]);
    assert_eq!(runs(&bits, 64, 64, false), []);
}

#[test]
fn test_or_of_a_word_that_lies_across_two_sets_both() {
    let bits = Bits::new(256).unwrap();
    bits.or(100, 1 | 1 << 63);
    bits.or(0, 1 << 63);
    assert_eq!(runs(&bits, 0, 256, false), [(63, 1), (100, 1), (163, 1)]);
}

#[test]
fn test_bits_of_more_memory_than_any_host_has_are_an_error() {
    assert!(Bits::new(usize::MAX / 2).is_err());
    assert!(Bits::new(1 << 58).is_err());
}

#[test]
fn test_marks_of_a_part_of_a_file_know_where_it_begins() {
    let bits = Arc::new(Bits::new(16).unwrap());
    let marks = Marks { bits: bits.clone(), offset: 4 * PAGE };
    marks.mark_dirty(PAGE - 1, 2);
    marks.mark_dirty(9, 0);
    assert_eq!(runs(&bits, 0, 16, false), [(4, 2)]);
    assert!(marks.dirty_at(0) && marks.slice_at(PAGE).dirty_at(1) && !marks.dirty_at(2 * PAGE));
}
