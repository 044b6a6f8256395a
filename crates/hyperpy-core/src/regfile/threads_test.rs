//! Two threads at one register, as two vCPUs, or a vCPU and the owner: nothing is lost, and nothing is given twice.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::cast_possible_truncation)]

use std::sync::Barrier;
use std::thread;

use super::pair::layouts::{of_kind, plain, queue};
use super::*;
use crate::bus::ones;

const TURNS: u64 = 100_000;

fn file(cells: Vec<Cell>, rule: Rule) -> RegisterFile {
    RegisterFile::new(Arc::new(Layout::new(cells, 0x40, rule, false).unwrap()))
}

fn at(offset: u64, size: u8) -> Access {
    Access { offset, size, vcpu: 0 }
}

/// Runs both at once, and returns what they return.
fn beside<T: Send>(one: impl FnOnce() -> T + Send, two: impl FnOnce() -> T + Send) -> (T, T) {
    let barrier = Barrier::new(2);
    thread::scope(|scope| {
        let one = scope.spawn(|| {
            barrier.wait();
            one()
        });
        barrier.wait();
        let two = two();
        (one.join().unwrap(), two)
    })
}

/// Writes a byte again and again that nobody else writes, and counts how often it was another one until the next time.
fn overwritten(file: &RegisterFile, byte: u64) -> u64 {
    let held = || file.quick_read(at(byte, 1)).unwrap();
    let mut last = held();
    let mut write = |turn: &u64| {
        let was_lost = held() != last;
        last = turn & 0xFF;
        assert!(file.quick_write(at(byte, 1), last));
        was_lost || held() != last
    };
    (0..TURNS).filter(|turn| write(turn)).count() as u64
}

#[test]
fn test_bytes_of_one_register_written_by_two_at_once_are_all_kept() {
    for rule in [Rule::Split, Rule::Widen] {
        let counter = of_kind(8, 4, Kind::Counter { hz: 1 }, (true, true));
        let window = of_kind(16, 1, Kind::Ram { len: 8 }, (true, true));
        for (first, cell) in [(0, plain(0, 4)), (8, counter), (16, window)] {
            let file = file(vec![cell], rule);
            let lost = beside(|| overwritten(&file, first), || overwritten(&file, first + 1));
            assert_eq!(lost, (0, 0), "{rule:?}, {first}");
        }
    }
}

#[test]
fn test_field_set_by_the_owner_beside_a_guest_that_writes_others_is_kept() {
    let file = file(vec![plain(0, 4)], Rule::Widen);
    let held = || file.get(0).unwrap() >> 16 & 0xFF;
    let owner = || {
        let mut last = held();
        let mut set = |turn: &u64| {
            let was_lost = held() != last;
            last = turn & 0xFF;
            file.set(0, last << 16, 0xFF_0000);
            was_lost || held() != last
        };
        (0..TURNS).filter(|turn| set(turn)).count() as u64
    };
    assert_eq!(beside(|| overwritten(&file, 0), owner), (0, 0));
}

#[test]
fn test_bits_that_a_read_clears_are_given_to_one_reader_each() {
    let bits = Bits { readable: ones(8), cleared_by_read: ones(8), ..Bits::default() };
    let file = file(vec![Cell { bits, reset: 0, sides: (true, false), ..plain(0, 8) }], Rule::Split);
    let read = || u64::from(file.quick_read(at(0, 8)).unwrap().count_ones());
    let done = std::sync::atomic::AtomicBool::new(false);
    let set = || {
        for turn in 0..TURNS {
            let bit = 1 << (turn % 64);
            while file.get(0).unwrap() & bit != 0 {
                thread::yield_now();
            }
            file.set(0, bit, bit);
        }
        done.store(true, Ordering::SeqCst);
        0
    };
    let readers = || {
        let look = || {
            let mut seen = 0;
            while !done.load(Ordering::SeqCst) {
                seen += read();
            }
            seen
        };
        let (one, two) = beside(look, look);
        one + two
    };
    let (_, seen) = beside(set, readers);
    assert_eq!(seen + read(), TURNS);
}

#[test]
fn test_bits_set_by_two_guests_are_all_set() {
    let bits = Bits { readable: ones(8), set_by_1: ones(8), ..Bits::default() };
    for _ in 0..200 {
        let file = file(vec![Cell { bits, reset: 0, ..plain(0, 8) }], Rule::Split);
        let set = |from: u32| {
            let file = &file;
            move || (0..32).for_each(|bit| assert!(file.quick_write(at(0, 8), 1 << (2 * bit + from))))
        };
        beside(set(0), set(1));
        assert_eq!(file.get(0), Some(u64::MAX));
    }
}

/// What two readers of one place get until there is nothing more, sorted.
fn drained(file: &RegisterFile, offset: u64, end: u64) -> Vec<u64> {
    let take =
        || std::iter::repeat_with(|| file.quick_read(at(offset, 4)).unwrap()).take_while(|&item| item != end).collect();
    let (mut items, rest): (Vec<u64>, Vec<u64>) = beside(take, take);
    items.extend(rest);
    items.sort_unstable();
    items
}

#[test]
fn test_items_of_a_queue_are_given_once_each() {
    let kind = Kind::Fifo { depth: 50_000, guest_takes: true, overflow: Overflow::Drop, empty: 99_999, threshold: 0 };
    let file = file(vec![Cell { kind, ..queue(0, 4, true, Overflow::Drop) }], Rule::Split);
    file.set_items(0, &(0..50_000).collect::<Vec<_>>(), 0);
    assert_eq!(drained(&file, 0, 99_999), (0..50_000).collect::<Vec<_>>());
}

#[test]
fn test_registers_behind_a_port_that_moves_on_are_given_once_each() {
    let kind = Kind::Port { index: 0, mask: 0xFFFF, first: 2, count: 50_000, step: 1 };
    let mut cells = vec![Cell { reset: 0, ..plain(0, 2) }, of_kind(4, 4, kind, (true, true))];
    cells.extend((1..=50_000).map(|value| Cell { offset: None, reset: value, ..plain(0, 4) }));
    let file = file(cells, Rule::Split);
    assert_eq!(drained(&file, 4, 0), (1..=50_000).collect::<Vec<_>>());
}

#[test]
fn test_marked_register_behind_a_port_is_never_served_without_its_owner_while_the_number_changes() {
    for step in [0, 1] {
        let kind = Kind::Port { index: 0, mask: 1, first: 2, count: 2, step };
        let behind = Cell { offset: None, sides: (false, false), reset: 5, ..plain(0, 4) };
        let marked = Cell { on_read: true, on_write: Tell::Always, reset: 9, ..behind.clone() };
        let file = file(vec![plain(0, 4), of_kind(4, 4, kind, (true, true)), behind, marked], Rule::Split);
        let flip = || (0..TURNS).for_each(|turn| assert!(file.quick_write(at(0, 4), turn & 1)));
        let access = || {
            for _ in 0..TURNS {
                assert_ne!(file.quick_read(at(4, 4)), Some(9));
                file.quick_write(at(4, 4), 5);
            }
        };
        beside(flip, access);
        assert_eq!(file.get(3), Some(9));
    }
}

#[test]
fn test_aligned_words_of_a_window_are_never_half_written() {
    let file = file(vec![of_kind(0, 1, Kind::Ram { len: 64 }, (true, true))], Rule::Split);
    let write =
        || (0..TURNS).for_each(|turn| assert!(file.quick_write(at(8, 8), (turn % 256) * 0x0101_0101_0101_0101)));
    let read = || {
        for _ in 0..TURNS {
            let bytes = file.quick_read(at(8, 8)).unwrap().to_le_bytes();
            assert!(bytes.iter().all(|byte| *byte == bytes[0]), "{bytes:x?}");
        }
    };
    beside(write, read);
}
