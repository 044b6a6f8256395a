//! The seam between a campaign and whoever thinks up its inputs; and the engine that there is.
//!
//! [`Engine`] is all that a loop knows of it: the next input, a report, statistics. Another one (libafl's) comes in here.

use super::LONGEST;
use super::corpus::Corpus;
use super::coverage::{Counters, Seen};
use super::havoc::{self, Words};
use super::rng::Rng;

/// Thinks up inputs.
pub trait Engine {
    /// Puts the next input into a buffer, whatever was in it.
    fn next(&mut self, into: &mut Vec<u8>);
    /// Is told what came of an input; whether it is kept.
    fn report(&mut self, input: &[u8], outcome: &Outcome<'_>) -> bool;
    /// How far it has come.
    fn statistics(&self) -> Statistics;
}

/// What came of an input.
#[derive(Clone, Copy, Debug)]
pub struct Outcome<'a> {
    /// What it covers.
    pub counters: &'a Counters,
    /// Operations, or instructions, that were executed.
    pub operations: u64,
    /// Two numbers that were compared and are not equal: what was there, and what was wanted.
    pub comparisons: &'a [(u64, u64)],
    /// Something was found: it does not go into the corpus.
    pub is_finding: bool,
}

/// How far an engine has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Inputs of which it was told.
    pub executions: u64,
    /// Operations of these.
    pub operations: u64,
    /// Counters that were counted.
    pub coverage: usize,
    /// Inputs in the corpus.
    pub corpus: usize,
}

/// Knows what is in an input, and changes that.
pub trait Structure {
    /// Makes a first input, of nothing.
    fn fresh(&self, rng: &mut Rng, words: &Words, into: &mut Vec<u8>);
    /// Changes one; `other` is another input that covers something.
    fn change(&mut self, rng: &mut Rng, words: &Words, input: &mut Vec<u8>, other: &[u8]);
    /// How many parts an input has.
    fn parts(&mut self, input: &[u8]) -> usize;
    /// Puts an input without some of its parts into a buffer.
    fn without(&mut self, input: &[u8], start: usize, end: usize, into: &mut Vec<u8>);
}

/// Of inputs without a structure: bytes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Plain;

impl Structure for Plain {
    fn fresh(&self, rng: &mut Rng, _: &Words, into: &mut Vec<u8>) {
        let length = rng.by_length(255);
        into.extend((0..length).map(|_| u8::try_from(rng.below(256)).unwrap_or_default()));
    }
    fn change(&mut self, rng: &mut Rng, words: &Words, input: &mut Vec<u8>, other: &[u8]) {
        havoc::change(rng, words, input, other);
    }
    fn parts(&mut self, input: &[u8]) -> usize {
        input.len()
    }
    fn without(&mut self, input: &[u8], start: usize, end: usize, into: &mut Vec<u8>) {
        into.extend(input.iter().enumerate().filter(|(at, _)| !(start..end).contains(at)).map(|(_, byte)| byte));
    }
}

/// So many inputs of nothing begin a campaign.
const FRESH: u64 = 64;
/// Of the inputs after these one in so many is of nothing.
const FRESH_EVERY: u64 = 64;
/// Of the changes one in so many knows of no structure.
const HAVOC_EVERY: u64 = 16;
/// Executions in which it is tried to make a new input shorter.
const TRIMS: u32 = 32;
/// Of all executions at most one in so many is such a one.
const TRIMS_EVERY: u64 = 4;

/// An input that was kept is made shorter: parts are left out, large ones first, as long as what was new of it stays.
#[derive(Debug)]
struct Trim {
    input: Vec<u8>,
    parts: usize,
    /// What must stay.
    fresh: Vec<u32>,
    size: usize,
    end: usize,
    left: u32,
}

impl Trim {
    /// The next range to be left out, the last one first; `None`: there is nothing more to try.
    fn range(&mut self) -> Option<(usize, usize)> {
        if self.end == 0 {
            self.size /= 2;
            self.end = self.parts;
        }
        self.left = self.left.checked_sub(1)?;
        (self.size != 0 && self.parts > 1).then(|| (self.end.saturating_sub(self.size), self.end))
    }
}

/// Keeps the inputs that cover something new, and changes them.
#[derive(Debug)]
pub struct Evolve<S> {
    rng: Rng,
    structure: S,
    words: Words,
    corpus: Corpus,
    seen: Seen,
    /// Inputs that are tried as they are: those of a folder.
    given: Vec<Vec<u8>>,
    /// What is made now is of this one, so many times more.
    chosen: Option<(usize, u32)>,
    trim: Option<Trim>,
    /// What is executed now is one of these.
    is_trimming: bool,
    trims: u64,
    fresh: Vec<u32>,
    statistics: Statistics,
}

impl<S: Structure> Evolve<S> {
    /// An engine without a corpus.
    pub fn new(seed: u64, structure: S, words: Words) -> Self {
        Self {
            rng: Rng::new(seed),
            structure,
            words,
            corpus: Corpus::default(),
            seen: Seen::default(),
            given: Vec::new(),
            chosen: None,
            trim: None,
            is_trimming: false,
            trims: 0,
            fresh: Vec::new(),
            statistics: Statistics::default(),
        }
    }

    /// Has inputs tried as they are, the last one first.
    pub fn give(&mut self, inputs: impl IntoIterator<Item = Vec<u8>>) {
        self.given.extend(inputs);
    }

    /// Keeps an input that somebody else has executed, if it covers something new. It counts as no execution.
    pub fn learn(&mut self, input: &[u8], counters: &Counters) {
        if self.seen.add(counters, &mut self.fresh) {
            // The last one stays as it is now, since it is the last no more.
            self.trim = None;
            self.corpus.count(counters);
            self.corpus.add(input, counters, 1);
        }
    }

    /// The inputs that are kept.
    #[must_use]
    pub fn corpus(&self) -> &Corpus {
        &self.corpus
    }

    /// Keeps only the inputs that are needed to cover what all cover.
    pub fn minimize(&mut self) {
        self.corpus.minimize();
        (self.chosen, self.trim) = (None, None);
    }

    /// How many inputs of the corpus stay as they are: the last one may still be made shorter.
    #[must_use]
    pub fn settled(&self) -> usize {
        self.corpus.len() - usize::from(self.trim.is_some() && !self.corpus.is_empty())
    }

    /// Numbers and texts that are put into inputs.
    pub fn words(&mut self) -> &mut Words {
        &mut self.words
    }

    /// The structure of inputs.
    pub fn structure(&self) -> &S {
        &self.structure
    }

    /// Whether there is a shorter form to try of the input that was kept last.
    fn trimmed(&mut self, into: &mut Vec<u8>) -> bool {
        let is_time = self.trims * TRIMS_EVERY <= self.statistics.executions;
        let range = self.trim.as_mut().filter(|_| is_time).and_then(Trim::range);
        let (Some((start, end)), Some(trim)) = (range, &self.trim) else {
            self.trim = None;
            return false;
        };
        self.trims += 1;
        self.structure.without(&trim.input, start, end, into);
        true
    }

    /// What came of a shorter form.
    fn report_trimmed(&mut self, input: &[u8], outcome: &Outcome<'_>) {
        let Some(trim) = &mut self.trim else { return };
        let (start, end) = (trim.end.saturating_sub(trim.size), trim.end);
        trim.end = start;
        if !outcome.is_finding && trim.fresh.iter().all(|&feature| outcome.counters.has(feature)) {
            trim.parts -= end - start;
            trim.input.clear();
            trim.input.extend_from_slice(input);
            self.corpus.replace_last(input, outcome.counters, outcome.operations);
        }
    }

    /// Which entry is changed now.
    fn choose(&mut self) -> Option<usize> {
        if let Some((entry, left @ 1..)) = self.chosen {
            self.chosen = Some((entry, left - 1));
            return Some(entry);
        }
        let (entry, energy) = self.corpus.choose(&mut self.rng)?;
        self.chosen = Some((entry, energy.saturating_sub(1)));
        Some(entry)
    }
}

impl<S: Structure> Engine for Evolve<S> {
    fn next(&mut self, into: &mut Vec<u8>) {
        into.clear();
        self.is_trimming = false;
        if let Some(given) = self.given.pop() {
            into.extend_from_slice(&given);
            into.truncate(LONGEST);
            return;
        }
        self.is_trimming = self.trimmed(into);
        if self.is_trimming {
            return;
        }
        let is_fresh = self.statistics.executions < FRESH || self.rng.one_in(FRESH_EVERY);
        let chosen = if is_fresh { None } else { self.choose() };
        let Some(entry) = chosen.and_then(|entry| self.corpus.input(entry)) else {
            self.structure.fresh(&mut self.rng, &self.words, into);
            into.truncate(LONGEST);
            return;
        };
        into.extend_from_slice(entry);
        let other = self.corpus.any(&mut self.rng);
        if self.rng.one_in(HAVOC_EVERY) {
            havoc::change(&mut self.rng, &self.words, into, other);
        } else {
            self.structure.change(&mut self.rng, &self.words, into, other);
        }
        into.truncate(LONGEST);
    }

    fn report(&mut self, input: &[u8], outcome: &Outcome<'_>) -> bool {
        self.statistics.executions += 1;
        self.statistics.operations += outcome.operations;
        for &(there, wanted) in outcome.comparisons {
            self.words.compared(there, wanted);
        }
        if self.is_trimming {
            self.report_trimmed(input, outcome);
            return false;
        }
        if outcome.is_finding {
            return false;
        }
        self.corpus.count(outcome.counters);
        let is_kept = self.seen.add(outcome.counters, &mut self.fresh);
        if is_kept {
            self.corpus.add(input, outcome.counters, outcome.operations);
            let (parts, fresh) = (self.structure.parts(input), self.fresh.clone());
            let size = parts.div_ceil(2);
            self.trim = Some(Trim { input: input.to_vec(), parts, fresh, size, end: parts, left: TRIMS });
        }
        is_kept
    }

    fn statistics(&self) -> Statistics {
        Statistics { coverage: self.seen.slots(), corpus: self.corpus.len(), ..self.statistics }
    }
}

#[cfg(test)]
#[path = "engine_test.rs"]
mod tests;
