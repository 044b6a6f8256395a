#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use super::*;

#[test]
fn test_inputs_are_never_longer_than_they_may_be() {
    let (mut rng, words, mut bytes) = (Rng::new(1), Words::default(), Bytes { longest: 20, is_lasting: true });
    let mut input = Vec::new();
    for _ in 0..2000 {
        input.clear();
        bytes.fresh(&mut rng, &words, &mut input);
        assert!(input.len() <= 20);
        bytes.change(&mut rng, &words, &mut input, &[7; 40]);
        assert!(input.len() <= 20);
    }
}

#[test]
fn test_fresh_inputs_are_runs_of_what_was_compared_now_and_then() {
    let (mut rng, mut words) = (Rng::new(1), Words::default());
    words.compared(0, u64::from(b'['));
    let bytes = Bytes { longest: 512, is_lasting: false };
    let is_run = |_| {
        let mut input = Vec::new();
        bytes.fresh(&mut rng, &words, &mut input);
        input.len() >= 128 && input.iter().all(|&byte| byte == b'[')
    };
    assert!((0..500).any(is_run));
}

#[test]
fn test_only_what_lasts_is_made_shorter() {
    let lasting = |is_lasting| Bytes { longest: 8, is_lasting }.parts(b"abc");
    assert_eq!((lasting(true), lasting(false)), (3, 0));
}
