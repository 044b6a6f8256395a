//! Random declarations, accessed, set, stepped and reset in random order, against the model.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use proptest::prelude::*;

use super::super::pair::deeds::{Choice, Deed, declaration, play};
use super::super::pair::{Pair, RULES};
use super::*;

fn choices() -> impl Strategy<Value = Vec<Choice>> {
    let tell = prop_oneof![3 => Just(Tell::Never), 1 => Just(Tell::Always), 1 => any::<u64>().prop_map(Tell::If)];
    let sides = prop_oneof![3 => Just((true, true)), 1 => Just((true, false)), 1 => Just((false, true))];
    let numbers = (0..9_u8, 0..4_u32, prop_oneof![3 => Just(0_u64), 1 => 1..5_u64], 0..10_u64);
    let rest = (any::<bool>(), prop::bool::weighted(0.2), tell, sides, any::<usize>(), any::<u64>());
    let choice =
        (numbers, rest).prop_map(|((kind, width, gap, turn), (is_big, on_read, on_write, sides, other, mask))| {
            Choice { kind, width: 1 << width, gap, turn, is_big, on_read, on_write, sides, other, mask }
        });
    prop::collection::vec(choice, 1..14)
}

fn deeds() -> impl Strategy<Value = Vec<Deed>> {
    let value = prop_oneof![any::<u64>(), 0..4_u64, Just(u64::MAX)];
    let written = prop_oneof![Just(None), value.clone().prop_map(Some)];
    let deed = prop_oneof![
        12 => (any::<usize>(), 1..9_u8, written).prop_map(|(at, size, written)| Deed::Access(at, size, written)),
        2 => (any::<usize>(), value.clone(), any::<u64>()).prop_map(|(at, value, mask)| Deed::Set(at, value, mask)),
        2 => (any::<usize>(), value).prop_map(|(at, value)| Deed::Push(at, value)),
        1 => any::<usize>().prop_map(Deed::Pop),
        1 => (any::<usize>(), 0..5_usize).prop_map(|(at, to)| Deed::Threshold(at, to)),
        1 => (0..u64::MAX >> 20).prop_map(Deed::Step),
        1 => Just(Deed::Reset),
    ];
    prop::collection::vec(deed, 1..60)
}

proptest! {
    // fault row 13, 14
    #[test]
    fn test_random_declaration_accessed_at_random_does_what_the_model_says(
        choices in choices(), deeds in deeds(), rule in 0..4_usize, plain in any::<bool>(), is_quick in any::<bool>(),
    ) {
        let (cells, size) = declaration(&choices);
        let layout = Arc::new(Layout::new(cells, size, RULES[rule], plain).unwrap());
        let mut pair = Pair::new(&layout, is_quick);
        deeds.iter().for_each(|deed| play(&mut pair, deed));
    }
}
