//! Starting and stopping vCPUs together: kicks that may not be lost, outcomes that may not be lost or told twice, halts
//! of one and of many, and who gets what when several threads use the verbs.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize};

use super::*;
use crate::accel::AccelExit;
use crate::bus::Space;
use crate::scripted::Step;
use crate::testing::{Closures, Event, LONG, Later, Recorder, Rig, before, ins, io, outs, stopped, stopper};

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
    rig.machine.regs(0).unwrap();
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
fn test_run_first_exit_stops_all_and_others_are_returned_before_any_entry() {
    // Every vCPU reaches its exit in the same round: each waits at the last moment for the others.
    let gate = Arc::new(std::sync::Barrier::new(4));
    let script = |index| {
        let gate = gate.clone();
        let meet = before(move || {
            gate.wait();
        });
        vec![meet, Step::Part(AccelExit::Msr { index, is_write: false, value: 0 }, vec![]), Step::Spin, Step::Spin]
    };
    let rig = Rig::new((0..4).map(script).collect());
    let mut seen = Vec::new();
    let calls = || rig.machine.control.vcpus().iter().map(|vcpu| vcpu.readings().calls).sum::<u64>();
    for turn in 0..4 {
        let before = calls();
        let Exit::Msr { vcpu, index, .. } = rig.run().unwrap() else { panic!() };
        assert_eq!(vcpu, index);
        assert!(turn == 0 || calls() == before);
        seen.push(vcpu);
    }
    seen.sort_unstable();
    assert_eq!(seen, [0, 1, 2, 3]);
    assert_eq!(rig.machine.run(Some(Duration::from_millis(1)), &rig).unwrap(), Exit::Timeout);
}

#[test]
fn test_start_with_a_queued_exit_runs_nothing_before_wait_returned_it() {
    let gate = Arc::new(std::sync::Barrier::new(2));
    let script = |port| {
        let gate = gate.clone();
        let meet = before(move || {
            gate.wait();
        });
        let read = AccelExit::Pio { port, size: 1, count: 1, is_write: false };
        vec![meet, Step::Part(read, vec![]), Step::Exit(AccelExit::Shutdown, vec![])]
    };
    let rig = Rig::new(vec![script(0x90), script(0x91)]);
    let first = io(rig.run());
    rig.start();
    let second = io(rig.wait());
    // It can still be answered.
    rig.machine.answer(&second, 0x42).unwrap().unwrap();
    rig.start();
    assert!(matches!(rig.wait().unwrap(), Exit::Shutdown { .. }));
    let reads = rig.log().reads;
    assert!(reads.contains(&(second.vcpu, 0x42)) || reads == [(first.vcpu, 0xff)], "{reads:?}");
}

#[test]
fn test_run_halt_without_irqchip_parks_and_the_next_run_goes_past_it() {
    let rig = Rig::new(vec![vec![Step::Exit(AccelExit::Halt, vec![]), outs(0x99, &[1])]]);
    assert_eq!(rig.run().unwrap(), Exit::Halt { vcpu: 0 });
    assert_eq!(rig.machine.control.phase(), Phase::Paused);
    assert_eq!(io(rig.run()).value, 1);
}

#[test]
fn test_run_halt_with_irqchip_of_one_and_four_is_found_by_the_tick() {
    for vcpus in [1, 4] {
        let rig = Rig::with_irqchip(vec![vec![]; vcpus], true);
        let began = Instant::now();
        assert!(matches!(rig.run().unwrap(), Exit::Halt { .. }));
        assert!(began.elapsed() >= crate::run::TICK);
        assert!(matches!(rig.run().unwrap(), Exit::Halt { .. }));
        rig.start();
        assert!(matches!(rig.wait().unwrap(), Exit::Halt { .. }));
    }
}

#[test]
fn test_run_one_of_four_idle_with_interrupts_is_no_halt() {
    let mut scripts = vec![vec![]; 3];
    scripts.push(vec![Step::Sleep { interruptible: true }]);
    let rig = Rig::with_irqchip(scripts, true);
    assert_eq!(rig.machine.run(Some(Duration::from_millis(200)), &rig).unwrap(), Exit::Timeout);
}

#[test]
fn test_run_halt_that_was_none_goes_on_in_the_same_run() {
    // Seen halted by its tick, awake when all stand still: the round begins again, with threads and without.
    for vcpus in [1, 2, 4] {
        let mut scripts = vec![vec![]; vcpus];
        scripts[0] = vec![Step::Nap { looks: 1 }, outs(0x99, &[1])];
        let rig = Rig::with_irqchip(scripts.clone(), true);
        assert_eq!(io(rig.run()).value, 1);
        scripts.rotate_right(1);
        let rig = Rig::with_irqchip(scripts, true);
        rig.start();
        assert_eq!(io(rig.wait()).value, 1);
    }
}

#[test]
fn test_run_of_a_parked_vcpu_watches_the_time_and_the_host_of_the_others() {
    let scripts = || vec![vec![Step::Exit(AccelExit::Halt, vec![])], vec![Step::Spin; 100]];
    let rig = Rig::new(scripts());
    assert_eq!(rig.machine.run(Some(Duration::from_millis(60)), &rig).unwrap(), Exit::Timeout);
    let rig = Rig::new(scripts());
    rig.machine.regs(0).unwrap();
    std::thread::scope(|scope| {
        let runner = scope.spawn(|| rig.machine.run(None, &rig));
        while rig.machine.control.vcpus()[0].readings().exits == 0 {
            std::thread::yield_now();
        }
        rig.wanted.store(true, Ordering::SeqCst);
        assert!(matches!(runner.join().unwrap(), Err(RunError::Host)));
    });
}

#[test]
fn test_run_interrupted_by_its_host_keeps_the_exits_of_others_for_the_next() {
    // vCPU 1 exits; vCPU 0, asked to leave for that, finds that the host wants its thread.
    let rig = Rig::new(vec![vec![Step::Spin; 100], vec![msr(7)]]);
    let rig = &rig;
    struct Wants<'a>(&'a Rig, AtomicUsize);
    impl Host for Wants<'_> {
        fn poll(&self) -> bool {
            // The second poll is after a kick or a tick.
            self.1.fetch_add(1, Ordering::SeqCst) > 0
        }
        fn spawn(&self, vcpu: u32) -> Result<(), RunError> {
            self.0.spawn(vcpu)
        }
    }
    let mut told = Vec::new();
    for _ in 0..3 {
        match rig.machine.run(Some(Duration::from_millis(300)), &Wants(rig, AtomicUsize::new(0))) {
            Err(RunError::Host) => told.push("host"),
            Ok(Exit::Msr { vcpu: 1, index: 7, .. }) => told.push("exit"),
            other => panic!("{other:?}"),
        }
    }
    // Each interrupt belongs to its own run, and the exit is told once.
    assert_eq!(told.iter().filter(|what| **what == "exit").count(), 1, "{told:?}");
}

#[test]
fn test_run_while_another_vcpu_hangs_in_a_device_gives_the_thread_back() {
    let (entered, release) = (Event::new(), Event::new());
    let (tell, held) = (entered.clone(), release.clone());
    let rig = Rig::new(vec![vec![Step::Spin; 100], vec![outs(0x80, &[1]), msr(1)]]);
    let stuck = move |_, _| {
        tell.set();
        held.wait();
        Action::Continue
    };
    rig.attach(Space::Pio, 0x80, 1, Closures(|_| 0, stuck));
    std::thread::scope(|scope| {
        let runner = scope.spawn(|| rig.machine.run(None, &rig));
        entered.wait();
        rig.wanted.store(true, Ordering::SeqCst);
        assert!(matches!(runner.join().unwrap(), Err(RunError::Host)));
        // Not all stand still yet.
        assert_eq!(rig.machine.control.phase(), Phase::Running);
        assert!(matches!(rig.machine.regs(0), Err(RunError::State(_))));
        rig.wanted.store(false, Ordering::SeqCst);
        release.set();
        // The last one out settles: there is nothing to return, and the machine can run on.
        while rig.machine.control.phase() == Phase::Running {
            std::thread::yield_now();
        }
        assert!(matches!(rig.run().unwrap(), Exit::Msr { vcpu: 1, index: 1, .. }));
    });
}

#[test]
fn test_stop_before_any_run_is_what_wait_returns() {
    for prepared in [false, true] {
        let rig = Rig::new(vec![vec![]]);
        if prepared {
            rig.machine.regs(0).unwrap();
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
                    match rig.machine.run(Some(LONG), &rig) {
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
