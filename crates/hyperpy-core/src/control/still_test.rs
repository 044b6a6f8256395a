//! Standing still for a moment: who waits notices nothing, who asks for something meanwhile gets it, and nobody is left standing.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::*;
use crate::exit::StopReason;
use crate::scripted::Step;
use crate::snapshot::SnapshotError;
use crate::testing::{Event, LONG, Rig, before, stopped};

fn spinning(vcpus: usize) -> Rig {
    Rig::new(vec![vec![Step::Spin; 10_000]; vcpus])
}

fn exits(rig: &Rig) -> u64 {
    rig.machine.control.vcpus().iter().map(|vcpu| vcpu.readings().exits).sum()
}

/// Waits for more exits than these: each look at the machine kicks its vCPUs out of the guest, if they are in it.
fn goes_on(rig: &Rig, count: u64) {
    let began = Instant::now();
    while exits(rig) == count {
        assert!(began.elapsed() < LONG, "nobody goes on");
        rig.machine.control.look();
        std::thread::yield_now();
    }
}

#[test]
fn test_still_of_a_started_machine_keeps_it_running_for_all_others() {
    let rig = spinning(2);
    rig.start();
    let control = &rig.machine.control;
    let before = control.still("snapshot", true, &rig).unwrap();
    assert_eq!(before, Before::Running);
    assert_eq!(control.phase(), Phase::Running);
    let count = exits(&rig);
    assert_eq!(rig.machine.wait(Some(Duration::from_millis(60)), &rig).unwrap(), Exit::Timeout);
    assert_eq!(exits(&rig), count, "somebody ran");
    control.end_still(before);
    goes_on(&rig, count);
    rig.machine.pause(&rig).unwrap();
}

#[test]
fn test_still_while_somebody_waits_does_not_end_the_wait() {
    let rig = spinning(2);
    rig.start();
    let (machine, is_over) = (rig.machine.clone(), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let waiter = scope.spawn(|| {
            let exit = machine.wait(None, &rig);
            is_over.store(true, Ordering::SeqCst);
            exit
        });
        for _ in 0..20 {
            let before = rig.machine.control.still("snapshot", true, &rig).unwrap();
            rig.machine.control.end_still(before);
        }
        assert!(!is_over.load(Ordering::SeqCst));
        rig.machine.stop(StopReason::Text("done".into())).unwrap();
        assert_eq!(waiter.join().unwrap().unwrap(), stopped(None, "done"));
    });
}

#[test]
fn test_stop_and_pause_while_it_stands_still_hold_afterwards() {
    for is_stop in [true, false] {
        let rig = spinning(2);
        rig.start();
        let before = rig.machine.control.still("snapshot", true, &rig).unwrap();
        std::thread::scope(|scope| {
            let asker = scope.spawn(|| {
                if is_stop {
                    rig.machine.stop(StopReason::Text("now".into())).unwrap();
                } else {
                    rig.machine.pause(&rig).unwrap();
                }
            });
            while rig.machine.control.lock().cause.is_none() {
                std::thread::yield_now();
            }
            rig.machine.control.end_still(before);
            asker.join().unwrap();
        });
        let phase = if is_stop { Phase::Stopped } else { Phase::Paused };
        assert_eq!(rig.machine.control.phase(), phase);
        let why = if is_stop { "now" } else { "pause" };
        assert_eq!(rig.wait().unwrap(), stopped(None, why));
    }
}

#[test]
fn test_still_by_two_at_once_is_one_after_the_other() {
    let rig = spinning(2);
    rig.start();
    let inside = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                for _ in 0..50 {
                    let before = rig.machine.control.still("snapshot", true, &rig).unwrap();
                    assert!(!inside.swap(true, Ordering::SeqCst), "two at once");
                    inside.store(false, Ordering::SeqCst);
                    rig.machine.control.end_still(before);
                }
            });
        }
    });
    rig.machine.pause(&rig).unwrap();
}

#[test]
fn test_still_that_may_not_interrupt_waits_for_another_one_of_a_machine_that_stood() {
    let rig = spinning(2);
    let control = &rig.machine.control;
    for from_running in [true, false].repeat(20) {
        let before = control.still("snapshot", from_running, &rig).unwrap();
        assert_eq!(before, Before::Standing(Phase::Created));
        let (began, is_over) = (Event::new(), AtomicBool::new(false));
        std::thread::scope(|scope| {
            let (tell, is_over, rig) = (began.clone(), &is_over, &rig);
            let other = scope.spawn(move || {
                tell.set();
                let before = rig.machine.control.still("restore", false, rig).unwrap();
                assert!(is_over.load(Ordering::SeqCst), "two at once");
                rig.machine.control.end_as(Phase::Paused, Parked::default());
                before
            });
            began.wait();
            is_over.store(true, Ordering::SeqCst);
            control.end_still(before);
            assert_eq!(other.join().unwrap(), Before::Standing(Phase::Created));
        });
        assert_eq!(control.phase(), Phase::Paused);
        let before = control.still("reset", false, &rig).unwrap();
        assert_eq!(before, Before::Standing(Phase::Paused));
        control.end_as(Phase::Created, Parked::default());
    }
}

#[test]
fn test_still_that_may_not_interrupt_is_refused_while_another_one_interrupts_a_round() {
    let rig = spinning(2);
    rig.start();
    let before = rig.machine.control.still("snapshot", true, &rig).unwrap();
    let refused = rig.machine.control.still("restore", false, &rig).unwrap_err();
    assert_eq!(refused.to_string(), "cannot restore: the machine is running");
    rig.machine.control.end_still(before);
    goes_on(&rig, exits(&rig));
    rig.machine.pause(&rig).unwrap();
}

#[test]
fn test_still_of_a_machine_that_somebody_runs_is_refused() {
    let inside = Event::new();
    let tell = inside.clone();
    let rig = Rig::new(vec![[vec![before(move || tell.set())], vec![Step::Spin; 10_000]].concat()]);
    std::thread::scope(|scope| {
        let runner = scope.spawn(|| rig.machine.run(None, &rig));
        inside.wait();
        let refused = rig.machine.control.still("snapshot", true, &rig).unwrap_err();
        assert_eq!(refused.to_string(), "cannot snapshot: the machine is running");
        rig.machine.stop(StopReason::Text("x".into())).unwrap();
        runner.join().unwrap().unwrap();
    });
}

#[test]
fn test_still_whose_host_wants_its_thread_back_leaves_it_running() {
    /// Wants its thread back at once.
    struct Hasty<'a>(&'a Rig);
    impl Host for Hasty<'_> {
        fn poll(&self) -> bool {
            true
        }
        fn spawn(&self, vcpu: u32) -> Result<(), RunError> {
            self.0.spawn(vcpu)
        }
    }
    let (entered, release) = (Event::new(), Event::new());
    let (tell, held) = (entered.clone(), release.clone());
    let stuck = before(move || {
        tell.set();
        held.wait();
    });
    let rig = Rig::new(vec![[vec![stuck], vec![Step::Spin; 10_000]].concat(), vec![Step::Spin; 10_000]]);
    rig.start();
    entered.wait();
    let refused = rig.machine.control.still("snapshot", true, &Hasty(&rig));
    assert!(matches!(refused, Err(RunError::Host)), "{refused:?}");
    release.set();
    // It goes on: a stop is heard, and says why.
    goes_on(&rig, exits(&rig));
    assert_eq!(rig.machine.control.phase(), Phase::Running);
    rig.machine.stop(StopReason::Text("x".into())).unwrap();
    assert_eq!(rig.wait().unwrap(), stopped(None, "x"));
}

#[test]
fn test_close_while_it_stands_still_waits_for_its_end() {
    let rig = spinning(2);
    rig.start();
    let before = rig.machine.control.still("snapshot", true, &rig).unwrap();
    let (machine, is_closed) = (rig.machine.clone(), Arc::new(AtomicBool::new(false)));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            machine.close(Some(&rig)).unwrap();
            is_closed.store(true, Ordering::SeqCst);
        });
        while rig.machine.control.phase() != Phase::Closed {
            std::thread::yield_now();
        }
        assert!(!is_closed.load(Ordering::SeqCst));
        rig.machine.control.end_still(before);
    });
    assert!(is_closed.load(Ordering::SeqCst));
    let refused = rig.machine.control.still("snapshot", true, &rig).unwrap_err();
    assert_eq!(refused.to_string(), "cannot snapshot: the machine is closed");
}

/// Every verb against every other, from several threads: only refusals by state come of it, nobody is left waiting, and the
/// machine obeys at the end.
#[test]
fn test_verbs_of_all_kinds_at_once_leave_a_machine_that_obeys() {
    let refused = |error: &RunError| matches!(error, RunError::State(_));
    let rig = Rig::new(vec![vec![Step::Spin; 200_000]; 2]);
    let machine = &rig.machine;
    let base = machine.snapshot(&rig).unwrap();
    let verbs: [&(dyn Fn() -> Result<(), RunError> + Sync); 9] = [
        &|| machine.start(&rig),
        &|| machine.resume(&rig),
        &|| machine.pause(&rig),
        &|| machine.run(Some(Duration::from_micros(200)), &rig).map(drop),
        &|| machine.wait(Some(Duration::from_micros(200)), &rig).map(drop),
        &|| of_run(machine.snapshot(&rig).map(drop)),
        &|| of_run(machine.restore(&base, &[], &rig).map(drop)),
        &|| machine.stop(StopReason::Text("x".into())),
        &|| machine.control.still("snapshot", true, &rig).map(|before| machine.control.end_still(before)),
    ];
    std::thread::scope(|scope| {
        for verb in verbs {
            scope.spawn(move || {
                for _ in 0..1_000 {
                    let done = verb();
                    assert!(!matches!(&done, Err(error) if !refused(error)), "{done:?}");
                    std::thread::yield_now();
                }
            });
        }
    });
    let _ = machine.pause(&rig);
    machine.restore(&base, &[], &rig).unwrap();
    let inner = machine.control.lock();
    assert_eq!((inner.active, inner.still_wanted, inner.has_settled_still), (0, 0, false));
    drop(inner);
    rig.start();
    machine.stop(StopReason::Text("end".into())).unwrap();
    assert_eq!(rig.wait().unwrap(), stopped(None, "end"));
}

fn of_run(done: Result<(), SnapshotError>) -> Result<(), RunError> {
    match done {
        Err(SnapshotError::Run(error)) => Err(error),
        done => {
            done.unwrap();
            Ok(())
        }
    }
}
