//! What the tests of several devices share: a clock that is turned by hand, and the sweep over every access.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hyperpy_core::bus::{Access, Action, Device, ones};
use proptest::prelude::*;

use crate::clock::{Clock, HostClock};

/// A clock that moves only when it is told to. The wall clock shows `wall` nanoseconds after 1970.
#[derive(Default)]
pub struct ManualClock {
    pub wall: AtomicU64,
    pub monotonic: AtomicU64,
}

impl ManualClock {
    pub fn at_second(second: u64) -> Arc<Self> {
        let clock = Self::default();
        clock.wall.store(second * 1_000_000_000, Ordering::SeqCst);
        Arc::new(clock)
    }
    pub fn advance_ns(&self, ns: u64) {
        self.wall.fetch_add(ns, Ordering::SeqCst);
        self.monotonic.fetch_add(ns, Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn wall(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_nanos(self.wall.load(Ordering::SeqCst))
    }
    fn monotonic_ns(&self) -> u64 {
        self.monotonic.load(Ordering::SeqCst)
    }
}

pub fn at(offset: u64, size: u8) -> Access {
    Access { offset, size, vcpu: 0 }
}

pub fn read(device: &dyn Device, offset: u64, size: u8) -> u64 {
    device.read(at(offset, size))
}

pub fn write(device: &dyn Device, offset: u64, size: u8, value: u64) -> Action {
    device.write(at(offset, size), value)
}

/// Reads and writes every offset up to one past a window with every width from 0 to 8; what a read returns fits.
pub fn sweep(device: &dyn Device, window: u64) {
    for value in [0, u64::MAX, 0x5555_5555_5555_5555, 0xaaaa_aaaa_aaaa_aaaa] {
        for offset in (0..=window).chain([u64::MAX]) {
            for size in 0..=8 {
                let read = device.read(at(offset, size));
                assert_eq!(read & !ones(size), 0, "offset {offset:#x} size {size}: {read:#x}");
                device.write(at(offset, size), value);
            }
        }
    }
}

/// One step of a random guest: a write of the value, or a read.
pub type Step = (bool, u64, u8, u64);

/// Random sequences of accesses that lie inside a window.
pub fn steps(window: u64) -> impl Strategy<Value = Vec<Step>> {
    let step = (any::<bool>(), 0..window, 1_u8..=8, any::<u64>());
    // Random 64-bit values seldom hit a command byte, so half of them are small.
    let step = step.prop_flat_map(|s| (Just(s), prop_oneof![Just(s.3), (0_u64..0x400)]));
    prop::collection::vec(step.prop_map(|((w, o, n, _), v)| (w, o, n, v)), 0..200)
}

/// Plays a step; what a read returns fits its width.
pub fn play(device: &dyn Device, (is_write, offset, size, value): Step) -> (u64, Action) {
    if is_write {
        (0, device.write(at(offset, size), value))
    } else {
        let read = device.read(at(offset, size));
        assert_eq!(read & !ones(size), 0);
        (read, Action::Continue)
    }
}

#[test]
fn test_host_clock_monotonic_does_not_go_back() {
    let clock = HostClock::default();
    let first = clock.monotonic_ns();
    assert!(clock.monotonic_ns() >= first);
    assert!(clock.wall() > UNIX_EPOCH);
}
