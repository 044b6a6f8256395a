//! Starting and stopping vCPUs together: kicks that may not be lost, outcomes that may not be lost or told twice, halts
//! of one and of many, and who gets what when several threads use the verbs.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::*;
use crate::accel::AccelExit;
use crate::bus::{Action, Space};
use crate::exit::StopReason;
use crate::scripted::Step;
use crate::testing::{Closures, Event, Later, Recorder, Rig, before, ins, io, outs, stopped, stopper};

fn text(why: &str) -> StopReason {
    StopReason::Text(why.into())
}

fn msr(index: u32) -> Step {
    Step::Exit(AccelExit::Msr { index, is_write: false, value: 0 }, vec![])
}

#[test]
fn test_stop_between_the_look_and_the_entry_is_not_lost() {
    let later = Later::default();
    let hook = later.clone();
    let rig = Rig::new(vec![vec![before(move || hook.control().stop(text("now"))), Step::Spin]]);
    later.set(&rig);
    let began = Instant::now();
    assert_eq!(rig.machine.run(None, &rig).unwrap(), stopped(None, "now"));
    // By the kick itself: the tick would come too, but later.
    assert!(began.elapsed() < crate::run::TICK, "{:?}", began.elapsed());
}

// fault row 23
#[test]
fn test_stop_in_every_situation_is_bounded() {
    let inside = Event::new();
    type Case = (&'static str, bool, fn() -> Vec<Step>);
    let cases: [Case; 4] = [
        ("spinning", false, || vec![Step::Spin; 4]),
        ("asleep", true, || vec![Step::Sleep { interruptible: true }]),
        ("storm of exits", false, || vec![Step::Repeat(AccelExit::Nothing, u64::MAX)]),
        ("storm of accesses", false, || {
            let port = AccelExit::Pio { port: 0x80, size: 1, count: 1, is_write: true };
            vec![Step::Repeat(port, u64::MAX)]
        }),
    ];
    for (name, irqchip, steps) in cases {
        let (script, entered) = (steps(), inside.clone());
        let rig = Rig::with_irqchip(vec![[vec![before(move || entered.set())], script].concat()], irqchip);
        rig.attach(Space::Pio, 0x80, 1, Closures(|_| 0, |_, _| Action::Continue));
        rig.start();
        inside.wait();
        let began = Instant::now();
        rig.machine.stop(text(name)).unwrap();
        assert_eq!(rig.wait().unwrap(), stopped(None, name));
        assert!(began.elapsed() < Duration::from_millis(100), "{name}: {:?}", began.elapsed());
        assert_eq!(rig.machine.control.phase(), Phase::Stopped);
    }
}

#[test]
fn test_run_timeout_while_spinning_asleep_or_busy_is_kept() {
    let limit = Duration::from_millis(80);
    for (steps, irqchip) in [
        (vec![Step::Spin; 8], false),
        (vec![Step::Sleep { interruptible: true }], true),
        (vec![Step::Repeat(AccelExit::Nothing, u64::MAX)], false),
    ] {
        let rig = Rig::with_irqchip(vec![steps], irqchip);
        let began = Instant::now();
        assert_eq!(rig.machine.run(Some(limit), &rig).unwrap(), Exit::Timeout);
        assert!(began.elapsed() >= limit && began.elapsed() < limit + Duration::from_millis(100));
        assert_eq!(rig.machine.control.phase(), Phase::Paused);
    }
}

#[test]
fn test_run_timeout_of_nothing_returns_at_once_and_does_not_hide_an_exit() {
    let later = Later::default();
    let hook = later.clone();
    let ask = move || hook.control().request(Cause::Timeout, None);
    let rig = Rig::new(vec![vec![before(ask), Step::Part(AccelExit::Shutdown, vec![])]]);
    later.set(&rig);
    assert_eq!(rig.machine.run(Some(Duration::ZERO), &rig).unwrap(), Exit::Timeout);
    // The time is over, and then the guest exits before it sees that.
    assert_eq!(rig.run().unwrap(), Exit::Shutdown { vcpu: 0 });
}

#[test]
fn test_kick_storm_loses_no_exit_and_adds_none() {
    let values: Vec<Step> = (0..200).map(|value| outs(0x80, &[value & 0xff])).collect();
    let rig = Rig::new(vec![values]);
    let device = Recorder::default();
    rig.attach(Space::Pio, 0x80, 1, device.clone());
    rig.machine.regs(0, &rig).unwrap();
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let kicker = scope.spawn(|| {
            while !over.load(Ordering::SeqCst) {
                rig.machine.control.kick_all();
            }
        });
        assert_eq!(rig.run().unwrap(), Exit::Halt { vcpu: 0 });
        over.store(true, Ordering::SeqCst);
        kicker.join().unwrap();
    });
    assert_eq!(device.writes().len(), 200);
}

#[test]
fn test_stop_before_any_run_is_what_wait_returns() {
    for prepared in [false, true] {
        let rig = Rig::new(vec![vec![]]);
        if prepared {
            rig.machine.regs(0, &rig).unwrap();
        }
        rig.machine.stop(text("never mind")).unwrap();
        rig.machine.stop(text("really")).unwrap();
        assert!(matches!(rig.run(), Err(RunError::State(StateError { phase: Phase::Stopped, .. }))));
        assert_eq!(rig.wait().unwrap(), stopped(None, "never mind"));
    }
}

#[test]
fn test_stop_of_a_paused_machine_returns_its_queued_exit_first() {
    let rig = Rig::new(vec![vec![msr(1)]]);
    rig.run().unwrap();
    rig.machine.control.device_failed();
    rig.machine.stop(text("enough")).unwrap();
    assert!(matches!(rig.run(), Err(RunError::Device)));
    assert!(matches!(rig.run(), Err(RunError::State(_))));
}

#[test]
fn test_stop_at_any_moment_of_a_start_ends_it() {
    // No pause: the stop falls before, into, between and after rounds.
    for spins in 0..300_u32 {
        let rig = Rig::new(vec![vec![Step::Spin; 20], vec![Step::Spin; 20]]);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for _ in 0..spins * 20 {
                    std::hint::spin_loop();
                }
                rig.machine.stop(text("now")).unwrap();
            });
            // Refused if the stop came first; an error is fine, a hang is not.
            let _ = rig.machine.start(&rig);
            while rig.machine.control.phase() == Phase::Created {
                std::thread::yield_now();
            }
            assert_eq!(rig.wait().unwrap(), stopped(None, "now"));
        });
    }
}

#[test]
fn test_stop_between_two_runs_is_never_lost() {
    for _ in 0..100 {
        let exit = AccelExit::Msr { index: 1, is_write: false, value: 0 };
        let rig = Rig::new(vec![vec![Step::Repeat(exit, u64::MAX)]]);
        let asked = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                rig.machine.stop(text("now")).unwrap();
                asked.store(true, Ordering::SeqCst);
            });
            // At most the exit of the run that it came into, and the stop itself, are still told.
            let mut after = 0;
            while rig.run().is_ok() {
                after += u32::from(asked.load(Ordering::SeqCst));
                assert!(after <= 2, "the stop was lost");
            }
        });
        assert_eq!(rig.machine.control.phase(), Phase::Stopped);
    }
}

#[test]
fn test_wait_returns_the_last_exit_again_and_an_error_once() {
    let rig = Rig::new(vec![vec![msr(1), outs(0x80, &[1])]]);
    let failing = rig.machine.control.clone();
    rig.attach(
        Space::Pio,
        0x80,
        1,
        Closures(
            |_| 0,
            move |_, _| {
                failing.device_failed();
                failing.device_failed();
                Action::Continue
            },
        ),
    );
    rig.start();
    for _ in 0..3 {
        assert!(matches!(rig.wait().unwrap(), Exit::Msr { index: 1, .. }));
    }
    rig.start();
    assert!(matches!(rig.wait(), Err(RunError::Device)));
    // Not the exit from before the error.
    assert!(matches!(rig.wait(), Err(RunError::State(StateError { phase: Phase::Paused, .. }))));
}

#[test]
fn test_wait_times_out_while_the_guest_runs_on() {
    let rig = Rig::new(vec![vec![Step::Spin; 100]]);
    rig.start();
    for limit in [Duration::ZERO, Duration::from_millis(20)] {
        assert_eq!(rig.machine.wait(Some(limit), &rig).unwrap(), Exit::Timeout);
        assert_eq!(rig.machine.control.phase(), Phase::Running);
    }
    rig.wanted.store(true, Ordering::SeqCst);
    assert!(matches!(rig.wait(), Err(RunError::Host)));
    assert_eq!(rig.machine.control.phase(), Phase::Running);
}

#[test]
fn test_device_that_asks_often_is_told_once() {
    let rig = Rig::new(vec![vec![outs(0x80, &[1; 60]), ins(0x99, 1)]]);
    rig.attach(Space::Pio, 0x80, 1, stopper("full"));
    assert_eq!(rig.run().unwrap(), stopped(Some(0), "full"));
    assert_eq!(io(rig.run()).address, 0x99);
}

#[test]
fn test_device_failed_before_the_first_run_is_raised_by_it() {
    let rig = Rig::new(vec![vec![msr(1)]]);
    rig.machine.control.device_failed();
    rig.machine.control.device_failed();
    assert!(matches!(rig.run(), Err(RunError::Device)));
    assert!(matches!(rig.run().unwrap(), Exit::Msr { .. }));
}

#[test]
fn test_run_from_many_threads_gives_each_exit_to_one_of_them() {
    const EXITS: u32 = 200;
    let rig = Rig::new(vec![(0..EXITS).map(msr).collect(), vec![Step::Spin; 10_000]]);
    let told = AtomicU64::new(0);
    let refused = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while told.load(Ordering::SeqCst) < u64::from(EXITS) {
                    match rig.machine.run(Some(Duration::from_secs(2)), &rig) {
                        Ok(Exit::Msr { vcpu: 0, .. }) => told.fetch_add(1, Ordering::SeqCst),
                        Ok(Exit::Timeout | Exit::Halt { .. }) => break,
                        Err(RunError::State(StateError { phase: Phase::Running, .. })) => {
                            refused.fetch_add(1, Ordering::SeqCst)
                        }
                        other => panic!("{other:?}"),
                    };
                    if told.load(Ordering::SeqCst) == u64::from(EXITS) {
                        // Ends the run that another thread has begun meanwhile, if one has.
                        rig.machine.control.request(Cause::Timeout, None);
                    }
                }
            });
        }
    });
    assert_eq!(told.load(Ordering::SeqCst), u64::from(EXITS));
}
