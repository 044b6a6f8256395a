//! The queue of writes by itself: what is kept and what is told at once, order among threads, and owners that do not return.
#![allow(clippy::unwrap_used)]

use std::cell::RefCell;
use std::sync::Arc;

use super::super::{Bits, Cell, Delivery, Kind, Layout, LayoutError, Overflow, Rule, Tell, When};
use super::*;
use crate::bus::{BellAt, Space};
use crate::exit::StopReason;
use crate::testing::Event;
use crate::vcpu::current;

pub(crate) fn cell(offset: u64, delivery: Delivery) -> Cell {
    let bits = Bits { readable: 0xffff_ffff, stored: 0xffff_ffff, ..Bits::default() };
    Cell {
        offset: Some(offset),
        width: 4,
        kind: Kind::Plain,
        bits,
        reset: 0,
        big_endian: false,
        sides: (true, true),
        when: None,
        on_read: false,
        on_write: Tell::Always,
        delivery,
    }
}

/// A posted register at 0, one that is told of at once at 4, a stream at 8.
fn file() -> RegisterFile {
    let cells = vec![cell(0, Delivery::Posted), cell(4, Delivery::Now), cell(8, Delivery::Stream)];
    RegisterFile::new(Arc::new(Layout::new(cells, 0x10, Rule::Split, false).unwrap()))
}

fn at(offset: u64) -> Access {
    Access { offset, size: 4, vcpu: 3 }
}

const SPOT: &dyn Fn(u64) -> Spot = &|_| Spot { machine: 7, space: Space::Mmio, base: 0x1000 };

/// Keeps what it is told of, and what the thread said that it is in.
#[derive(Default)]
struct Log(RefCell<Vec<(u32, u64, Option<u64>)>>);

impl Owner for Log {
    fn read(&self, _: u32, _: u64) -> Option<u64> {
        None
    }
    fn write(&self, cell: u32, value: u64) -> Action {
        self.0.borrow_mut().push((cell, value, current().map(|it| it.address)));
        if value == 99 { Action::Stop(StopReason::Text("enough".into())) } else { Action::Continue }
    }
    fn plain_read(&self, _: Access) -> u64 {
        0
    }
    fn plain_write(&self, _: Access, _: u64) -> Action {
        Action::Continue
    }
    fn refused(&self, _: Access, _: Option<u64>) {}
}

fn nothing(_: u32, _: Action) {}

#[test]
fn test_posted_write_is_held_by_its_register_at_once_and_told_later_in_order() {
    let (file, log) = (file(), Log::default());
    assert!(file.quick_write(at(0), 1) && file.quick_write(at(0), 2));
    file.defer(at(8), 3);
    assert!(!file.quick_write(at(4), 4), "told at once");
    assert_eq!((file.get(0), file.get(2)), (Some(2), Some(0)));
    assert!(file.has_late());
    file.batch(usize::MAX).unwrap().serve(SPOT, &log, &nothing);
    assert_eq!(*log.0.borrow(), [(0, 1, Some(0x1000)), (0, 2, Some(0x1000)), (2, 3, Some(0x1008))]);
    assert_eq!((file.get(2), file.has_late(), file.batch(usize::MAX).is_none()), (Some(3), false, true));
    assert_eq!((file.hits(0).writes, file.hits(0).told, file.hits(2).told), (2, 2, 1));
}

#[test]
fn test_queue_that_is_full_leaves_the_write_to_be_told_at_once() {
    let file = file();
    let kept = (0..).take_while(|&value| file.quick_write(at(0), value)).count();
    assert_eq!((kept, file.get(0)), (DEPTH, Some(DEPTH as u64 - 1)));
    // What was in the ring is kept all the same: it comes once.
    file.defer(at(8), 1);
    let log = Log::default();
    file.batch(usize::MAX).unwrap().serve(SPOT, &log, &nothing);
    assert_eq!(log.0.borrow().len(), DEPTH + 1);
    assert!(file.quick_write(at(0), 1));
}

#[test]
fn test_write_of_several_registers_is_kept_only_if_none_of_them_is_told_at_once() {
    let (file, log) = (file(), Log::default());
    let wide = Access { offset: 0, size: 8, vcpu: 0 };
    assert!(!file.quick_write(wide, 0x2_0000_0001));
    file.write(wide, 0x2_0000_0001, &log);
    assert_eq!(*log.0.borrow(), [(0, 1, None), (1, 2, None)]);
    assert!(!file.has_late());
}

#[test]
fn test_write_of_two_posted_registers_is_kept_as_a_whole_or_not_at_all() {
    let cells = vec![cell(0, Delivery::Posted), cell(4, Delivery::Posted)];
    let (file, log) = (RegisterFile::new(Arc::new(Layout::new(cells, 8, Rule::Split, false).unwrap())), Log::default());
    let wide = Access { offset: 0, size: 8, vcpu: 0 };
    let kept = (1..).take_while(|&value| file.quick_write(wide, value << 32 | value)).count();
    assert_eq!((kept, file.get(0), file.get(1)), (DEPTH / 2, Some(DEPTH as u64 / 2), Some(DEPTH as u64 / 2)));
    file.batch(usize::MAX).unwrap().serve(SPOT, &log, &nothing);
    let told: Vec<_> = log.0.borrow().iter().map(|&(cell, value, _)| (cell, value)).collect();
    assert_eq!(told, (1..=DEPTH as u64 / 2).flat_map(|value| [(0, value), (1, value)]).collect::<Vec<_>>());
}

#[test]
fn test_posted_register_behind_a_port_is_kept_with_its_number_and_moves_it_once() {
    let quiet = |offset| Cell { on_write: Tell::Never, ..cell(offset, Delivery::Now) };
    let kind = Kind::Port { index: 0, mask: 3, first: 2, count: 2, step: 1 };
    let behind = |delivery| Cell { offset: None, ..cell(0, delivery) };
    let port = |one, two| {
        let cells = vec![quiet(0), Cell { kind, bits: Bits::default(), ..quiet(4) }, behind(one), behind(two)];
        Layout::new(cells, 8, Rule::Split, false)
    };
    let (file, log) = (RegisterFile::new(Arc::new(port(Delivery::Posted, Delivery::Posted).unwrap())), Log::default());
    assert!(file.layout().shortcuts().late);
    assert!(file.quick_write(at(4), 7) && file.quick_write(at(4), 8));
    assert_eq!((file.get(0), file.get(2), file.get(3)), (Some(2), Some(7), Some(8)));
    file.batch(usize::MAX).unwrap().serve(SPOT, &log, &nothing);
    assert_eq!(*log.0.borrow(), [(2, 7, Some(0x1004)), (3, 8, Some(0x1004))]);
    assert_eq!(port(Delivery::Posted, Delivery::Now).unwrap_err(), LayoutError::Reference { cell: 1, other: 3 });
    assert_eq!(port(Delivery::Stream, Delivery::Stream).unwrap_err(), LayoutError::Reference { cell: 1, other: 2 });
}

#[test]
fn test_what_a_late_write_asks_for_is_told_with_its_vcpu_and_the_rest_goes_on() {
    let (file, log, asked) = (file(), Log::default(), RefCell::new(Vec::new()));
    for value in [1, 99, 2] {
        assert!(file.quick_write(at(0), value));
    }
    file.batch(usize::MAX).unwrap().serve(SPOT, &log, &|vcpu, action| asked.borrow_mut().push((vcpu, action)));
    assert_eq!(*asked.borrow(), [(3, Action::Stop(StopReason::Text("enough".into())))]);
    assert_eq!(log.0.borrow().len(), 3);
}

#[test]
fn test_reset_forgets_what_waits() {
    let file = file();
    assert!(file.quick_write(at(0), 1));
    file.reset();
    assert!(!file.has_late() && file.batch(usize::MAX).is_none());
}

/// At each write that it is told of, three more come out of the ring, and somebody wants it to be told of all: as where its
/// method takes it off the bus.
struct Leaving<'a>(&'a RegisterFile, RefCell<Vec<u64>>);

impl Owner for Leaving<'_> {
    fn read(&self, _: u32, _: u64) -> Option<u64> {
        None
    }
    fn write(&self, _: u32, value: u64) -> Action {
        self.1.borrow_mut().push(value);
        if value == 1 || value > 99 {
            (0..3).for_each(|more| self.0.defer(at(8), value * 10 + more));
            assert!(self.0.batch(usize::MAX).is_none(), "a method of its own is not entered again");
        }
        Action::Continue
    }
    fn plain_read(&self, _: Access) -> u64 {
        0
    }
    fn plain_write(&self, _: Access, _: u64) -> Action {
        Action::Continue
    }
    fn refused(&self, _: Access, _: Option<u64>) {}
}

#[test]
fn test_late_write_whose_method_wants_all_told_is_followed_by_all_but_not_for_ever() {
    let file = file();
    let leaving = Leaving(&file, RefCell::default());
    file.quick_write(at(0), 1);
    file.batch(usize::MAX).unwrap().serve(SPOT, &leaving, &nothing);
    assert_eq!(*leaving.1.borrow(), [1, 10, 11, 12]);
    assert!(!file.has_late());
    file.quick_write(at(0), 100);
    file.batch(usize::MAX).unwrap().serve(SPOT, &leaving, &nothing);
    assert_eq!(leaving.1.borrow().len(), 4 + 1 + MORE);
    file.reset();
    assert!(!file.has_late());
}

/// Tells when it is called, and returns when it is let.
struct Slow<'a> {
    file: &'a RegisterFile,
    called: &'a Event,
    go: &'a Event,
    log: &'a Mutex<Vec<u64>>,
}

impl Owner for Slow<'_> {
    fn read(&self, _: u32, _: u64) -> Option<u64> {
        None
    }
    fn write(&self, _: u32, value: u64) -> Action {
        assert!(self.file.batch(usize::MAX).is_none(), "a method of its own is not entered again");
        if value == 1 {
            self.called.set();
            self.go.wait();
        }
        self.log.lock().unwrap().push(value);
        Action::Continue
    }
    fn plain_read(&self, _: Access) -> u64 {
        0
    }
    fn plain_write(&self, _: Access, _: u64) -> Action {
        Action::Continue
    }
    fn refused(&self, _: Access, _: Option<u64>) {}
}

/// A thread tells the owner of 1, which takes until `go`; another one comes then, with 2 in the queue.
fn two_threads(let_go: bool) -> (Vec<u64>, [Duration; 2]) {
    let (file, called, go, log) = (file(), Event::new(), Event::new(), Mutex::new(Vec::new()));
    let began = Instant::now();
    let took = thread::scope(|scope| {
        let slow = Slow { file: &file, called: &called, go: &go, log: &log };
        assert!(file.quick_write(at(0), 1));
        let first = scope.spawn(|| {
            let slow = Slow { file: &file, called: &called, go: &go, log: &log };
            file.batch(usize::MAX).unwrap().serve(SPOT, &slow, &nothing);
        });
        called.wait();
        assert!(file.quick_write(at(0), 2));
        if let_go {
            go.set();
        }
        if let Some(batch) = file.batch(usize::MAX) {
            batch.serve(SPOT, &slow, &nothing);
        }
        let took = began.elapsed();
        let again = file.batch(usize::MAX).is_some();
        let more = began.elapsed() - took;
        assert!(!again);
        go.set();
        first.join().unwrap();
        [took, more]
    });
    assert!(!file.has_late());
    (log.into_inner().unwrap(), took)
}

#[test]
fn test_late_writes_that_another_thread_tells_of_come_first() {
    assert_eq!(two_threads(true).0, [1, 2]);
}

// fault row 32
#[test]
fn test_late_write_whose_method_does_not_return_is_overtaken_after_a_second() {
    let (told, [took, more]) = two_threads(false);
    assert_eq!(told, [2, 1]);
    assert!(took >= PATIENCE && more < PATIENCE / 2, "{took:?} {more:?}");
}

#[test]
fn test_streamed_writes_that_nobody_is_told_of_do_not_overtake_those_that_wait() {
    let stream = Cell { on_write: Tell::If(0x100), ..cell(0, Delivery::Stream) };
    let kind = Kind::Fifo { depth: 4, guest_takes: false, overflow: Overflow::Drop, empty: 0, threshold: 2 };
    let queue =
        Cell { kind, bits: Bits::default(), sides: (false, true), on_write: Tell::Always, ..cell(4, Delivery::Stream) };
    let layout = Layout::new(vec![stream, queue], 8, Rule::Split, false).unwrap();
    let (file, log) = (RegisterFile::new(Arc::new(layout)), Log::default());
    let told = || log.0.take().into_iter().map(|(cell, value, _)| (cell, value)).collect::<Vec<_>>();
    let values = [1, 0x102, 3];
    values.iter().for_each(|&value| file.defer(at(0), value));
    assert_eq!(file.get(0), Some(1));
    assert!(!file.quick_write(at(0), 4), "one that is an exit has them told first");
    file.batch(usize::MAX).unwrap().serve(SPOT, &log, &nothing);
    assert_eq!((told(), file.get(0)), (vec![(0, 0x102)], Some(3)));
    assert!(file.quick_write(at(0), 4));
    // A queue's method is told of the second item, unless the device takes the first one before.
    file.defer(at(4), 1);
    file.defer(at(4), 2);
    assert_eq!((file.pop(1), file.has_late()), (Some(1), true));
    file.defer(at(4), 3);
    assert!(file.items(1).is_empty());
    file.batch(usize::MAX).unwrap().serve(SPOT, &log, &nothing);
    assert_eq!((file.items(1), told()), (vec![2, 3], vec![(1, 3)]));
}

#[test]
fn test_layout_tells_what_the_kernel_takes() {
    let mut big = cell(0x10, Delivery::Bell(vec![1, 0x1234]));
    big.big_endian = true;
    let silent = Cell { on_write: Tell::Never, ..cell(0x14, Delivery::Bell(vec![])) };
    let cells = vec![cell(0, Delivery::Now), cell(4, Delivery::Stream), cell(8, Delivery::Bell(vec![])), big, silent];
    let told = Layout::new(cells, 0x20, Rule::Split, false).unwrap().shortcuts();
    let bell = |offset, value| BellAt { offset, size: 4, value };
    assert_eq!((told.late, told.streams), (true, vec![(4, 4)]));
    assert_eq!(told.bells, [bell(8, None), bell(0x10, Some(0x0100_0000)), bell(0x10, Some(0x3412_0000))]);
    let plain = Layout::new(vec![cell(0, Delivery::Now)], 4, Rule::Split, false).unwrap();
    assert!(!plain.shortcuts().late);
}

#[test]
fn test_register_whose_writes_the_kernel_takes_shares_its_place_with_none() {
    let when = Some(When { cell: 0, mask: 1, equals: 1 });
    let banked = Cell { when, ..cell(4, Delivery::Now) };
    for delivery in [Delivery::Stream, Delivery::Bell(vec![])] {
        let refused = |cells| Layout::new(cells, 0x10, Rule::Split, false).unwrap_err();
        let shared = refused(vec![cell(0, Delivery::Now), cell(4, delivery.clone()), banked.clone()]);
        assert_eq!(shared, LayoutError::Shared { cell: 1, other: 2, offset: 4 });
        assert!(!shared.hint().is_empty());
        let at_times = Cell { when, ..cell(4, delivery) };
        let alone = refused(vec![cell(0, Delivery::Now), at_times]);
        assert_eq!(alone, LayoutError::Shared { cell: 1, other: 1, offset: 4 });
    }
    let wide = vec![cell(0, Delivery::Bell(vec![1 << 32]))];
    assert!(matches!(Layout::new(wide, 4, Rule::Split, false), Err(LayoutError::Value { cell: 0, .. })));
    let fifo = Kind::Fifo { depth: 4, guest_takes: true, overflow: Overflow::Drop, empty: 0, threshold: 0 };
    let beside = Cell {
        kind: fifo,
        sides: (true, false),
        on_write: Tell::Never,
        bits: Bits::default(),
        ..cell(0, Delivery::Now)
    };
    let stream = Cell { sides: (false, true), ..cell(0, Delivery::Stream) };
    assert!(Layout::new(vec![beside, stream], 4, Rule::Split, false).is_ok(), "reads are others");
}
