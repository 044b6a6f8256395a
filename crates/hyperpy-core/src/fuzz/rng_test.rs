//! What the generator promises: the same numbers for ever, and in their bounds.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use super::*;

#[test]
fn test_numbers_of_a_seed_are_those_of_every_version() {
    let mut rng = Rng::new(7);
    let numbers: Vec<u64> = (0..3).map(|_| rng.number()).collect();
    assert_eq!(numbers, [0x0e2c_1a00_2aae_913d, 0x2c0f_c8dd_fa4e_9e14, 0xb7b3_11b3_b0d4_5872]);
    assert_ne!(Rng::new(7), Rng::new(8));
}

#[test]
fn test_numbers_are_below_their_end_and_reach_all_of_it() {
    let mut rng = Rng::new(1);
    let mut seen = [false; 5];
    for _ in 0..1000 {
        let index = rng.index(5);
        assert!(index < 5);
        seen[index] = true;
        assert!(rng.by_length(100) <= 100);
        assert!((1..=3).contains(&rng.few(3)));
    }
    assert_eq!(seen, [true; 5]);
    assert_eq!((rng.below(0), rng.by_length(0), rng.pick::<u8>(&[])), (0, 0, None));
}
