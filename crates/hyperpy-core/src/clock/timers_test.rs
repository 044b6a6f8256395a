//! Timers of a manual clock, and of one that has no thread: order, periods, cancelling, and many at once.
#![allow(clippy::unwrap_used)]

use std::sync::{Arc, Mutex, Weak};

use super::*;

/// What was called, and when.
#[derive(Default)]
struct Log(Mutex<Vec<(u64, u64)>>);

impl Log {
    fn push(&self, number: u64, now: u64) {
        self.0.lock().unwrap().push((number, now));
    }
    fn take(&self) -> Vec<(u64, u64)> {
        std::mem::take(&mut *self.0.lock().unwrap())
    }
}

struct Calls<F>(F);

impl<F: Fn(Fired) -> Result<Option<StopReason>, Raised> + Send + Sync + 'static> Callback for Calls<F> {
    fn fire(&self, fired: Fired) -> Result<Option<StopReason>, Raised> {
        (self.0)(fired)
    }
}

fn calls(f: impl Fn(Fired) + Send + Sync + 'static) -> Arc<dyn Callback> {
    Arc::new(Calls(move |fired| {
        f(fired);
        Ok(None)
    }))
}

struct Rig {
    clock: Arc<Clock>,
    log: Arc<Log>,
}

impl Rig {
    fn new() -> Self {
        Self { clock: Arc::new(Clock::manual()), log: Arc::default() }
    }
    /// Logs its number and the time.
    fn logs(&self, number: u64) -> Arc<dyn Callback> {
        let (clock, log) = (Arc::downgrade(&self.clock), self.log.clone());
        calls(move |_| log.push(number, Weak::upgrade(&clock).unwrap().now()))
    }
    fn arm(&self, when: When, number: u64) -> Timer {
        self.clock.arm(when, 0, self.logs(number)).unwrap()
    }
    fn step(&self, ns: u64) -> Vec<(u64, u64)> {
        assert_eq!(self.clock.step(ns), Ok(()));
        self.log.take()
    }
}

#[test]
fn test_step_fires_in_order_of_deadline_then_of_creation_with_the_time_at_each() {
    let rig = Rig::new();
    for (ns, number) in [(30, 1), (10, 2), (20, 3), (10, 4), (41, 5)] {
        rig.arm(When::After(ns), number);
    }
    assert_eq!(rig.step(9), []);
    assert_eq!(rig.step(31), [(2, 10), (4, 10), (3, 20), (1, 30)]);
    assert_eq!((rig.clock.now(), rig.clock.timers()), (40, 1));
    assert_eq!(rig.step(1), [(5, 41)]);
    assert_eq!(rig.step(u64::MAX), []);
}

// fault row 45
#[test]
fn test_timer_in_the_past_fires_at_the_next_step_and_time_stays() {
    let rig = Rig::new();
    rig.step(100);
    let timer = rig.arm(When::At(5), 1);
    rig.arm(When::After(0), 2);
    assert_eq!((timer.deadline(), timer.is_active()), (5, true));
    assert_eq!(rig.step(0), [(1, 100), (2, 100)]);
    assert_eq!((timer.deadline(), timer.is_active()), (5, false));
    assert!(!rig.clock.cancel(&timer));
}

#[test]
fn test_every_fires_at_each_multiple_until_it_is_cancelled() {
    let rig = Rig::new();
    rig.step(3);
    let timer = rig.arm(When::Every(10), 1);
    assert_eq!(rig.step(30), [(1, 13), (1, 23), (1, 33)]);
    assert_eq!((timer.deadline(), timer.is_active()), (43, true));
    assert!(rig.clock.cancel(&timer));
    assert!(!timer.is_active() && !rig.clock.cancel(&timer));
    assert_eq!(rig.step(100), []);
}

#[test]
fn test_deadlines_at_the_end_of_time_end_the_timer() {
    let rig = Rig::new();
    rig.step(u64::MAX - 10);
    let once = rig.arm(When::After(100), 1);
    let often = rig.arm(When::Every(4), 2);
    assert_eq!(once.deadline(), u64::MAX);
    assert_eq!(rig.step(100), [(2, u64::MAX - 6), (2, u64::MAX - 2), (1, u64::MAX)]);
    assert!(!often.is_active());
}

#[test]
fn test_periods_that_were_missed_are_left_out() {
    for (now, next) in [(10, 20), (19, 20), (20, 30), (1_000_005, 1_000_010)] {
        assert_eq!(following(10, 10, now), Some(next), "{now}");
    }
    assert_eq!(following(u64::MAX - 1, 1, u64::MAX - 1), Some(u64::MAX));
    assert_eq!(following(10, u64::MAX - 5, 10), None);
}

#[test]
fn test_callback_may_set_and_cancel_timers_and_step() {
    let rig = Rig::new();
    let late = rig.arm(When::After(20), 1);
    let (clock, next) = (Arc::downgrade(&rig.clock), Mutex::new(Some((rig.logs(2), rig.logs(3)))));
    let change = calls(move |fired| {
        let clock = clock.upgrade().unwrap();
        assert_eq!(fired, Fired { deadline: 5, now: 5, is_last: true });
        assert!(clock.cancel(&late));
        let (soon, now) = next.lock().unwrap().take().unwrap();
        clock.arm(When::After(4), 0, soon).unwrap();
        clock.arm(When::At(0), 0, now).unwrap();
        assert_eq!(clock.step(2), Ok(()));
    });
    rig.clock.arm(When::At(5), 0, change).unwrap();
    assert_eq!(rig.step(10), [(3, 5), (2, 9)]);
    assert_eq!((rig.clock.now(), rig.clock.timers()), (10, 0));
}

#[test]
fn test_callback_that_cancels_its_own_period_is_not_called_again() {
    let rig = Rig::new();
    let (clock, log) = (Arc::downgrade(&rig.clock), rig.log.clone());
    let mine: Arc<Mutex<Option<Timer>>> = Arc::default();
    let timer = mine.clone();
    let cancel = calls(move |fired| {
        log.push(u64::from(fired.is_last), fired.deadline);
        clock.upgrade().unwrap().cancel(timer.lock().unwrap().as_ref().unwrap());
    });
    *mine.lock().unwrap() = rig.clock.arm(When::Every(10), 0, cancel);
    assert_eq!(rig.step(100), [(0, 10)]);
}

#[test]
fn test_callback_that_fails_ends_the_step_at_its_deadline() {
    let rig = Rig::new();
    rig.arm(When::After(10), 1);
    let fails = rig.clock.arm(When::After(10), 0, Arc::new(Calls(|_| Err(Raised)))).unwrap();
    rig.arm(When::After(10), 2);
    assert_eq!(rig.clock.step(50), Err(Raised));
    assert_eq!((rig.log.take(), rig.clock.now(), fails.is_active()), (vec![(1, 10)], 10, false));
    assert_eq!(rig.step(40), [(2, 10)]);
    assert_eq!(rig.clock.now(), 50);
}

#[test]
fn test_cancel_of_an_owner_leaves_others_and_drops_callbacks() {
    let rig = Rig::new();
    let kept = Arc::new(());
    let holds = |kept: &Arc<()>| {
        let kept = kept.clone();
        calls(move |_| assert!(Arc::strong_count(&kept) > 1))
    };
    let mine = rig.clock.arm(When::After(1), 7, holds(&kept)).unwrap();
    rig.clock.arm(When::Every(1), 7, holds(&kept)).unwrap();
    rig.arm(When::After(1), 1);
    rig.clock.cancel_of(7);
    assert_eq!((mine.is_active(), Arc::strong_count(&kept), rig.clock.timers()), (false, 1, 1));
    assert_eq!(rig.step(1), [(1, 1)]);
    let once = rig.clock.arm(When::After(1), 0, holds(&kept)).unwrap();
    rig.step(1);
    assert_eq!((once.is_active(), Arc::strong_count(&kept)), (false, 1));
}

#[test]
fn test_reset_and_close_leave_no_timer() {
    let rig = Rig::new();
    let timer = rig.arm(When::Every(1), 1);
    rig.step(5);
    rig.clock.reset();
    assert_eq!((rig.clock.now(), timer.is_active(), rig.clock.timers()), (0, false, 0));
    rig.arm(When::After(3), 2);
    assert_eq!(rig.step(3), [(2, 3)]);
    rig.clock.close();
    assert!(rig.clock.arm(When::After(1), 0, rig.logs(3)).is_none());
    assert!(!rig.clock.wait_due());
}

/// Each fires once, in order; half of them are cancelled. The full million of row 45 of faults.md is in tests/unit.
#[test]
fn test_a_hundred_thousand_timers_fire_in_order() {
    const TIMERS: u64 = 100_000;
    let rig = Rig::new();
    let log = rig.log.clone();
    let callback = calls(move |fired| log.push(0, fired.deadline));
    let mut timers = Vec::new();
    for number in 0..TIMERS {
        let ns = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
        timers.push(rig.clock.arm(When::After(ns), 0, callback.clone()).unwrap());
    }
    for timer in timers.iter().step_by(2) {
        assert!(rig.clock.cancel(timer));
    }
    let mut expected: Vec<_> = timers.iter().skip(1).step_by(2).map(Timer::deadline).collect();
    expected.sort_unstable();
    let fired: Vec<_> = rig.step(1 << 24).into_iter().map(|(_, at)| at).collect();
    assert_eq!(fired.len(), 50_000);
    assert!(fired == expected);
    assert_eq!(rig.clock.timers(), 0);
}

#[test]
fn test_time_until_a_deadline_on_the_host_follows_the_scale() {
    assert_eq!(host_time(1_000_000, 1.0), Some(Duration::from_millis(1)));
    assert_eq!(host_time(1_000_000, 0.5), Some(Duration::from_millis(2)));
    assert_eq!(host_time(1, 1e12), Some(Duration::from_nanos(1)));
    assert_eq!(host_time(1, 0.0), None);
    assert_eq!(host_time(u64::MAX, 1.0), Some(LONGEST));
    assert_eq!(host_time(u64::MAX, f64::MIN_POSITIVE), Some(LONGEST));
}

#[test]
fn test_clock_that_is_moved_fires_nothing_by_itself_and_the_first_when_it_is_asked() {
    let rig = Rig::new();
    rig.arm(When::Every(10), 1);
    rig.arm(When::At(15), 2);
    rig.clock.move_to(34);
    rig.clock.move_to(5); // never back
    assert_eq!((rig.clock.now(), rig.clock.first_deadline(), rig.log.take()), (34, Some(10), vec![]));
    assert_eq!(rig.clock.fire_first(), Ok(true));
    assert_eq!((rig.clock.first_deadline(), rig.clock.fire_first()), (Some(15), Ok(true)));
    // Of the one that repeats, those that are over are left out.
    assert_eq!((rig.clock.first_deadline(), rig.clock.fire_first()), (Some(40), Ok(false)));
    assert_eq!(rig.log.take(), [(1, 34), (2, 34)]);
    assert_eq!(rig.step(6), [(1, 40)]);
    rig.clock.cancel_all();
    assert_eq!((rig.clock.first_deadline(), rig.clock.fire_first()), (None, Ok(false)));
}
