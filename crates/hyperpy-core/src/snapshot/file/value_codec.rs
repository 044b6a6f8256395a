//! Plain data as bytes: each value is a node of two words, a tag and a number, and what that number counts.
//!
//! A node takes 16 bytes so that what is read takes at most twice what is there, whatever that is: a list of empty values has no
//! shorter way to be written. A count is held against what is left, and what it promises is kept from everything inside of it.

use std::hash::Hasher;
use std::io::{self, BufReader, Read};

use twox_hash::XxHash3_64;

use super::error::{LoadError, Part, SaveError};
use crate::snapshot::value::Value;

/// Values inside of values.
pub(super) const MOST_LEVELS: usize = 64;
const NODE: u64 = 16;

const NOTHING: u64 = 0;
const BOOL: u64 = 1;
const INT: u64 = 2;
const WIDE: u64 = 3;
const FLOAT: u64 = 4;
const TEXT: u64 = 5;
const BYTES: u64 = 6;
const LIST: u64 = 7;
const MAP: u64 = 8;

// -- writing --------------------------------------------------------------------------------------------------------------

fn node(into: &mut Vec<u8>, tag: u64, number: u64) {
    into.extend_from_slice(&tag.to_le_bytes());
    into.extend_from_slice(&number.to_le_bytes());
}

/// The beginning of a list of so many values.
pub(super) fn list(into: &mut Vec<u8>, count: usize) {
    node(into, LIST, count as u64);
}

/// The beginning of a map of so many entries: for each a text and a value.
pub(super) fn map(into: &mut Vec<u8>, count: usize) {
    node(into, MAP, count as u64);
}

/// Words; also an entry's name.
pub(super) fn text(into: &mut Vec<u8>, text: &str) {
    node(into, TEXT, text.len() as u64);
    into.extend_from_slice(text.as_bytes());
}

/// A number.
pub(super) fn int(into: &mut Vec<u8>, value: i128) {
    if let Ok(value) = i64::try_from(value) {
        node(into, INT, u64::from_le_bytes(value.to_le_bytes()));
    } else {
        node(into, WIDE, 0);
        into.extend_from_slice(&value.to_le_bytes());
    }
}

/// A value which itself is at this level, from 0.
pub(super) fn value(into: &mut Vec<u8>, what: &Value, level: usize) -> Result<(), SaveError> {
    if level >= MOST_LEVELS {
        return Err(SaveError::TooDeep { most: MOST_LEVELS });
    }
    match what {
        Value::Nothing => node(into, NOTHING, 0),
        Value::Bool(is) => node(into, BOOL, u64::from(*is)),
        Value::Int(number) => int(into, *number),
        Value::Float(number) => node(into, FLOAT, number.to_bits()),
        Value::Text(words) => text(into, words),
        Value::Bytes(bytes) => {
            node(into, BYTES, bytes.len() as u64);
            into.extend_from_slice(bytes);
        }
        Value::List(values) => {
            list(into, values.len());
            for each in values {
                value(into, each, level + 1)?;
            }
        }
        Value::Map(entries) => {
            if let Some(name) = twice(entries) {
                return Err(SaveError::Twice { name: name.into() });
            }
            map(into, entries.len());
            for (name, each) in entries {
                text(into, name);
                value(into, each, level + 1)?;
            }
        }
    }
    Ok(())
}

/// A name that is there twice.
fn twice(entries: &[(Box<str>, Value)]) -> Option<&str> {
    let mut order: Vec<u32> = (0..u32::try_from(entries.len()).unwrap_or(u32::MAX)).collect();
    let name = |index: &u32| entries.get(*index as usize).map(|(name, _)| &**name);
    order.sort_unstable_by_key(name);
    order.windows(2).find_map(|pair| match pair {
        [one, other] if name(one) == name(other) => name(one),
        _ => None,
    })
}

// -- reading --------------------------------------------------------------------------------------------------------------

/// Reads values from a part of a file, and its checksum meanwhile.
pub(super) struct Decoder<R> {
    from: BufReader<R>,
    sum: XxHash3_64,
    /// Bytes that the part has left, and how many of them containers that are being read still need for nodes.
    left: u64,
    promised: u64,
}

fn wrong(what: &'static str) -> LoadError {
    LoadError::malformed(Part::Tree, what)
}

impl<R: Read> Decoder<R> {
    pub fn new(from: R, len: u64) -> Self {
        Self { from: BufReader::with_capacity(16 << 10, from), sum: XxHash3_64::new(), left: len, promised: 0 }
    }

    /// The one value that the part has. A wrong checksum is what is told first.
    pub fn tree(mut self, sum: u64) -> Result<Value, LoadError> {
        let tree = self.value(0);
        if let Err(error @ LoadError::Host(_)) = tree {
            return Err(error);
        }
        let is_all = self.left == 0;
        let mut rest = [0; 4096];
        while self.left > 0 {
            let len = usize::try_from(self.left).unwrap_or(usize::MAX).min(rest.len());
            self.fill(rest.get_mut(..len).unwrap_or_default())?;
        }
        if self.sum.finish() != sum {
            return Err(LoadError::Checksum { part: Part::Tree });
        }
        match tree {
            Ok(_) if !is_all => Err(wrong("something comes after it")),
            tree => tree,
        }
    }

    fn fill(&mut self, into: &mut [u8]) -> Result<(), LoadError> {
        self.left = self.left.checked_sub(into.len() as u64).ok_or_else(|| wrong("it ends too early"))?;
        self.from.read_exact(into).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => wrong("the file became shorter"),
            _ => LoadError::Host(error),
        })?;
        self.sum.write(into);
        Ok(())
    }

    fn word(&mut self) -> Result<u64, LoadError> {
        let mut word = [0; 8];
        self.fill(&mut word)?;
        Ok(u64::from_le_bytes(word))
    }

    /// So many bytes, if there are so many that nobody else needs.
    fn bytes(&mut self, len: u64) -> Result<Vec<u8>, LoadError> {
        if len > self.left.saturating_sub(self.promised) {
            return Err(wrong("something is longer than the rest"));
        }
        let mut bytes = LoadError::room(len)?;
        bytes.resize(bytes.capacity().min(usize::try_from(len).unwrap_or(usize::MAX)), 0);
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    fn text(&mut self, len: u64) -> Result<Box<str>, LoadError> {
        let text = String::from_utf8(self.bytes(len)?).map_err(|_| wrong("text is not UTF-8"))?;
        Ok(text.into_boxed_str())
    }

    /// Room for `count` things of at least `least` bytes each, if there can be so many.
    fn room<T>(&mut self, count: u64, least: u64) -> Result<Vec<T>, LoadError> {
        let needed = count.checked_mul(least).filter(|needed| *needed <= self.left.saturating_sub(self.promised));
        self.promised += needed.ok_or_else(|| wrong("a count is larger than the rest"))?;
        LoadError::room(count)
    }

    fn value(&mut self, level: usize) -> Result<Value, LoadError> {
        if level >= MOST_LEVELS {
            return Err(wrong("it is nested too deeply"));
        }
        let (tag, number) = (self.word()?, self.word()?);
        Ok(match tag {
            NOTHING if number == 0 => Value::Nothing,
            BOOL if number <= 1 => Value::Bool(number == 1),
            INT => Value::Int(i64::from_le_bytes(number.to_le_bytes()).into()),
            WIDE if number == 0 => {
                let mut wide = [0; 16];
                self.fill(&mut wide)?;
                let wide = i128::from_le_bytes(wide);
                if i64::try_from(wide).is_ok() {
                    return Err(wrong("a number is longer than it needs to be"));
                }
                Value::Int(wide)
            }
            FLOAT => Value::Float(f64::from_bits(number)),
            TEXT => Value::Text(self.text(number)?),
            BYTES => Value::Bytes(self.bytes(number)?.into_boxed_slice()),
            LIST => {
                let mut values = self.room(number, NODE)?;
                for _ in 0..number {
                    self.promised = self.promised.saturating_sub(NODE);
                    values.push(self.value(level + 1)?);
                }
                Value::List(values)
            }
            MAP => Value::Map(self.entries(number, level)?),
            _ => return Err(wrong("a value of no kind")),
        })
    }

    fn entries(&mut self, count: u64, level: usize) -> Result<Vec<(Box<str>, Value)>, LoadError> {
        let mut entries = self.room(count, 2 * NODE)?;
        for _ in 0..count {
            self.promised = self.promised.saturating_sub(2 * NODE);
            let (tag, len) = (self.word()?, self.word()?);
            if tag != TEXT {
                return Err(wrong("a name is no text"));
            }
            let name = self.text(len)?;
            entries.push((name, self.value(level + 1)?));
        }
        if twice(&entries).is_some() {
            return Err(wrong("a name is there twice"));
        }
        Ok(entries)
    }
}
