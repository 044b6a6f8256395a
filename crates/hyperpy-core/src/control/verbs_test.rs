//! Pause, and a close that is interrupted: who is told what, what is left behind, and that neither is deaf to its host.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::*;
use crate::bus::{Action, Space};
use crate::control::paused;
use crate::exit::{Exit, StopReason};
use crate::scripted::Step;
use crate::testing::{Closures, Event, LONG, Later, Rig, before, outs, stopped};

/// A machine whose vCPUs spin through this many kicks.
fn spinning(vcpus: usize) -> Rig {
    Rig::new(vec![vec![Step::Spin; 10_000]; vcpus])
}

fn until(rig: &Rig, phase: Phase) {
    let began = Instant::now();
    while rig.machine.control.phase() != phase {
        assert!(began.elapsed() < LONG, "not {}", phase.name());
        std::thread::yield_now();
    }
}

/// A machine of which vCPU 0 hangs in a device until the second event; the first says that it does.
fn stuck() -> (Rig, Arc<Event>, Arc<Event>) {
    let (entered, release) = (Event::new(), Event::new());
    let rig = Rig::new(vec![vec![outs(0x80, &[1]), Step::Spin, Step::Spin, Step::Spin]]);
    let (tell, held) = (entered.clone(), release.clone());
    let device = move |_, _| {
        tell.set();
        held.wait();
        Action::Continue
    };
    rig.attach(Space::Pio, 0x80, 1, Closures(|_| 0, device));
    (rig, entered, release)
}

#[test]
fn test_pause_of_a_started_machine_stands_it_still_and_queues_nothing() {
    let rig = spinning(3);
    rig.start();
    let began = Instant::now();
    rig.machine.pause(&rig).unwrap();
    assert!(began.elapsed() < Duration::from_millis(100), "{:?}", began.elapsed());
    assert_eq!(rig.machine.control.phase(), Phase::Paused);
    let exits = || rig.machine.control.vcpus().iter().map(|vcpu| vcpu.readings().exits).sum::<u64>();
    let before = exits();
    rig.machine.pause(&rig).unwrap();
    assert_eq!(exits(), before);
    // What it ended with is told again, but the next run does not return it.
    assert_eq!(rig.wait().unwrap(), stopped(None, "pause"));
    assert_eq!(rig.machine.run(Some(Duration::ZERO), &rig).unwrap(), Exit::Timeout);
}

#[test]
fn test_pause_is_what_a_run_and_every_wait_elsewhere_return() {
    let rig = spinning(2);
    for round in 0..20 {
        std::thread::scope(|scope| {
            let others: Vec<_> = if round % 2 == 0 {
                vec![scope.spawn(|| rig.run())]
            } else {
                rig.start();
                (0..3).map(|_| scope.spawn(|| rig.wait())).collect()
            };
            until(&rig, Phase::Running);
            rig.machine.pause(&rig).unwrap();
            for other in others {
                assert_eq!(other.join().unwrap().unwrap(), stopped(None, "pause"));
            }
        });
        assert_eq!(rig.machine.control.phase(), Phase::Paused);
    }
}

#[test]
fn test_pause_that_someone_resumes_at_once_is_still_told_to_who_waits() {
    let rig = spinning(1);
    rig.start();
    let waiting = Event::new();
    struct Tells<'a>(&'a Rig, Arc<Event>);
    impl Host for Tells<'_> {
        fn poll(&self) -> bool {
            self.1.set();
            false
        }
        fn spawn(&self, vcpu: u32) -> Result<(), RunError> {
            self.0.spawn(vcpu)
        }
    }
    std::thread::scope(|scope| {
        let told = waiting.clone();
        let waiter = scope.spawn(|| rig.machine.wait(Some(LONG), &Tells(&rig, told)));
        waiting.wait();
        rig.machine.pause(&rig).unwrap();
        rig.machine.resume(&rig).unwrap();
        assert_eq!(waiter.join().unwrap().unwrap(), stopped(None, "pause"));
    });
    assert_eq!(rig.machine.control.phase(), Phase::Running);
}

#[test]
fn test_pause_between_the_look_and_the_entry_is_not_lost() {
    let later = Later::default();
    let hook = later.clone();
    let rig = Rig::new(vec![vec![before(move || hook.control().request(Cause::Pause, None)), Step::Spin]]);
    later.set(&rig);
    let began = Instant::now();
    assert_eq!(rig.machine.run(None, &rig).unwrap(), paused());
    assert!(began.elapsed() < crate::run::TICK, "{:?}", began.elapsed());
}

#[test]
fn test_pause_and_resume_where_they_do_not_fit_say_so() {
    let state = |result: Result<(), RunError>| match result {
        Err(RunError::State(error)) => (error.verb, error.phase),
        other => panic!("{other:?}"),
    };
    let rig = spinning(1);
    assert_eq!(state(rig.machine.pause(&rig)), ("pause", Phase::Created));
    assert_eq!(state(rig.machine.resume(&rig)), ("resume", Phase::Created));
    rig.start();
    assert_eq!(state(rig.machine.resume(&rig)), ("resume", Phase::Running));
    rig.machine.stop(StopReason::Text("enough".into())).unwrap();
    until(&rig, Phase::Stopped);
    assert_eq!(state(rig.machine.pause(&rig)), ("pause", Phase::Stopped));
    assert_eq!(state(rig.machine.resume(&rig)), ("resume", Phase::Stopped));
    rig.machine.close(None).unwrap();
    assert_eq!(state(rig.machine.pause(&rig)), ("pause", Phase::Closed));
    assert_eq!(state(rig.machine.resume(&rig)), ("resume", Phase::Closed));
}

#[test]
fn test_pause_while_a_device_holds_a_vcpu_hears_its_host_and_still_comes() {
    let (rig, entered, release) = stuck();
    rig.start();
    entered.wait();
    rig.wanted.store(true, Ordering::SeqCst);
    assert!(matches!(rig.machine.pause(&rig), Err(RunError::Host)));
    assert_eq!(rig.machine.control.phase(), Phase::Running);
    rig.wanted.store(false, Ordering::SeqCst);
    release.set();
    until(&rig, Phase::Paused);
}

#[test]
fn test_pause_of_a_machine_that_ends_meanwhile_says_that_it_ended() {
    let (rig, entered, release) = stuck();
    rig.start();
    entered.wait();
    rig.machine.stop(StopReason::Text("first".into())).unwrap();
    std::thread::scope(|scope| {
        let pauser = scope.spawn(|| rig.machine.pause(&rig));
        release.set();
        let error = pauser.join().unwrap().unwrap_err();
        assert!(matches!(error, RunError::State(StateError { phase: Phase::Stopped, .. })), "{error}");
    });
    assert_eq!(rig.wait().unwrap(), stopped(None, "first"));
}

#[test]
fn test_pause_and_resume_in_turn_never_hang_and_lose_no_exit() {
    let rig = Rig::new(vec![(0..200).map(|value| outs(0x80, &[value & 0xff])).collect()]);
    let device = crate::testing::Recorder::default();
    rig.attach(Space::Pio, 0x80, 1, device.clone());
    rig.start();
    loop {
        match rig.machine.pause(&rig) {
            // Halted: the guest is at its end.
            Ok(()) if device.writes().len() == 200 => break,
            Ok(()) => {
                let _ = rig.machine.resume(&rig);
            }
            Err(error) => panic!("{error}"),
        }
    }
    let values: Vec<u64> = device.writes().iter().map(|write| write.2).collect();
    assert_eq!(values, (0..200).collect::<Vec<_>>());
}

#[test]
fn test_close_while_a_device_holds_a_vcpu_hears_its_host_and_closes_when_it_returns() {
    let finish = |rig: &Rig, release: &Event| {
        rig.wanted.store(true, Ordering::SeqCst);
        assert!(matches!(rig.machine.close(Some(rig)), Err(RunError::Host)));
        assert_eq!(rig.machine.control.phase(), Phase::Closed);
        // The vCPU is in the device: its memory is there.
        assert!(!rig.machine.memory.regions().is_empty());
        release.set();
        let began = Instant::now();
        while !rig.machine.memory.regions().is_empty() {
            assert!(began.elapsed() < LONG, "not given back");
            std::thread::yield_now();
        }
        // Once more is fine, and has nothing to wait for.
        rig.machine.close(Some(rig)).unwrap();
    };
    let (rig, entered, release) = stuck();
    rig.start();
    entered.wait();
    finish(&rig, &release);

    let (rig, entered, release) = stuck();
    std::thread::scope(|scope| {
        let runner = scope.spawn(|| rig.run());
        entered.wait();
        finish(&rig, &release);
        assert!(matches!(runner.join().unwrap(), Err(RunError::State(_) | RunError::Host)));
    });
}
