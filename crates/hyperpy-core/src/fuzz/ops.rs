//! Operations on a device, and how bytes come to operations; the way back is in `encode`.
//!
//! Every string of bytes is a list of operations, and every list that can come of one is written as bytes that give it again: a
//! corpus is files of plain bytes, whoever made them. A record begins with a byte of which the upper five bits say what it is (`FORMS`) and the
//! lower three how. Validity comes first: nine bytes of ten begin what a driver does, by the declaration; the others break one rule of it
//! (another width, an offset beside a register, bits that are not there, any access at all). What is missing at the end
//! is read as zeros.

use super::LONGEST;
use super::shape::{Shape, Target};
use crate::bus::ones;

/// Bytes that belong to an operation, within those of the list.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Span {
    start: u32,
    len: u32,
}

impl Span {
    /// How many bytes.
    #[must_use]
    pub fn len(self) -> usize {
        self.len as usize
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.len == 0
    }

    /// The first ones of them.
    #[must_use]
    pub fn first(self, bytes: usize) -> Self {
        Self { len: u32::try_from(bytes).unwrap_or(u32::MAX).min(self.len), ..self }
    }
}

/// Something that is done to a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// The guest reads.
    Read {
        /// Bytes from the start of the device's range.
        offset: u64,
        /// 1 to 8 bytes.
        size: u8,
    },
    /// The guest writes.
    Write {
        /// Bytes from the start of the device's range.
        offset: u64,
        /// 1 to 8 bytes.
        size: u8,
        /// What it writes.
        value: u64,
    },
    /// Time goes by.
    Step {
        /// Nanoseconds.
        ns: u64,
    },
    /// The machine is reset.
    Reset,
    /// The host does something.
    Event {
        /// Which of the device's events.
        number: u32,
        /// What comes with it.
        data: Span,
    },
    /// The guest puts bytes where the device will look: the next that it reads from memory that it has not touched.
    Feed {
        /// The bytes.
        data: Span,
    },
}

/// A list of operations.
#[derive(Clone, Debug, Default)]
pub struct Ops {
    list: Vec<Op>,
    data: Vec<u8>,
}

impl PartialEq for Ops {
    fn eq(&self, other: &Self) -> bool {
        self.list.len() == other.list.len()
            && self.list.iter().zip(&other.list).all(|(one, two)| self.is_same(one, other, two))
    }
}

impl Eq for Ops {}

impl Ops {
    /// The operations in order.
    #[must_use]
    pub fn list(&self) -> &[Op] {
        &self.list
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.list.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Bytes that belong to an operation.
    #[must_use]
    pub fn bytes(&self, span: Span) -> &[u8] {
        let start = span.start as usize;
        self.data.get(start..start + span.len as usize).unwrap_or_default()
    }

    /// Takes all out.
    pub fn clear(&mut self) {
        self.list.clear();
        self.data.clear();
    }

    /// Keeps some bytes for an operation.
    pub fn keep(&mut self, bytes: &[u8]) -> Span {
        let start = u32::try_from(self.data.len()).unwrap_or(u32::MAX);
        let bytes = bytes.get(..bytes.len().min(LONGEST)).unwrap_or_default();
        self.data.extend_from_slice(bytes);
        Span { start, len: u32::try_from(bytes.len()).unwrap_or_default() }
    }

    /// Puts an operation of this list, or of another one, at the end.
    pub fn push_from(&mut self, other: &Self, op: Op) {
        let op = match op {
            Op::Event { number, data } => Op::Event { number, data: self.keep(other.bytes(data)) },
            Op::Feed { data } => Op::Feed { data: self.keep(other.bytes(data)) },
            op => op,
        };
        self.list.push(op);
    }

    /// Puts one of this list at the end.
    pub fn push(&mut self, op: Op) {
        self.list.push(op);
    }

    /// The list itself, to be put in another order.
    pub fn list_mut(&mut self) -> &mut Vec<Op> {
        &mut self.list
    }

    /// Whether two operations do the same.
    pub(super) fn is_same(&self, one: &Op, other: &Self, two: &Op) -> bool {
        match (*one, *two) {
            (Op::Event { number, data }, Op::Event { number: its, data: theirs }) => {
                number == its && self.bytes(data) == other.bytes(theirs)
            }
            (Op::Feed { data }, Op::Feed { data: theirs }) => self.bytes(data) == other.bytes(theirs),
            (one, two) => one == two,
        }
    }
}

/// What a record is, by its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    Write,
    Read,
    Step,
    Reset,
    Event,
    Feed,
    Again,
    /// An access beside a register, or in another width or direction.
    Near,
    /// Any access.
    Any,
    /// A write of any bits.
    Raw,
}

/// What a record is by the upper five bits of its first byte: for each form, how many of their values.
const FORMS: [(Form, u8); 10] = [
    (Form::Write, 12),
    (Form::Read, 7),
    (Form::Step, 1),
    (Form::Reset, 1),
    (Form::Event, 3),
    (Form::Feed, 3),
    (Form::Again, 2),
    (Form::Near, 1),
    (Form::Any, 1),
    (Form::Raw, 1),
];

/// The form of a record, by its first byte.
fn form_of(byte: u8) -> Form {
    let mut rest = byte >> 3;
    for (form, values) in FORMS {
        match rest.checked_sub(values) {
            None => return form,
            Some(left) => rest = left,
        }
    }
    Form::Raw
}

/// The first byte of a record.
pub(super) fn first(form: Form, how: u8) -> u8 {
    let before: u8 = FORMS.iter().take_while(|&&(it, _)| it != form).map(|&(_, values)| values).sum();
    before << 3 | how & 7
}

/// What the declaration asks to be set before is left out.
pub(super) const BARE: u8 = 7;
/// From this on, a length has two bytes.
pub(super) const LONG: u8 = 6;
/// Most bytes of data of one operation.
pub(super) const MOST_DATA: usize = 4096;
/// So many operations can be done again.
pub(super) const PERIODS: usize = 4;

/// Reads bytes; what is missing is 0.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn byte(&mut self) -> u8 {
        self.take(1).first().copied().unwrap_or_default()
    }

    fn number(&mut self, bytes: u8) -> u64 {
        let mut word = [0; 8];
        let taken = self.take(bytes.min(8).into());
        word.iter_mut().zip(taken).for_each(|(to, from)| *to = *from);
        u64::from_le_bytes(word)
    }

    fn take(&mut self, bytes: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(bytes.min(self.0.len()));
        self.0 = rest;
        taken
    }

    /// Bytes with their length before them.
    fn data(&mut self, how: u8) -> &'a [u8] {
        let length = self.number(if how >= LONG { 2 } else { 1 });
        self.take(usize::try_from(length).unwrap_or(MOST_DATA).min(MOST_DATA))
    }
}

/// How many bytes a number below `end` takes.
pub(super) fn bytes_below(end: u64) -> u8 {
    let bits = 64 - end.saturating_sub(1).leading_zeros();
    u8::try_from(bits.div_ceil(8).max(1)).unwrap_or(8)
}

impl Shape {
    /// The operations that bytes are, put in place of what is there.
    pub fn decode(&self, bytes: &[u8], into: &mut Ops) {
        into.clear();
        let mut reader = Reader(bytes.get(..bytes.len().min(LONGEST)).unwrap_or_default());
        while !reader.0.is_empty() && into.len() < self.most {
            let byte = reader.byte();
            self.decode_one(form_of(byte), byte & 7, &mut reader, into);
        }
        into.list.truncate(self.most);
    }

    fn decode_one(&self, form: Form, how: u8, reader: &mut Reader<'_>, into: &mut Ops) {
        match form {
            Form::Write | Form::Raw => self.decode_declared(true, form == Form::Raw, how, reader, into),
            Form::Read => self.decode_declared(false, false, how, reader, into),
            Form::Step => {
                let ns = reader.number(how + 1);
                into.push(Op::Step { ns: if ns > self.longest_step { ns % (self.longest_step + 1) } else { ns } });
            }
            Form::Reset => into.push(Op::Reset),
            Form::Event if !self.events.is_empty() => {
                let number = usize::from(reader.byte()) % self.events.len();
                let most = self.events.get(number).copied().unwrap_or_default() as usize;
                let given = if most == 0 { &[] } else { reader.data(how) };
                let data = into.keep(given.get(..given.len().min(most)).unwrap_or_default());
                into.push(Op::Event { number: u32::try_from(number).unwrap_or_default(), data });
            }
            Form::Feed if self.has_memory => {
                let data = into.keep(reader.data(how));
                into.push(Op::Feed { data });
            }
            Form::Event | Form::Feed => self.decode_declared(true, false, how, reader, into),
            Form::Again => {
                let (period, times) = (usize::from(reader.byte()) % PERIODS + 1, usize::from(reader.byte()) + 1);
                self.repeat(period.min(into.len()), times, into);
            }
            Form::Near => {
                let target =
                    self.target(u32::try_from(reader.number(self.index_bytes(self.targets().len()))).unwrap_or(0));
                let start = target.or(self.targets().first()).map_or(0, |target| target.offset);
                let delta = u64::from(reader.byte() % 17);
                let place = (start + delta).saturating_sub(8);
                self.decode_access(place, how, reader, into);
            }
            Form::Any => {
                let place = reader.number(bytes_below(self.size));
                self.decode_access(if place < self.size { place } else { place % self.size.max(1) }, how, reader, into);
            }
        }
    }

    /// How many bytes the number of one of several targets takes.
    pub(super) fn index_bytes(&self, targets: usize) -> u8 {
        bytes_below(targets as u64)
    }

    /// An access whose width and direction follow.
    fn decode_access(&self, place: u64, how: u8, reader: &mut Reader<'_>, into: &mut Ops) {
        let size = reader.byte() % 8 + 1;
        let Some((offset, size)) = self.inside(place, size) else { return };
        into.push(if how & 1 == 0 {
            Op::Read { offset, size }
        } else {
            Op::Write { offset, size, value: reader.number(size) }
        });
    }

    fn decode_declared(&self, is_write: bool, is_raw: bool, how: u8, reader: &mut Reader<'_>, into: &mut Ops) {
        let all = self.on(is_write);
        let index = reader.number(self.index_bytes(all.len()));
        let number = index.checked_rem(all.len() as u64).and_then(|at| all.get(usize::try_from(at).ok()?));
        let Some(target) = number.and_then(|&number| self.target(number)) else {
            return self.decode_access(index.checked_rem(self.size).unwrap_or_default(), is_write.into(), reader, into);
        };
        if how != BARE {
            for need in &target.needs {
                let value = reader.byte();
                let rest = if value == 0 { 0 } else { u64::from(value) & ones(need.size) & !need.mask };
                into.push(Op::Write { offset: need.offset, size: need.size, value: need.value | rest });
            }
        }
        let (offset, size) =
            if target.is_window { window_place(target, how, reader) } else { (target.offset, target.width()) };
        into.push(if is_write {
            let value = reader.number(size);
            Op::Write { offset, size, value: if is_raw || target.is_window { value } else { target.legal(value) } }
        } else {
            Op::Read { offset, size }
        });
    }

    /// Does the last operations again.
    fn repeat(&self, period: usize, times: usize, into: &mut Ops) {
        let start = into.len() - period;
        for _ in 0..times * period {
            if into.len() >= self.most {
                return;
            }
            let at = into.len() - period;
            let Some(&op) = into.list.get(at.max(start)) else { return };
            into.push(op);
        }
    }
}

/// An access in a window: its width by `how`, its place a multiple of that.
fn window_place(target: &Target, how: u8, reader: &mut Reader<'_>) -> (u64, u8) {
    let mut size = 1_u8 << (how & 3);
    while u64::from(size) > target.length {
        size >>= 1;
    }
    let count = target.length / u64::from(size);
    let at = reader.number(bytes_below(count)).checked_rem(count).unwrap_or_default();
    (target.offset + at * u64::from(size), size)
}

#[cfg(test)]
#[path = "ops_test.rs"]
mod tests;
