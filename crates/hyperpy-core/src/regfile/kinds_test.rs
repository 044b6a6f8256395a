//! What single kinds of registers do at their edges, said one by one.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::cast_possible_truncation)]

use super::pair::layouts::{KINDS, mixed, of_kind, plain, queue};
use super::pair::{Log, Pair, RULES, model};
use super::*;
use crate::bus::ones;

fn file(cells: Vec<Cell>, rule: Rule) -> RegisterFile {
    RegisterFile::new(Arc::new(Layout::new(cells, 0x40, rule, false).unwrap()))
}

fn at(offset: u64, size: u8) -> Access {
    Access { offset, size, vcpu: 0 }
}

fn told(log: &Log) -> Vec<u64> {
    let written = |event| if let model::Event::Write { value, .. } = event { Some(value) } else { None };
    log.0.lock().unwrap().drain(..).filter_map(written).collect()
}

/// An index, its data port, and four registers that hold 0x10 to 0x13.
fn indexed(index: u64, data: u64, step: u64) -> Vec<Cell> {
    let kind = Kind::Port { index: 0, mask: 0xF, first: 2, count: 4, step };
    let mut cells = vec![Cell { reset: 1, ..plain(index, 1) }, of_kind(data, 1, kind, (true, true))];
    cells.extend((0..4).map(|n| Cell { offset: None, reset: 0x10 + n, ..plain(0, 1) }));
    cells
}

#[test]
fn test_index_and_data_in_one_write_lead_to_the_index_that_was_just_written() {
    for rule in [Rule::Split, Rule::Widen] {
        let file = file(indexed(0, 1, 0), rule);
        assert!(file.quick_write(at(0, 2), 0xAA03));
        assert_eq!([file.get(0), file.get(3), file.get(5)], [Some(3), Some(0x11), Some(0xAA)]);
        assert_eq!(file.quick_read(at(0, 2)), Some(0xAA03));
    }
}

#[test]
fn test_data_before_its_index_in_one_write_goes_to_the_old_index() {
    let file = file(indexed(1, 0, 0), Rule::Split);
    assert!(file.quick_write(at(0, 2), 0x03AA));
    assert_eq!([file.get(0), file.get(3), file.get(5)], [Some(3), Some(0xAA), Some(0x13)]);
}

#[test]
fn test_index_moves_on_after_each_access_and_a_number_that_leads_nowhere_reads_as_zero() {
    let file = file(indexed(0, 1, 1), Rule::Split);
    let read = || file.quick_read(at(1, 1)).unwrap();
    assert_eq!([read(), read(), read(), read()], [0x11, 0x12, 0x13, 0]);
    assert!(file.quick_write(at(1, 1), 0x77));
    assert_eq!(file.get(0), Some(6));
    assert_eq!((2..6).map(|id| file.get(id).unwrap()).collect::<Vec<_>>(), [0x10, 0x11, 0x12, 0x13]);
}

#[test]
fn test_port_asks_and_tells_the_owner_for_the_registers_behind_it_that_are_marked_alone() {
    for step in [0, 1] {
        let mut cells = indexed(0, 1, step);
        (cells[3].on_read, cells[4].on_write) = (true, Tell::If(0x80));
        let file = file(cells, Rule::Split);
        let to = |number| file.set(0, number, u64::MAX);
        to(0);
        assert_eq!((file.quick_read(at(1, 1)), file.get(0)), (Some(0x10), Some(step)));
        to(1);
        assert_eq!((file.quick_read(at(1, 1)), file.get(0)), (None, Some(1)), "nothing is done");
        assert!(file.quick_write(at(1, 1), 0xFF));
        to(2);
        assert!(file.quick_write(at(1, 1), 0x7F));
        to(2);
        assert!(!file.quick_write(at(1, 1), 0x80));
        assert_eq!([file.get(0), file.get(3), file.get(4)], [Some(2), Some(0xFF), Some(0x7F)]);
        let log = Log::default();
        assert_eq!(file.write(at(1, 1), 0x80, &log), Action::Continue);
        assert_eq!((told(&log), file.get(0)), (vec![0x80], Some(2 + step)));
        // Of several registers it is not known before which the number leads to.
        assert_eq!((file.quick_read(at(0, 2)), file.quick_write(at(0, 2), 0)), (None, false));
    }
}

#[test]
fn test_bank_and_its_register_in_one_write_reach_the_bank_that_was_just_chosen() {
    let bank = |equals, reset| Cell { when: Some(When { cell: 0, mask: 1, equals }), reset, ..plain(1, 1) };
    let file = file(vec![Cell { reset: 0, ..plain(0, 1) }, bank(0, 0x50), bank(1, 0x60)], Rule::Split);
    assert!(file.quick_write(at(0, 2), 0xAA01));
    assert_eq!([file.get(1), file.get(2)], [Some(0x50), Some(0xAA)]);
}

#[test]
fn test_bytes_that_are_not_written_neither_clear_nor_set_anything() {
    let bits = Bits { readable: ones(4), cleared_by_1: 0xFF00_FF00, cleared_by_0: 0x00FF_00FF, ..Bits::default() };
    let held = 0xFFFF_FFFF;
    for rule in [Rule::Split, Rule::Widen] {
        let file = file(vec![Cell { bits, ..plain(0, 4) }], rule);
        file.set(0, held, u64::MAX);
        assert!(file.quick_write(at(0, 1), 0xF0));
        assert_eq!(file.get(0), Some(0xFFFF_FFF0), "{rule:?}");
        assert!(file.quick_write(at(3, 1), 0x0F));
        assert_eq!(file.get(0), Some(0xF0FF_FFF0), "{rule:?}");
    }
}

#[test]
fn test_narrow_read_clears_its_bytes_under_split_and_all_of_them_under_widen() {
    let bits = Bits { readable: ones(4), cleared_by_read: ones(4), ..Bits::default() };
    for (rule, left) in [(Rule::Split, 0x4400_2211), (Rule::Widen, 0), (Rule::Exact, 0x4433_2211)] {
        let file = file(vec![Cell { bits, reset: 0x4433_2211, ..plain(0, 4) }], rule);
        assert_eq!(file.quick_read(at(2, 1)), Some(if rule == Rule::Exact { 0 } else { 0x33 }));
        assert_eq!(file.get(0), Some(left), "{rule:?}");
    }
}

#[test]
fn test_write_that_does_not_give_the_bits_that_are_looked_for_is_not_told() {
    for rule in [Rule::Split, Rule::Widen] {
        let cells = vec![
            Cell { on_write: Tell::If(1), reset: 1, ..plain(0, 4) },
            Cell { on_write: Tell::If(1), ..of_kind(4, 4, Kind::Counter { hz: 1 }, (true, true)) },
            Cell { on_write: Tell::If(1), big_endian: true, ..plain(8, 4) },
        ];
        let (file, log) = (file(cells, rule), Log::default());
        file.set(1, 1, u64::MAX);
        for offset in [0, 4] {
            // The bit is 1 in what the register holds, and not written.
            assert!(file.quick_write(at(offset + 3, 1), 0x80), "{rule:?}, {offset}");
            assert!(!file.quick_write(at(offset, 1), 0x81));
            let _ = file.write(at(offset, 1), 0x81, &log);
            assert_eq!(told(&log), [0x8000_0081], "{rule:?}, {offset}");
        }
        assert!(file.quick_write(at(8, 1), 1));
        assert!(!file.quick_write(at(11, 1), 1));
    }
}

#[test]
fn test_window_is_accessed_far_from_its_start_and_at_its_end() {
    let file = file(vec![of_kind(3, 1, Kind::Ram { len: 0x3B }, (true, true))], Rule::Refuse);
    assert!(file.quick_write(at(0x30, 8), 0x8877_6655_4433_2211));
    assert_eq!(file.quick_read(at(0x33, 3)), Some(0x66_5544));
    assert!(file.quick_write(at(0x3D, 1), 0xEE));
    assert_eq!(file.quick_read(at(0x3A, 4)), Some(0xEE00_0000));
    assert_eq!(file.quick_read(at(0x3D, 2)), None); // one byte of it is beyond
}

#[test]
fn test_window_gives_and_takes_bytes_of_every_length_at_every_place() {
    let file = file(vec![of_kind(0, 1, Kind::Ram { len: 29 }, (true, true))], Rule::Split);
    let mut expected = [0_u8; 29];
    for from in 0..=29 {
        for len in 0..=29 - from {
            let bytes: Vec<u8> = (0..len).map(|byte| (7 * from + 11 * len + 13 * byte) as u8).collect();
            expected[from..from + len].copy_from_slice(&bytes);
            assert!(file.write_window(0, from as u64, &bytes));
            let (mut all, mut part) = ([0; 29], vec![0; len]);
            assert!(file.read_window(0, 0, &mut all) && file.read_window(0, from as u64, &mut part));
            assert_eq!((all, part), (expected, bytes));
        }
    }
    for (from, len) in [(30, 0), (29, 1), (0, 30), (u64::MAX, 1), (u64::MAX, 0)] {
        assert!(!file.write_window(0, from, &vec![1; len]));
        assert!(!file.read_window(0, from, &mut vec![1; len]));
    }
}

#[test]
fn test_queue_moves_one_item_for_each_access_that_touches_it() {
    let file = file(vec![queue(0, 4, true, Overflow::Drop), queue(0, 4, false, Overflow::Drop)], Rule::Split);
    for item in [0x1111_2222, 0x3333_4444] {
        assert!(file.push(0, item));
    }
    assert_eq!([file.quick_read(at(2, 1)), file.quick_read(at(0, 8))], [Some(0x11), Some(0x3333_4444)]);
    assert_eq!(file.quick_read(at(3, 4)), Some(0)); // the last byte of 0xEE
    assert!(file.quick_write(at(1, 2), 0xABCD));
    assert!(file.quick_write(at(3, 2), 0xEF));
    assert_eq!(file.items(1), [0x00AB_CD00, 0xEF00_0000]);
}

#[test]
fn test_queue_that_is_full_loses_the_new_item_or_the_oldest() {
    for (overflow, kept) in [(Overflow::Drop, [1, 2, 3]), (Overflow::Overwrite, [2, 3, 4])] {
        let file = file(vec![queue(0, 1, false, overflow)], Rule::Split);
        for item in 1..=4 {
            assert!(file.quick_write(at(0, 1), item));
        }
        assert_eq!((file.items(0), file.level(0)), (kept.to_vec(), (3, 1)));
        assert!(!file.push(0, 9));
        assert_eq!((file.front(0), file.level(0)), (Some(kept[0] + u64::from(overflow != Overflow::Drop)), (3, 2)));
    }
}

fn with_threshold(guest_takes: bool, overflow: Overflow, threshold: u32) -> Cell {
    let cell = queue(0, 1, guest_takes, overflow);
    let kind = Kind::Fifo { depth: 3, guest_takes, overflow, empty: 0xEE, threshold };
    let on_write = if guest_takes { Tell::Never } else { Tell::Always };
    Cell { kind, on_read: guest_takes, on_write, ..cell }
}

#[test]
fn test_owner_is_told_of_writes_that_fill_a_queue_to_its_threshold() {
    for (threshold, expected) in [(0, vec![1, 2, 3, 4]), (2, vec![2, 3, 4]), (3, vec![3, 4])] {
        for overflow in [Overflow::Drop, Overflow::Overwrite] {
            let (file, log) = (file(vec![with_threshold(false, overflow, threshold)], Rule::Split), Log::default());
            for item in 1..=4 {
                let is_quick = file.quick_write(at(0, 1), item);
                assert_eq!(is_quick, !expected.contains(&item), "{threshold}, {item}");
                if !is_quick {
                    let _ = file.write(at(0, 1), item, &log);
                }
            }
            assert_eq!((told(&log), file.level(0)), (expected.clone(), (3, 1)));
        }
    }
}

#[test]
fn test_owner_is_asked_at_reads_that_drain_a_queue_to_its_threshold() {
    for (threshold, asked) in [(0, [false, false, true, true]), (1, [false, true, true, true]), (3, [true; 4])] {
        let (file, log) = (file(vec![with_threshold(true, Overflow::Drop, threshold)], Rule::Split), Log::default());
        file.set_items(0, &[1, 2, 3], 0);
        for asked in asked {
            assert_eq!(file.quick_read(at(0, 1)).is_none(), asked, "{threshold}");
            if asked {
                let _ = file.read(at(0, 1), &log);
            }
        }
        assert_eq!((file.level(0).0, log.0.lock().unwrap().len()), (0, asked.iter().filter(|&&it| it).count()));
    }
}

#[test]
fn test_threshold_is_changed_by_the_owner_and_comes_back_with_a_reset() {
    let file = file(vec![with_threshold(false, Overflow::Drop, 1)], Rule::Split);
    file.set_threshold(0, 2);
    assert!(file.quick_write(at(0, 1), 1));
    assert!(!file.quick_write(at(0, 1), 2));
    assert_eq!((file.threshold(0), file.level(0)), (2, (1, 0))); // nothing was done
    file.reset();
    assert_eq!(file.threshold(0), 1);
}

#[test]
fn test_level_shows_items_as_far_as_its_width_can() {
    let queue = Cell {
        kind: Kind::Fifo { depth: 300, guest_takes: true, overflow: Overflow::Drop, empty: 0, threshold: 300 },
        ..queue(0, 1, true, Overflow::Drop)
    };
    let level = |offset, width| of_kind(offset, width, Kind::Level { of: 0 }, (true, false));
    let file = file(vec![queue, level(1, 1), Cell { big_endian: true, ..level(2, 2) }], Rule::Split);
    file.set_items(0, &[7; 300], 0);
    assert_eq!([file.quick_read(at(1, 1)), file.quick_read(at(2, 2))], [Some(0xFF), Some(0x2C01)]);
    assert_eq!([file.get(1), file.get(2)], [Some(0xFF), Some(300)]);
    assert_eq!(file.quick_read(at(0, 1)), Some(7));
    assert_eq!(file.get(2), Some(299));
}

#[test]
fn test_half_of_a_counter_is_set_and_the_other_half_counts_on() {
    let clock = Arc::new(Clock::manual());
    let file = file(vec![of_kind(0, 4, Kind::Counter { hz: 1000 }, (true, true))], Rule::Split);
    file.set_clock(clock.clone());
    clock.step(70_000_000_000).unwrap();
    assert_eq!(file.quick_read(at(0, 4)), Some(70_000));
    assert!(file.quick_write(at(2, 2), 0x1234));
    assert_eq!(file.quick_read(at(0, 4)), Some(0x1234_0000 | (70_000 & 0xFFFF)));
    clock.step(1_000_000).unwrap();
    assert_eq!(file.quick_read(at(0, 4)), Some((0x1234_0000 | (70_000 & 0xFFFF)) + 1));
}

#[test]
fn test_counter_is_at_its_reset_value_after_a_reset_and_counts_from_there() {
    let clock = Arc::new(Clock::manual());
    let file =
        file(vec![Cell { reset: 5, ..of_kind(0, 8, Kind::Counter { hz: 1_000_000_000 }, (true, true)) }], Rule::Split);
    file.set_clock(clock.clone());
    clock.step(100).unwrap();
    clock.reset();
    file.reset();
    clock.step(3).unwrap();
    assert_eq!(file.get(0), Some(8));
}

#[test]
fn test_reset_restores_every_kind_of_register() {
    for named in KINDS.iter().map(|make| make()) {
        let layout = Arc::new(Layout::new(named.cells.clone(), named.size, Rule::Split, false).unwrap());
        let mut pair = Pair::new(&layout, true);
        pair.fill(11);
        pair.file.reset();
        pair.model.reset();
        pair.compare(named.name);
    }
}

#[test]
fn test_owner_sets_bits_that_guests_cannot_and_looking_changes_nothing() {
    for rule in RULES {
        let file = file(vec![mixed(0, 8, 3)], rule);
        file.set(0, u64::MAX, 0x0F0F_0000_0000_00FF);
        file.set(0, 0, 0x0000_0000_0000_0F0F);
        let expected = (0x0807_0605_0403_0201 | 0x0F0F_0000_0000_00FF) & !0x0F0F;
        assert_eq!([file.get(0), file.get(0)], [Some(expected); 2]);
    }
    let file = file(vec![plain(0, 2)], Rule::Split);
    file.set(0, u64::MAX, u64::MAX);
    assert_eq!(file.get(0), Some(0xFFFF));
    assert_eq!((file.get(1), file.push(0, 1), file.items(0), file.level(0)), (None, false, vec![], (0, 0)));
}

#[test]
fn test_items_beyond_the_depth_or_the_width_are_cut() {
    let file = file(vec![queue(0, 1, true, Overflow::Drop)], Rule::Split);
    file.set_items(0, &[0x101, 2, 3, 4, 5], 9);
    assert_eq!((file.items(0), file.level(0)), (vec![1, 2, 3], (3, 9)));
    assert_eq!(file.pop(0), Some(1));
    assert!(file.push(0, 0xFFF));
    assert_eq!(file.items(0), [2, 3, 0xFF]);
}
