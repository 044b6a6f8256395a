//! Declarations that cannot be, and those that just can.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

use super::pair::layouts::{mixed, of_kind, plain, queue};
use super::*;

fn layout(cells: Vec<Cell>) -> Result<Layout, LayoutError> {
    Layout::new(cells, 0x10, Rule::Split, false)
}

/// What is wrong with two registers of which the first is plain.
fn wrong(cell: Cell) -> LayoutError {
    let error = layout(vec![plain(0, 4), cell]).unwrap_err();
    assert!(!error.hint().is_empty() && !error.to_string().is_empty());
    error
}

fn kind(kind: Kind) -> Cell {
    of_kind(8, 4, kind, (true, true))
}

fn contradiction(cell: Cell) -> Contradiction {
    let LayoutError::Kind { cell: 1, why } = wrong(cell) else { panic!() };
    assert!(!why.text().is_empty());
    why
}

#[test]
fn test_register_of_no_width_or_outside_or_too_wide_a_value_is_refused() {
    for width in [0, 3, 5, 6, 7, 9, 16, u8::MAX] {
        assert_eq!(wrong(Cell { width, ..plain(8, 1) }), LayoutError::Width { cell: 1, width });
    }
    for (offset, width) in [(0xD, 4), (0x10, 1), (u64::MAX, 8), (u64::MAX - 7, 8)] {
        let len = width.into();
        assert_eq!(wrong(plain(offset, width)), LayoutError::Outside { cell: 1, offset, len, size: 0x10 });
    }
    let value = LayoutError::Value { cell: 1, value: 0x1_0000 };
    assert_eq!(wrong(Cell { reset: 0x1_0000, ..plain(8, 2) }), value);
    assert_eq!(wrong(Cell { bits: Bits { set_by_read: 0x1_0000, ..Bits::default() }, ..plain(8, 2) }), value);
    let fifo = Kind::Fifo { depth: 1, guest_takes: true, overflow: Overflow::Drop, empty: 0x1_0000, threshold: 0 };
    assert_eq!(wrong(of_kind(8, 2, fifo, (true, false))), value);
}

#[test]
fn test_length_of_nothing_or_of_too_much_is_refused() {
    let fifo = |depth| Kind::Fifo { depth, guest_takes: true, overflow: Overflow::Drop, empty: 0, threshold: 0 };
    let port = Kind::Port { index: 0, mask: 1, first: 0, count: 0, step: 0 };
    for cell in [kind(Kind::Ram { len: 0 }), kind(fifo(0)), kind(port)] {
        assert_eq!(wrong(cell), LayoutError::Length { cell: 1, len: 0 });
    }
    // What a queue never comes to could not be put back.
    let high = Kind::Fifo { depth: 2, guest_takes: true, overflow: Overflow::Drop, empty: 0, threshold: 3 };
    assert_eq!(wrong(of_kind(8, 2, high, (true, false))), LayoutError::Length { cell: 1, len: 3 });
    let most = 1 << 28;
    let window = |len| of_kind(0, 1, Kind::Ram { len }, (true, true));
    let size = |cells| Layout::new(cells, u64::MAX, Rule::Split, false);
    assert_eq!(size(vec![window(most + 1)]).unwrap_err(), LayoutError::Length { cell: 0, len: most + 1 });
    assert_eq!(size(vec![window(u64::MAX)]).unwrap_err(), LayoutError::Length { cell: 0, len: u64::MAX });
    let two = vec![window(most), Cell { offset: Some(most), ..window(1) }];
    assert_eq!(size(two).unwrap_err(), LayoutError::Length { cell: 1, len: most + 1 });
    let queue = of_kind(most, 4, fifo(1), (true, false));
    assert_eq!(size(vec![window(most), queue]).unwrap_err(), LayoutError::Length { cell: 1, len: most + 8 });
}

#[test]
fn test_registers_at_one_place_are_refused_unless_conditions_or_sides_tell_them_apart() {
    let when = |cell, mask, equals| Some(When { cell, mask, equals });
    let two = |one: Option<When>, other: Option<When>, offset, width| {
        layout(vec![
            plain(0, 4),
            plain(4, 4),
            Cell { when: one, ..plain(8, 4) },
            Cell { when: other, ..plain(offset, width) },
        ])
    };
    let overlap = |offset| Err(LayoutError::Overlap { cell: 3, other: 2, offset });
    let fine = Ok(());
    for (one, other, offset, width, expected) in [
        (None, None, 8, 4, overlap(8)),
        (None, when(0, 1, 1), 8, 4, fine),
        (when(0, 1, 1), when(0, 1, 0), 8, 4, fine),
        (when(0, 1, 1), when(0, 1, 1), 8, 4, overlap(8)),
        (when(0, 3, 1), when(0, 1, 1), 8, 4, overlap(8)),
        (when(0, 3, 1), when(0, 3, 2), 8, 4, fine),
        (when(0, 1, 1), when(1, 1, 0), 8, 4, overlap(8)),
        (when(0, 1, 1), when(0, 2, 0), 8, 4, overlap(8)),
        (None, when(0, 1, 1), 8, 2, overlap(8)),
        (None, when(0, 1, 1), 0xA, 2, overlap(0xA)),
        (None, None, 0xC, 4, fine),
    ] {
        assert_eq!(two(one, other, offset, width).map(drop), expected, "{one:?} {other:?} {offset}");
    }
    let sides = |sides| Cell { sides, ..plain(8, 4) };
    assert!(layout(vec![sides((true, false)), sides((false, true))]).is_ok());
    assert!(layout(vec![sides((true, false)), sides((true, false))]).is_err());
    // Three banks of different lengths would begin in each other's middle.
    assert!(two(when(0, 1, 1), when(0, 1, 0), 8, 2).is_err());
}

#[test]
fn test_register_that_refers_to_what_it_cannot_use_is_refused() {
    let with = |cell: Cell, others: Vec<Cell>| {
        let cells = [vec![plain(0, 1), cell], others].concat();
        layout(cells).map(drop)
    };
    let refused = |other| Err(LayoutError::Reference { cell: 1, other });
    let when = |cell, mask, equals| Cell { when: Some(When { cell, mask, equals }), ..plain(8, 4) };
    let behind = |cell| Cell { offset: None, sides: (false, false), ..cell };
    let port =
        |index, mask, first, count| of_kind(8, 4, Kind::Port { index, mask, first, count, step: 0 }, (true, true));
    let fifo = queue(4, 1, true, Overflow::Drop);
    for (cell, others, expected) in [
        (when(0, 1, 1), vec![], Ok(())),
        (when(7, 1, 1), vec![], refused(7)),
        (when(u32::MAX, 1, 1), vec![], refused(u32::MAX)),
        (when(0, 1, 2), vec![], refused(0)),
        (when(0, 0x100, 0), vec![], refused(0)),
        (when(2, 1, 1), vec![fifo.clone()], refused(2)),
        (kind(Kind::Level { of: 0 }), vec![], Err(LayoutError::Kind { cell: 1, why: Contradiction::Level })),
        (of_kind(8, 4, Kind::Level { of: 0 }, (true, false)), vec![], refused(0)),
        (of_kind(8, 4, Kind::Level { of: 2 }, (true, false)), vec![fifo.clone()], Ok(())),
        (port(0, 0xFF, 2, 2), vec![behind(plain(0, 4)), behind(mixed(0, 4, 1))], Ok(())),
        (port(0, 0x1FF, 2, 1), vec![behind(plain(0, 4))], refused(0)),
        (port(1, 1, 2, 1), vec![behind(plain(0, 4))], refused(1)),
        (port(0, 1, 2, 2), vec![behind(plain(0, 4))], refused(3)),
        (port(0, 1, 9, 1), vec![], refused(9)),
        (port(0, 1, u32::MAX, u32::MAX >> 8), vec![], refused(u32::MAX)),
        (port(0, 1, 1, 1), vec![], refused(1)),
        (port(0, 1, 2, 1), vec![behind(plain(0, 2))], refused(2)),
        (port(0, 1, 2, 1), vec![Cell { big_endian: true, ..behind(plain(0, 4)) }], refused(2)),
        (port(0, 1, 2, 1), vec![fifo], refused(2)),
        (port(0, 1, 2, 2), vec![behind(plain(0, 4)), Cell { on_read: true, ..behind(plain(0, 4)) }], Ok(())),
        (
            port(0, 1, 2, 2),
            vec![behind(plain(0, 4)), Cell { delivery: Delivery::Posted, ..behind(plain(0, 4)) }],
            refused(3),
        ),
    ] {
        assert_eq!(with(cell.clone(), others), expected, "{cell:?}");
    }
}

#[test]
fn test_register_that_contradicts_itself_is_refused() {
    let both = Bits { stored: 3, cleared_by_1: 2, ..Bits::default() };
    let read = Bits { cleared_by_read: 1, set_by_read: 1, ..Bits::default() };
    for bits in [both, read, Bits { set_by_1: 4, cleared_by_0: 4, ..Bits::default() }] {
        assert_eq!(contradiction(Cell { bits, ..plain(8, 4) }), Contradiction::Bits);
    }
    let read_only = Cell { sides: (true, false), ..plain(8, 4) };
    let write_only = Cell { sides: (false, true), ..plain(8, 4) };
    for cell in [
        Cell { on_write: Tell::Always, ..read_only.clone() },
        Cell { on_write: Tell::If(1), ..read_only },
        Cell { on_read: true, ..write_only },
        Cell { on_write: Tell::Always, ..queue(8, 1, true, Overflow::Drop) },
        Cell { on_read: true, ..queue(8, 1, false, Overflow::Drop) },
    ] {
        assert_eq!(contradiction(cell), Contradiction::Unheard);
    }
    for takes in [true, false] {
        let cell = Cell { sides: (true, true), ..queue(8, 1, takes, Overflow::Drop) };
        assert_eq!(contradiction(cell), Contradiction::Queue);
    }
    let window = of_kind(8, 1, Kind::Ram { len: 4 }, (true, true));
    for cell in [
        Cell { width: 2, ..window.clone() },
        Cell { big_endian: true, ..window.clone() },
        Cell { on_read: true, ..window.clone() },
        Cell { on_write: Tell::If(8), ..window.clone() },
        Cell { reset: 1, ..window },
    ] {
        assert_eq!(contradiction(cell), Contradiction::Window);
    }
    let port = kind(Kind::Port { index: 0, mask: 1, first: 0, count: 1, step: 0 });
    for cell in [
        Cell { on_read: true, ..port.clone() },
        Cell { on_write: Tell::Always, ..port.clone() },
        Cell { reset: 1, ..port },
    ] {
        assert_eq!(contradiction(cell), Contradiction::Port);
    }
    assert_eq!(contradiction(kind(Kind::Counter { hz: 0 })), Contradiction::Rate);
}
