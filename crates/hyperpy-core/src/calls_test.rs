//! Which calls are timed, and that each is counted.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use super::*;

#[test]
fn test_meter_counts_every_call_and_times_the_first_and_some_later_ones() {
    let meter = Meter::default();
    assert_eq!(meter.reading(), Reading::default());
    for n in 1..=FIRST {
        assert_eq!(meter.time(|| n), n);
        assert_eq!((meter.reading().calls, meter.reading().timed), (n, n));
    }
    for _ in 0..10 * EVERY {
        meter.time(|| ());
    }
    assert_eq!((meter.reading().calls, meter.reading().timed), (FIRST + 10 * EVERY, FIRST + 10));
}

#[test]
fn test_meter_of_calls_of_some_length_shows_their_sum_and_the_longest() {
    let meter = Meter::default();
    for ms in [1, 5, 2] {
        meter.time(|| std::thread::sleep(Duration::from_millis(ms)));
    }
    let Reading { ns, worst_ns, .. } = meter.reading();
    assert!(ns >= 8_000_000, "{ns}");
    assert!((5_000_000..=ns - 3_000_000).contains(&worst_ns), "{worst_ns} of {ns}");
}

#[test]
fn test_meter_of_a_call_that_panics_counts_it_and_has_no_time_of_it() {
    let meter = Meter::default();
    let panicking = || meter.time(|| std::panic::resume_unwind(Box::new(7)));
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(panicking)).unwrap_err();
    assert_eq!(meter.reading(), Reading { calls: 1, ..Reading::default() });
}
