//! That any change of any input is one, in its bounds.

use super::*;

#[test]
fn test_any_input_is_changed_within_its_bounds() {
    let words = Words::new(vec![b"word".to_vec(), Vec::new()], vec![7]);
    let mut rng = Rng::new(9);
    for length in [0, 1, 2, 7, 300, LONGEST] {
        for other in [&[][..], b"other"] {
            for _ in 0..200 {
                let mut input = vec![0; length];
                change(&mut rng, &words, &mut input, other);
                assert!(input.len() <= LONGEST);
            }
        }
    }
}
