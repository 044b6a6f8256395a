use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::Clock;

/// Waits for a clock that goes to be past a moment.
fn wait_past(clock: &Clock, ns: u64) {
    while clock.now() <= ns {
        thread::yield_now();
    }
}

#[test]
fn test_manual_clock_moves_by_steps_only() {
    let clock = Clock::manual();
    clock.run(true);
    assert_eq!(clock.now(), 0);
    for ns in [5, 0, 7] {
        assert_eq!(clock.step(ns), Ok(()));
    }
    assert_eq!(clock.now(), 12);
    assert!(clock.is_manual());
}

#[test]
fn test_step_past_the_end_of_time_stays_there() {
    let clock = Clock::manual();
    assert_eq!(clock.step(u64::MAX - 1), Ok(()));
    assert_eq!(clock.step(5), Ok(()));
    assert_eq!(clock.now(), u64::MAX);
    let clock = Clock::of_machine();
    assert_eq!(clock.step(u64::MAX), Ok(()));
    clock.run(true);
    assert_eq!(clock.now(), u64::MAX);
}

#[test]
fn test_machine_clock_goes_only_while_it_runs() {
    let clock = Clock::of_machine();
    assert_eq!(clock.now(), 0);
    let before = Instant::now();
    clock.run(true);
    wait_past(&clock, 1_000_000);
    clock.run(false);
    let (stood, most) = (clock.now(), before.elapsed());
    assert!(stood > 1_000_000 && Duration::from_nanos(stood) <= most, "{stood} in {most:?}");
    let other = Clock::of_machine();
    other.run(true);
    wait_past(&other, 1_000_000);
    assert_eq!(clock.now(), stood);
    assert_eq!(clock.step(3), Ok(()));
    assert_eq!(clock.now(), stood + 3);
    clock.run(true);
    wait_past(&clock, stood + 3);
    clock.run(false);
    clock.reset();
    assert_eq!(clock.now(), 0);
}

#[test]
fn test_scale_sets_the_pace_from_now_on() {
    let clock = Clock::of_machine();
    assert_eq!(clock.scale().to_bits(), 1.0_f64.to_bits());
    assert!(clock.set_scale(1000.0));
    let before = Instant::now();
    clock.run(true);
    let began = Instant::now();
    wait_past(&clock, 1_000_000_000);
    let least = began.elapsed();
    clock.run(false);
    let (now, most) = (Duration::from_nanos(clock.now()), before.elapsed());
    assert!(now <= most * 1000 && now >= least * 1000, "{now:?} in {least:?} to {most:?}");
    assert!(clock.set_scale(0.0));
    clock.run(true);
    assert_eq!(Duration::from_nanos(clock.now()), now);
    assert_eq!(clock.step(1), Ok(()));
    assert_eq!(Duration::from_nanos(clock.now()), now + Duration::from_nanos(1));
    for wrong in [-1.0, f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        assert!(!clock.set_scale(wrong));
    }
    assert_eq!(clock.scale().to_bits(), 0.0_f64.to_bits());
    assert!(clock.set_scale(f64::MAX));
    wait_past(&clock, u64::MAX - 1);
}

/// Readers beside a writer that stops, starts, steps and scales: none sees a time before one that was seen.
// fault row 45
#[test]
fn test_time_never_goes_back_for_readers_beside_changes() {
    let (clock, done) = (Arc::new(Clock::of_machine()), Arc::new(AtomicBool::new(false)));
    let read = || {
        let (clock, done) = (clock.clone(), done.clone());
        thread::spawn(move || {
            let mut last = 0;
            let mut readings = 0_u64;
            loop {
                let is_last = done.load(Ordering::Relaxed);
                let now = clock.now();
                assert!(now >= last, "{now} after {last}");
                last = now;
                readings += 1;
                if is_last {
                    return readings;
                }
            }
        })
    };
    let readers = [read(), read()];
    let mut last = 0;
    for turn in 0..20_000_u32 {
        clock.run(turn % 3 != 0);
        clock.set_scale(f64::from(turn % 5) / 2.0);
        if turn % 7 == 0 {
            assert_eq!(clock.step(100), Ok(()));
        }
        let now = clock.now();
        assert!(now >= last, "{now} after {last}");
        last = now;
    }
    done.store(true, Ordering::Relaxed);
    for reader in readers {
        assert!(matches!(reader.join(), Ok(1..)));
    }
}

#[test]
fn test_clock_that_is_held_stands_still_for_one_thread_and_no_other_clock() {
    let (clock, other) = (Clock::of_machine(), Clock::manual());
    clock.run(true);
    wait_past(&clock, 10);
    let held = clock.hold(7);
    assert_eq!((clock.now(), other.now()), (7, 0));
    assert!(thread::scope(|scope| scope.spawn(|| clock.now()).join()).is_ok_and(|now| now > 10));
    let again = other.hold(9);
    assert_eq!(other.now(), 9);
    drop(again);
    assert_eq!((clock.now(), other.now()), (7, 0));
    drop(held);
    assert!(clock.now() > 10);
}
