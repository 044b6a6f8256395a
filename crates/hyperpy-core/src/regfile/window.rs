//! A window of a device's memory, in words: what lies within one aligned word is read or written at once.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::bus::ones;

/// Bytes of a word.
const WORD: u64 = 8;

/// Memory of a device. Bytes beyond its end read as 0, and are not written.
#[derive(Debug)]
pub(super) struct Window {
    words: Box<[AtomicU64]>,
    len: u64,
}

impl Window {
    /// Zeros.
    pub(super) fn new(len: u64) -> Self {
        let words = usize::try_from(len.div_ceil(WORD)).unwrap_or(usize::MAX);
        Self { words: std::iter::repeat_with(AtomicU64::default).take(words).collect(), len }
    }

    /// All words.
    pub(super) fn words(&self) -> Box<[u64]> {
        self.words.iter().map(|word| word.load(Ordering::Acquire)).collect()
    }

    /// Words of these bytes.
    pub(super) fn words_of(bytes: &[u8]) -> Box<[u64]> {
        let word = |bytes: &[u8]| bytes.iter().rev().fold(0, |value, &byte| value << 8 | u64::from(byte));
        bytes.chunks(8).map(word).collect()
    }

    /// Makes words these, where they are others.
    pub(super) fn put_words(&self, words: &[u64]) {
        for (word, &value) in self.words.iter().zip(words) {
            if word.load(Ordering::Relaxed) != value {
                word.store(value, Ordering::Release);
            }
        }
    }

    fn word(&self, index: u64) -> Option<&AtomicU64> {
        self.words.get(usize::try_from(index).ok()?)
    }

    /// Up to 8 bytes from `from` on.
    pub(super) fn read(&self, from: u64, len: u8) -> u64 {
        let load = |index| self.word(index).map_or(0, |word| word.load(Ordering::Acquire));
        let (index, below) = (from / WORD, from % WORD);
        let mut value = load(index) >> (8 * below);
        if below + u64::from(len) > WORD {
            value |= load(index.saturating_add(1)) << (8 * (WORD - below));
        }
        value & ones(len)
    }

    /// Puts the low bytes of `value` there.
    pub(super) fn write(&self, from: u64, len: u8, value: u64) {
        let (index, below) = (from / WORD, from % WORD);
        let mask = ones(len);
        self.put(index, value << (8 * below), mask << (8 * below));
        if below + u64::from(len) > WORD {
            let above = 8 * (WORD - below);
            self.put(index.saturating_add(1), value >> above, mask >> above);
        }
    }

    fn put(&self, index: u64, value: u64, mask: u64) {
        let Some(word) = self.word(index) else { return };
        if mask == u64::MAX {
            word.store(value, Ordering::Release);
        } else {
            let after = |held: u64| Some((held & !mask) | (value & mask));
            let _ = word.fetch_update(Ordering::AcqRel, Ordering::Acquire, after);
        }
    }

    fn holds(&self, from: u64, len: usize) -> bool {
        self.len.checked_sub(from).is_some_and(|left| u64::try_from(len).is_ok_and(|len| len <= left))
    }

    /// Copies bytes out; false if they are not all in it.
    pub(super) fn copy_out(&self, from: u64, into: &mut [u8]) -> bool {
        let fits = self.holds(from, into.len());
        if fits {
            for (chunk, at) in into.chunks_mut(8).zip((from..).step_by(8)) {
                let bytes = self.read(at, 8).to_le_bytes();
                chunk.copy_from_slice(bytes.get(..chunk.len()).unwrap_or_default());
            }
        }
        fits
    }

    /// Copies bytes in; false, and none of them, if they do not all fit.
    pub(super) fn copy_in(&self, from: u64, bytes: &[u8]) -> bool {
        let fits = self.holds(from, bytes.len());
        if fits {
            for (chunk, at) in bytes.chunks(8).zip((from..).step_by(8)) {
                let value = chunk.iter().rev().fold(0, |value, &byte| value << 8 | u64::from(byte));
                self.write(at, u8::try_from(chunk.len()).unwrap_or(8), value);
            }
        }
        fits
    }

    /// Zeros again.
    pub(super) fn clear(&self) {
        for word in &self.words {
            word.store(0, Ordering::Release);
        }
    }
}
