//! Verbs of the whole machine: attaching and detaching while it runs, panics, threads that cannot be had, closing from
//! anywhere, and verbs in the wrong state or on the wrong thread.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::sync::atomic::AtomicBool;
use std::sync::{OnceLock, Weak};
use std::time::{Duration, Instant};

use super::*;
use crate::accel::AccelExit;
use crate::bus::{Action, Device, Rung};
use crate::control::{Host, Phase};
use crate::error::AttachError;
use crate::exit::{Exit, IoExit, StopReason};
use crate::scripted::Step;
use crate::testing::{Closures, Event, LONG, Recorder, Rig, before, io, mmio_read, outs, stopped};

type Verb = fn(&Rig) -> Result<(), RunError>;

/// Every verb that wants the vCPUs to itself, or waits for them.
const VERBS: [(&str, Verb); 9] = [
    ("run", |rig| rig.run().map(drop)),
    ("start", |rig| rig.machine.start(rig)),
    ("wait", |rig| rig.machine.wait(Some(LONG), rig).map(drop)),
    ("read registers", |rig| rig.machine.regs(0, rig).map(drop)),
    ("write registers", |rig| rig.machine.set_regs(0, rig, |_| ())),
    ("write registers", |rig| rig.machine.set_sregs(0, rig, |_| ())),
    ("answer", |rig| {
        let exit = IoExit { vcpu: 0, address: 0, size: 1, is_write: false, value: 0, ticket: 0 };
        rig.machine.answer(&exit, 0, rig).map(drop)
    }),
    ("set interrupt routes", |rig| rig.machine.set_routes(&[])),
    ("close", |rig| rig.machine.close(None)),
];

#[test]
fn test_verb_in_a_state_that_does_not_allow_it_is_refused() {
    let refused = |rig: &Rig, index: usize, phase: Phase| match VERBS[index].1(rig) {
        Err(RunError::State(error)) => assert_eq!((error.verb, error.phase), (VERBS[index].0, phase)),
        other => panic!("{} when {}: {other:?}", VERBS[index].0, phase.name()),
    };
    let created = Rig::new(vec![vec![]]);
    refused(&created, 2, Phase::Created);
    let running = Rig::new(vec![vec![Step::Spin; 1000]]);
    running.start();
    [0, 1, 3, 4, 5, 6].into_iter().for_each(|verb| refused(&running, verb, Phase::Running));
    let ended = Rig::new(vec![vec![Step::Exit(AccelExit::Shutdown, vec![])]]);
    ended.run().unwrap();
    [0, 1].into_iter().for_each(|verb| refused(&ended, verb, Phase::Stopped));
    ended.machine.regs(0, &ended).unwrap();
    let closed = Rig::new(vec![vec![]]);
    closed.machine.close(None).unwrap();
    [0, 1, 2, 3, 4, 5, 6].into_iter().for_each(|verb| refused(&closed, verb, Phase::Closed));
    assert!(matches!(closed.machine.stop(StopReason::PowerOff), Err(RunError::State(_))));
    assert!(matches!(
        closed.machine.attach(Space::Pio, 0, 1, "late", Rung::Native, Arc::new(Recorder::default())),
        Err(AttachError::State(_))
    ));
    closed.machine.close(None).unwrap();
}

#[test]
fn test_verb_inside_a_device_of_any_rung_is_refused_and_stop_is_a_request() {
    for (rung, in_callback) in [(Rung::Native, false), (Rung::Method, true)] {
        let rig = Arc::new(Rig::new(vec![vec![outs(0x80, &[1]), Step::Spin]]));
        let handle: Arc<OnceLock<Weak<Rig>>> = Arc::default();
        let seen = handle.clone();
        let device = Closures(
            |_| 0,
            move |_, _| {
                let rig = seen.get().unwrap().upgrade().unwrap();
                for (name, verb) in VERBS {
                    match verb(&rig) {
                        Err(RunError::InCallback { .. }) if in_callback => {}
                        Err(RunError::WhileRunning { .. }) if !in_callback => {}
                        other => panic!("{name}: {other:?}"),
                    }
                }
                rig.machine.stop(StopReason::Text("asked".into())).unwrap();
                Action::Continue
            },
        );
        handle.set(Arc::downgrade(&rig)).unwrap();
        rig.machine.attach(Space::Pio, 0x80, 1, "caller", rung, Arc::new(device)).unwrap();
        assert_eq!(rig.run().unwrap(), stopped(None, "asked"));
    }
}

#[test]
fn test_close_in_a_signal_handler_during_run_is_refused_instead_of_waiting_for_itself() {
    struct Handler<'a>(&'a Rig, AtomicBool);
    impl Host for Handler<'_> {
        fn poll(&self) -> bool {
            let refused = matches!(self.0.machine.close(None), Err(RunError::WhileRunning { verb: "close" }));
            self.1.store(refused, Ordering::SeqCst);
            true
        }
        fn spawn(&self, vcpu: u32) -> Result<(), RunError> {
            self.0.spawn(vcpu)
        }
    }
    let rig = Rig::new(vec![vec![Step::Spin]]);
    let handler = Handler(&rig, AtomicBool::new(false));
    assert!(matches!(rig.machine.run(None, &handler), Err(RunError::Host)));
    assert!(handler.1.load(Ordering::SeqCst));
    // A handler may run another machine meanwhile: only this one is refused.
    rig.machine.regs(0, &rig).unwrap();
}

#[test]
fn test_attach_while_running_is_seen_by_the_next_access() {
    let (ready, attached) = (Event::new(), Event::new());
    let (tell, wait) = (ready.clone(), attached.clone());
    let meet = before(move || {
        tell.set();
        wait.wait();
    });
    let rig = Rig::new(vec![vec![outs(0x80, &[1]), meet, outs(0x81, &[2])]]);
    let (first, second) = (Recorder::default(), Recorder::default());
    rig.attach(Space::Pio, 0x80, 1, first.clone());
    rig.start();
    ready.wait();
    rig.attach(Space::Pio, 0x81, 1, second.clone());
    attached.set();
    assert_eq!(rig.wait().unwrap(), Exit::Halt { vcpu: 0 });
    assert_eq!((first.writes().len(), second.writes()), (1, vec![(0, 1, 2)]));
}

#[test]
fn test_attach_over_memory_is_refused_on_the_memory_bus_only() {
    let rig = Rig::new(vec![vec![]]);
    let device = || Arc::new(Recorder::default());
    let attach = |space, base, len| rig.machine.attach(space, base, len, "over", Rung::Native, device());
    assert!(matches!(attach(Space::Mmio, 0xf_ffff, 1), Err(AttachError::Memory { other: 0, .. })));
    assert!(matches!(attach(Space::Mmio, 0, u64::MAX), Err(AttachError::Memory { .. })));
    attach(Space::Mmio, 0x10_0000, 1).unwrap();
    attach(Space::Pio, 0, 0x1_0000).unwrap();
    assert!(matches!(attach(Space::Pio, 0xffff, 1), Err(AttachError::Bus(_))));
}

#[test]
fn test_detach_returns_only_after_the_vcpu_has_left_the_device() {
    let (entered, release) = (Event::new(), Event::new());
    let (tell, held) = (entered.clone(), release.clone());
    let left = Arc::new(AtomicBool::new(false));
    let leaving = left.clone();
    let rig = Rig::new(vec![vec![outs(0x80, &[1]), outs(0x80, &[2])]]);
    let attachment = rig.attach(
        Space::Pio,
        0x80,
        1,
        Closures(
            |_| 0,
            move |_, _| {
                tell.set();
                held.wait();
                leaving.store(true, Ordering::SeqCst);
                Action::Continue
            },
        ),
    );
    rig.start();
    entered.wait();
    std::thread::scope(|scope| {
        let detaching = scope.spawn(|| {
            rig.machine.detach(attachment).unwrap();
            rig.machine.wait_until_left(attachment, &rig).unwrap();
            left.load(Ordering::SeqCst)
        });
        // The device is off the bus while its detach still waits.
        while !rig.machine.pio.map().regions().is_empty() {
            std::thread::yield_now();
        }
        release.set();
        assert!(detaching.join().unwrap());
    });
    // The second write finds nobody.
    assert_eq!(io(rig.wait()).value, 2);
}

/// A host that is not to be asked for anything.
struct Nobody;

impl Host for Nobody {
    fn poll(&self) -> bool {
        panic!("waited")
    }
    fn spawn(&self, _: u32) -> Result<(), RunError> {
        Err(RunError::Host)
    }
}

// fault row 32
#[test]
fn test_detach_waits_for_its_own_device_alone_and_hears_its_host() {
    let (entered, release) = (Event::new(), Event::new());
    let (tell, held) = (entered.clone(), release.clone());
    let rig = Rig::new(vec![vec![outs(0x80, &[1]), outs(0x99, &[2])]]);
    let stuck = move |_, _| {
        tell.set();
        held.wait();
        Action::Continue
    };
    let device = Arc::new(Closures(|_| 0, stuck));
    let stuck = rig.machine.attach(Space::Pio, 0x80, 1, "stuck", Rung::Method, device).unwrap();
    // The same number on the other bus.
    let other = rig.attach(Space::Mmio, 0xfe00_0000, 1, Recorder::default());
    assert_eq!(stuck.region, other.region);
    rig.start();
    entered.wait();
    rig.machine.detach(other).unwrap();
    rig.machine.wait_until_left(other, &Nobody).unwrap();
    rig.machine.detach(stuck).unwrap();
    rig.wanted.store(true, Ordering::SeqCst);
    assert!(matches!(rig.machine.wait_until_left(stuck, &rig), Err(RunError::Host)));
    rig.wanted.store(false, Ordering::SeqCst);
    assert!(rig.machine.pio.map().regions().is_empty());
    release.set();
    rig.machine.wait_until_left(stuck, &rig).unwrap();
    assert_eq!(io(rig.wait()).address, 0x99);
}

// fault row 17
#[test]
fn test_detach_inside_the_device_itself_returns_at_once() {
    for rung in [Rung::Native, Rung::Method] {
        let rig = Rig::new(vec![vec![outs(0x80, &[1, 2])]]);
        let place: Arc<OnceLock<(Weak<Machine>, Attachment)>> = Arc::default();
        let own = place.clone();
        let device = Closures(
            |_| 0,
            move |_, _| {
                let (machine, attachment) = own.get().unwrap();
                let machine = machine.upgrade().unwrap();
                machine.detach(*attachment).unwrap();
                machine.wait_until_left(*attachment, &Nobody).unwrap();
                Action::Continue
            },
        );
        let attachment = rig.machine.attach(Space::Pio, 0x80, 1, "leaves", rung, Arc::new(device)).unwrap();
        assert!(place.set((Arc::downgrade(&rig.machine), attachment)).is_ok());
        assert_eq!(io(rig.run()).value, 2);
        assert!(matches!(rig.machine.detach(attachment), Err(AttachError::Bus(_))));
    }
}

// fault row 50
#[test]
fn test_run_panic_in_a_device_of_a_thread_names_it_and_closes() {
    let rig = Rig::new(vec![vec![Step::Spin; 100], vec![Step::Exit(mmio_read(0xfe00_0000, 4), vec![])]]);
    rig.attach(Space::Mmio, 0xfe00_0000, 4, Closures(|_| panic!("bad {}", 7), |_, _| Action::Continue));
    let Err(RunError::Panic { device, message }) = rig.run() else { panic!() };
    assert_eq!((device.as_str(), message.as_str()), ("test device", "bad 7"));
    assert_eq!(rig.machine.control.phase(), Phase::Closed);
}

// fault row 50
#[test]
fn test_run_panic_behind_another_exit_closes_when_it_is_told() {
    let gate = Arc::new(std::sync::Barrier::new(2));
    let meet = || {
        let gate = gate.clone();
        before(move || {
            gate.wait();
        })
    };
    let hypercall = AccelExit::Hypercall { number: 1, arguments: [0; 6] };
    let write = AccelExit::Pio { port: 0x80, size: 1, count: 1, is_write: true };
    let rig = Rig::new(vec![vec![meet(), Step::Part(hypercall, vec![])], vec![meet(), Step::Part(write, vec![1])]]);
    rig.attach(Space::Pio, 0x80, 1, Closures(|_| 0, |_, _| panic!("late")));
    let mut told = [rig.run(), rig.run()];
    told.sort_by_key(Result::is_err);
    // Whichever came first, the panic ends the machine: after it, only that is told.
    assert!(
        matches!(told, [Ok(Exit::Hypercall { .. }), Err(RunError::Panic { .. })])
            || matches!(told, [Err(RunError::Panic { .. }), Err(RunError::State(_))]),
        "{told:?}"
    );
    assert_eq!(rig.machine.control.phase(), Phase::Closed);
}

// fault row 50
#[test]
fn test_run_device_whose_drop_panics_hangs_nobody() {
    struct Fragile;
    impl Device for Fragile {
        fn read(&self, _: crate::bus::Access) -> u64 {
            0
        }
        fn write(&self, _: crate::bus::Access, _: u64) -> Action {
            Action::Continue
        }
    }
    impl Drop for Fragile {
        fn drop(&mut self) {
            panic!("dropped");
        }
    }
    let (ready, detached) = (Event::new(), Event::new());
    let (tell, wait) = (ready.clone(), detached.clone());
    let meet = before(move || {
        tell.set();
        wait.wait();
    });
    let rig = Rig::new(vec![vec![outs(0x80, &[1]), meet]]);
    let attachment = rig.attach(Space::Pio, 0x80, 1, Fragile);
    rig.start();
    ready.wait();
    // The vCPU's cursor holds the last reference.
    drop(rig.machine.detach(attachment).unwrap());
    detached.set();
    assert!(matches!(rig.wait(), Err(RunError::Panic { message, .. }) if message == "dropped"));
}

#[test]
fn test_run_without_threads_to_be_had_leaves_the_machine_usable() {
    let rig = Rig::new(vec![vec![outs(0x99, &[1])], vec![Step::Spin; 100], vec![Step::Spin; 100]]);
    for possible in [0, 1] {
        rig.threads.store(possible, Ordering::SeqCst);
        assert!(matches!(rig.run(), Err(RunError::Host)));
        assert_eq!(rig.machine.control.phase(), Phase::Created);
    }
    rig.threads.store(1, Ordering::SeqCst);
    assert_eq!(io(rig.run()).value, 1);
    // Those threads serve the next round too; vCPU 0 wants one of its own to be started.
    assert!(matches!(rig.machine.start(&rig), Err(RunError::Host)));
    rig.machine.regs(0, &rig).unwrap();
}

// fault row 35
#[test]
fn test_close_during_run_ends_it_and_is_no_halt() {
    for vcpus in [1, 3] {
        for irqchip in [false, true] {
            let inside = Event::new();
            let entered = inside.clone();
            let mut scripts = vec![vec![Step::Spin; 1000]; vcpus];
            scripts[vcpus - 1].push(before(move || entered.set()));
            scripts[vcpus - 1].rotate_right(1);
            let rig = Rig::with_irqchip(scripts, irqchip);
            std::thread::scope(|scope| {
                let runner = scope.spawn(|| rig.machine.run(None, &rig));
                inside.wait();
                let began = Instant::now();
                rig.machine.close(None).unwrap();
                assert!(began.elapsed() < Duration::from_millis(100), "{:?}", began.elapsed());
                let ended = runner.join().unwrap();
                assert!(matches!(&ended, Err(RunError::State(e)) if e.phase == Phase::Closed), "{ended:?}");
            });
        }
    }
}

// fault row 35
#[test]
fn test_close_from_many_threads_among_every_other_verb_ends() {
    for round in 0..20 {
        let rig = Rig::with_irqchip(vec![vec![outs(0x99, &[1]); 50], vec![Step::Spin; 1000]], true);
        std::thread::scope(|scope| {
            for worker in 0..8 {
                let rig = &rig;
                scope.spawn(move || {
                    for turn in 0..40 {
                        let verb = (worker * 7 + turn * 3) % VERBS.len();
                        match VERBS[verb].0 {
                            "close" if worker > 0 || turn < 30 => {}
                            "wait" => drop(rig.machine.wait(Some(Duration::from_millis(1)), rig)),
                            "run" => drop(rig.machine.run(Some(Duration::from_millis(1)), rig)),
                            _ => drop(VERBS[verb].1(rig)),
                        }
                    }
                    if round % 2 == worker % 2 {
                        rig.machine.close(None).unwrap();
                    }
                });
            }
        });
        rig.machine.close(None).unwrap();
        assert_eq!(rig.machine.control.phase(), Phase::Closed);
    }
}

#[test]
fn test_drop_of_a_machine_ends_its_threads_and_lets_devices_go() {
    let device = Arc::new(Recorder::default());
    let mut rig = Rig::new(vec![vec![outs(0x99, &[1])], vec![Step::Spin; 100]]);
    rig.machine.attach(Space::Pio, 0x80, 1, "kept", Rung::Native, device.clone()).unwrap();
    rig.run().unwrap();
    let (machine, control) = (Arc::downgrade(&rig.machine), rig.machine.control.clone());
    // Abandoned without a close: the rig closes another one.
    let abandoned = std::mem::replace(&mut rig.machine, Rig::new(vec![vec![]]).machine.clone());
    assert_eq!(Arc::strong_count(&abandoned), 1);
    drop(abandoned);
    control.wait_closed(None).unwrap();
    assert!(machine.upgrade().is_none());
    assert_eq!(Arc::strong_count(&device), 1);
}

#[test]
fn test_machine_without_vcpus_gets_one() {
    let config = VmConfig { vcpus: 0, irqchip: false };
    let accel = Arc::new(crate::scripted::Scripted::default());
    let machine = Machine::new(accel, Memory::with_ram(4096).unwrap(), config);
    assert_eq!(machine.config().vcpus, 1);
}

#[test]
fn test_set_entry_before_the_vcpus_are_made_is_theirs() {
    let rig = Rig::new(vec![vec![]]);
    let entry = crate::boot::flat::flat(&rig.machine.memory, &[0xf4], 0x1000, crate::boot::flat::Mode::Real).unwrap();
    rig.machine.set_entry(entry, &rig).unwrap();
    assert_eq!(rig.machine.regs(0, &rig).unwrap().rip, 0x1000);
    let entry = crate::boot::flat::flat(&rig.machine.memory, &[0xf4], 0x2000, crate::boot::flat::Mode::Real).unwrap();
    rig.machine.set_entry(entry, &rig).unwrap();
    assert_eq!(rig.machine.regs(0, &rig).unwrap().rip, 0x2000);
}
