//! The verbs on a whole machine: what devices do while it stands still, and what becomes of it when they fail.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::sync::atomic::AtomicU64;

use super::*;
use crate::arch::x86_64::cpuid::{CpuidChange, Leaf};
use crate::bus::{Access, Action, Rung};
use crate::exit::{Exit, StopReason, SystemEvent};
use crate::memory::{Kind, Pages};
use crate::scripted::Step;
use crate::snapshot::{Saved, Value, misfit};
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

/// Keeps a number.
struct Number(AtomicU64);

impl Device for Number {
    fn read(&self, _: Access) -> u64 {
        self.0.load(Ordering::SeqCst)
    }
    fn write(&self, _: Access, value: u64) -> Action {
        self.0.store(value, Ordering::SeqCst);
        Action::Continue
    }
    fn save(&self) -> Result<State, StateFault> {
        Ok(Arc::new(Value::from(self.0.load(Ordering::SeqCst))))
    }
    fn load(&self, state: &dyn Saved) -> Result<(), StateFault> {
        self.0.store(state.value().int().ok_or(StateFault::NotSaved)?, Ordering::SeqCst);
        Ok(())
    }
}

/// Calls something while the machine's state is taken, and while it is put back.
struct Meanwhile(Box<dyn Fn(bool) + Send + Sync>);

impl crate::snapshot::Keeper for Meanwhile {
    fn save(&self) -> State {
        (self.0)(false);
        Arc::new(Value::Nothing)
    }
    fn check(&self, state: &dyn Saved) -> Result<(), StateFault> {
        if state.value() == Value::Nothing { Ok(()) } else { Err(misfit("it is something")) }
    }
    fn load(&self, _: &dyn Saved) -> Result<(), StateFault> {
        (self.0)(true);
        Ok(())
    }
}

#[test]
fn test_device_that_is_attached_meanwhile_gets_the_state_of_no_other() {
    let rig = Rig::new(vec![vec![]]);
    let number = |value| Arc::new(Number(AtomicU64::new(value)));
    let attach = |machine: &Machine, port: u64, device: &Arc<Number>| {
        machine.attach(Space::Pio, port, 1, "number", Rung::Native, device.clone()).unwrap()
    };
    let (old, new) = (number(1), number(7));
    attach(&rig.machine, 0x30, &old);
    let (machine, late) = (Arc::downgrade(&rig.machine), new.clone());
    rig.machine.keep_console(Arc::new(Meanwhile(Box::new(move |is_load| {
        let (machine, late) = (machine.upgrade().unwrap(), late.clone());
        if is_load {
            let elsewhere = std::thread::spawn(move || attach(&machine, 0x20, &late));
            elsewhere.join().unwrap();
        }
    }))));
    let base = rig.machine.snapshot(&rig).unwrap();
    old.0.store(2, Ordering::SeqCst);
    rig.machine.restore(&base, &[], &rig).unwrap();
    assert_eq!((old.0.load(Ordering::SeqCst), new.0.load(Ordering::SeqCst)), (1, 7));
    // From now on the machine is another one.
    assert!(matches!(rig.machine.restore(&base, &[], &rig), Err(SnapshotError::Shape { .. })));
}

#[test]
fn test_restore_of_other_processors_into_one_that_has_run_is_refused_before_a_change() {
    let other = Rig::new(vec![vec![]]);
    let [leaf] = *other.machine.cpuid(0, &other).unwrap() else { panic!() };
    other.machine.set_cpuid(0, CpuidChange::Set(Leaf { ecx: leaf.ecx & !1, ..leaf }), &other).unwrap();
    let foreign = other.machine.snapshot(&other).unwrap();
    let rig = Rig::new(vec![vec![]]);
    rig.machine.restore(&foreign, &[], &rig).unwrap();
    let taken = rig.machine.snapshot(&rig).unwrap();
    // Its processors are its own again.
    rig.machine.reset(&rig, || Ok(())).unwrap();
    rig.run().unwrap();
    rig.machine.memory.write(0x1000, b"mine").unwrap();
    for snapshot in [&taken, &foreign] {
        let refused = rig.machine.restore(snapshot, &[], &rig);
        assert!(matches!(refused, Err(SnapshotError::Shape { .. })), "{refused:?}");
        let mut bytes = [0; 4];
        rig.machine.memory.read(0x1000, &mut bytes).unwrap();
        assert_eq!((rig.machine.control.phase(), &bytes), (Phase::Paused, b"mine"));
    }
}

#[test]
fn test_snapshot_whose_console_or_lines_do_not_fit_is_refused_before_a_change() {
    let rig = Rig::with_irqchip(vec![vec![outs(PORT, &[1])]], true);
    rig.machine.keep_console(Arc::new(Meanwhile(Box::new(|is_load| assert!(!is_load, "it was put back")))));
    io(rig.run());
    let gone = rig.machine.line(5).unwrap();
    gone.set(true);
    let high = rig.machine.snapshot(&rig).unwrap();
    drop(gone);
    let mut other = rig.machine.snapshot(&rig).unwrap();
    other.parts.kin = 0;
    other.parts.console = Some(Arc::new(Value::Bool(true)));
    rig.machine.memory.write(0x1000, b"mine").unwrap();
    for (snapshot, told) in [
        (high, "interrupt lines: its state does not fit: a line that was high is not there"),
        (other, "the machine is not as the snapshot's was: console: its state does not fit: it is something"),
    ] {
        assert_eq!(rig.machine.restore(&snapshot, &[], &rig).unwrap_err().to_string(), told);
        let mut bytes = [0; 4];
        rig.machine.memory.read(0x1000, &mut bytes).unwrap();
        assert_eq!((rig.machine.control.phase(), &bytes), (Phase::Paused, b"mine"));
    }
}

#[test]
fn test_region_that_is_added_while_a_restore_tells_devices_is_refused_before_a_change() {
    let rig = Rig::new(vec![vec![outs(PORT, &[1, 2]), Step::Spin]]);
    let machine = Arc::downgrade(&rig.machine);
    let adds = Closures(
        |_| 0,
        move |_, value| {
            if value == 1 {
                return Action::Stop(StopReason::PowerOff); // the second one is pending then
            }
            machine.upgrade().unwrap().add_memory(1 << 21, 0x1000, Kind::Ram, "late", Pages::Small).unwrap();
            Action::Continue
        },
    );
    rig.attach(Space::Pio, PORT.into(), 1, Stateless(adds));
    let base = rig.machine.snapshot(&rig).unwrap();
    rig.run().unwrap();
    rig.machine.memory.write(0x1000, b"mine").unwrap();
    let phase = rig.machine.control.phase();
    let refused = rig.machine.restore(&base, &[], &rig).unwrap_err();
    let told = "the machine is not as the snapshot's was: ram at 0x200000 + 0x1000, only here";
    assert_eq!((refused.to_string().as_str(), rig.machine.control.phase()), (told, phase));
    let mut bytes = [0; 4];
    rig.machine.memory.read(0x1000, &mut bytes).unwrap();
    assert_eq!(&bytes, b"mine");
}

#[test]
fn test_snapshot_without_the_state_of_a_device_is_refused() {
    let rig = Rig::new(vec![vec![]]);
    let number = Arc::new(Number(AtomicU64::new(1)));
    for port in [0x30, 0x40] {
        rig.machine.attach(Space::Pio, port, 1, "number", Rung::Native, number.clone()).unwrap();
    }
    let mut base = rig.machine.snapshot(&rig).unwrap();
    assert_eq!(base.parts.devices.iter().filter(|state| state.is_some()).count(), 1);
    rig.machine.restore(&base, &[], &rig).unwrap();
    base.parts.devices[0] = None;
    let refused = rig.machine.restore(&base, &[], &rig).unwrap_err();
    let told = "the machine is not as the snapshot's was: number at port 0x30, 0x1 bytes, of which it has no state";
    assert_eq!(refused.to_string(), told);
}
