//! What the engine keeps, how it makes inputs shorter, and that a seed decides all of it.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use super::*;

/// Covers one feature for each different byte, and one more for "bug" as a whole.
fn play(engine: &mut Evolve<Plain>, executions: usize) -> Vec<Vec<u8>> {
    let (mut input, mut counters, mut made) = (Vec::new(), Counters::default(), Vec::new());
    for _ in 0..executions {
        engine.next(&mut input);
        counters.clear();
        for &byte in &input {
            counters.mark(byte.into());
        }
        let is_finding = input.windows(3).any(|three| three == b"bug");
        let operations = input.len() as u64;
        engine.report(&input, &Outcome { counters: &counters, operations, comparisons: &[], is_finding });
        made.push(input.clone());
    }
    made
}

#[test]
fn test_same_seed_gives_the_same_inputs_and_corpus_and_another_one_others() {
    let mut engines = [3, 3, 4].map(|seed| Evolve::new(seed, Plain, Words::default()));
    let [one, two, three] = engines.each_mut().map(|engine| play(engine, 3000));
    assert!(one == two && one != three);
    let [one, two, _] = engines.each_ref().map(|engine| engine.corpus().entries().to_vec());
    assert_eq!(one, two);
}

#[test]
fn test_new_inputs_are_kept_and_made_shorter() {
    let mut engine = Evolve::new(1, Plain, Words::default());
    play(&mut engine, 20_000);
    let entries = engine.corpus().entries();
    let covered: std::collections::BTreeSet<u8> = entries.iter().flat_map(|entry| entry.input.to_vec()).collect();
    assert_eq!((covered.len(), engine.statistics().coverage), (256, 256));
    let bytes: usize = entries.iter().map(|entry| entry.input.len()).sum();
    assert!(bytes < 2048, "{bytes} bytes of {} inputs", entries.len());
}

#[test]
fn test_given_inputs_come_first_cut_to_the_longest_and_the_empty_one_counts() {
    let mut engine = Evolve::new(1, Plain, Words::default());
    engine.give([vec![1; LONGEST + 1], Vec::new()]);
    let made = play(&mut engine, 3);
    assert_eq!((made[0].len(), made[1].len()), (0, LONGEST));
}

#[test]
fn test_words_and_compared_numbers_are_put_into_inputs() {
    let mut engine = Evolve::new(1, Plain, Words::new(vec![b"bug".to_vec()], Vec::new()));
    let found = play(&mut engine, 20_000).iter().any(|input| input.windows(3).any(|three| three == b"bug"));
    assert!(found);
    let mut words = Words::default();
    words.compared(0x1122, 0xCAFE_F00D);
    let (mut rng, mut hits) = (Rng::new(5), 0);
    for _ in 0..2000 {
        let mut input = b"..\x22\x11\0\0..".to_vec();
        havoc::change(&mut rng, &words, &mut input, b"");
        hits += usize::from(input.windows(4).any(|four| four == 0xCAFE_F00D_u32.to_le_bytes()));
    }
    assert!(hits > 10, "{hits}");
}

#[test]
fn test_input_of_somebody_else_is_kept_once_and_what_was_made_shorter_stays() {
    let mut engine = Evolve::new(1, Plain, Words::default());
    let (mut input, mut counters) = (Vec::new(), Counters::default());
    engine.next(&mut input);
    counters.mark(1);
    let outcome = Outcome { counters: &counters, operations: 1, comparisons: &[], is_finding: false };
    assert!(engine.report(b"mine, which is being made shorter", &outcome));
    counters.mark(2);
    engine.learn(b"other", &counters);
    engine.learn(b"again", &counters);
    let inputs: Vec<_> = engine.corpus().entries().iter().map(|entry| entry.input.to_vec()).collect();
    assert_eq!(inputs, [b"mine, which is being made shorter".to_vec(), b"other".to_vec()]);
    assert_eq!((engine.settled(), engine.statistics().executions, engine.statistics().coverage), (2, 1, 2));
}
