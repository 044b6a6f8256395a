//! Timers beside vCPUs that run: when they fire, what they may do, and what waits for them.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, mpsc};

use super::*;
use crate::clock::{Fired, Raised};
use crate::exit::StopReason;
use crate::scripted::Step;
use crate::testing::{Event, Rig, stopped};

type Answer = Result<Option<StopReason>, Raised>;

struct Calls<F>(F);

impl<F: Fn(Fired) -> Answer + Send + Sync + 'static> Callback for Calls<F> {
    fn fire(&self, fired: Fired) -> Answer {
        (self.0)(fired)
    }
}

fn arm(rig: &Rig, when: When, f: impl Fn(Fired) -> Answer + Send + Sync + 'static) -> Timer {
    rig.machine.arm(when, 0, Arc::new(Calls(f)), rig).unwrap()
}

fn stop(why: &str) -> Answer {
    Ok(Some(StopReason::Text(why.into())))
}

/// A vCPU that runs until it is asked to leave, as often as it is run.
fn spins() -> Rig {
    Rig::with_irqchip(vec![vec![Step::Spin; 64]], true)
}

#[test]
fn test_timer_stops_a_run_when_its_time_has_come() {
    let rig = spins();
    let clock = rig.machine.clock.clone();
    arm(&rig, When::After(2_000_000), move |fired| {
        assert!(clock.now() >= fired.deadline);
        stop("time")
    });
    assert_eq!(rig.run().unwrap(), stopped(None, "time"));
    assert_eq!(rig.machine.control.phase(), Phase::Paused);
    assert!(rig.machine.clock.now() >= 2_000_000);
}

#[test]
fn test_timers_wait_while_the_machine_stands_still() {
    let rig = spins();
    let (sent, fired) = mpsc::channel();
    let sent = Mutex::new(sent);
    let clock = rig.machine.clock.clone();
    arm(&rig, When::After(50), move |_| {
        sent.lock().unwrap().send(clock.now()).unwrap();
        Ok(None)
    });
    assert_eq!(rig.machine.clock.step(100), Ok(()));
    assert_eq!(rig.machine.clock.timers(), 1);
    rig.start();
    assert!(fired.recv_timeout(crate::testing::LONG).unwrap() >= 100);
    rig.machine.pause(&rig).unwrap();
    let stands = rig.machine.clock.now();
    let (sent, fired) = mpsc::channel();
    let sent = Mutex::new(sent);
    arm(&rig, When::At(0), move |_| {
        sent.lock().unwrap().send(()).unwrap();
        Ok(None)
    });
    assert_eq!(rig.machine.clock.now(), stands);
    assert!(fired.try_recv().is_err());
    rig.machine.resume(&rig).unwrap();
    fired.recv_timeout(crate::testing::LONG).unwrap();
}

#[test]
fn test_timers_fire_in_order_beside_a_vcpu() {
    let rig = spins();
    let order: Arc<Mutex<Vec<u64>>> = Arc::default();
    for number in [3_u64, 1, 2, 4] {
        let order = order.clone();
        arm(&rig, When::At(number), move |fired| {
            order.lock().unwrap().push(fired.deadline);
            if fired.deadline == 4 { stop("all") } else { Ok(None) }
        });
    }
    assert_eq!(rig.run().unwrap(), stopped(None, "all"));
    assert_eq!(*order.lock().unwrap(), [1, 2, 3, 4]);
}

#[test]
fn test_scale_of_zero_stops_timers_until_the_clock_is_stepped() {
    let rig = spins();
    assert!(rig.machine.clock.set_scale(0.0));
    arm(&rig, When::After(1_000_000_000_000), |_| stop("stepped"));
    rig.start();
    assert_eq!(rig.machine.wait(Some(std::time::Duration::from_millis(20)), &rig).unwrap(), Exit::Timeout);
    assert_eq!(rig.machine.clock.now(), 0);
    assert_eq!(rig.machine.clock.step(1_000_000_000_000), Ok(()));
    assert_eq!(rig.wait().unwrap(), stopped(None, "stepped"));
}

#[test]
fn test_pause_returns_only_when_no_callback_runs() {
    let rig = spins();
    let (inside, go, left) = (Event::new(), Event::new(), Arc::new(AtomicU64::new(0)));
    let (within, goes, leaves) = (inside.clone(), go.clone(), left.clone());
    arm(&rig, When::After(0), move |_| {
        within.set();
        goes.wait();
        leaves.store(1, Ordering::SeqCst);
        Ok(None)
    });
    rig.start();
    inside.wait();
    std::thread::scope(|scope| {
        let paused = scope.spawn(|| {
            rig.machine.pause(&rig).unwrap();
            left.load(Ordering::SeqCst)
        });
        // The vCPU has left when the callback is the only one that has not.
        while rig.machine.control.is_crowded() {
            std::thread::yield_now();
        }
        assert!(!paused.is_finished());
        assert_eq!(rig.machine.control.phase(), Phase::Running);
        go.set();
        assert_eq!(paused.join().unwrap(), 1);
    });
    assert_eq!(rig.machine.control.phase(), Phase::Paused);
}

#[test]
fn test_verbs_that_would_wait_for_the_callback_are_refused_in_it() {
    let rig = spins();
    let machine = Arc::downgrade(&rig.machine);
    arm(&rig, When::After(0), move |_| {
        let machine = machine.upgrade().unwrap();
        for verb in ["run", "pause", "close", "resume", "reset"] {
            assert!(matches!(machine.check(verb), Err(RunError::InCallback { .. })));
        }
        assert!(matches!(machine.close(None), Err(RunError::InCallback { verb: "close" })));
        machine.stop(StopReason::Text("from a callback".into())).unwrap();
        Ok(None)
    });
    assert_eq!(rig.run().unwrap(), stopped(None, "from a callback"));
    assert_eq!(rig.machine.control.phase(), Phase::Stopped);
}

#[test]
fn test_callback_that_fails_pauses_the_machine_and_run_fails() {
    let rig = spins();
    let timer = arm(&rig, When::Every(1_000), |_| Err(Raised));
    assert!(matches!(rig.run(), Err(RunError::Device)));
    assert_eq!(rig.machine.control.phase(), Phase::Paused);
    assert!(timer.is_active());
    assert!(matches!(rig.run(), Err(RunError::Device)));
}

#[test]
fn test_callback_that_panics_closes_the_machine() {
    let rig = spins();
    arm(&rig, When::After(0), |_| panic!("a timer that panics"));
    let Err(RunError::Panic { device, message }) = rig.run() else { panic!("no panic") };
    assert_eq!((device.as_str(), message.as_str()), ("timer", "a timer that panics"));
    assert_eq!(rig.machine.control.phase(), Phase::Closed);
}

#[test]
fn test_reset_begins_time_anew_and_takes_timers_off() {
    let rig = spins();
    let clock = rig.machine.clock.clone();
    let timer = arm(&rig, When::At(u64::MAX), |_| Ok(None));
    arm(&rig, When::After(1_000), |_| stop("on"));
    assert_eq!(rig.run().unwrap(), stopped(None, "on"));
    assert!(clock.now() >= 1_000);
    rig.machine.reset(&rig, || Ok(())).unwrap();
    assert_eq!((clock.now(), timer.is_active(), clock.timers()), (0, false, 0));
    arm(&rig, When::After(1_000), |_| stop("again"));
    assert_eq!(rig.run().unwrap(), stopped(None, "again"));
    assert!(clock.now() >= 1_000);
}

#[test]
fn test_close_ends_the_thread_and_drops_callbacks() {
    let rig = spins();
    let kept = Arc::new(());
    let held = kept.clone();
    arm(&rig, When::At(u64::MAX), move |_| {
        assert!(Arc::strong_count(&held) > 0);
        Ok(None)
    });
    rig.start();
    rig.machine.close(None).unwrap();
    assert_eq!(Arc::strong_count(&kept), 1);
    let refused = rig.machine.arm(When::After(0), 0, Arc::new(Calls(|_| Ok(None))), &rig);
    assert!(matches!(refused, Err(RunError::State(StateError { phase: Phase::Closed, .. }))));
}

/// A host that keeps no machine.
struct Threads(Weak<Machine>, Arc<Control>);

impl Host for Threads {
    fn poll(&self) -> bool {
        false
    }
    fn spawn(&self, _vcpu: u32) -> Result<(), RunError> {
        Err(RunError::Host)
    }
    fn spawn_timers(&self) -> Result<(), RunError> {
        let (machine, control) = (self.0.clone(), self.1.clone());
        std::thread::spawn(move || Machine::serve_timers(&machine, 1, &control));
        Ok(())
    }
}

#[test]
fn test_machine_that_is_dropped_ends_the_thread_and_drops_callbacks() {
    let accel = Arc::new(crate::scripted::Scripted::new(vec![vec![]]));
    let memory = crate::memory::Memory::with_ram(1 << 20).unwrap();
    let machine = Arc::new(Machine::new(accel, memory, crate::accel::VmConfig { vcpus: 1, irqchip: false }));
    let control = machine.control.clone();
    let held = Arc::new(());
    let holds = held.clone();
    let call = Calls(move |_| {
        assert!(Arc::strong_count(&holds) > 0);
        Ok(None)
    });
    let host = Threads(Arc::downgrade(&machine), control.clone());
    machine.arm(When::At(u64::MAX), 0, Arc::new(call), &host).unwrap();
    while control.has_no_caller() {
        std::thread::yield_now();
    }
    drop(machine);
    while !control.has_no_caller() {
        std::thread::yield_now();
    }
    assert_eq!(Arc::strong_count(&held), 1);
}

#[test]
fn test_timer_is_not_set_where_no_thread_can_be_made() {
    let rig = spins();
    rig.threads.store(0, Ordering::SeqCst);
    let refused = rig.machine.arm(When::After(0), 0, Arc::new(Calls(|_| stop("never"))), &rig);
    assert!(matches!(refused, Err(RunError::Host)));
    assert_eq!(rig.machine.clock.timers(), 0);
    rig.threads.store(u32::MAX, Ordering::SeqCst);
    arm(&rig, When::After(0), |_| stop("now"));
    assert_eq!(rig.run().unwrap(), stopped(None, "now"));
}

#[test]
fn test_disarm_waits_for_a_callback_of_that_owner_that_runs() {
    let rig = spins();
    let (inside, go) = (Event::new(), Event::new());
    let (within, goes) = (inside.clone(), go.clone());
    let call = Calls(move |_| {
        within.set();
        goes.wait();
        Ok(None)
    });
    let often = rig.machine.arm(When::Every(1_000), 7, Arc::new(call), &rig).unwrap();
    rig.start();
    inside.wait();
    rig.machine.disarm(8, &rig).unwrap();
    std::thread::scope(|scope| {
        let disarmed = scope.spawn(|| rig.machine.disarm(7, &rig));
        while often.is_active() {
            std::thread::yield_now();
        }
        assert!(!disarmed.is_finished());
        go.set();
        disarmed.join().unwrap().unwrap();
    });
    assert_eq!(rig.machine.clock.timers(), 0);
}

#[test]
fn test_hold_waits_for_the_callback_and_keeps_the_next_one_out() {
    let rig = spins();
    let count = Arc::new(AtomicU64::new(0));
    let counts = count.clone();
    arm(&rig, When::Every(1), move |_| {
        counts.fetch_add(1, Ordering::SeqCst);
        Ok(None)
    });
    rig.start();
    for _ in 0..20 {
        let before = count.load(Ordering::SeqCst);
        while count.load(Ordering::SeqCst) == before {
            std::thread::yield_now();
        }
        let held = rig.machine.control.hold().unwrap();
        let during = count.load(Ordering::SeqCst);
        std::thread::yield_now();
        assert_eq!(count.load(Ordering::SeqCst), during);
        drop(held);
    }
}

#[test]
fn test_halt_of_all_vcpus_is_told_however_many_timers_fire() {
    let halts = || (0..50).map(|_| Step::Exit(crate::accel::AccelExit::Halt, vec![])).collect();
    let rig = Rig::new(vec![halts(), halts()]);
    arm(&rig, When::Every(1), |_| Ok(None));
    for _ in 0..50 {
        assert!(matches!(rig.run().unwrap(), Exit::Halt { .. }));
    }
}
