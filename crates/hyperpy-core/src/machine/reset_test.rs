//! The reset button: what is as at power-on, what stays, and that no other verb finds anything in between.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use super::*;
use crate::accel::AccelExit;
use crate::boot::flat::{Mode, flat};
use crate::bus::{Access, Action, Device, Rung, Space};
use crate::error::StateError;
use crate::exit::{Exit, StopReason};
use crate::scripted::Step;
use crate::testing::{Rig, ins, io, outs, stopped};
use crate::vcpu::Refused;

fn reset(rig: &Rig) -> Result<(), RunError> {
    rig.machine.reset(rig, || Ok(()))
}

fn msr(index: u32) -> Step {
    Step::Exit(AccelExit::Msr { index, is_write: false, value: 0 }, vec![])
}

/// A device that does something when it is reset, or that counts.
struct Resets<F>(F);

impl<F: Fn() + Send + Sync> Device for Resets<F> {
    fn read(&self, _at: Access) -> u64 {
        0
    }
    fn write(&self, _at: Access, _value: u64) -> Action {
        Action::Continue
    }
    fn reset(&self) {
        (self.0)();
    }
}

#[test]
fn test_reset_from_each_standing_state_begins_again_from_power_on() {
    let rig = Rig::new(vec![vec![msr(1), Step::Exit(AccelExit::Shutdown, vec![])]]);
    for runs in 0..3 {
        reset(&rig).unwrap();
        assert_eq!(rig.machine.control.phase(), Phase::Created);
        assert!(matches!(rig.wait(), Err(RunError::State(StateError { phase: Phase::Created, .. }))));
        assert_eq!(rig.machine.control.ended(), None);
        rig.machine.memory.write(0x5000, b"left").unwrap();
        for run in 0..runs {
            let exit = rig.run().unwrap();
            assert_eq!(exit == Exit::Shutdown { vcpu: 0 }, run == 1, "{exit:?}");
        }
        rig.machine.set_regs(0, &rig, |regs| regs.rbx = 7).unwrap();
        reset(&rig).unwrap();
        let mut bytes = [1; 4];
        rig.machine.memory.read(0x5000, &mut bytes).unwrap();
        assert_eq!((bytes, rig.machine.regs(0, &rig).unwrap().rbx), ([0; 4], 0));
    }
}

#[test]
fn test_reset_of_a_machine_that_runs_or_is_closed_is_refused_with_a_hint() {
    let rig = Rig::new(vec![vec![Step::Spin; 99]]);
    rig.start();
    let error = reset(&rig).unwrap_err();
    assert_eq!(error.to_string(), "cannot reset: the machine is running");
    assert!(error.hint().contains("pause()"), "{}", error.hint());
    rig.machine.close(None).unwrap();
    assert!(matches!(reset(&rig), Err(RunError::State(StateError { phase: Phase::Closed, .. }))));
}

#[test]
fn test_reset_keeps_threads_kicks_and_statistics() {
    let rig = Rig::new(vec![vec![msr(1), Step::Spin, Step::Spin], vec![Step::Spin; 9]]);
    let mut before = 0;
    for _ in 0..4 {
        rig.start();
        assert!(matches!(rig.wait().unwrap(), Exit::Msr { index: 1, .. }));
        // A kick reaches the vCPUs that there are now.
        rig.start();
        rig.machine.pause(&rig).unwrap();
        let exits = rig.machine.control.vcpus().iter().map(|vcpu| vcpu.readings().exits).sum::<u64>();
        assert!(exits > before, "{exits}");
        before = exits;
        reset(&rig).unwrap();
        assert_eq!(rig.machine.control.vcpus().iter().map(|vcpu| vcpu.readings().exits).sum::<u64>(), before);
    }
    assert_eq!(rig.threads.load(Ordering::SeqCst), u32::MAX - 2);
}

#[test]
fn test_reset_forgets_what_was_queued_and_what_could_be_answered() {
    let rig = Rig::new(vec![vec![ins(0x90, 1), ins(0x91, 1)]]);
    let old = io(rig.run());
    rig.machine.control.device_failed();
    reset(&rig).unwrap();
    let new = io(rig.run());
    assert_eq!((new.address, new.ticket == old.ticket), (0x90, false));
    assert_eq!(rig.machine.answer(&old, 1, &rig).unwrap(), Err(Refused::Stale));
    rig.machine.answer(&new, 2, &rig).unwrap().unwrap();
    let other = Rig::new(vec![vec![ins(0x90, 1)]]);
    let theirs = io(other.run());
    assert_eq!(rig.machine.answer(&theirs, 1, &rig).unwrap(), Err(Refused::Stale));
}

#[test]
fn test_reset_lowers_every_line_but_those_that_devices_raise_in_it() {
    let rig = Rig::with_irqchip(vec![vec![]], true);
    let (left, driven) = (rig.machine.line(5).unwrap(), rig.machine.line(6).unwrap());
    left.set(true);
    rig.machine.regs(0, &rig).unwrap();
    assert_eq!(rig.log().lines, [(5, true)]);
    rig.attach(Space::Pio, 0x80, 1, Resets(move || driven.set(true)));
    reset(&rig).unwrap();
    rig.machine.regs(0, &rig).unwrap();
    assert_eq!(rig.log().lines, [(5, true), (6, true)]);
    // It was low: what another drives onto its gsi is not hidden by it.
    let other = rig.machine.line(5).unwrap();
    other.pulse();
    assert_eq!(rig.log().lines.last(), Some(&(5, false)));
    left.set(false);
    assert_eq!(rig.log().lines.last(), Some(&(5, false)));
}

#[test]
fn test_reset_calls_each_device_once_and_all_though_one_panics() {
    let rig = Rig::new(vec![vec![]]);
    let count = Arc::new(AtomicU32::new(0));
    let counting = count.clone();
    let device: Arc<dyn Device> = Arc::new(Resets(move || {
        counting.fetch_add(1, Ordering::SeqCst);
    }));
    for (space, base) in [(Space::Pio, 0x80), (Space::Pio, 0x90), (Space::Mmio, 0xfe00_0000)] {
        rig.machine.attach(space, base, 1, "twice", Rung::Native, device.clone()).unwrap();
    }
    reset(&rig).unwrap();
    assert_eq!(count.load(Ordering::SeqCst), 1);
    let bad: Arc<dyn Device> = Arc::new(Resets(|| panic!("on purpose")));
    rig.machine.attach(Space::Pio, 0x10, 1, "bad", Rung::Native, bad).unwrap();
    let error = reset(&rig).unwrap_err();
    assert!(matches!(&error, RunError::Panic { device, .. } if device == "bad"), "{error}");
    assert_eq!(count.load(Ordering::SeqCst), 2);
    assert_eq!(rig.machine.control.phase(), Phase::Closed);
}

#[test]
fn test_reset_inside_a_callback_or_a_reset_is_refused_and_stop_there_holds() {
    let rig = Arc::new(Rig::new(vec![vec![outs(0x80, &[1])]]));
    let weak = Arc::downgrade(&rig);
    let seen = Arc::new(AtomicBool::new(false));
    let tell = seen.clone();
    rig.attach(
        Space::Pio,
        0x80,
        1,
        Resets(move || {
            let rig = weak.upgrade().unwrap();
            assert_eq!(rig.machine.control.phase(), Phase::Running);
            for result in
                [reset(&rig), rig.machine.pause(&*rig), rig.run().map(drop), rig.machine.regs(0, &*rig).map(drop)]
            {
                assert!(matches!(result, Err(RunError::WhileRunning { .. })), "{result:?}");
            }
            rig.machine.stop(StopReason::Text("in reset".into())).unwrap();
            tell.store(true, Ordering::SeqCst);
        }),
    );
    reset(&rig).unwrap();
    assert!(seen.load(Ordering::SeqCst));
    assert_eq!(rig.machine.control.phase(), Phase::Stopped);
    assert_eq!(rig.wait().unwrap(), stopped(None, "in reset"));
}

#[test]
fn test_reset_lets_its_own_thread_load_and_no_other() {
    let rig = Rig::new(vec![vec![msr(1)]]);
    let entry = |rip| flat(&rig.machine.memory, &[0xf4], rip, Mode::Real).unwrap();
    rig.machine.set_entry(entry(0x1000), &rig).unwrap();
    rig.run().unwrap();
    // Without a reload vCPU 0 is where the processor begins.
    reset(&rig).unwrap();
    assert_eq!(rig.machine.regs(0, &rig).unwrap().rip, 0);
    let reload = || {
        std::thread::scope(|scope| {
            let other = scope.spawn(|| rig.machine.set_entry(entry(0x3000), &rig));
            assert!(matches!(other.join().unwrap(), Err(RunError::State(StateError { phase: Phase::Running, .. }))));
        });
        rig.machine.set_entry(entry(0x2000), &rig)
    };
    rig.machine.reset(&rig, reload).unwrap();
    assert_eq!(rig.machine.regs(0, &rig).unwrap().rip, 0x2000);
    // One that fails is an error, and the machine is reset.
    rig.run().unwrap();
    assert!(matches!(rig.machine.reset(&rig, || Err(RunError::Device)), Err(RunError::Device)));
    assert_eq!(rig.machine.control.phase(), Phase::Created);
}

#[test]
fn test_reset_waits_for_a_vcpu_in_other_hands_and_hears_its_host() {
    let rig = Rig::new(vec![vec![msr(1)]]);
    rig.run().unwrap();
    rig.holding(|release| {
        rig.wanted.store(true, Ordering::SeqCst);
        assert!(matches!(reset(&rig), Err(RunError::Host)));
        // Nothing was done.
        assert_eq!(rig.machine.control.phase(), Phase::Paused);
        assert!(matches!(rig.wait().unwrap(), Exit::Msr { index: 1, .. }));
        rig.wanted.store(false, Ordering::SeqCst);
        std::thread::scope(|scope| {
            let resetter = scope.spawn(|| reset(&rig));
            while rig.machine.control.phase() != Phase::Running {
                std::thread::yield_now();
            }
            assert!(matches!(rig.machine.regs(0, &rig), Err(RunError::State(_))));
            release.set();
            resetter.join().unwrap().unwrap();
        });
    });
    assert_eq!(rig.machine.control.phase(), Phase::Created);
    rig.machine.regs(0, &rig).unwrap();
}

// fault row 35
#[test]
fn test_every_verb_from_many_threads_at_once_never_hangs() {
    let script = vec![Step::Repeat(AccelExit::Pio { port: 0x80, size: 1, count: 1, is_write: true }, u64::MAX)];
    let rig = Rig::new(vec![script.clone(), script]);
    rig.attach(Space::Pio, 0x80, 1, Resets(|| ()));
    let over = AtomicBool::new(false);
    let (rig, over) = (&rig, &over);
    type Verb = fn(&Rig);
    let short = Some(Duration::from_millis(1));
    let verbs: [Verb; 8] = [
        |rig| drop(rig.machine.run(Some(Duration::from_millis(1)), rig)),
        |rig| drop(rig.machine.start(rig)),
        |rig| drop(rig.machine.pause(rig)),
        |rig| drop(rig.machine.resume(rig)),
        |rig| drop(rig.machine.wait(Some(Duration::from_millis(1)), rig)),
        |rig| drop(reset(rig)),
        |rig| drop(rig.machine.set_regs(1, rig, |regs| regs.rbx += 1)),
        |rig| drop(rig.machine.run_one(1, Some(Duration::from_millis(1)), rig)),
    ];
    std::thread::scope(|scope| {
        for first in 0..verbs.len() {
            scope.spawn(move || {
                let mut at = first;
                while !over.load(Ordering::SeqCst) {
                    // Each in an order of its own: steps of 1, 3, 5 and 7 go through all eight.
                    at = (at + 2 * (first % 4) + 1) % verbs.len();
                    verbs[at](rig);
                }
            });
        }
        std::thread::sleep(Duration::from_millis(1500));
        over.store(true, Ordering::SeqCst);
    });
    let _ = rig.machine.pause(rig);
    reset(rig).unwrap();
    assert_eq!(rig.machine.run(short, rig).unwrap(), Exit::Timeout);
    assert_eq!(rig.machine.control.phase(), Phase::Paused);
}
