//! The quota of a period: used up, owed, refilled, shared, and taken away.
#![allow(clippy::unwrap_used)]

use super::*;

const MS: u64 = 1_000_000;

fn at(start: Instant, ms: u64) -> Instant {
    start + Duration::from_millis(ms)
}

fn half() -> (Limits, Instant) {
    let limits = Limits::default();
    limits.set_cpu_limit(Some(0.5));
    (limits, Instant::now())
}

#[test]
fn test_charge_without_a_limit_allows_all() {
    let limits = Limits::default();
    assert_eq!(limits.charge(u64::MAX, 1, Instant::now()), Allowed::All);
    limits.set_cpu_limit(Some(0.5));
    limits.set_cpu_limit(None);
    assert_eq!(limits.charge(u64::MAX, 1, Instant::now()), Allowed::All);
}

#[test]
fn test_charge_beyond_the_quota_rests_until_the_period_ends() {
    let (limits, start) = half();
    assert_eq!(limits.charge(0, 1, start), Allowed::Run(Duration::from_millis(50)));
    assert_eq!(limits.charge(30 * MS, 1, at(start, 30)), Allowed::Run(Duration::from_millis(20)));
    assert_eq!(limits.charge(20 * MS, 1, at(start, 50)), Allowed::Rest(at(start, 100)));
    assert_eq!(limits.charge(0, 1, at(start, 99)), Allowed::Rest(at(start, 100)));
    assert_eq!(limits.charge(0, 1, at(start, 100)), Allowed::Run(Duration::from_millis(50)));
}

#[test]
fn test_charge_owed_is_paid_by_the_periods_after() {
    let (limits, start) = half();
    limits.charge(0, 1, start);
    assert_eq!(limits.charge(60 * MS, 1, at(start, 60)), Allowed::Rest(at(start, 100)));
    assert_eq!(limits.charge(0, 1, at(start, 100)), Allowed::Run(Duration::from_millis(40)));
    // 40 left and 220 used: 180 are owed, which the next three periods pay and the fourth does not.
    assert_eq!(limits.charge(220 * MS, 1, at(start, 150)), Allowed::Rest(at(start, 500)));
    assert_eq!(limits.charge(0, 1, at(start, 500)), Allowed::Run(Duration::from_millis(20)));
}

#[test]
fn test_charge_after_a_long_sleep_saves_nothing_up() {
    let (limits, start) = half();
    limits.charge(0, 1, start);
    assert_eq!(limits.charge(0, 1, at(start, 10_000)), Allowed::Run(Duration::from_millis(50)));
    assert_eq!(limits.charge(50 * MS, 1, at(start, 10_050)), Allowed::Rest(at(start, 10_100)));
}

#[test]
fn test_charge_of_several_vcpus_shares_what_is_left() {
    let (limits, start) = half();
    assert_eq!(limits.charge(0, 4, start), Allowed::Run(Duration::from_micros(12_500)));
    assert_eq!(limits.charge(49_999_999, 4, at(start, 13)), Allowed::Run(SHORTEST));
}

#[test]
fn test_limits_of_any_size_do_not_overflow() {
    for limit in [f64::MIN_POSITIVE, 1e-9, 1e300, f64::INFINITY, f64::NAN, -1.0] {
        let limits = Limits::default();
        limits.set_cpu_limit(Some(limit));
        let start = Instant::now();
        limits.charge(u64::MAX, usize::MAX, start);
        limits.charge(u64::MAX, 0, at(start, u64::from(u32::MAX)));
    }
}
