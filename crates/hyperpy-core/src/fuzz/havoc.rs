//! Changes of an input that is bytes and nothing more, and the words that changes put into inputs.
//!
//! What AFL calls havoc: a few changes at once, of bits, bytes, numbers of 1 to 8 bytes, ranges; a splice with another input; a
//! word of the dictionary; and where a number is found that was compared with another one, that one in its place.

use std::collections::VecDeque;

use super::LONGEST;
use super::rng::Rng;

/// Numbers at which programs change their mind.
const TELLING: [u64; 16] =
    [0, 1, 2, 7, 16, 32, 64, 100, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFF_FFFF, 0xFFFF_FFFF, u64::MAX];
/// Compared numbers that are remembered.
const REMEMBERED: usize = 256;
/// Most changes at once.
const STACKED: usize = 16;
/// Most bytes of a range that is moved, copied or taken out.
const RANGE: u64 = 64;

/// What is put into inputs.
#[derive(Clone, Debug, Default)]
pub struct Words {
    texts: Vec<Box<[u8]>>,
    numbers: Vec<u64>,
    compared: VecDeque<(u64, u64)>,
    seen: VecDeque<u64>,
    held: VecDeque<u64>,
}

impl Words {
    /// Those of a dictionary.
    #[must_use]
    pub fn new(texts: Vec<Vec<u8>>, numbers: Vec<u64>) -> Self {
        let texts = texts.into_iter().filter(|text| !text.is_empty()).map(Into::into).collect();
        Self { texts, numbers, ..Self::default() }
    }

    /// Two numbers were compared, and are not equal.
    pub fn compared(&mut self, there: u64, wanted: u64) {
        if there != wanted && !self.compared.contains(&(there, wanted)) {
            remember(&mut self.compared, (there, wanted));
        }
    }

    /// A number came out of what is fuzzed, which may want it back.
    #[inline]
    pub fn saw(&mut self, number: u64) {
        if number > 1 && !self.seen.iter().rev().take(8).any(|&it| it == number) {
            remember(&mut self.seen, number);
        }
    }

    /// What is fuzzed has a number, which it may compare with what it gets.
    pub fn holds(&mut self, number: u64) {
        if number > 1 && !self.held.contains(&number) {
            remember(&mut self.held, number);
        }
    }

    /// A number: one that tells, one of the dictionary, one that was seen, is held, or was compared.
    pub fn number(&self, rng: &mut Rng) -> u64 {
        let own = match rng.below(8) {
            0 | 1 => rng.pick(&self.numbers).copied(),
            2 => nth(rng, &self.seen),
            3 => nth(rng, &self.compared).map(|(_, wanted)| wanted),
            4 if !self.held.is_empty() => nth(rng, &self.held),
            _ => None,
        };
        own.unwrap_or_else(|| match rng.below(4) {
            0 => TELLING.get(rng.index(TELLING.len())).copied().unwrap_or_default(),
            1 => (1 << rng.below(64)) - rng.below(2),
            2 => rng.below(16),
            _ => rng.by_length(u64::MAX),
        })
    }

    /// What something was compared with, if anything was.
    pub fn wanted(&self, rng: &mut Rng) -> Option<u64> {
        nth(rng, &self.compared).map(|(_, wanted)| wanted)
    }

    /// A text of the dictionary, if there is one.
    pub fn text(&self, rng: &mut Rng) -> Option<&[u8]> {
        rng.pick(&self.texts).map(|text| &**text)
    }
}

fn remember<T>(all: &mut VecDeque<T>, one: T) {
    if all.len() == REMEMBERED {
        all.pop_front();
    }
    all.push_back(one);
}

fn nth<T: Copy>(rng: &mut Rng, all: &VecDeque<T>) -> Option<T> {
    all.get(rng.index(all.len())).copied()
}

/// Changes an input in a few places; `other` is one to be spliced in.
pub fn change(rng: &mut Rng, words: &Words, input: &mut Vec<u8>, other: &[u8]) {
    for _ in 0..rng.few(STACKED) {
        change_once(rng, words, input, other);
    }
    input.truncate(LONGEST);
}

fn change_once(rng: &mut Rng, words: &Words, input: &mut Vec<u8>, other: &[u8]) {
    if input.is_empty() {
        let byte = rng.number().to_le_bytes();
        input.extend_from_slice(byte.get(..1 + rng.index(8)).unwrap_or_default());
        return;
    }
    match rng.below(12) {
        0 => flip(rng, input),
        1 | 2 => {
            let at = rng.index(input.len());
            if let Some(byte) = input.get_mut(at) {
                *byte = rng.number().to_le_bytes()[0];
            }
        }
        3 => add(rng, input),
        4 | 5 => {
            let (number, size) = (words.number(rng), 1 << rng.below(4));
            overwrite(rng, input, number.to_le_bytes().get(..size).unwrap_or_default());
        }
        6 => {
            if let Some(text) = words.text(rng) {
                if rng.one_in(2) { overwrite(rng, input, text) } else { insert(rng, input, text) }
            }
        }
        7 => replace_compared(rng, words, input),
        8 => {
            let (start, end) = range(rng, input.len());
            input.drain(start..end);
        }
        9 => {
            let (start, end) = range(rng, input.len());
            let copy = input.get(start..end).unwrap_or_default().to_vec();
            if rng.one_in(2) { overwrite(rng, input, &copy) } else { insert(rng, input, &copy) }
        }
        10 => {
            let (start, end) = range(rng, other.len());
            let part = other.get(start..end).unwrap_or_default();
            if rng.one_in(2) { overwrite(rng, input, part) } else { insert(rng, input, part) }
        }
        _ => {
            // The beginning of one and the end of the other.
            input.truncate(rng.index(input.len()) + 1);
            input.extend_from_slice(other.get(rng.index(other.len())..).unwrap_or_default());
        }
    }
}

fn flip(rng: &mut Rng, input: &mut [u8]) {
    let at = rng.index(input.len());
    if let Some(byte) = input.get_mut(at) {
        *byte ^= 1 << rng.below(8);
    }
}

/// A range of up to [`RANGE`] bytes.
fn range(rng: &mut Rng, length: usize) -> (usize, usize) {
    let start = rng.index(length);
    let most = u64::try_from(length - start).unwrap_or_default().min(RANGE);
    let size = usize::try_from(rng.by_length(most)).unwrap_or_default();
    (start, start + size)
}

fn overwrite(rng: &mut Rng, input: &mut [u8], with: &[u8]) {
    let at = rng.index(input.len());
    for (byte, &new) in input.iter_mut().skip(at).zip(with) {
        *byte = new;
    }
}

fn insert(rng: &mut Rng, input: &mut Vec<u8>, what: &[u8]) {
    if input.len() + what.len() <= LONGEST {
        let at = rng.index(input.len() + 1);
        input.splice(at..at, what.iter().copied());
    }
}

/// Adds a small number to one of 1, 2, 4 or 8 bytes, in either order.
fn add(rng: &mut Rng, input: &mut [u8]) {
    let (at, size) = (rng.index(input.len()), 1 << rng.below(4));
    let is_big = rng.one_in(4);
    let less = rng.one_in(2);
    let by = 1 + rng.below(35);
    let Some(bytes) = input.get_mut(at..at + size) else { return };
    if is_big {
        bytes.reverse();
    }
    let mut word = [0; 8];
    word.iter_mut().zip(&*bytes).for_each(|(to, from)| *to = *from);
    let value = u64::from_le_bytes(word);
    let value = if less { value.wrapping_sub(by) } else { value.wrapping_add(by) };
    bytes.iter_mut().zip(value.to_le_bytes()).for_each(|(to, from)| *to = from);
    if is_big {
        bytes.reverse();
    }
}

/// Where a number is that was compared, puts what it was compared with.
fn replace_compared(rng: &mut Rng, words: &Words, input: &mut [u8]) {
    let Some((there, wanted)) = nth(rng, &words.compared) else { return };
    let least = if there.max(wanted) > u64::from(u32::MAX) {
        8
    } else if there.max(wanted) > u64::from(u16::MAX) {
        4
    } else {
        1 << rng.below(3)
    };
    let (mut old, mut new) = (there.to_le_bytes(), wanted.to_le_bytes());
    let (old, new) = (old.get_mut(..least).unwrap_or_default(), new.get_mut(..least).unwrap_or_default());
    if rng.one_in(4) {
        old.reverse();
        new.reverse();
    }
    let found: Vec<usize> =
        input.windows(old.len()).enumerate().filter(|(_, it)| *it == old).map(|(at, _)| at).collect();
    if let Some(part) = rng.pick(&found).and_then(|&at| input.get_mut(at..at + least)) {
        part.copy_from_slice(new);
    }
}

#[cfg(test)]
#[path = "havoc_test.rs"]
mod tests;
