//! That changes of operations are operations, and that a seed decides them.

use super::*;
use crate::fuzz::shape::undeclared;

#[test]
fn test_changes_of_any_input_stay_in_bounds_for_any_shape() {
    let mut small = Shape::new(1, undeclared(1));
    small.most = 3;
    let mut full = Shape::new(64, undeclared(64));
    (full.events, full.has_memory) = (vec![0, 4096], true);
    for shape in [small, full, Shape::new(0, Vec::new()), Shape::new(1 << 40, Vec::new())] {
        let shape = Arc::new(shape);
        let mut reshape = Reshape::new(shape.clone());
        let (mut rng, words) = (Rng::new(3), Words::new(vec![b"word".to_vec()], vec![1 << 40]));
        let (mut input, mut other) = (Vec::new(), Vec::new());
        reshape.fresh(&mut rng, &words, &mut other);
        for _ in 0..3000 {
            reshape.change(&mut rng, &words, &mut input, &other);
            assert!(reshape.parts(&input) <= shape.most);
            let parts = reshape.parts(&input);
            let mut less = Vec::new();
            reshape.without(&input, 0, parts, &mut less);
            assert!(less.is_empty());
        }
    }
}
