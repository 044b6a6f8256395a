//! Waits are woken, counted while they last, and never miss a change.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::sync::Mutex;
use std::thread;

use super::*;

const LONG: Duration = Duration::from_secs(10);

#[test]
fn test_notify_wakes_all_that_wait() {
    let (lock, condvar) = (Mutex::new(false), Condvar::default());
    thread::scope(|scope| {
        let waiters: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    let mut happened = lock.lock().unwrap();
                    while !*happened {
                        let (again, timeout) = condvar.wait_timeout(happened, LONG).unwrap();
                        assert!(!timeout.timed_out());
                        happened = again;
                    }
                })
            })
            .collect();
        while condvar.waiting.load(Ordering::Relaxed) < 4 {
            thread::yield_now();
        }
        *lock.lock().unwrap() = true;
        condvar.notify_all();
        waiters.into_iter().for_each(|waiter| waiter.join().unwrap());
    });
    assert_eq!(condvar.waiting.load(Ordering::Relaxed), 0);
}

#[test]
fn test_change_beside_a_wait_is_never_missed() {
    let (lock, condvar) = (Mutex::new(0_u32), Condvar::default());
    // Each waits for its turn and then gives it to the other, again and again: a lost wake-up is a timeout.
    let play = |mine: u32| {
        for _ in 0..5_000 {
            let mut turn = lock.lock().unwrap();
            while *turn % 2 != mine {
                let (again, timeout) = condvar.wait_timeout(turn, LONG).unwrap();
                assert!(!timeout.timed_out());
                turn = again;
            }
            *turn += 1;
            drop(turn);
            condvar.notify_all();
        }
    };
    thread::scope(|scope| {
        scope.spawn(|| play(0));
        scope.spawn(|| play(1));
    });
    assert_eq!(*lock.lock().unwrap(), 10_000);
}

#[test]
fn test_wait_that_times_out_is_not_counted_any_more() {
    let (lock, condvar) = (Mutex::new(()), Condvar::default());
    let (guard, timeout) = condvar.wait_timeout(lock.lock().unwrap(), Duration::from_millis(1)).unwrap();
    assert!(timeout.timed_out());
    drop(guard);
    assert_eq!(condvar.waiting.load(Ordering::Relaxed), 0);
}
