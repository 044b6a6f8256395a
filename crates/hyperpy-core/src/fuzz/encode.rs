//! Operations as bytes that come to them again: what the reader in `ops` reads.

use super::LONGEST;
use super::ops::{BARE, Form, LONG, Op, Ops, PERIODS, bytes_below, first};
use super::shape::Shape;

impl Shape {
    /// Bytes that come to a list again: as much of it as fits into an input.
    pub fn encode(&self, ops: &Ops, into: &mut Vec<u8>) {
        into.clear();
        let (list, mut at) = (ops.list(), 0);
        while at < list.len() && into.len() < LONGEST {
            let before = into.len();
            let (period, times) = repeats(ops, at);
            if times != 0 {
                let count = u8::try_from(times - 1).unwrap_or(u8::MAX);
                into.extend([first(Form::Again, 0), u8::try_from(period - 1).unwrap_or_default(), count]);
                at += period * (usize::from(count) + 1);
            } else if let Some(op) = list.get(at) {
                self.encode_one(ops, *op, into);
                at += 1;
            }
            if into.len() > LONGEST {
                into.truncate(before);
                return;
            }
        }
    }

    fn encode_one(&self, ops: &Ops, op: Op, into: &mut Vec<u8>) {
        match op {
            Op::Read { offset, size } => self.encode_access(offset, size, None, into),
            Op::Write { offset, size, value } => self.encode_access(offset, size, Some(value), into),
            Op::Step { ns } => {
                let size = bytes_below(ns.saturating_add(1));
                into.push(first(Form::Step, size - 1));
                put(into, ns, size);
            }
            Op::Reset => into.push(first(Form::Reset, 0)),
            Op::Event { number, data } => {
                let most = self.events.get(number as usize).copied().unwrap_or_default();
                let data = ops.bytes(data);
                let how = if data.len() > 0xFF { LONG } else { 0 };
                into.extend([first(Form::Event, how), u8::try_from(number).unwrap_or_default()]);
                if most != 0 {
                    put(into, data.len() as u64, if how == 0 { 1 } else { 2 });
                    into.extend_from_slice(data);
                }
            }
            Op::Feed { data } => {
                let data = ops.bytes(data);
                let how = if data.len() > 0xFF { LONG } else { 0 };
                into.push(first(Form::Feed, how));
                put(into, data.len() as u64, if how == 0 { 1 } else { 2 });
                into.extend_from_slice(data);
            }
        }
    }

    fn encode_access(&self, offset: u64, size: u8, value: Option<u64>, into: &mut Vec<u8>) {
        let is_write = value.is_some();
        let all = self.on(is_write);
        let position = |number| all.iter().position(|&it| it == number).unwrap_or_default() as u64;
        if let Some(number) = self.exact(offset, size, is_write)
            && let Some(target) = self.target(number)
        {
            let is_raw = value.is_some_and(|value| target.legal(value) != value);
            let form = if is_raw {
                Form::Raw
            } else if is_write {
                Form::Write
            } else {
                Form::Read
            };
            into.push(first(form, BARE));
            put(into, position(number), self.index_bytes(all.len()));
        } else if let Some(number) = self.window(offset, size, is_write)
            && let Some(target) = self.target(number)
            && target.needs.is_empty()
            && size.is_power_of_two()
            && (offset - target.offset).is_multiple_of(size.into())
        {
            let form = if is_write { Form::Write } else { Form::Read };
            into.push(first(form, u8::try_from(size.trailing_zeros()).unwrap_or_default()));
            put(into, position(number), self.index_bytes(all.len()));
            put(into, (offset - target.offset) / u64::from(size), bytes_below(target.length / u64::from(size)));
        } else {
            into.push(first(Form::Any, is_write.into()));
            put(into, offset, bytes_below(self.size));
            into.push(size - 1);
        }
        if let Some(value) = value {
            put(into, value, size);
        }
    }
}

fn put(into: &mut Vec<u8>, number: u64, bytes: u8) {
    into.extend_from_slice(number.to_le_bytes().get(..bytes.min(8).into()).unwrap_or_default());
}

/// Of how many operations before a place those from there on are repetitions, and of how many times; 0 if of none.
fn repeats(ops: &Ops, at: usize) -> (usize, usize) {
    let list = ops.list();
    let mut best = (1, 0);
    for period in 1..=PERIODS.min(at) {
        let same = |&(one, two): &(&Op, &Op)| ops.is_same(one, ops, two);
        let behind = list.get(at..).unwrap_or_default();
        let before = list.get(at - period..).unwrap_or_default();
        let run = before.iter().zip(behind).take_while(same).take(256 * period).count();
        if run / period * period > best.0 * best.1 && run / period * period > 1 {
            best = (period, run / period);
        }
    }
    best
}
