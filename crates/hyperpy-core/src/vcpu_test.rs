//! Answers to unclaimed reads, who is answering, and what a vCPU counts.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use super::*;
use crate::bus::Device;
use crate::error::RunError;
use crate::exit::StopReason;
use crate::machine::Answerer;
use crate::scripted::Step;
use crate::testing::{Closures, Rig, ins, io, mmio_read, outs};

#[test]
fn test_answer_in_time_reaches_the_guest_and_can_be_changed_until_it_runs() {
    let rig = Rig::new(vec![vec![Step::Exit(mmio_read(0xfe00_0000, 2), vec![])]]);
    let exit = io(rig.run());
    rig.machine.answer(&exit, 0x1111, &rig).unwrap().unwrap();
    rig.machine.answer(&exit, 0xffff, &rig).unwrap().unwrap();
    rig.machine.answer(&exit, 0x2222, &rig).unwrap().unwrap();
    rig.run().unwrap();
    assert_eq!(rig.log().reads, [(0, 0x2222)]);
}

#[test]
fn test_answer_that_cannot_be_is_refused() {
    let rig = Rig::new(vec![vec![ins(0x99, 1), ins(0x99, 1), outs(0x99, &[1])]]);
    let answer = |exit: &IoExit, value| rig.machine.answer(exit, value, &rig).unwrap();
    let first = io(rig.run());
    assert_eq!(answer(&first, 0x100), Err(Refused::TooWide));
    assert_eq!(answer(&IoExit { size: 2, ..first }, 1), Err(Refused::Stale));
    assert_eq!(answer(&first, 5), Ok(()));
    let second = io(rig.run());
    assert_eq!(answer(&first, 6), Err(Refused::Stale));
    assert_eq!(answer(&second, 7), Ok(()));
    let third = io(rig.run());
    assert_eq!(answer(&third, 1), Err(Refused::NotRead));
    assert_eq!(answer(&second, 8), Err(Refused::Stale));
    assert!(matches!(rig.machine.answer(&IoExit { vcpu: 9, ..first }, 1, &rig), Err(RunError::NoVcpu { vcpu: 9 })));
    rig.run().unwrap();
    assert_eq!(rig.log().reads, [(0, 5), (0, 7)]);
}

#[test]
fn test_answer_within_a_string_instruction_reaches_its_own_value() {
    let rig = Rig::new(vec![vec![ins(0x99, 3)]]);
    for value in [1, 2, 3] {
        let exit = io(rig.run());
        rig.machine.answer(&exit, value, &rig).unwrap().unwrap();
    }
    rig.run().unwrap();
    assert_eq!(rig.log().reads, [(0, 1), (0, 2), (0, 3)]);
}

#[test]
fn test_answerer_sees_the_access_and_its_answer_is_cut() {
    struct Echo;
    impl Answerer for Echo {
        fn read(&self, access: &Current) -> Option<u64> {
            assert_eq!(current().as_ref(), Some(access));
            (access.address != 0x9a).then_some(0x1234)
        }
        fn write(&self, access: &Current, value: u64) -> Action {
            assert_eq!((current().as_ref(), value), (Some(access), 0x77));
            Action::Continue
        }
    }
    let rig = Rig::new(vec![vec![ins(0x99, 1), ins(0x9a, 1), outs(0x99, &[0x77])]]);
    rig.machine.set_unclaimed(Unclaimed::Answerer(Arc::new(Echo)));
    rig.run().unwrap();
    assert_eq!(rig.log().reads, [(0, 0x34), (0, 0xff)]);
    assert_eq!(current(), None);
}

#[test]
fn test_answerer_of_a_write_may_stop_the_machine() {
    struct Stops;
    impl Answerer for Stops {
        fn read(&self, _: &Current) -> Option<u64> {
            None
        }
        fn write(&self, _: &Current, _: u64) -> Action {
            Action::Stop(StopReason::Text("enough".into()))
        }
    }
    let rig = Rig::new(vec![vec![outs(0x99, &[1]), ins(0x99, 1)]]);
    rig.machine.set_unclaimed(Unclaimed::Answerer(Arc::new(Stops)));
    let reason = StopReason::Text("enough".into());
    assert_eq!(rig.run().unwrap(), Exit::Stopped { vcpu: Some(0), reason });
    rig.run().unwrap();
    assert_eq!(rig.log().reads, [(0, 0xff)]);
}

// fault row 50
#[test]
fn test_answerer_that_panics_is_named() {
    struct Broken;
    impl Answerer for Broken {
        fn read(&self, _: &Current) -> Option<u64> {
            panic!("no idea")
        }
        fn write(&self, _: &Current, _: u64) -> Action {
            Action::Continue
        }
    }
    let rig = Rig::new(vec![vec![outs(0x80, &[1]), ins(0x99, 1)]]);
    rig.attach(Space::Pio, 0x80, 1, Closures(|_| 0, |_, _| Action::Continue));
    rig.machine.set_unclaimed(Unclaimed::Answerer(Arc::new(Broken)));
    let Err(RunError::Panic { device, .. }) = rig.run() else { panic!() };
    assert_eq!(device, "answerer of unclaimed accesses");
}

#[test]
fn test_current_inside_a_method_names_the_access_and_inside_native_nothing() {
    struct Asks;
    impl Device for Asks {
        fn read(&self, _: Access) -> u64 {
            u64::from(current().is_some_and(|now| (now.vcpu, now.size, now.is_write) == (0, 1, false)))
        }
        fn write(&self, _: Access, _: u64) -> Action {
            Action::Continue
        }
    }
    // What a declared device does not serve itself counts as a method.
    for (rung, seen, counted) in
        [(Rung::Native, 0, Rung::Native), (Rung::Declared, 1, Rung::Method), (Rung::Method, 1, Rung::Method)]
    {
        let rig = Rig::new(vec![vec![ins(0x80, 1)]]);
        rig.machine.attach(Space::Pio, 0x80, 1, "asks", rung, Arc::new(Asks)).unwrap();
        rig.run().unwrap();
        assert_eq!(rig.log().reads, [(0, seen)], "{rung:?}");
        assert_eq!(rig.machine.control.vcpus()[0].readings().hits[counted as usize], 1);
    }
}

#[test]
fn test_readings_of_processor_time_never_go_back_and_count_each_round_once() {
    let rig = Rig::new(vec![vec![Step::Spin; 1000]]);
    rig.machine.regs(0, &rig).unwrap();
    let shared = rig.machine.control.vcpus()[0].clone();
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut last = 0;
            while !over.load(Ordering::SeqCst) {
                let now = shared.readings().cpu_ns;
                assert!(now >= last, "{now} after {last}");
                last = now;
            }
        });
        let began = Instant::now();
        for _ in 0..100 {
            rig.machine.run(Some(Duration::from_millis(1)), &rig).unwrap();
        }
        let wall = u64::try_from(began.elapsed().as_nanos()).unwrap();
        let used = shared.readings().cpu_ns;
        over.store(true, Ordering::SeqCst);
        reader.join().unwrap();
        assert!(used > 0 && used <= wall, "{used} of {wall}");
        assert_eq!(shared.readings().cpu_ns, used);
    });
}
