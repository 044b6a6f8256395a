//! Changes of an input by whoever knows that it is operations on a device: some are put in, taken out, done again, turned into others.
//!
//! What is put in is what a driver would do, by the declaration, most of the time; the rest breaks a rule. A bug that takes several
//! operations in order is found step by step: so the end of a list is where new ones go more often than anywhere else.

use std::sync::Arc;

use super::engine::Structure;
use super::havoc::Words;
use super::ops::{Op, Ops};
use super::rng::Rng;
use super::shape::{Shape, Target};
use crate::bus::ones;

/// Most operations of an input of nothing.
const FRESH: usize = 24;
/// Most changes at once.
const STACKED: usize = 8;
/// Of the operations that are put in one in so many breaks a rule.
const BROKEN: u64 = 16;
/// One in so many is a reset.
const RESETS: u64 = 64;

/// Changes lists of operations.
#[derive(Debug)]
pub struct Reshape {
    shape: Arc<Shape>,
    ops: Ops,
    other: Ops,
    made: Ops,
}

impl Reshape {
    /// Of devices of a shape.
    #[must_use]
    pub fn new(shape: Arc<Shape>) -> Self {
        Self { shape, ops: Ops::default(), other: Ops::default(), made: Ops::default() }
    }

    fn change_once(&mut self, rng: &mut Rng, words: &Words) {
        let len = self.ops.len();
        if len == 0 {
            return some(&self.shape, rng, words, &mut self.ops);
        }
        match rng.below(16) {
            0..=3 => self.insert_new(rng, words),
            4..=7 => {
                let at = rng.index(len);
                if let Some(op) = self.ops.list().get(at).copied() {
                    let op = changed(&self.shape, rng, words, &mut self.ops, op);
                    if let Some(place) = self.ops.list_mut().get_mut(at) {
                        *place = op;
                    }
                }
            }
            8 | 9 => {
                let (start, end) = part(rng, len);
                self.ops.list_mut().drain(start..end);
            }
            10 => self.repeat(rng),
            11 => {
                let (start, end) = part(rng, len);
                let copy = self.ops.list().get(start..end).unwrap_or_default().to_vec();
                let at = place(rng, self.ops.len());
                self.ops.list_mut().splice(at..at, copy);
            }
            12 => {
                let (one, two) = (rng.index(len), rng.index(len));
                self.ops.list_mut().swap(one, two);
            }
            13 => {
                // Forward to where it matters, or back.
                let op = self.ops.list_mut().remove(rng.index(len));
                let at = rng.index(len);
                self.ops.list_mut().insert(at, op);
            }
            14 => self.splice(rng),
            _ => {
                self.ops.list_mut().truncate(rng.index(len) + 1);
                self.append_other(rng);
            }
        }
    }

    fn insert_new(&mut self, rng: &mut Rng, words: &Words) {
        self.made.clear();
        some(&self.shape, rng, words, &mut self.made);
        let at = place(rng, self.ops.len());
        self.put_made(at);
    }

    fn put_made(&mut self, at: usize) {
        let tail = self.ops.list_mut().split_off(at);
        for &op in self.made.list() {
            self.ops.push_from(&self.made, op);
        }
        self.ops.list_mut().extend(tail);
    }

    /// Does a few operations again, up to as often as there is room.
    fn repeat(&mut self, rng: &mut Rng) {
        let len = self.ops.len();
        let period = rng.few(4).min(len);
        let start = rng.index(len - period + 1);
        let copy = self.ops.list().get(start..start + period).unwrap_or_default().to_vec();
        let room = self.shape.most.saturating_sub(len) / period;
        let times = usize::try_from(rng.by_length(room as u64)).unwrap_or_default();
        let at = start + period;
        self.ops.list_mut().splice(at..at, copy.iter().copied().cycle().take(period * times));
    }

    /// Puts a part of another list in.
    fn splice(&mut self, rng: &mut Rng) {
        if self.other.is_empty() {
            return;
        }
        let (start, end) = part(rng, self.other.len());
        self.made.clear();
        for &op in self.other.list().get(start..end).unwrap_or_default() {
            self.made.push_from(&self.other, op);
        }
        let at = place(rng, self.ops.len());
        self.put_made(at);
    }

    fn append_other(&mut self, rng: &mut Rng) {
        let start = rng.index(self.other.len());
        for &op in self.other.list().get(start..).unwrap_or_default() {
            self.ops.push_from(&self.other, op);
        }
    }
}

impl Structure for Reshape {
    fn fresh(&self, rng: &mut Rng, words: &Words, into: &mut Vec<u8>) {
        let mut ops = Ops::default();
        let most = 1 + rng.index(FRESH);
        while ops.len() < most.min(self.shape.most) {
            let before = ops.len();
            some(&self.shape, rng, words, &mut ops);
            if ops.len() == before {
                break; // there is nothing that can be done
            }
        }
        self.shape.encode(&ops, into);
    }

    fn change(&mut self, rng: &mut Rng, words: &Words, input: &mut Vec<u8>, other: &[u8]) {
        let shape = self.shape.clone();
        shape.decode(input, &mut self.ops);
        shape.decode(other, &mut self.other);
        for _ in 0..rng.few(STACKED) {
            self.change_once(rng, words);
        }
        self.ops.list_mut().truncate(shape.most);
        shape.encode(&self.ops, input);
    }

    fn parts(&mut self, input: &[u8]) -> usize {
        self.shape.decode(input, &mut self.ops);
        self.ops.len()
    }

    fn without(&mut self, input: &[u8], start: usize, end: usize, into: &mut Vec<u8>) {
        self.shape.decode(input, &mut self.ops);
        let len = self.ops.len();
        self.ops.list_mut().drain(start.min(len)..end.min(len));
        self.shape.encode(&self.ops, into);
    }
}

/// Where something is put in: at the end as often as anywhere else.
fn place(rng: &mut Rng, len: usize) -> usize {
    if rng.one_in(2) { len } else { rng.index(len + 1) }
}

/// A range of which short ones are as likely as long ones, not empty.
fn part(rng: &mut Rng, len: usize) -> (usize, usize) {
    let size = usize::try_from(rng.by_length(len as u64)).unwrap_or_default().clamp(1, len);
    let start = rng.index(len - size + 1);
    (start, start + size)
}

/// Puts a few new operations at the end.
fn some(shape: &Shape, rng: &mut Rng, words: &Words, into: &mut Ops) {
    for _ in 0..rng.few(4) {
        one(shape, rng, words, into);
    }
}

/// Puts a new operation at the end, and what it needs before it.
fn one(shape: &Shape, rng: &mut Rng, words: &Words, into: &mut Ops) {
    if rng.one_in(BROKEN) {
        if let Some(op) = broken(shape, rng, words) {
            into.push(op);
        }
        return;
    }
    if rng.one_in(RESETS) {
        return into.push(Op::Reset);
    }
    let events = if shape.events.is_empty() { 0 } else { 4 };
    let feeds = if shape.has_memory { 4 } else { 0 };
    let way = rng.below(17 + events + feeds);
    if way < 16 {
        declared(shape, rng, words, way < 10, into);
    } else if way < 17 {
        into.push(Op::Step { ns: rng.by_length(shape.longest_step) });
    } else if way < 17 + events {
        event(shape, rng, words, into);
    } else {
        let data = data(rng, words, 256);
        let data = into.keep(&data);
        into.push(Op::Feed { data });
    }
}

fn event(shape: &Shape, rng: &mut Rng, words: &Words, into: &mut Ops) {
    let number = rng.index(shape.events.len());
    let most = shape.events.get(number).copied().unwrap_or_default();
    let data = if most == 0 { Vec::new() } else { data(rng, words, u64::from(most)) };
    let data = into.keep(&data);
    into.push(Op::Event { number: u32::try_from(number).unwrap_or_default(), data });
}

/// Bytes that guests leave in memory: numbers, texts, anything.
fn data(rng: &mut Rng, words: &Words, most: u64) -> Vec<u8> {
    let length = usize::try_from(1 + rng.by_length(most.saturating_sub(1))).unwrap_or_default();
    let mut data = Vec::with_capacity(length + 8);
    while data.len() < length {
        match rng.below(4) {
            0 => data.extend_from_slice(words.text(rng).unwrap_or(&[0; 4])),
            1 => {
                let pad = usize::try_from(rng.by_length(16)).unwrap_or_default();
                data.resize(data.len() + pad, 0);
            }
            _ => {
                let size = 1 << rng.below(4);
                data.extend_from_slice(words.number(rng).to_le_bytes().get(..size).unwrap_or_default());
            }
        }
    }
    data.truncate(length);
    data
}

fn declared(shape: &Shape, rng: &mut Rng, words: &Words, is_write: bool, into: &mut Ops) {
    let all = if shape.on(is_write).is_empty() { shape.on(!is_write) } else { shape.on(is_write) };
    let Some(target) = rng.pick(all).and_then(|&number| shape.target(number)) else {
        into.list_mut().extend(broken(shape, rng, words));
        return;
    };
    // What is there already need not be selected again.
    if !rng.one_in(4) {
        for need in &target.needs {
            into.push(Op::Write { offset: need.offset, size: need.size, value: need.value });
        }
    }
    let (offset, size) = where_in(target, rng);
    into.push(if is_write && target.writes {
        Op::Write { offset, size, value: value(target, size, rng, words, into) }
    } else {
        Op::Read { offset, size }
    });
}

/// An access to a target as it is declared.
fn where_in(target: &Target, rng: &mut Rng) -> (u64, u8) {
    if !target.is_window {
        return (target.offset, target.width());
    }
    let mut size = 1 << rng.below(4);
    while u64::from(size) > target.length {
        size >>= 1;
    }
    let count = target.length / u64::from(size);
    let at = match rng.below(3) {
        0 => count - 1 - rng.by_length(count - 1),
        1 => rng.by_length(count - 1),
        _ => rng.below(count),
    };
    (target.offset + at * u64::from(size), size)
}

/// What a driver writes: often one field of what it wrote, or what the register holds at power-on.
fn value(target: &Target, size: u8, rng: &mut Rng, words: &Words, before: &Ops) -> u64 {
    if target.is_window {
        return words.number(rng) & ones(size);
    }
    let number = words.number(rng);
    let Some(&field) = rng.pick(&target.fields).filter(|_| !rng.one_in(4)) else { return target.legal(number) };
    let written =
        |op: &&Op| matches!(op, Op::Write { offset, size: its, .. } if *offset == target.offset && *its == size);
    let held = match before.list().iter().rev().find(written) {
        Some(Op::Write { value, .. }) => *value,
        _ => target.reset,
    };
    let low = field.trailing_zeros().min(63);
    let in_field = if rng.one_in(4) { field & rng.number() } else { number << low & field };
    target.legal(held & !field | in_field)
}

/// An access that breaks a rule: another width, a place beside a register, bits that are not there, or any at all.
fn broken(shape: &Shape, rng: &mut Rng, words: &Words) -> Option<Op> {
    let number = words.number(rng);
    let target = rng.pick(shape.targets());
    let (place, size) = match (rng.below(4), target) {
        (0, Some(target)) => (target.offset, target.width()),
        (1, Some(target)) => (target.offset, 1 + u8::try_from(rng.below(8)).unwrap_or_default()),
        (2, Some(target)) => {
            let beside = (target.offset + rng.below(17)).saturating_sub(8);
            (beside, if rng.one_in(2) { target.width() } else { 1 << rng.below(4) })
        }
        _ => {
            let end = if rng.one_in(2) { shape.size } else { shape.size.min(256) };
            (rng.below(end), 1 + u8::try_from(rng.below(8)).unwrap_or_default())
        }
    };
    let (offset, size) = shape.inside(place, size)?;
    Some(if rng.one_in(3) { Op::Read { offset, size } } else { Op::Write { offset, size, value: number & ones(size) } })
}

/// Another operation in the place of one, most often much like it.
fn changed(shape: &Shape, rng: &mut Rng, words: &Words, ops: &mut Ops, op: Op) -> Op {
    match op {
        Op::Write { offset, size, value: old } => {
            let value = match rng.below(5) {
                0 => old ^ (1 << rng.below(u64::from(size) * 8)),
                1 => old.wrapping_add(rng.below(17)).wrapping_sub(8),
                // What grows with a register is found by doubling it.
                2 if rng.one_in(4) => old >> 1,
                2 => old << 1 | rng.below(2),
                _ => words.number(rng),
            } & ones(size);
            let target = shape.exact(offset, size, true).and_then(|number| shape.target(number));
            let value = target.filter(|_| !rng.one_in(BROKEN)).map_or(value, |target| target.legal(value));
            Op::Write { offset, size, value }
        }
        Op::Read { .. } => {
            let Some(target) = rng.pick(shape.on(false)).and_then(|&number| shape.target(number)) else { return op };
            let (offset, size) = where_in(target, rng);
            Op::Read { offset, size }
        }
        Op::Step { ns } => Op::Step {
            ns: if rng.one_in(2) {
                rng.by_length(shape.longest_step)
            } else {
                ns.saturating_mul(2).min(shape.longest_step)
            },
        },
        Op::Reset => Op::Step { ns: rng.by_length(shape.longest_step) },
        Op::Event { number, data } => {
            let most = shape.events.get(number as usize).copied().unwrap_or_default() as usize;
            let mut bytes = ops.bytes(data).to_vec();
            if most != 0 {
                super::havoc::change(rng, words, &mut bytes, &[]);
            }
            bytes.truncate(most);
            Op::Event { number, data: ops.keep(&bytes) }
        }
        Op::Feed { data } => {
            let mut bytes = ops.bytes(data).to_vec();
            super::havoc::change(rng, words, &mut bytes, &[]);
            bytes.truncate(super::ops::MOST_DATA);
            Op::Feed { data: ops.keep(&bytes) }
        }
    }
}

#[cfg(test)]
#[path = "reshape_test.rs"]
mod tests;
