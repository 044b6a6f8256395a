//! Declarations that between them have every kind of register, alone and beside others.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::cast_possible_truncation)]

use super::super::*;
use crate::bus::ones;

/// A declaration with a name.
pub(crate) struct Named {
    pub(crate) name: &'static str,
    pub(crate) cells: Vec<Cell>,
    pub(crate) size: u64,
}

/// A register that guests read and write.
pub(crate) fn plain(offset: u64, width: u8) -> Cell {
    Cell {
        offset: Some(offset),
        width,
        kind: Kind::Plain,
        bits: Bits { readable: ones(width), stored: ones(width), ..Bits::default() },
        reset: 0x0807_0605_0403_0201 & ones(width),
        big_endian: false,
        sides: (true, true),
        when: None,
        on_read: false,
        on_write: Tell::Never,
        delivery: Delivery::Now,
    }
}

/// A register of another kind.
pub(crate) fn of_kind(offset: u64, width: u8, kind: Kind, sides: (bool, bool)) -> Cell {
    Cell { kind, sides, bits: Bits::default(), reset: 0, ..plain(offset, width) }
}

/// Bits of every kind of access, turn by turn.
pub(crate) fn mixed(offset: u64, width: u8, turn: u64) -> Cell {
    // Every tenth bit, from the first one on that is asked for.
    let every = |from: u64| (0..64).filter(|bit| (bit + turn) % 10 == from).fold(0, |mask, bit| mask | 1 << bit);
    let bits = Bits {
        readable: !(every(0) | every(1)),
        stored: every(1) | every(2),
        cleared_by_1: every(3),
        cleared_by_0: every(4),
        set_by_1: every(5),
        cleared_by_read: every(6) | every(8),
        set_by_read: every(7),
    };
    let all = ones(width);
    let cut = Bits {
        readable: bits.readable & all,
        stored: bits.stored & all,
        cleared_by_1: bits.cleared_by_1 & all,
        cleared_by_0: bits.cleared_by_0 & all,
        set_by_1: bits.set_by_1 & all,
        cleared_by_read: bits.cleared_by_read & all,
        set_by_read: bits.set_by_read & all,
    };
    Cell { bits: cut, ..plain(offset, width) }
}

/// A queue that guests take from, or put into.
pub(crate) fn queue(offset: u64, width: u8, guest_takes: bool, overflow: Overflow) -> Cell {
    let threshold = if guest_takes { 3 } else { 1 };
    let kind = Kind::Fifo { depth: 3, guest_takes, overflow, empty: 0xEE, threshold };
    of_kind(offset, width, kind, (guest_takes, !guest_takes))
}

fn when(cell: u32, mask: u64, equals: u64) -> Option<When> {
    Some(When { cell, mask, equals })
}

fn behind(cell: Cell) -> Cell {
    Cell { offset: None, sides: (false, false), ..cell }
}

/// Methods that want to know of everything.
fn heard(cell: Cell) -> Cell {
    let on_write = if cell.sides.1 { Tell::Always } else { Tell::Never };
    Cell { on_read: cell.sides.0, on_write, ..cell }
}

fn widths() -> Named {
    let cells = vec![plain(0, 1), plain(1, 2), plain(5, 4), plain(9, 8), plain(0x12, 2), plain(0x14, 1)];
    Named { name: "widths", cells, size: 0x17 }
}

fn kinds_of_access() -> Named {
    let cells = vec![mixed(0, 4, 0), mixed(4, 1, 3), mixed(5, 2, 6), mixed(7, 8, 1), mixed(0x10, 1, 5)];
    Named { name: "kinds of access", cells, size: 0x12 }
}

fn sides() -> Named {
    let read = |cell| Cell { sides: (true, false), ..cell };
    let write = |cell| Cell { sides: (false, true), ..cell };
    let mut cells = vec![read(plain(0, 4)), write(plain(4, 2)), read(plain(8, 8)), write(mixed(7, 2, 2))];
    cells.extend((0..4).map(|at| heard(write(mixed(at, 1, at)))));
    cells.extend([write(plain(0xC, 4)), heard(read(plain(6, 1)))]);
    Named { name: "sides", cells, size: 0x11 }
}

fn banks() -> Named {
    let mut cells = vec![plain(0, 1), plain(1, 1), mixed(1, 1, 4), heard(plain(1, 1)), mixed(2, 4, 0), plain(2, 4)];
    for (at, condition) in [(2, when(0, 3, 1)), (3, when(0, 3, 2)), (4, when(0, 0x81, 0x80)), (5, when(0, 0x81, 1))] {
        cells[at].when = condition;
    }
    // One that hides itself, and one behind it.
    cells.push(Cell { when: when(6, 1, 0), ..plain(8, 2) });
    cells.push(plain(0xA, 2));
    Named { name: "banks", cells, size: 0xC }
}

fn orders() -> Named {
    let big = |cell| Cell { big_endian: true, ..cell };
    let cells = vec![
        big(plain(0, 2)),
        big(mixed(2, 4, 7)),
        big(heard(mixed(6, 8, 2))),
        big(plain(0xE, 1)),
        plain(0xF, 4),
        Cell { on_write: Tell::If(0x8000_0100), ..big(mixed(0x13, 4, 1)) },
        big(of_kind(0x17, 4, Kind::Counter { hz: 1_000_000 }, (true, true))),
        big(queue(0x1B, 2, true, Overflow::Drop)),
        big(heard(queue(0x1B, 2, false, Overflow::Overwrite))),
    ];
    Named { name: "orders", cells, size: 0x1E }
}

fn ports() -> Named {
    let port = |offset, width, index, mask, first, count, step| {
        of_kind(offset, width, Kind::Port { index, mask, first, count, step }, (true, true))
    };
    let mut cells = vec![
        plain(0, 1),
        port(1, 1, 0, 0x7F, 2, 3, 1),
        behind(plain(0, 1)),
        behind(mixed(0, 1, 3)),
        behind(plain(0, 1)),
        plain(2, 2),
        Cell { big_endian: true, ..port(4, 4, 5, 0x0F0, 7, 2, u64::MAX) },
        Cell { big_endian: true, ..behind(heard(mixed(0, 4, 0))) },
        Cell { big_endian: true, ..behind(heard(plain(0, 4))) },
        // The data before the index, and a number that no bit of the index tells.
        port(8, 2, 10, 3, 11, 1, 0),
        plain(0xA, 1),
        Cell { on_write: Tell::If(0x0180), ..behind(plain(0, 2)) },
        port(0xB, 1, 10, 0, 4, 1, 1),
    ];
    cells[2].reset = 7;
    Named { name: "ports", cells, size: 0xD }
}

fn queues() -> Named {
    let level = |offset, width, of| of_kind(offset, width, Kind::Level { of }, (true, false));
    let with_threshold = |cell: Cell, to| {
        let Kind::Fifo { depth, guest_takes, overflow, empty, .. } = cell.kind else { return cell };
        Cell { kind: Kind::Fifo { depth, guest_takes, overflow, empty, threshold: to }, ..cell }
    };
    let cells = vec![
        queue(0, 1, true, Overflow::Drop),
        queue(0, 1, false, Overflow::Drop),
        queue(1, 4, true, Overflow::Overwrite),
        queue(1, 4, false, Overflow::Overwrite),
        level(5, 1, 0),
        level(6, 2, 3),
        with_threshold(heard(queue(8, 2, true, Overflow::Drop)), 1),
        with_threshold(heard(queue(8, 2, false, Overflow::Drop)), 2),
        with_threshold(Cell { on_write: Tell::If(0x80), ..queue(0xA, 1, false, Overflow::Overwrite) }, 3),
        Cell { on_read: true, ..level(0xA, 1, 8) },
        heard(queue(0xB, 8, false, Overflow::Drop)),
    ];
    Named { name: "queues", cells, size: 0x13 }
}

fn counters() -> Named {
    let counter = |offset, width, hz, is_set| of_kind(offset, width, Kind::Counter { hz }, (true, is_set));
    let cells = vec![
        counter(0, 8, 1_000_000_000, true),
        counter(8, 4, 1_193_182, true),
        counter(0xC, 2, 1, false),
        heard(counter(0xE, 1, 3, true)),
        Cell { on_write: Tell::If(1 << 15), ..counter(0xF, 2, u64::MAX, true) },
    ];
    Named { name: "counters", cells, size: 0x12 }
}

fn windows() -> Named {
    let window = |offset, len, sides| of_kind(offset, 1, Kind::Ram { len }, sides);
    let cells = vec![
        plain(0, 1),
        window(1, 5, (true, true)),
        window(6, 0x13, (true, true)),
        window(0x19, 9, (true, false)),
        window(0x1A, 3, (false, true)),
        heard(plain(0x22, 2)),
    ];
    Named { name: "windows", cells, size: 0x25 }
}

fn methods() -> Named {
    let told = |cell, on_write| Cell { on_write, ..cell };
    let cells = vec![
        heard(plain(0, 4)),
        told(plain(4, 4), Tell::If(0x0100_8001)),
        told(mixed(8, 4, 2), Tell::If(0xFF00)),
        Cell { on_read: true, ..mixed(0xC, 2, 6) },
        told(mixed(0xE, 1, 0), Tell::If(0)),
        heard(mixed(0xF, 8, 9)),
    ];
    Named { name: "methods", cells, size: 0x18 }
}

/// All of them.
pub(crate) const KINDS: [fn() -> Named; 10] =
    [widths, kinds_of_access, sides, banks, orders, ports, queues, counters, windows, methods];
