//! That what is left is as little as still does it.

use super::*;

#[test]
fn test_fewest_keeps_only_what_is_needed_in_order() {
    let items: Vec<u32> = (0..200).collect();
    let mut budget = 1000;
    let kept = fewest(&items, &mut budget, |it| [3, 77, 150].iter().all(|needed| it.contains(needed)));
    assert_eq!(kept, [3, 77, 150]);
    assert!(fewest(&items, &mut 1000, |_| true).is_empty());
}

#[test]
fn test_budget_ends_the_search_and_what_is_left_still_does_it() {
    let items: Vec<u32> = (0..200).collect();
    let mut asked = 0;
    let kept = fewest(&items, &mut 10, |it| {
        asked += 1;
        it.contains(&199) && it.contains(&0)
    });
    assert!(asked <= 10 && kept.contains(&199) && kept.contains(&0));
}

#[test]
fn test_simplest_makes_each_as_simple_as_it_can_be() {
    let mut items = vec![100_u32, 50];
    let simpler = |it: &u32| it.checked_sub(1).into_iter().collect();
    simplest(&mut items, &mut 1000, simpler, |it| it.iter().sum::<u32>() >= 60);
    assert_eq!(items, [10, 50]);
}
