//! Rounds of several vCPUs: which exit is told when, halts of one and of many and those that are none, and a host that
//! wants its thread back in the middle.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use super::*;
use crate::accel::AccelExit;
use crate::bus::{Action, Space};
use crate::scripted::Step;
use crate::testing::{Closures, Event, LONG, Rig, before, io, outs, stopped};

fn msr(index: u32) -> Step {
    Step::Exit(AccelExit::Msr { index, is_write: false, value: 0 }, vec![])
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
    let exits = || rig.machine.control.vcpus().iter().map(|vcpu| vcpu.readings().exits).sum::<u64>();
    for turn in 0..4 {
        let before = exits();
        let Exit::Msr { vcpu, index, .. } = rig.run().unwrap() else { panic!() };
        assert_eq!(vcpu, index);
        assert!(turn == 0 || exits() == before);
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
    rig.machine.answer(&second, 0x42, &rig).unwrap().unwrap();
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
    rig.machine.regs(0, &rig).unwrap();
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

// fault row 32
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
        assert!(matches!(rig.machine.regs(0, &rig), Err(RunError::State(_))));
        rig.wanted.store(false, Ordering::SeqCst);
        release.set();
        // The last one out settles: there is nothing to return, and the machine can run on.
        while rig.machine.control.phase() == Phase::Running {
            std::thread::yield_now();
        }
        assert!(matches!(rig.run().unwrap(), Exit::Msr { vcpu: 1, index: 1, .. }));
    });
}

/// A host whose threads come into being though it says that they did not, as Python's do when a signal raises there.
struct Interrupted<'a>(&'a Rig, AtomicUsize);

impl Host for Interrupted<'_> {
    fn poll(&self) -> bool {
        false
    }
    fn spawn(&self, vcpu: u32) -> Result<(), RunError> {
        self.0.spawn(vcpu)?;
        let again = |left: usize| left.checked_sub(1);
        if self.1.fetch_update(Ordering::SeqCst, Ordering::SeqCst, again).is_ok() {
            Err(RunError::Host)
        } else {
            Ok(())
        }
    }
}

// fault row 32
#[test]
fn test_start_interrupted_after_its_thread_was_made_gives_no_vcpu_two() {
    for vcpus in [1, 3] {
        for _ in 0..50 {
            let rig = Rig::new(vec![vec![Step::Spin; 1_000]; vcpus]);
            let host = Interrupted(&rig, AtomicUsize::new(1));
            assert!(matches!(rig.machine.start(&host), Err(RunError::Host)));
            rig.machine.start(&host).unwrap();
            rig.machine.pause(&rig).unwrap();
            assert_eq!(rig.machine.control.phase(), Phase::Paused);
            let exits = || rig.machine.control.vcpus().iter().map(|vcpu| vcpu.readings().exits).sum::<u64>();
            let (before, began) = (exits(), Instant::now());
            rig.machine.resume(&host).unwrap();
            assert_eq!(rig.machine.wait(Some(Duration::from_millis(1)), &rig).unwrap(), Exit::Timeout);
            rig.machine.pause(&rig).unwrap();
            // One entry for each, and one after each tick that a busy host lets come: a second thread would have made its own.
            let each = 1 + began.elapsed().as_nanos() / crate::run::TICK.as_nanos();
            let entries = u128::from(exits() - before);
            assert!(entries <= vcpus as u128 * each, "{entries} entries");
        }
    }
}

// fault row 32
#[test]
fn test_run_whose_thread_cannot_be_made_leaves_no_round_of_another_caller_waiting_for_it() {
    // The host makes no thread for vCPU 1, and says so once another caller has come to its own round.
    struct Fails<'a>(&'a Rig, Arc<Event>, Arc<Event>);
    impl Host for Fails<'_> {
        fn poll(&self) -> bool {
            false
        }
        fn spawn(&self, vcpu: u32) -> Result<(), RunError> {
            if vcpu == 0 {
                return self.0.spawn(vcpu);
            }
            self.1.set();
            self.2.wait();
            Err(RunError::Host)
        }
    }
    struct Waits<'a>(&'a Rig, AtomicUsize);
    impl Host for Waits<'_> {
        fn poll(&self) -> bool {
            self.1.fetch_add(1, Ordering::SeqCst);
            false
        }
        fn spawn(&self, vcpu: u32) -> Result<(), RunError> {
            self.0.spawn(vcpu)
        }
    }
    let rig = Rig::new(vec![vec![Step::Spin; 9]; 2]);
    let (claimed, fail) = (Event::new(), Event::new());
    let waits = Waits(&rig, AtomicUsize::new(0));
    std::thread::scope(|scope| {
        let failing = scope.spawn(|| rig.machine.start(&Fails(&rig, claimed.clone(), fail.clone())));
        claimed.wait();
        let other = scope.spawn(|| rig.machine.start(&waits));
        // It waits for the vCPU's thread, or counts on it and has begun.
        while waits.1.load(Ordering::SeqCst) == 0 && rig.machine.control.phase() != Phase::Running {
            std::thread::yield_now();
        }
        fail.set();
        assert!(matches!(failing.join().unwrap(), Err(RunError::Host)));
        other.join().unwrap().unwrap();
    });
    let began = Instant::now();
    rig.machine.control.request(Cause::Pause, None);
    while rig.machine.control.phase() == Phase::Running {
        assert!(began.elapsed() < LONG, "a vcpu that nobody serves is waited for");
        std::thread::yield_now();
    }
}

#[test]
fn test_run_one_enters_that_vcpu_alone_and_on_this_thread() {
    let here = std::thread::current().id();
    let on_this_thread = before(move || assert_eq!(std::thread::current().id(), here));
    let step = |index| Step::Exit(AccelExit::Msr { index, is_write: false, value: 0 }, vec![]);
    let rig = Rig::new(vec![vec![Step::Spin; 9], vec![on_this_thread, step(1), step(2)], vec![Step::Spin; 9]]);
    let exits = || rig.machine.control.vcpus().iter().map(|vcpu| vcpu.readings().exits).collect::<Vec<_>>();
    for index in [1, 2] {
        let exit = rig.machine.run_one(1, Some(LONG), &rig).unwrap();
        assert!(matches!(exit, Exit::Msr { vcpu: 1, index: read, .. } if read == index), "{exit:?}");
        assert_eq!(rig.machine.control.phase(), Phase::Paused);
        assert_eq!((exits()[0], exits()[2]), (0, 0));
    }
    // No thread was made for it, and a round of all finds each where it was.
    assert_eq!(rig.threads.load(Ordering::SeqCst), u32::MAX);
    assert_eq!(rig.machine.run(Some(Duration::from_millis(60)), &rig).unwrap(), Exit::Timeout);
    assert!(exits().iter().all(|&exits| exits > 0), "{:?}", exits());
}

#[test]
fn test_run_one_while_threads_wait_for_a_round_wakes_none_of_them() {
    let rig = Rig::new(vec![vec![msr(1), msr(2)], vec![Step::Spin; 99]]);
    rig.start();
    assert!(matches!(rig.wait().unwrap(), Exit::Msr { index: 1, .. }));
    let before = rig.machine.control.vcpus()[1].readings().exits;
    assert!(matches!(rig.machine.run_one(0, Some(LONG), &rig).unwrap(), Exit::Msr { index: 2, .. }));
    assert_eq!(rig.machine.control.vcpus()[1].readings().exits, before);
}

#[test]
fn test_run_one_of_a_halted_vcpu_is_a_halt_of_that_one() {
    let rig = Rig::with_irqchip(vec![vec![Step::Spin; 99], vec![], vec![Step::Sleep { interruptible: true }]], true);
    assert_eq!(rig.machine.run_one(1, Some(LONG), &rig).unwrap(), Exit::Halt { vcpu: 1 });
    // One that an interrupt could wake has not.
    assert_eq!(rig.machine.run_one(2, Some(Duration::from_millis(120)), &rig).unwrap(), Exit::Timeout);
    let rig = Rig::new(vec![vec![Step::Exit(AccelExit::Halt, vec![]), msr(1)]]);
    assert_eq!(rig.machine.run_one(0, Some(LONG), &rig).unwrap(), Exit::Halt { vcpu: 0 });
    assert!(matches!(rig.machine.run_one(0, Some(LONG), &rig).unwrap(), Exit::Msr { index: 1, .. }));
}

#[test]
fn test_run_one_is_bounded_by_time_stop_and_host_and_returns_queued_exits_first() {
    let rig = Rig::new(vec![vec![], vec![Step::Spin; 99]]);
    assert_eq!(rig.machine.run_one(1, Some(Duration::from_millis(60)), &rig).unwrap(), Exit::Timeout);
    rig.wanted.store(true, Ordering::SeqCst);
    assert!(matches!(rig.machine.run_one(1, Some(LONG), &rig), Err(RunError::Host)));
    rig.wanted.store(false, Ordering::SeqCst);
    assert!(matches!(rig.machine.run_one(2, None, &rig), Err(RunError::NoVcpu { vcpu: 2 })));
    rig.machine.control.device_failed();
    let before = rig.machine.control.vcpus()[1].readings().exits;
    assert!(matches!(rig.machine.run_one(1, Some(LONG), &rig), Err(RunError::Device)));
    assert_eq!(rig.machine.control.vcpus()[1].readings().exits, before);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while rig.machine.control.phase() != Phase::Running {
                std::thread::yield_now();
            }
            assert!(matches!(rig.machine.run_one(0, None, &rig), Err(RunError::State(_))));
            rig.machine.stop(crate::exit::StopReason::Text("enough".into())).unwrap();
        });
        assert_eq!(rig.machine.run_one(1, Some(LONG), &rig).unwrap(), stopped(None, "enough"));
    });
}
