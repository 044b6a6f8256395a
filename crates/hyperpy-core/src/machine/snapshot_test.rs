//! The verbs on a whole machine: what devices do while it stands still, and what becomes of it when they fail.
#![allow(clippy::unwrap_used, clippy::panic)]

use super::*;
use crate::bus::{Access, Action, Rung};
use crate::exit::{Exit, StopReason, SystemEvent};
use crate::scripted::Step;
use crate::snapshot::{Saved, Value};
use crate::testing::{Closures, LONG, Rig, ins, io, outs};

const PORT: u16 = 0x80;

/// A machine whose second value of an access is pending, when nobody has claimed the first.
fn pending(first: Step) -> Rig {
    let rig = Rig::new(vec![vec![first, Step::Spin]]);
    io(rig.run());
    rig
}

/// Panics where it is told to.
#[derive(Default)]
struct Panics {
    read: bool,
    save: bool,
    load: bool,
}

impl Device for Panics {
    fn read(&self, _: Access) -> u64 {
        assert!(!self.read, "in read");
        0
    }
    fn write(&self, _: Access, _: u64) -> Action {
        Action::Continue
    }
    fn save(&self) -> Result<State, StateFault> {
        assert!(!self.save, "in save");
        Ok(Arc::new(Value::Nothing))
    }
    fn load(&self, _: &dyn Saved) -> Result<(), StateFault> {
        assert!(!self.load, "in load");
        Ok(())
    }
}

#[track_caller]
fn assert_panicked<T>(rig: &Rig, done: Result<T, SnapshotError>) {
    match done.map(drop) {
        Err(SnapshotError::Run(RunError::Panic { device, .. })) => assert_eq!(device, "panics"),
        other => panic!("no panic: {other:?}"),
    }
    assert_eq!(rig.machine.control.phase(), Phase::Closed);
    // By the last one to leave.
    let began = Instant::now();
    while !rig.machine.memory.is_closed() {
        assert!(began.elapsed() < LONG, "nobody gives it back");
        std::thread::yield_now();
    }
}

#[test]
fn test_device_that_panics_in_the_completion_of_an_access_closes_the_machine() {
    let rig = pending(ins(PORT, 2));
    let device = Arc::new(Panics { read: true, ..Panics::default() });
    rig.machine.attach(Space::Pio, PORT.into(), 1, "panics", Rung::Native, device).unwrap();
    assert_panicked(&rig, rig.machine.snapshot(&rig));
}

#[test]
fn test_device_that_panics_when_it_is_saved_or_loaded_closes_the_machine() {
    for (save, load) in [(true, false), (false, true)] {
        let rig = Rig::new(vec![vec![Step::Spin; 100]; 2]);
        let device = Arc::new(Panics { save, load, ..Panics::default() });
        rig.machine.attach(Space::Pio, PORT.into(), 1, "panics", Rung::Native, device).unwrap();
        if save {
            rig.start();
            assert_panicked(&rig, rig.machine.snapshot(&rig));
        } else {
            let base = rig.machine.snapshot(&rig).unwrap();
            assert_panicked(&rig, rig.machine.restore(&base, &[], &rig));
        }
    }
}

#[test]
fn test_power_off_in_the_completion_of_an_access_ends_the_machine_and_the_snapshot_has_that() {
    let rig = pending(outs(PORT, &[1, 2]));
    let off = Closures(|_| 0, |_, _| Action::Stop(StopReason::PowerOff));
    rig.attach(Space::Pio, PORT.into(), 1, Stateless(off));
    let base = rig.machine.snapshot(&rig).unwrap();
    assert_eq!((rig.machine.control.phase(), base.machine().1), (Phase::Stopped, Phase::Stopped));
    assert!(matches!(rig.run().unwrap(), Exit::SystemEvent { kind: SystemEvent::PowerOff, .. }));
}

/// A device without a state.
struct Stateless<D>(D);

impl<D: Device> Device for Stateless<D> {
    fn read(&self, at: Access) -> u64 {
        self.0.read(at)
    }
    fn write(&self, at: Access, value: u64) -> Action {
        self.0.write(at, value)
    }
    fn save(&self) -> Result<State, StateFault> {
        Ok(Arc::new(Value::Nothing))
    }
    fn load(&self, _: &dyn Saved) -> Result<(), StateFault> {
        Ok(())
    }
}
