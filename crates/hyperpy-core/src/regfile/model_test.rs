//! What declared registers should do, said a second time: byte by byte and bit by bit, by looking at every declaration in
//! turn. Nothing here is fast, and nothing of it is the core's.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::cast_possible_truncation, clippy::panic)]

use std::collections::VecDeque;

use super::super::*;
use crate::bus::ones;

/// What the owner of the registers is asked and told, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    Read { cell: u32, held: u64 },
    Write { cell: u32, value: u64 },
    PlainRead(u64, u8),
    PlainWrite(u64, u8, u64),
    Refused(u64, u8, Option<u64>),
}

/// What the owner answers: every other time something else than what is held.
pub(crate) fn answer(cell: u32, held: u64) -> Option<u64> {
    (cell + held.count_ones()).is_multiple_of(2).then_some(!held ^ u64::from(cell))
}

/// What the owner asks for.
pub(crate) fn asked(cell: u32, value: u64) -> Action {
    if (value.count_ones() + cell).is_multiple_of(3) { Action::Reset } else { Action::Continue }
}

pub(crate) const PLAIN: u64 = 0x5a5a_a5a5_1234_8765;

/// What one register holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Held {
    Value(u64),
    Queue {
        items: VecDeque<u64>,
        lost: u64,
        threshold: usize,
    },
    /// What a counter showed, and the count of the time then.
    Count(u64, u64),
    Bytes(Vec<u8>),
    Nothing,
}

#[derive(Clone, Debug)]
pub(crate) struct Model {
    pub(crate) cells: Vec<Cell>,
    rule: Rule,
    plain: bool,
    pub(crate) now: u64,
    pub(crate) held: Vec<Held>,
    pub(crate) events: Vec<Event>,
}

fn bit(mask: u64, at: u32) -> bool {
    mask >> at & 1 == 1
}

impl Model {
    pub(crate) fn new(cells: &[Cell], rule: Rule, plain: bool) -> Self {
        let held = vec![Held::Nothing; cells.len()];
        let mut model = Self { cells: cells.to_vec(), rule, plain, now: 0, held, events: Vec::new() };
        model.reset();
        model
    }

    pub(crate) fn reset(&mut self) {
        for id in 0..self.cells.len() {
            let ticks = self.ticks(id);
            let cell = &self.cells[id];
            self.held[id] = match cell.kind {
                Kind::Plain => Held::Value(cell.reset),
                Kind::Fifo { threshold, .. } => {
                    Held::Queue { items: VecDeque::new(), lost: 0, threshold: threshold as usize }
                }
                Kind::Counter { .. } => Held::Count(cell.reset, ticks),
                Kind::Ram { len } => Held::Bytes(vec![0; len as usize]),
                Kind::Level { .. } | Kind::Port { .. } => Held::Nothing,
            };
        }
    }

    pub(crate) fn ticks(&self, id: usize) -> u64 {
        let Kind::Counter { hz } = self.cells[id].kind else { return 0 };
        (u128::from(self.now) * u128::from(hz) / 1_000_000_000) as u64
    }

    fn value(&self, id: usize) -> u64 {
        if let Held::Value(value) = self.held[id] { value } else { panic!("{id} is not plain") }
    }

    /// What the register shows to its owner.
    pub(crate) fn shown(&self, id: usize) -> u64 {
        let all = ones(self.cells[id].width);
        match (&self.held[id], self.cells[id].kind) {
            (Held::Value(value), _) => *value,
            (Held::Count(value, since), _) => value.wrapping_add(self.ticks(id)).wrapping_sub(*since) & all,
            (_, Kind::Level { of }) => {
                let Held::Queue { items, .. } = &self.held[of as usize] else { panic!("{of} is no queue") };
                (items.len() as u64).min(all)
            }
            _ => 0,
        }
    }

    fn find(&self, offset: u64, is_read: bool) -> Option<usize> {
        let here = |cell: &Cell| {
            let side = if is_read { cell.sides.0 } else { cell.sides.1 };
            side && cell.offset.is_some_and(|at| (at..at + cell.len()).contains(&offset))
        };
        let holds = |when: When| self.value(when.cell as usize) & when.mask == when.equals;
        let mut found = (0..self.cells.len()).filter(|&id| here(&self.cells[id]));
        let mut rest = found.clone();
        found
            .find(|&id| self.cells[id].when.is_some_and(holds))
            .or_else(|| rest.find(|&id| self.cells[id].when.is_none()))
    }

    /// Whether one register has all of an access; of a port it is not known before.
    pub(crate) fn is_of_one(&self, offset: u64, size: u8, is_read: bool) -> bool {
        let find = |at| self.find(offset.checked_add(at)?, is_read);
        find(0).is_some_and(|id| {
            !matches!(self.cells[id].kind, Kind::Port { .. }) && (1..size.into()).all(|at| find(at) == Some(id))
        })
    }

    /// The register behind a port, if the number is one; the number moves on.
    fn behind(&mut self, id: usize) -> Option<usize> {
        let Kind::Port { index, mask, first, count, step } = self.cells[id].kind else { panic!("{id} is no port") };
        let held = self.value(index as usize);
        let unit = if mask == 0 { 1 } else { mask & mask.wrapping_neg() };
        let number = (held & mask) / unit;
        let moved = (held & !mask) | (held.wrapping_add(step.wrapping_mul(unit)) & mask);
        self.held[index as usize] = Held::Value(moved);
        (number < u64::from(count)).then(|| first as usize + number as usize)
    }

    /// The parts that the rule lets through, as far as they are known before the first is served; `Err`: it ends here.
    fn judge(&mut self, offset: u64, size: u8, written: Option<u64>) -> Result<(), u64> {
        let find = |at| self.find(offset.checked_add(at)?, written.is_none());
        let touched: Vec<_> = (0..size.into()).map(find).collect();
        if touched.iter().all(Option::is_none) && self.plain {
            self.events.push(match written {
                None => Event::PlainRead(offset, size),
                Some(value) => Event::PlainWrite(offset, size, value),
            });
            return Err(PLAIN);
        }
        let is_exact = touched[0].is_some_and(|id| {
            let cell = &self.cells[id];
            let is_whole = cell.offset == Some(offset) && cell.width == size;
            touched.iter().all(|&other| other == Some(id)) && (is_whole || matches!(cell.kind, Kind::Ram { .. }))
        });
        match self.rule {
            Rule::Exact if !is_exact => Err(0),
            Rule::Refuse if !is_exact => {
                self.events.push(Event::Refused(offset, size, written));
                Err(0)
            }
            _ => Ok(()),
        }
    }

    pub(crate) fn read(&mut self, offset: u64, size: u8) -> u64 {
        if let Err(value) = self.judge(offset, size, None) {
            return value;
        }
        let mut bytes = Vec::new();
        while bytes.len() < size.into() {
            let here = offset.checked_add(bytes.len() as u64);
            let Some((here, id)) = here.and_then(|here| Some((here, self.find(here, true)?))) else {
                bytes.push(0);
                continue;
            };
            let from = here - self.cells[id].offset.unwrap();
            let count = (self.cells[id].len() - from).min(u64::from(size) - bytes.len() as u64);
            bytes.extend(self.read_register(id, from as usize, count as usize));
        }
        bytes.iter().rev().fold(0, |value, &byte| value << 8 | u64::from(byte))
    }

    fn read_register(&mut self, id: usize, from: usize, count: usize) -> Vec<u8> {
        let cell = self.cells[id].clone();
        if let Held::Bytes(bytes) = &self.held[id] {
            return bytes[from..from + count].to_vec();
        }
        if let Kind::Port { .. } = cell.kind {
            return self.behind(id).map_or(vec![0; count], |behind| self.read_register(behind, from, count));
        }
        let mut is_asked = cell.on_read;
        let held =
            if let (Held::Queue { items, threshold, .. }, Kind::Fifo { empty, .. }) = (&mut self.held[id], cell.kind) {
                let item = items.pop_front().unwrap_or(empty);
                is_asked &= items.len() <= *threshold;
                item
            } else {
                let shown = self.shown(id);
                if cell.kind == Kind::Plain { self.read_bits(id, from, count) } else { shown }
            };
        let id = id as u32;
        let mut value = held;
        if is_asked {
            self.events.push(Event::Read { cell: id, held });
            value = answer(id, held).unwrap_or(held);
        }
        in_view(&cell, value)[from..from + count].to_vec()
    }

    fn read_bits(&mut self, id: usize, from: usize, count: usize) -> u64 {
        let (cell, held) = (self.cells[id].clone(), self.value(id));
        let (mut shown, mut after) = (0, held);
        for at in 0..8 * u32::from(cell.width) {
            shown |= u64::from(bit(held & cell.bits.readable, at)) << at;
            if self.rule != Rule::Widen && !is_within(&cell, at, from, count) {
                continue;
            }
            if bit(cell.bits.cleared_by_read, at) {
                after &= !(1 << at);
            }
            if bit(cell.bits.set_by_read, at) {
                after |= 1 << at;
            }
        }
        self.held[id] = Held::Value(after);
        shown
    }

    pub(crate) fn write(&mut self, offset: u64, size: u8, value: u64) -> Action {
        if self.judge(offset, size, Some(value)).is_err() {
            return Action::Continue;
        }
        let bytes = &value.to_le_bytes()[..size.into()];
        let (mut done, mut asks) = (0, Vec::new());
        while done < bytes.len() {
            let here = offset.checked_add(done as u64);
            let Some((here, id)) = here.and_then(|here| Some((here, self.find(here, false)?))) else {
                done += 1;
                continue;
            };
            let from = (here - self.cells[id].offset.unwrap()) as usize;
            let count = (self.cells[id].len() as usize - from).min(bytes.len() - done);
            asks.push(self.write_register(id, from, &bytes[done..done + count]));
            done += count;
        }
        asks.into_iter().find(|action| *action != Action::Continue).unwrap_or(Action::Continue)
    }

    fn write_register(&mut self, id: usize, from: usize, given: &[u8]) -> Action {
        let cell = self.cells[id].clone();
        if let Held::Bytes(bytes) = &mut self.held[id] {
            bytes[from..from + given.len()].copy_from_slice(given);
            return Action::Continue;
        }
        if let Kind::Port { .. } = cell.kind {
            return self.behind(id).map_or(Action::Continue, |behind| self.write_register(behind, from, given));
        }
        // Bits of the register, with zeros where none are given.
        let mut view = vec![0; cell.width.into()];
        view[from..from + given.len()].copy_from_slice(given);
        let ordered = view.iter().rev().fold(0, |value, &byte| value << 8 | u64::from(byte));
        let given_bits = if cell.big_endian { view.iter().fold(0, |v, &b| v << 8 | u64::from(b)) } else { ordered };
        let mut is_told = match cell.on_write {
            Tell::Never => false,
            Tell::Always => true,
            Tell::If(mask) => given_bits & mask != 0,
        };
        let shown = self.shown(id);
        let ticks = self.ticks(id);
        let mut whole = given_bits;
        match &mut self.held[id] {
            Held::Queue { items, lost, threshold } => {
                let Kind::Fifo { depth, overflow, .. } = cell.kind else { panic!("{id} is no queue") };
                if items.len() < depth as usize {
                    items.push_back(given_bits);
                } else {
                    *lost += 1;
                    if overflow == Overflow::Overwrite {
                        items.pop_front();
                        items.push_back(given_bits);
                    }
                }
                is_told &= items.len() >= *threshold;
            }
            Held::Count(value, since) => {
                for at in (0..8 * u32::from(cell.width)).filter(|&at| !is_within(&cell, at, from, given.len())) {
                    whole |= u64::from(bit(shown, at)) << at;
                }
                (*value, *since) = (whole, ticks);
            }
            Held::Value(held) => {
                let before = *held;
                for at in 0..8 * u32::from(cell.width) {
                    let (old, new) = (bit(before, at), bit(given_bits, at));
                    if !is_within(&cell, at, from, given.len()) {
                        // What leaves it as it is.
                        let neutral = bit(cell.bits.stored, at) && old || bit(cell.bits.cleared_by_0, at);
                        whole |= u64::from(neutral) << at;
                        continue;
                    }
                    let after = if bit(cell.bits.stored, at) {
                        new
                    } else if bit(cell.bits.cleared_by_1, at) {
                        old && !new
                    } else if bit(cell.bits.cleared_by_0, at) {
                        old && new
                    } else if bit(cell.bits.set_by_1, at) {
                        old || new
                    } else {
                        old
                    };
                    *held = (*held & !(1 << at)) | u64::from(after) << at;
                }
            }
            Held::Bytes(_) | Held::Nothing => {}
        }
        if !is_told {
            return Action::Continue;
        }
        self.events.push(Event::Write { cell: id as u32, value: whole });
        asked(id as u32, whole)
    }
}

/// A register's bytes as they lie in the device's range.
fn in_view(cell: &Cell, value: u64) -> Vec<u8> {
    let mut bytes = value.to_le_bytes()[..cell.width.into()].to_vec();
    if cell.big_endian {
        bytes.reverse();
    }
    bytes
}

/// Whether a bit is in one of `count` bytes of the view.
fn is_within(cell: &Cell, at: u32, from: usize, count: usize) -> bool {
    let byte = at as usize / 8;
    let byte = if cell.big_endian { usize::from(cell.width) - 1 - byte } else { byte };
    (from..from + count).contains(&byte)
}
