//! How inputs of guests are made and changed: as bytes, of which many in a row may be the same.
//!
//! Depth in a parser, length of a table and the end of a stack are reached by the same thing again and again, which changes of single
//! bytes hardly ever come to, and which no coverage by blocks leads to.

use crate::fuzz::engine::{Plain, Structure};
use crate::fuzz::havoc::{self, Words};
use crate::fuzz::rng::Rng;

/// One in so many changes is a run of the same.
const RUN_EVERY: u64 = 4;
/// Most bytes of what is repeated.
const PATTERN: usize = 4;

/// Inputs of so many bytes at most.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bytes {
    pub(super) longest: usize,
    /// What an input covers a shorter one can be seen to cover, too: a block that was hit once is never hit again.
    pub(super) is_lasting: bool,
}

impl Bytes {
    /// A number of bytes, small ones as often as those with more digits.
    fn length(&self, rng: &mut Rng) -> usize {
        usize::try_from(rng.by_length(self.longest as u64)).unwrap_or_default()
    }

    /// A byte or a few, again and again: often one that the guest compares with.
    fn run(&self, rng: &mut Rng, words: &Words) -> impl Iterator<Item = u8> + use<> {
        let wanted = if rng.one_in(2) { words.wanted(rng) } else { None };
        let bytes = wanted.unwrap_or_else(|| words.number(rng)).to_le_bytes();
        let size = if rng.one_in(2) { 1 } else { 1 + rng.index(PATTERN) };
        bytes.into_iter().take(size).collect::<Vec<_>>().into_iter().cycle().take(self.length(rng))
    }
}

impl Structure for Bytes {
    fn fresh(&self, rng: &mut Rng, words: &Words, into: &mut Vec<u8>) {
        if rng.one_in(2) {
            into.extend(self.run(rng, words));
        } else {
            let length = self.length(rng);
            into.extend((0..length).map(|_| u8::try_from(rng.below(256)).unwrap_or_default()));
        }
    }

    fn change(&mut self, rng: &mut Rng, words: &Words, input: &mut Vec<u8>, other: &[u8]) {
        if rng.one_in(RUN_EVERY) {
            let at = rng.index(input.len() + 1);
            if rng.one_in(2) {
                let run: Vec<u8> = self.run(rng, words).collect();
                input.splice(at..at, run);
            } else {
                input.iter_mut().skip(at).zip(self.run(rng, words)).for_each(|(byte, new)| *byte = new);
            }
        } else {
            havoc::change(rng, words, input, other);
        }
        input.truncate(self.longest);
    }

    fn parts(&mut self, input: &[u8]) -> usize {
        if self.is_lasting { input.len() } else { 0 }
    }

    fn without(&mut self, input: &[u8], start: usize, end: usize, into: &mut Vec<u8>) {
        Plain.without(input, start, end, into);
    }
}

#[cfg(test)]
#[path = "bytes_test.rs"]
mod tests;
