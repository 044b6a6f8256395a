//! What counters, buckets and novelty are.

use super::*;

#[test]
fn test_counts_fall_into_eight_buckets() {
    let firsts = [1, 2, 3, 4, 8, 16, 32, 128];
    assert_eq!(firsts.map(bucket), [0, 1, 2, 3, 4, 5, 6, 7]);
    assert_eq!([7, 15, 31, 127, 255].map(bucket), [3, 4, 5, 6, 7]);
}

#[test]
fn test_execution_is_new_by_a_counter_and_by_a_bucket_and_then_no_more() {
    let (mut seen, mut counters, mut fresh) = (Seen::default(), Counters::default(), Vec::new());
    counters.hit(5);
    assert!(seen.add(&counters, &mut fresh));
    assert_eq!(fresh, [slot_of(5) * BUCKETS]);
    assert!(!seen.add(&counters, &mut fresh));
    counters.hit(5);
    assert!(seen.add(&counters, &mut fresh));
    assert_eq!((fresh.as_slice(), seen.slots()), (&[slot_of(5) * BUCKETS + 1][..], 1));
    assert!(counters.has(slot_of(5) * BUCKETS + 1) && !counters.has(slot_of(5) * BUCKETS));
}

#[test]
fn test_counters_stay_at_their_most_and_are_all_cleared() {
    let mut counters = Counters::default();
    for _ in 0..1000 {
        counters.hit(1);
        counters.mark(2);
    }
    assert_eq!((counters.count(slot_of(1)), counters.count(slot_of(2)), counters.len()), (255, 1, 2));
    counters.clear();
    assert!(counters.is_empty() && counters.count(slot_of(1)) == 0);
}

#[test]
fn test_values_come_to_few_numbers_and_larger_ones_to_no_smaller() {
    for shift in 0..63 {
        assert!(coarse(1 << shift) < coarse(2 << shift) && coarsest(1 << shift) <= coarsest(2 << shift));
    }
    assert_eq!((coarse(15), coarse(16), coarse(u64::MAX)), (15, 17, 76));
    assert_eq!([0, 1, 2, 255, 256, u64::MAX].map(coarsest), [0, 1, 3, 3, 4, 10]);
}
