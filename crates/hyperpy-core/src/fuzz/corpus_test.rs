//! Which inputs own what, which is chosen, and which are needed.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use super::*;

fn covering(features: &[u64]) -> Counters {
    let mut counters = Counters::default();
    for &feature in features {
        counters.mark(feature);
    }
    counters
}

fn inputs(corpus: &Corpus) -> Vec<&[u8]> {
    corpus.entries().iter().map(|entry| &*entry.input).collect()
}

#[test]
fn test_minimised_corpus_covers_all_with_the_cheapest_inputs() {
    let mut corpus = Corpus::default();
    corpus.add(b"long", &covering(&[1, 2]), 9);
    corpus.add(b"a", &covering(&[1]), 1);
    corpus.add(b"b", &covering(&[2]), 1);
    corpus.add(b"only", &covering(&[2, 3]), 5);
    corpus.minimize();
    assert_eq!(inputs(&corpus), [b"a" as &[u8], b"only"]);
}

#[test]
fn test_input_that_replaces_the_last_leaves_every_feature_with_an_owner_or_none() {
    let mut corpus = Corpus::default();
    corpus.add(b"first", &covering(&[1]), 5);
    corpus.add(b"second", &covering(&[1, 2, 3]), 3);
    corpus.replace_last(b"2", &covering(&[2]), 1);
    assert_eq!(inputs(&corpus), [b"first" as &[u8], b"2"]);
    let mut owners: Vec<_> = corpus.owned.iter().map(|&(feature, owner)| (feature / BUCKETS, owner)).collect();
    owners.sort_unstable();
    let slot = crate::fuzz::coverage::slot_of;
    let mut expected = vec![(slot(1), 0), (slot(2), 1)];
    expected.sort_unstable();
    assert_eq!(owners, expected);
}

#[test]
fn test_every_input_is_chosen_and_short_ones_for_more_changes() {
    let mut corpus = Corpus::default();
    corpus.add(b"short", &covering(&[1]), 1);
    corpus.add(b"long", &covering(&[2]), 1000);
    let mut energies = [0; 2];
    let mut rng = Rng::new(0);
    for _ in 0..100 {
        let (entry, energy) = corpus.choose(&mut rng).unwrap();
        energies[entry] = energy;
    }
    assert!(energies[0] > energies[1] && energies[1] > 0, "{energies:?}");
    assert_eq!(Corpus::default().choose(&mut rng), None);
}
