//! Runs of set bits, across words and their ends, and what bits cost.
#![allow(clippy::unwrap_used)]

use super::*;

fn runs(bits: &Bits, clear: bool) -> Vec<(usize, usize)> {
    let mut seen = Vec::new();
    bits.runs(clear, |first, count| seen.push((first, count)));
    seen
}

#[test]
fn test_runs_are_cut_at_words_and_forgotten_when_asked_to() {
    let bits = Bits::new(200).unwrap();
    bits.set(60, 10);
    bits.set(128, 64);
    assert_eq!(runs(&bits, false), [(60, 4), (64, 6), (128, 64)]);
    assert_eq!(runs(&bits, true), [(60, 4), (64, 6), (128, 64)]);
    assert_eq!(runs(&bits, true), []);
    bits.or_word(2, 0b101);
    assert_eq!((runs(&bits, false), bits.word(2), bits.word(9)), (vec![(128, 1), (130, 1)], 0b101, 0));
    bits.clear();
    assert_eq!(runs(&bits, false), []);
}

#[test]
fn test_bits_of_words_far_apart_are_all_found() {
    let bits = Bits::new(64 * 64 * 3 + 1).unwrap();
    let pages = [0, 63, 64, 64 * 64 - 1, 64 * 64, 64 * 64 * 3];
    for page in pages {
        bits.set(page, 1);
    }
    let expected = pages.map(|page| (page, 1));
    assert_eq!(runs(&bits, true), expected);
    bits.set(64 * 64, 1);
    assert_eq!(runs(&bits, false), [(64 * 64, 1)]);
}

#[test]
fn test_bits_beyond_the_end_are_left_out() {
    let bits = Bits::new(3).unwrap();
    bits.set(2, 1000);
    bits.set(usize::MAX - 3, 3);
    bits.or(usize::MAX, u64::MAX);
    bits.or(1, 1 << 63);
    bits.or_word(usize::MAX, 1);
    assert_eq!(runs(&bits, false), [(2, 1)]);
}

#[test]
fn test_or_of_a_word_that_lies_across_two_sets_both() {
    let bits = Bits::new(256).unwrap();
    bits.or(100, 1 | 1 << 63);
    bits.or(0, 1 << 63);
    assert_eq!(runs(&bits, false), [(63, 1), (100, 1), (163, 1)]);
}

#[test]
fn test_bits_of_more_memory_than_any_host_has_are_an_error() {
    assert!(Bits::new(usize::MAX / 2).is_err());
    assert!(Bits::new(1 << 58).is_err());
}

#[test]
fn test_marks_are_of_the_pages_that_bytes_lie_in() {
    let bits = Arc::new(Bits::new(16).unwrap());
    let marks = Marks(bits.clone());
    marks.mark_dirty(5 * PAGE - 1, 2);
    marks.mark_dirty(9, 0);
    assert_eq!(runs(&bits, false), [(4, 2)]);
    assert!(marks.dirty_at(4 * PAGE) && marks.slice_at(PAGE).dirty_at(3 * PAGE) && !marks.dirty_at(6 * PAGE));
}
