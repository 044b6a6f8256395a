//! Random declarations, accessed, set, stepped and reset in random order, against the model.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::cast_possible_truncation)]

use proptest::prelude::*;
use proptest::sample::Index;

use super::layouts::{mixed, of_kind, plain, queue};
use super::model::Held;
use super::*;

/// A register of a random declaration: what it is is decided by what there is before it.
#[derive(Clone, Debug)]
struct Choice {
    kind: u8,
    width: u8,
    gap: u64,
    turn: u64,
    is_big: bool,
    on_read: bool,
    on_write: Tell,
    sides: (bool, bool),
    other: Index,
    mask: u64,
}

fn choices() -> impl Strategy<Value = Vec<Choice>> {
    let tell = prop_oneof![3 => Just(Tell::Never), 1 => Just(Tell::Always), 1 => any::<u64>().prop_map(Tell::If)];
    let sides = prop_oneof![3 => Just((true, true)), 1 => Just((true, false)), 1 => Just((false, true))];
    let numbers = (0..9_u8, 0..4_u32, prop_oneof![3 => Just(0_u64), 1 => 1..5_u64], 0..10_u64);
    let rest = (any::<bool>(), prop::bool::weighted(0.2), tell, sides, any::<Index>(), any::<u64>());
    let choice =
        (numbers, rest).prop_map(|((kind, width, gap, turn), (is_big, on_read, on_write, sides, other, mask))| {
            Choice { kind, width: 1 << width, gap, turn, is_big, on_read, on_write, sides, other, mask }
        });
    prop::collection::vec(choice, 1..14)
}

/// Small masks, so that what is behind is met.
fn low(mask: u64, width: u8) -> u64 {
    (mask & 3 | 1) << (mask >> 8 & 1) & ones(width)
}

fn declaration(choices: &[Choice]) -> (Vec<Cell>, u64) {
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
        let some_plain = (!plains.is_empty()).then(|| *choice.other.get(&plains));
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

#[derive(Clone, Debug)]
enum Deed {
    Access(Index, u8, Option<u64>),
    Set(Index, u64, u64),
    Push(Index, u64),
    Pop(Index),
    Threshold(Index, usize),
    Step(u64),
    Reset,
}

fn deeds() -> impl Strategy<Value = Vec<Deed>> {
    let value = prop_oneof![any::<u64>(), 0..4_u64, Just(u64::MAX)];
    let written = prop_oneof![Just(None), value.clone().prop_map(Some)];
    let deed = prop_oneof![
        12 => (any::<Index>(), 1..9_u8, written).prop_map(|(at, size, written)| Deed::Access(at, size, written)),
        2 => (any::<Index>(), value.clone(), any::<u64>()).prop_map(|(at, value, mask)| Deed::Set(at, value, mask)),
        2 => (any::<Index>(), value).prop_map(|(at, value)| Deed::Push(at, value)),
        1 => any::<Index>().prop_map(Deed::Pop),
        1 => (any::<Index>(), 0..5_usize).prop_map(|(at, to)| Deed::Threshold(at, to)),
        1 => (0..u64::MAX >> 20).prop_map(Deed::Step),
        1 => Just(Deed::Reset),
    ];
    prop::collection::vec(deed, 1..60)
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
            *threshold = *to;
            file.set_threshold(id as u32, *to);
        }
        _ => {}
    }
}

proptest! {
    // fault row 13, 14
    #[test]
    fn test_random_declaration_accessed_at_random_does_what_the_model_says(
        choices in choices(), deeds in deeds(), rule in 0..4_usize, plain in any::<bool>(), is_quick in any::<bool>(),
    ) {
        let (cells, size) = declaration(&choices);
        let layout = Arc::new(Layout::new(cells, size, RULES[rule], plain).unwrap());
        let mut pair = Pair::new(&layout, is_quick);
        let count = layout.cells.len();
        for deed in &deeds {
            match deed {
                Deed::Access(at, width, written) => {
                    let width = u64::from(*width).min(size);
                    pair.access(at.index((size - width + 1) as usize) as u64, width as u8, *written);
                }
                Deed::Step(ns) => pair.step(*ns),
                Deed::Reset => {
                    pair.file.reset();
                    pair.model.reset();
                }
                Deed::Set(at, ..) | Deed::Push(at, _) | Deed::Pop(at) | Deed::Threshold(at, _) => {
                    own(&mut pair, at.index(count), deed);
                }
            }
            pair.compare(&format!("{deed:?}"));
        }
    }
}
