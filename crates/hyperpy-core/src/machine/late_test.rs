//! When devices see writes that they keep: before their other accesses, at ticks, at the end of a round, and when they go.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::accel::AccelExit;
use crate::bus::{Access, Action, BellAt, Device, Placement, Rung, Shortcuts, Space, Spot};
use crate::exit::{Exit, StopReason};
use crate::posted::{Posted, Range};
use crate::regfile::{Bits, Cell, Delivery, Kind, Layout, Owner, RegisterFile, Rule, Tell};
use crate::scripted::Step;
use crate::testing::{Closures, LONG, Rig, before, ins, io, outs, stopped};
use crate::vcpu::current;

const BASE: u64 = 0xfe00_0000;

/// What happened: ("posted", value) and so on; and whether the thread said that it is in a device.
type Log = Arc<Mutex<Vec<(&'static str, u64)>>>;

/// Registers at 0 (posted), 4 (told at once), 8 (stream), 12 (nobody is told), as a device in Python has them.
struct Told {
    file: RegisterFile,
    log: Log,
}

impl Told {
    fn new() -> (Arc<Self>, Log) {
        let cell = |offset, delivery, on_write| Cell {
            offset: Some(offset),
            width: 4,
            kind: Kind::Plain,
            bits: Bits { readable: 0xffff_ffff, stored: 0xffff_ffff, ..Bits::default() },
            reset: 0,
            big_endian: false,
            sides: (true, true),
            when: None,
            on_read: offset == 4,
            on_write,
            delivery,
        };
        let cells = vec![
            cell(0, Delivery::Posted, Tell::Always),
            cell(4, Delivery::Now, Tell::Always),
            cell(8, Delivery::Stream, Tell::Always),
            cell(12, Delivery::Now, Tell::Never),
        ];
        let file = RegisterFile::new(Arc::new(Layout::new(cells, 0x10, Rule::Split, false).unwrap()));
        let log = Log::default();
        (Arc::new(Self { file, log: log.clone() }), log)
    }

    fn note(&self, what: &'static str, value: u64) {
        assert!(current().is_some(), "verbs that wait are refused in it");
        self.log.lock().unwrap().push((what, value));
    }
}

impl Owner for Told {
    fn read(&self, _: u32, _: u64) -> Option<u64> {
        self.note("read", 0);
        None
    }
    fn write(&self, cell: u32, value: u64) -> Action {
        self.note(["posted", "now", "stream", ""][cell as usize], value);
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

impl Device for Told {
    fn read(&self, at: Access) -> u64 {
        self.file.read(at, self)
    }
    fn write(&self, at: Access, value: u64) -> Action {
        self.file.write(at, value, self)
    }
    fn quick_read(&self, at: Access) -> Option<u64> {
        self.file.quick_read(at)
    }
    fn quick_write(&self, at: Access, value: u64) -> bool {
        self.file.quick_write(at, value)
    }
    fn shortcuts(&self) -> Shortcuts {
        self.file.layout().shortcuts()
    }
    fn defer(&self, at: Access, value: u64) -> Action {
        self.file.defer(at, value);
        Action::Continue
    }
    fn has_late(&self) -> bool {
        self.file.has_late()
    }
    fn flush(&self, most: usize, spot: &dyn Fn(u64) -> Spot, asked: &dyn Fn(u32, Action)) {
        if let Some(batch) = self.file.batch(most) {
            batch.serve(spot, self, asked);
        }
    }
    fn reset(&self) {
        self.file.reset();
    }
}

fn attached(scripts: Vec<Vec<Step>>) -> (Rig, Log, crate::machine::Attachment) {
    let (device, log) = Told::new();
    let rig = Rig::new(scripts);
    let place = rig.machine.attach(Space::Mmio, BASE, 0x10, "told", Rung::Declared, device).unwrap();
    (rig, log, place)
}

fn write(offset: u64, value: u64) -> Step {
    Step::Exit(AccelExit::Mmio { gpa: BASE + offset, size: 4, is_write: true }, vec![value])
}

fn read(offset: u64) -> Step {
    Step::Exit(AccelExit::Mmio { gpa: BASE + offset, size: 4, is_write: false }, vec![])
}

fn streamed(values: &[u64]) -> Step {
    let space = Space::Mmio;
    Step::Posted(values.iter().map(|&value| Posted { space, address: BASE + 8, size: 4, value }).collect())
}

fn seen(log: &Log) -> Vec<(&'static str, u64)> {
    log.lock().unwrap().clone()
}

#[test]
fn test_posted_writes_come_before_any_other_call_of_the_device_and_call_nobody_before() {
    let (device, log) = Told::new();
    let looks = log.clone();
    let nothing_yet = before(move || assert_eq!(seen(&looks), []));
    let rig = Rig::new(vec![vec![write(0, 1), write(0, 2), read(0), write(12, 5), nothing_yet, write(4, 3), read(4)]]);
    rig.machine.attach(Space::Mmio, BASE, 0x10, "told", Rung::Declared, device).unwrap();
    assert_eq!(rig.run().unwrap(), Exit::Halt { vcpu: 0 });
    assert_eq!(seen(&log), [("posted", 1), ("posted", 2), ("now", 3), ("read", 0)]);
    assert_eq!(rig.log().reads[0], (0, 2), "the register holds what was written last");
    let hits = rig.machine.control.vcpus()[0].readings().hits;
    assert_eq!((hits[Rung::Declared as usize], hits[Rung::Method as usize]), (4, 2));
}

#[test]
fn test_posted_writes_are_told_before_a_run_returns_whatever_it_ends_with() {
    let (rig, log, _) = attached(vec![vec![write(0, 1), ins(0x99, 1), write(0, 2), Step::Spin, write(0, 3)]]);
    assert_eq!(io(rig.run()).address, 0x99);
    assert_eq!(seen(&log), [("posted", 1)]);
    assert_eq!(rig.machine.run(Some(Duration::from_millis(50)), &rig).unwrap(), Exit::Timeout);
    assert_eq!(seen(&log), [("posted", 1), ("posted", 2)]);
    rig.start();
    assert_eq!(rig.wait().unwrap(), Exit::Halt { vcpu: 0 });
    assert_eq!(seen(&log).last(), Some(&("posted", 3)));
}

#[test]
fn test_posted_write_is_told_at_the_tick_while_the_guest_makes_no_exit() {
    let (rig, log, _) = attached(vec![vec![write(0, 1), Step::Sleep { interruptible: true }]]);
    rig.start();
    let until = std::time::Instant::now() + LONG;
    while seen(&log).is_empty() {
        assert!(std::time::Instant::now() < until, "nothing came");
        std::thread::yield_now();
    }
    rig.machine.pause(&rig).unwrap();
    assert_eq!(seen(&log), [("posted", 1)]);
}

#[test]
fn test_posted_write_that_stops_the_machine_stops_it_with_its_vcpu() {
    let (rig, log, _) = attached(vec![vec![write(0, 99), write(0, 1), write(4, 2), write(4, 3)]]);
    assert_eq!(rig.run().unwrap(), stopped(Some(0), "enough"));
    assert_eq!(seen(&log), [("posted", 99), ("posted", 1), ("now", 2)]);
    assert_eq!(rig.run().unwrap(), Exit::Halt { vcpu: 0 });
}

#[test]
fn test_posted_writes_of_a_completion_are_told_when_it_is_complete() {
    let part = Step::Part(AccelExit::Mmio { gpa: BASE, size: 4, is_write: true }, vec![7]);
    let (rig, log, _) = attached(vec![vec![ins(0x99, 1), part]]);
    io(rig.run());
    rig.machine.set_regs(0, &rig, |regs| regs.rbx = 1).unwrap();
    assert_eq!(seen(&log), [("posted", 7)]);
}

#[test]
fn test_streamed_writes_are_told_in_order_before_the_exit_that_they_came_with() {
    let (rig, log, _) =
        attached(vec![vec![streamed(&[1, 2]), write(4, 3), streamed(&[4]), Step::Spin, streamed(&[5])]]);
    assert_eq!(rig.machine.run(Some(Duration::from_millis(50)), &rig).unwrap(), Exit::Timeout);
    assert_eq!(seen(&log), [("stream", 1), ("stream", 2), ("now", 3), ("stream", 4)]);
    assert_eq!(rig.run().unwrap(), Exit::Halt { vcpu: 0 });
    assert_eq!(seen(&log).last(), Some(&("stream", 5)));
    let readings = rig.machine.control.vcpus()[0].readings();
    assert_eq!(readings.hits[Rung::Kernel as usize], 4);
}

#[test]
fn test_streamed_write_that_is_an_exit_is_told_at_once_and_after_those_that_were_kept() {
    let (rig, log, _) = attached(vec![vec![write(0, 1), write(8, 2), write(0, 3)]]);
    assert_eq!(rig.run().unwrap(), Exit::Halt { vcpu: 0 });
    assert_eq!(seen(&log), [("posted", 1), ("stream", 2), ("posted", 3)]);
}

#[test]
fn test_more_writes_than_the_queue_holds_are_all_told_in_order() {
    let values: Vec<_> = (1..=1000).filter(|value| *value != 99).collect();
    let (rig, log, _) = attached(vec![values.iter().map(|&value| write(0, value)).collect()]);
    assert_eq!(rig.run().unwrap(), Exit::Halt { vcpu: 0 });
    assert_eq!(seen(&log), values.iter().map(|&value| ("posted", value)).collect::<Vec<_>>());
}

#[test]
fn test_stream_is_posted_while_its_device_is_attached() {
    let (rig, _, place) = attached(vec![vec![]]);
    let range = Range { space: Space::Mmio, base: BASE + 8, len: 4 };
    rig.machine.regs(0, &rig).unwrap();
    assert_eq!(rig.log().posts, [range]);
    rig.machine.detach(place).unwrap();
    assert_eq!(rig.log().posts, []);
}

#[test]
fn test_moved_device_is_told_at_its_old_place_and_has_its_streams_at_the_new_one_alone() {
    let (rig, log, place) = attached(vec![vec![write(0, 1), write(0, 2), Step::Sleep { interruptible: true }]]);
    let stream = |base: u64| [Range { space: Space::Mmio, base: base + 8, len: 4 }];
    rig.machine.regs(0, &rig).unwrap();
    let device = rig.machine.mmio.map().regions()[0].device.clone();
    let to = |base, len| {
        let (name, device) = ("told".into(), device.clone());
        [(Space::Mmio, Placement { base, len, name, rung: Rung::Declared, device })]
    };
    let file = rig.machine.mmio.map().regions()[0].device.clone();
    assert!(file.quick_write(Access { offset: 0, size: 4, vcpu: 0 }, 7));
    // Refused, nothing is changed.
    assert!(rig.machine.rearrange(&[place], &to(u64::MAX, 0x10)).is_err());
    assert_eq!((rig.log().posts.clone(), seen(&log)), (stream(BASE).to_vec(), vec![]));
    rig.start();
    let vcpu = rig.machine.control.vcpus()[0].clone();
    while vcpu.readings().hits[Rung::Declared as usize] < 2 {
        std::thread::yield_now();
    }
    let (removed, added) = rig.machine.rearrange(&[place], &to(BASE + 0x1000, 0x10)).unwrap();
    rig.machine.serve_rest(&removed);
    assert_eq!(seen(&log), [("posted", 7), ("posted", 1), ("posted", 2)]);
    assert!(!device.has_late());
    assert_eq!(rig.log().posts, stream(BASE + 0x1000));
    // A window that ends before the stream has none.
    let (_, added) = rig.machine.rearrange(&added, &to(BASE, 8)).unwrap();
    assert_eq!(rig.log().posts, []);
    rig.machine.detach(added[0]).unwrap();
    assert!(rig.machine.mmio.map().regions().is_empty());
}

/// What a stream has in the kernel's ring, of which no vCPU knows yet.
fn wait_in_ring(rig: &Rig, values: &[u64]) {
    for &value in values {
        rig.script.wait_in_ring(Posted { space: Space::Mmio, address: BASE + 8, size: 4, value });
    }
}

#[test]
fn test_detached_device_is_told_of_what_the_ring_has_and_the_kernel_counts_it() {
    let (rig, log, place) = attached(vec![vec![ins(0x99, 1), ins(0x99, 1)]]);
    io(rig.run());
    wait_in_ring(&rig, &[1, 2]);
    rig.machine.detach(place).unwrap();
    assert_eq!(seen(&log), [("stream", 1), ("stream", 2)]);
    io(rig.run());
    assert_eq!(rig.machine.control.vcpus()[0].readings().hits[Rung::Kernel as usize], 2);
}

#[test]
fn test_device_that_a_callback_detaches_is_told_of_what_the_ring_has_before_the_callback_goes_on() {
    let (device, log) = Told::new();
    let rig = Arc::new(Rig::new(vec![vec![write(0, 1), outs(0x80, &[1]), ins(0x99, 1)]]));
    let place = rig.machine.attach(Space::Mmio, BASE, 0x10, "told", Rung::Declared, device).unwrap();
    let (in_rig, in_log) = (Arc::downgrade(&rig), log.clone());
    let detaches = move |_, _| {
        let rig = in_rig.upgrade().unwrap();
        wait_in_ring(&rig, &[2, 3]);
        rig.machine.detach(place).unwrap();
        assert_eq!(seen(&in_log), [("posted", 1), ("stream", 2), ("stream", 3)]);
        Action::Continue
    };
    rig.attach_slow(0x80, Closures(|_| 0, detaches));
    assert_eq!(io(rig.run()).address, 0x99);
    assert_eq!(seen(&log).len(), 3);
}

#[test]
fn test_shortcuts_of_a_window_are_those_in_it_seen_from_there() {
    let bell = |offset| BellAt { offset, size: 4, value: Some(1) };
    let all =
        Shortcuts { late: true, streams: vec![(0, 4), (8, 4), (0xe, 4), (0x10, 4)], bells: vec![bell(4), bell(0xc)] };
    let inside = all.clone().within(8, 8);
    assert_eq!(inside, Shortcuts { late: true, streams: vec![(0, 4)], bells: vec![bell(4)] });
    assert_eq!(all.within(0x20, 8), Shortcuts { late: true, ..Shortcuts::default() });
}

#[test]
fn test_detached_device_has_seen_all_that_was_written_before() {
    let (rig, log, place) = attached(vec![vec![write(0, 1), Step::Sleep { interruptible: true }]]);
    rig.start();
    let machine = &rig.machine;
    while machine.control.vcpus()[0].readings().hits[Rung::Declared as usize] == 0 {
        std::thread::yield_now();
    }
    machine.detach(place).unwrap();
    assert_eq!(seen(&log), [("posted", 1)]);
}

#[test]
fn test_writes_of_four_vcpus_are_each_told_once_and_in_the_order_of_its_vcpu() {
    let script = |vcpu: u64| (0..500).map(|n| write(if n % 7 == 6 { 4 } else { 0 }, vcpu * 1000 + n + 100)).collect();
    let (rig, log, _) = attached((0..4).map(script).collect());
    assert!(matches!(rig.run().unwrap(), Exit::Halt { .. }));
    let seen = seen(&log);
    assert_eq!(seen.len(), 2000);
    for vcpu in 0..4 {
        let of: Vec<_> = seen.iter().map(|(_, value)| *value).filter(|value| (value - 100) / 1000 == vcpu).collect();
        assert!(of.is_sorted() && of.len() == 500, "vcpu {vcpu}: {of:?}");
    }
}

#[path = "late_recorded_test.rs"]
mod recorded;
