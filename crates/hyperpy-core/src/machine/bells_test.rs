//! Doorbells over scripted vCPUs: who serves a ring, what it counts among, and what becomes of rings when things end.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, ThreadId};

use super::*;
use crate::bells::Doorbell;
use crate::bus::{Access, Action, BellAt, Device, Rung, Shortcuts, Space, Spot};
use crate::control::Phase;
use crate::exit::{Exit, StopReason};
use crate::machine::Attachment;
use crate::posted::Posted;
use crate::scripted::{Scripted, Step};
use crate::testing::{Event, LONG, Nobody, Rig, before, ins, io, outs, stopped};
use crate::vcpu::current;

const PORT: u16 = 0x80;
const ADDRESS: u64 = PORT as u64;

/// Two doorbells: any value at 0, and the values 1 and 2 at 1. Keeps what it was told of, and on which thread.
#[derive(Default)]
struct Rings {
    log: Mutex<Vec<(u64, u64)>>,
    threads: Mutex<Vec<ThreadId>>,
    told: Arc<Event>,
    /// Waited for in a call, if it is there.
    go: Option<Arc<Event>>,
    stops: AtomicBool,
}

impl Rings {
    fn log(&self) -> Vec<(u64, u64)> {
        self.log.lock().unwrap().clone()
    }
}

impl Device for Rings {
    fn read(&self, _: Access) -> u64 {
        0
    }
    fn write(&self, at: Access, value: u64) -> Action {
        assert!(at.vcpu != 0 || current().is_some_and(|it| it.address == ADDRESS + at.offset), "noted");
        self.threads.lock().unwrap().push(thread::current().id());
        self.told.set();
        if let Some(go) = &self.go {
            go.wait();
        }
        self.log.lock().unwrap().push((at.offset, value));
        if self.stops.load(Ordering::SeqCst) { Action::Stop(StopReason::Text("rung".into())) } else { Action::Continue }
    }
    fn shortcuts(&self) -> Shortcuts {
        let bell = |offset, value| BellAt { offset, size: 1, value };
        Shortcuts { bells: vec![bell(0, None), bell(1, Some(1)), bell(1, Some(2))], ..Shortcuts::default() }
    }
}

fn attached(rig: &Rig, device: &Arc<Rings>) -> Attachment {
    rig.machine.attach(Space::Pio, ADDRESS, 2, "rings", Rung::Method, device.clone()).unwrap()
}

/// A hook in which the guest rings.
fn ring(script: &Scripted, offset: u64, value: Option<u64>) {
    assert!(script.ring(ADDRESS + offset, value));
}

/// What a hook finds the script by that it is part of: while it is there, neither goes.
struct Later(Arc<Mutex<Option<Scripted>>>);

impl Drop for Later {
    fn drop(&mut self) {
        let script = self.0.lock().unwrap().take();
        drop(script);
    }
}

/// A script whose hooks ring, which is made before its machine.
fn rig(steps: impl FnOnce(Arc<Mutex<Option<Scripted>>>) -> Vec<Step>) -> (Rig, Later) {
    let later = Later(Arc::default());
    let rig = Rig::with_irqchip(vec![steps(later.0.clone())], true);
    *later.0.lock().unwrap() = Some(rig.script.clone());
    (rig, later)
}

#[test]
fn test_ring_is_served_by_a_thread_while_the_guest_makes_no_exit() {
    let rig = Rig::with_irqchip(vec![vec![Step::Spin; 8]], true);
    let device = Arc::new(Rings::default());
    attached(&rig, &device);
    rig.start();
    ring(&rig.script, 0, None);
    device.told.wait();
    ring(&rig.script, 1, Some(2));
    while device.log().len() < 2 {
        thread::yield_now();
    }
    assert_eq!(device.log(), [(0, 0), (1, 2)]);
    rig.machine.pause(&rig).unwrap();
    assert_ne!(device.threads.lock().unwrap().first(), Some(&thread::current().id()));
}

#[test]
fn test_rings_of_a_run_are_served_before_it_returns_and_several_may_be_one() {
    let (rig, _later) = rig(|script| {
        let rings = before(move || {
            let script = script.lock().unwrap().clone().unwrap();
            ring(&script, 0, None);
            ring(&script, 0, None);
            ring(&script, 1, Some(1));
        });
        vec![rings.clone(), ins(0x99, 1), rings, ins(0x99, 1)]
    });
    let device = Arc::new(Rings::default());
    attached(&rig, &device);
    for runs in 1..=2 {
        assert_eq!(io(rig.run()).address, 0x99);
        let mut log = device.log();
        log.sort_unstable();
        log.dedup();
        assert_eq!(log, [(0, 0), (1, 1)]);
        assert!((2 * runs..=3 * runs).contains(&device.log().len()));
    }
}

#[test]
fn test_ring_while_the_machine_stands_still_waits_for_the_next_run() {
    let rig = Rig::with_irqchip(vec![vec![ins(0x99, 1), Step::Spin, Step::Spin]], true);
    let device = Arc::new(Rings::default());
    attached(&rig, &device);
    io(rig.run());
    // No guest can: as if one had been late.
    ring(&rig.script, 0, None);
    assert_eq!(device.log(), []);
    rig.start();
    device.told.wait();
    rig.machine.pause(&rig).unwrap();
    assert_eq!(device.log(), [(0, 0)]);
}

#[test]
fn test_ring_that_asks_for_a_stop_stops_the_machine() {
    let rig = Rig::with_irqchip(vec![vec![Step::Spin; 8]], true);
    let device = Arc::new(Rings { stops: AtomicBool::new(true), ..Rings::default() });
    attached(&rig, &device);
    rig.start();
    ring(&rig.script, 0, None);
    assert_eq!(rig.wait().unwrap(), stopped(None, "rung"));
    assert_eq!(rig.machine.control.phase(), Phase::Paused);
}

#[test]
fn test_writes_that_ring_no_bell_are_exits() {
    let rig = Rig::new(vec![vec![outs(PORT, &[7]), outs(PORT + 1, &[9])]]);
    let device = Arc::new(Rings::default());
    attached(&rig, &device);
    assert_eq!(rig.run().unwrap(), Exit::Halt { vcpu: 0 });
    assert_eq!(device.log(), [(0, 7), (1, 9)]);
}

#[test]
fn test_doorbells_reach_the_vm_whenever_it_is_made_and_leave_it_with_their_device() {
    let rig = Rig::new(vec![vec![]]);
    let device = Arc::new(Rings::default());
    let bell = |offset, value| Doorbell { space: Space::Pio, address: ADDRESS + offset, size: 1, value };
    let all = [bell(0, None), bell(1, Some(1)), bell(1, Some(2))];
    let place = attached(&rig, &device);
    assert_eq!(rig.script.doorbells(), []);
    rig.machine.regs(0, &rig).unwrap();
    assert_eq!(rig.script.doorbells(), all);
    rig.machine.detach(place).unwrap();
    assert_eq!(rig.script.doorbells(), []);
    attached(&rig, &device);
    assert_eq!(rig.script.doorbells(), all);
}

#[test]
fn test_detach_serves_what_has_rung_and_nothing_comes_after() {
    let rig = Rig::with_irqchip(vec![vec![ins(0x99, 1), Step::Spin]], true);
    let device = Arc::new(Rings::default());
    let place = attached(&rig, &device);
    io(rig.run());
    ring(&rig.script, 0, None);
    rig.machine.detach(place).unwrap();
    rig.machine.wait_until_left(place, &rig).unwrap();
    assert_eq!(device.log(), [(0, 0)]);
    assert!(!rig.script.ring(ADDRESS, None));
    assert_eq!(Arc::strong_count(&device), 1, "nobody keeps it");
}

#[test]
fn test_detach_waits_for_the_call_of_a_ring_and_hears_its_host() {
    let go = Event::new();
    let rig = Rig::with_irqchip(vec![vec![Step::Spin; 8]], true);
    let device = Arc::new(Rings { go: Some(go.clone()), ..Rings::default() });
    let place = attached(&rig, &device);
    rig.start();
    ring(&rig.script, 0, None);
    device.told.wait();
    rig.machine.detach(place).unwrap();
    rig.wanted.store(true, Ordering::SeqCst);
    assert!(matches!(rig.machine.wait_until_left(place, &rig), Err(RunError::Host)));
    rig.wanted.store(false, Ordering::SeqCst);
    thread::scope(|scope| {
        let waits = scope.spawn(|| rig.machine.wait_until_left(place, &rig));
        assert_eq!(device.log(), []);
        go.set();
        waits.join().unwrap().unwrap();
        assert_eq!(device.log(), [(0, 0)]);
    });
}

#[test]
fn test_pause_waits_for_the_call_of_a_ring() {
    let go = Event::new();
    let rig = Rig::with_irqchip(vec![vec![Step::Spin; 8]], true);
    let device = Arc::new(Rings { go: Some(go.clone()), ..Rings::default() });
    attached(&rig, &device);
    rig.start();
    ring(&rig.script, 0, None);
    device.told.wait();
    thread::scope(|scope| {
        let pauses = scope.spawn(|| rig.machine.pause(&rig));
        while !rig.machine.control.wants_out() {
            thread::yield_now();
        }
        assert_eq!(rig.machine.control.phase(), Phase::Running);
        go.set();
        pauses.join().unwrap().unwrap();
    });
    assert_eq!(device.log(), [(0, 0)]);
}

#[test]
fn test_reset_forgets_rings_and_close_gives_everything_back() {
    let rig = Rig::with_irqchip(vec![vec![ins(0x99, 1), Step::Spin]], true);
    let device = Arc::new(Rings::default());
    attached(&rig, &device);
    io(rig.run());
    ring(&rig.script, 0, None);
    rig.machine.reset(&rig, || Ok(())).unwrap();
    io(rig.run());
    assert_eq!(device.log(), []);
    rig.machine.close(None).unwrap();
    assert!(rig.machine.control.bells.is_empty());
}

#[test]
fn test_doorbells_without_a_thread_are_an_error_of_the_host_and_the_next_run_makes_one() {
    let rig = Rig::with_irqchip(vec![vec![Step::Spin; 8]], true);
    let device = Arc::new(Rings::default());
    attached(&rig, &device);
    rig.threads.store(0, Ordering::SeqCst);
    assert!(matches!(rig.machine.run(Some(LONG), &rig), Err(RunError::Host)));
    assert!(matches!(rig.machine.spawn_ringer(&Nobody), Err(RunError::Host)));
    rig.threads.store(u32::MAX, Ordering::SeqCst);
    rig.start();
    ring(&rig.script, 0, None);
    device.told.wait();
}

#[test]
fn test_more_bells_than_a_look_tells_of_are_all_served_before_a_run_returns() {
    struct Many(Mutex<Vec<u64>>);
    impl Device for Many {
        fn read(&self, _: Access) -> u64 {
            0
        }
        fn write(&self, at: Access, _: u64) -> Action {
            self.0.lock().unwrap().push(at.offset);
            Action::Continue
        }
        fn shortcuts(&self) -> Shortcuts {
            let bells = (0..32).map(|offset| BellAt { offset, size: 1, value: None }).collect();
            Shortcuts { bells, ..Shortcuts::default() }
        }
    }
    let (rig, _later) = rig(|script| {
        let all = move || (0..32).for_each(|offset| ring(script.lock().unwrap().as_ref().unwrap(), offset, None));
        vec![before(all), ins(0x70, 1)]
    });
    let device = Arc::new(Many(Mutex::default()));
    rig.machine.attach(Space::Pio, ADDRESS, 32, "many", Rung::Method, device.clone()).unwrap();
    io(rig.run());
    let mut told = device.0.lock().unwrap().clone();
    told.sort_unstable();
    assert_eq!(told, (0..32).collect::<Vec<_>>());
}

/// A stream at 4 and a doorbell at 0: keeps what came, and what it was told of.
#[derive(Default)]
struct Mixed {
    kept: Mutex<Vec<u64>>,
    log: Mutex<Vec<u64>>,
    told: Event,
}

impl Device for Mixed {
    fn read(&self, _: Access) -> u64 {
        0
    }
    fn write(&self, _: Access, _: u64) -> Action {
        self.log.lock().unwrap().push(0);
        self.told.set();
        Action::Continue
    }
    fn shortcuts(&self) -> Shortcuts {
        Shortcuts { late: true, streams: vec![(4, 1)], bells: vec![BellAt { offset: 0, size: 1, value: None }] }
    }
    fn defer(&self, _: Access, value: u64) -> Action {
        self.kept.lock().unwrap().push(value);
        Action::Continue
    }
    fn has_late(&self) -> bool {
        !self.kept.lock().unwrap().is_empty()
    }
    fn flush(&self, _: usize, _: &dyn Fn(u64) -> Spot, _: &dyn Fn(u32, Action)) {
        self.log.lock().unwrap().append(&mut self.kept.lock().unwrap());
    }
}

#[test]
fn test_ring_is_told_after_what_its_device_keeps_and_what_waits_in_the_ring() {
    let rig = Rig::with_irqchip(vec![vec![ins(0x99, 1), Step::Spin, Step::Spin]], true);
    let device = Arc::new(Mixed::default());
    let place = rig.machine.attach(Space::Pio, ADDRESS, 8, "mixed", Rung::Declared, device.clone()).unwrap();
    io(rig.run());
    let write = |value| Posted { space: Space::Pio, address: ADDRESS + 4, size: 1, value };
    device.kept.lock().unwrap().push(1);
    rig.script.wait_in_ring(write(2));
    rig.start();
    ring(&rig.script, 0, None);
    device.told.wait();
    rig.machine.pause(&rig).unwrap();
    assert_eq!(*device.log.lock().unwrap(), [1, 2, 0]);
    rig.script.wait_in_ring(write(3));
    ring(&rig.script, 0, None);
    rig.machine.detach(place).unwrap();
    assert_eq!(*device.log.lock().unwrap(), [1, 2, 0, 3, 0]);
}

#[test]
fn test_device_that_panics_at_a_ring_ends_the_run_with_an_error() {
    struct Panics;
    impl Device for Panics {
        fn read(&self, _: Access) -> u64 {
            0
        }
        fn write(&self, _: Access, _: u64) -> Action {
            panic!("no bell")
        }
        fn shortcuts(&self) -> Shortcuts {
            Shortcuts { bells: vec![BellAt { offset: 0, size: 1, value: None }], ..Shortcuts::default() }
        }
    }
    let rig = Rig::with_irqchip(vec![vec![Step::Spin; 8]], true);
    rig.machine.attach(Space::Pio, ADDRESS, 1, "panics", Rung::Method, Arc::new(Panics)).unwrap();
    rig.start();
    ring(&rig.script, 0, None);
    let Err(RunError::Panic { device, message }) = rig.wait() else { panic!() };
    assert_eq!((device.as_str(), message.as_str()), ("doorbell", "no bell"));
}

#[test]
fn test_ring_goes_to_what_stands_for_the_device_when_it_is_served() {
    let rig = Rig::with_irqchip(vec![vec![ins(0x99, 1), ins(0x99, 1), ins(0x99, 1)]], true);
    let (device, other) = (Arc::new(Rings::default()), Arc::new(Rings::default()));
    let place = attached(&rig, &device);
    io(rig.run());
    drop(rig.machine.replace(place, other.clone()).unwrap());
    ring(&rig.script, 1, Some(2));
    io(rig.run());
    assert_eq!((device.log(), other.log()), (vec![], vec![(1, 2)]));
    drop(rig.machine.replace(place, device.clone()).unwrap());
    ring(&rig.script, 1, Some(1));
    io(rig.run());
    assert_eq!((device.log(), other.log()), (vec![(1, 1)], vec![(1, 2)]));
}
