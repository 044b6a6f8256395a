//! Registers and the model of them side by side, for the tests and for `fuzz`.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::cast_possible_truncation)]

#[path = "deeds_test.rs"]
pub(super) mod deeds;
#[path = "layouts_test.rs"]
pub(super) mod layouts;
#[path = "model_test.rs"]
pub(super) mod model;

use std::collections::VecDeque;
use std::sync::Mutex;

use self::model::{Event, Held, Model, PLAIN, answer, asked};
use super::*;
use crate::bus::ones;

pub(super) const RULES: [Rule; 4] = [Rule::Exact, Rule::Split, Rule::Widen, Rule::Refuse];

/// Writes down what it is asked and told.
#[derive(Default)]
pub(super) struct Log(pub(super) Mutex<Vec<Event>>);

impl Log {
    fn note(&self, event: Event) {
        self.0.lock().unwrap().push(event);
    }
}

impl Owner for Log {
    fn read(&self, cell: u32, held: u64) -> Option<u64> {
        self.note(Event::Read { cell, held });
        answer(cell, held)
    }
    fn write(&self, cell: u32, value: u64) -> Action {
        self.note(Event::Write { cell, value });
        asked(cell, value)
    }
    fn plain_read(&self, at: Access) -> u64 {
        self.note(Event::PlainRead(at.offset, at.size));
        PLAIN
    }
    fn plain_write(&self, at: Access, value: u64) -> Action {
        self.note(Event::PlainWrite(at.offset, at.size, value));
        Action::Continue
    }
    fn refused(&self, at: Access, written: Option<u64>) {
        self.note(Event::Refused(at.offset, at.size, written));
    }
}

/// The registers and the model of them, side by side.
pub(super) struct Pair {
    pub(super) file: RegisterFile,
    pub(super) model: Model,
    clock: Arc<Clock>,
    pub(super) log: Log,
    is_quick: bool,
}

impl Pair {
    /// `is_quick`: accesses are tried without the owner first, as a machine does.
    pub(super) fn new(layout: &Arc<Layout>, is_quick: bool) -> Self {
        let (file, clock) = (RegisterFile::new(layout.clone()), Arc::new(Clock::manual()));
        file.set_clock(clock.clone());
        let model = Model::new(&layout.cells, layout.rule, layout.plain);
        Self { file, model, clock, log: Log::default(), is_quick }
    }

    /// Something in every register.
    pub(super) fn fill(&mut self, mut seed: u64) {
        let mut next = || {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            seed >> 13
        };
        self.step(next() % 5_000_000_000);
        for id in 0..self.model.cells.len() {
            let cell = self.model.cells[id].clone();
            let value = (next() << 32 ^ next()) & cell.all();
            match &mut self.model.held[id] {
                Held::Value(held) => {
                    // Small numbers lead somewhere: banks and ports.
                    *held = if next() % 2 == 0 { value } else { value & 3 };
                    self.file.set(id as u32, *held, u64::MAX);
                }
                Held::Queue { items, lost, .. } => {
                    items.extend((0..next() % 4).map(|_| next() & cell.all()));
                    let Kind::Fifo { depth, .. } = cell.kind else { unreachable!() };
                    items.truncate(depth as usize);
                    *lost = next() % 3;
                    self.file.set_items(id as u32, items.make_contiguous(), *lost);
                }
                Held::Count(held, since) => {
                    *held = value;
                    *since = (u128::from(self.model.now)
                        * u128::from(if let Kind::Counter { hz } = cell.kind { hz } else { 0 })
                        / 1_000_000_000) as u64;
                    self.file.set(id as u32, value, u64::MAX);
                }
                Held::Bytes(bytes) => {
                    bytes.iter_mut().for_each(|byte| *byte = next() as u8);
                    assert!(self.file.write_window(id as u32, 0, bytes));
                }
                Held::Nothing => {}
            }
        }
        self.step(next() % 3_000_000_000);
    }

    pub(super) fn step(&mut self, ns: u64) {
        self.clock.step(ns).unwrap();
        self.model.now += ns;
    }

    /// Makes an access to both; what differs fails.
    pub(super) fn access(&mut self, offset: u64, size: u8, written: Option<u64>) {
        let at = Access { offset, size, vcpu: 0 };
        let what = format!("{:?}: {at:?} {written:x?}", self.file.layout.rule);
        let needs_nobody = self.model.is_of_one(offset, size, written.is_none());
        self.model.events.clear();
        let is_quick = match written {
            None => {
                let expected = self.model.read(offset, size) & ones(size);
                let quick = if self.is_quick { self.file.quick_read(at) } else { None };
                let value = quick.unwrap_or_else(|| self.file.read(at, &self.log)) & ones(size);
                assert_eq!(value, expected, "{what}");
                quick.is_some()
            }
            Some(value) => {
                let value = value & ones(size);
                let expected = self.model.write(offset, size, value);
                let is_quick = self.is_quick && self.file.quick_write(at, value);
                let action = if is_quick { Action::Continue } else { self.file.write(at, value, &self.log) };
                assert_eq!(action, expected, "{what}");
                is_quick
            }
        };
        let events = std::mem::take(&mut *self.log.0.lock().unwrap());
        assert_eq!(events, self.model.events, "{what}");
        // Of several registers it may be asked for the owner in vain, but never of one.
        let may_ask = !self.is_quick || !events.is_empty() || !needs_nobody;
        assert!(is_quick || may_ask, "{what}: the owner was asked for, and then not asked");
        self.compare(&what);
    }

    pub(super) fn compare(&self, what: &str) {
        for (cell, held) in self.model.held.iter().enumerate() {
            let id = cell as u32;
            assert_eq!(self.file.get(id), Some(self.model.shown(cell)), "{what}: {cell}");
            match held {
                Held::Queue { items, lost, threshold } => {
                    assert_eq!(VecDeque::from(self.file.items(id)), *items, "{what}: {cell}");
                    assert_eq!(self.file.level(id), (items.len(), *lost), "{what}: {cell}");
                    assert_eq!(self.file.threshold(id), *threshold, "{what}: {cell}");
                    assert_eq!(self.file.front(id), items.front().copied(), "{what}: {cell}");
                }
                Held::Bytes(bytes) => {
                    let mut copy = vec![0; bytes.len()];
                    assert!(self.file.read_window(id, 0, &mut copy));
                    assert_eq!(copy, *bytes, "{what}: {cell}");
                }
                _ => {}
            }
        }
    }
}
