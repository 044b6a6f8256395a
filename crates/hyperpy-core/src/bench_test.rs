//! What a bench does with accesses, answers, panics and time.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::sync::{Arc, Mutex};

use super::*;
use crate::exit::StopReason;
use crate::testing::{Closures, Recorder, stopper};
use crate::vcpu::current;

fn bench(device: impl Device + 'static) -> Bench {
    Bench::new(Arc::new(device), "device", 16, Arc::new(Clock::manual()))
}

fn read(offset: u64, size: u8) -> Play {
    Play { offset, size, written: None }
}

fn write(offset: u64, size: u8, value: u64) -> Play {
    Play { offset, size, written: Some(value) }
}

#[test]
fn test_accesses_reach_the_device_and_their_answers_come_back() {
    let device = Recorder::default();
    let bench = bench(device.clone());
    assert_eq!(bench.play(read(4, 4)).unwrap(), Answer::Value(1));
    assert_eq!(bench.play(write(8, 2, 0x1_2345)).unwrap(), Answer::Asked(Action::Continue));
    assert_eq!((device.reads(), device.writes()), (vec![(4, 4)], vec![(8, 2, 0x2345)]));
}

#[test]
fn test_answer_is_cut_to_the_access_and_a_stop_is_handed_on() {
    assert_eq!(
        bench(Closures(|_| u64::MAX, |_, _| Action::Continue)).play(read(0, 3)).unwrap(),
        Answer::Value(0xFF_FFFF)
    );
    let stop = Action::Stop(StopReason::Text("why".into()));
    assert_eq!(bench(stopper("why")).play(write(0, 1, 0)).unwrap(), Answer::Asked(stop));
}

#[test]
fn test_device_sees_which_access_it_answers_and_none_afterwards() {
    let seen = Arc::new(Mutex::new(None));
    let inside = seen.clone();
    let device = Closures(
        move |_| {
            *inside.lock().unwrap() = current();
            0
        },
        |_, _| Action::Continue,
    );
    bench(device).play(read(8, 2)).unwrap();
    let seen = seen.lock().unwrap().unwrap();
    assert_eq!((seen.address, seen.size, seen.is_write, seen.machine), (8, 2, false, Current::NO_MACHINE));
    assert_eq!(current(), None);
}

#[test]
fn test_device_that_panics_is_an_error_that_names_it_and_leaves_no_access_behind() {
    let bench = bench(Closures(|_| panic!("why"), |_, _| Action::Continue));
    let error = bench.play(read(0, 1)).unwrap_err();
    assert!(matches!(&error, RunError::Panic { device, message } if device == "device" && message == "why"));
    assert_eq!(current(), None);
    assert_eq!(bench.play(write(0, 1, 0)).unwrap(), Answer::Asked(Action::Continue));
}

#[test]
fn test_range_holds_what_lies_in_it_whole() {
    let bench = bench(Recorder::default());
    for (offset, size, holds) in
        [(0, 1, true), (8, 8, true), (9, 8, false), (16, 1, false), (u64::MAX, 1, false), (0, 0, false), (0, 9, false)]
    {
        assert_eq!(bench.holds(offset, size), holds, "{offset} {size}");
    }
}

#[test]
fn test_reset_sets_the_time_to_0() {
    let bench = bench(Recorder::default());
    bench.clock().step(1000).unwrap();
    assert_eq!(bench.clock().now(), 1000);
    bench.reset().unwrap();
    assert_eq!(bench.clock().now(), 0);
}
