//! Any declaration, made of numbers, and what can be done to its registers.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::cast_possible_truncation)]

use super::super::*;
use super::Pair;
use super::layouts::{mixed, of_kind, plain, queue};
use super::model::Held;
use crate::bus::ones;

/// A register of a random declaration: what it is is decided by what there is before it.
#[derive(Clone, Debug)]
pub(in super::super) struct Choice {
    pub(in super::super) kind: u8,
    pub(in super::super) width: u8,
    pub(in super::super) gap: u64,
    pub(in super::super) turn: u64,
    pub(in super::super) is_big: bool,
    pub(in super::super) on_read: bool,
    pub(in super::super) on_write: Tell,
    pub(in super::super) sides: (bool, bool),
    pub(in super::super) other: usize,
    pub(in super::super) mask: u64,
}

/// Small masks, so that what is behind is met.
fn low(mask: u64, width: u8) -> u64 {
    (mask & 3 | 1) << (mask >> 8 & 1) & ones(width)
}

/// The registers of these choices, and the bytes of their device.
pub(in super::super) fn declaration(choices: &[Choice]) -> (Vec<Cell>, u64) {
    let (mut cells, mut end) = (Vec::<Cell>::new(), 0);
    for choice in choices {
        let &Choice { width, turn, is_big, on_read, on_write, sides, mask, .. } = choice;
        let at = end + choice.gap;
        let told = |cell: Cell| Cell {
            big_endian: is_big,
            on_read: on_read && cell.sides.0,
            on_write: if cell.sides.1 { on_write } else { Tell::Never },
            ..cell
        };
        let plains: Vec<u32> =
            (0..cells.len()).filter(|&id| cells[id].kind == Kind::Plain).map(|id| id as u32).collect();
        let some_plain = (!plains.is_empty()).then(|| plains[choice.other % plains.len()]);
        let count = cells.len() as u32;
        match (choice.kind, some_plain) {
            (0, _) => cells.push(told(Cell { sides, ..plain(at, width) })),
            (2, Some(of)) => {
                // Two banks at one place, perhaps with a default.
                let mask = low(mask, cells[of as usize].width);
                let bank = |equals, cell| Cell { when: Some(When { cell: of, mask, equals }), ..told(cell) };
                cells.extend([bank(mask, mixed(at, width, turn)), bank(0, plain(at, width))]);
                if turn % 2 == 0 {
                    cells.push(told(mixed(at, width, turn / 2)));
                }
            }
            (3, Some(index)) => {
                let mask = low(mask, cells[index as usize].width);
                let kind = Kind::Port { index, mask, first: count + 1, count: 2, step: turn };
                cells.push(Cell { big_endian: is_big, ..of_kind(at, width, kind, sides) });
                let behind = |cell| Cell { offset: None, ..told(cell) };
                // One of them alone is told of, or both are.
                let other = Cell { offset: None, big_endian: is_big, ..plain(0, width) };
                let other = if turn % 2 == 0 { other } else { behind(other) };
                cells.extend([behind(mixed(0, width, turn)), other]);
            }
            (4, _) => cells.push(told(queue(at, width, true, Overflow::Drop))),
            (5, _) => {
                let overflow = if is_big { Overflow::Drop } else { Overflow::Overwrite };
                cells.extend([
                    told(queue(at, width, true, Overflow::Overwrite)),
                    told(queue(at, width, false, overflow)),
                ]);
            }
            (6, _) => cells.push(told(of_kind(at, width, Kind::Counter { hz: mask | 1 }, (true, sides.1)))),
            (7, _) => cells.push(of_kind(at, 1, Kind::Ram { len: turn + 1 }, sides)),
            (8, _) if matches!(cells.last().map(|cell| cell.kind), Some(Kind::Fifo { .. })) => {
                cells.push(told(of_kind(at, width, Kind::Level { of: count - 1 }, (true, false))));
            }
            _ => cells.push(told(Cell { sides, ..mixed(at, width, turn) })),
        }
        let len = cells.iter().filter(|cell| cell.offset == Some(at)).map(Cell::len).max().unwrap();
        end = at + len;
    }
    (cells, end)
}

/// What a guest or the owner does. Places and registers are counted round and round.
#[derive(Clone, Debug)]
pub(in super::super) enum Deed {
    Access(usize, u8, Option<u64>),
    Set(usize, u64, u64),
    Push(usize, u64),
    Pop(usize),
    Threshold(usize, usize),
    Step(u64),
    Reset,
}

/// What the owner does, to both.
fn own(pair: &mut Pair, id: usize, deed: &Deed) {
    let (cell, file) = (pair.model.cells[id].clone(), &pair.file);
    let shown = pair.model.shown(id);
    let ticks = pair.model.ticks(id);
    match (deed, &mut pair.model.held[id]) {
        (Deed::Set(_, value, mask), held @ (Held::Value(_) | Held::Count(..))) => {
            let mask = mask & cell.all();
            let after = (shown & !mask) | (value & mask);
            *held = if let Held::Value(_) = held { Held::Value(after) } else { Held::Count(after, ticks) };
            file.set(id as u32, *value, mask);
        }
        (Deed::Push(_, item), Held::Queue { items, lost, .. }) => {
            let Kind::Fifo { depth, overflow, .. } = cell.kind else { unreachable!() };
            let fits = items.len() < depth as usize;
            *lost += u64::from(!fits);
            if !fits && overflow == Overflow::Overwrite {
                items.pop_front();
            }
            if fits || overflow == Overflow::Overwrite {
                items.push_back(item & cell.all());
            }
            assert_eq!(file.push(id as u32, *item), fits);
        }
        (Deed::Pop(_), Held::Queue { items, .. }) => assert_eq!(file.pop(id as u32), items.pop_front()),
        (Deed::Threshold(_, to), Held::Queue { threshold, .. }) => {
            let Kind::Fifo { depth, .. } = cell.kind else { unreachable!() };
            *threshold = (*to).min(depth as usize);
            file.set_threshold(id as u32, *to);
        }
        _ => {}
    }
}

/// Does it to both; what differs fails.
pub(in super::super) fn play(pair: &mut Pair, deed: &Deed) {
    let (size, count) = (pair.file.layout.size, pair.file.layout.cells.len());
    match deed {
        Deed::Access(at, width, written) => {
            let width = u64::from(*width).min(size);
            pair.access(*at as u64 % (size - width + 1), width as u8, *written);
        }
        Deed::Step(ns) => pair.step(*ns),
        Deed::Reset => {
            pair.file.reset();
            pair.model.reset();
        }
        Deed::Set(at, ..) | Deed::Push(at, _) | Deed::Pop(at) | Deed::Threshold(at, _) => own(pair, at % count, deed),
    }
    pair.compare(&format!("{deed:?}"));
}
