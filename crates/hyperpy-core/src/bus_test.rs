//! The map of a bus against a naive model, cursors, and the wait for a vCPU to be outside.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use proptest::prelude::*;

use super::*;
use crate::error::BusError;
use crate::testing::Recorder;

fn put(bus: &Bus, base: u64, len: u64) -> Result<RegionId, BusError> {
    bus.attach(base, len, "test device".into(), Rung::Native, Arc::new(Recorder::default()))
}

#[test]
fn test_ones_of_each_width_fill_it() {
    let expected = [0, 0xff, 0xffff, 0xff_ffff, 0xffff_ffff, 0xff_ffff_ffff, 0xffff_ffff_ffff, u64::MAX >> 8, u64::MAX];
    assert_eq!((0..=8).map(ones).collect::<Vec<_>>(), expected);
    assert_eq!(ones(u8::MAX), u64::MAX);
}

// fault row 40
#[test]
fn test_attach_range_that_is_empty_or_leaves_the_bus_is_refused() {
    let bus = Bus::new(0xffff);
    assert!(matches!(put(&bus, 0x10, 0), Err(BusError::Empty { base: 0x10 })));
    for (base, len) in [(0x1_0000, 1), (0xffff, 2), (0, 0x1_0001), (u64::MAX, 2), (1, u64::MAX)] {
        assert!(matches!(put(&bus, base, len), Err(BusError::OutsideBus { .. })), "{base:#x} + {len:#x}");
    }
    put(&bus, 0xffff, 1).unwrap();
    put(&Bus::new(u64::MAX), u64::MAX, 1).unwrap();
    put(&Bus::new(u64::MAX), 0, u64::MAX).unwrap();
}

// fault row 40
#[test]
fn test_attach_range_that_shares_one_address_is_refused() {
    let bus = Bus::new(0xffff);
    put(&bus, 0x100, 0x10).unwrap();
    for (base, len) in [(0x100, 0x10), (0xff, 2), (0x10f, 1), (0x10f, 0x100), (0, 0x1_0000), (0x108, 1)] {
        assert!(matches!(put(&bus, base, len), Err(BusError::Overlap { other_base: 0x100, .. })), "{base:#x}");
    }
    put(&bus, 0xf0, 0x10).unwrap();
    put(&bus, 0x110, 1).unwrap();
    let bases: Vec<u64> = bus.map().regions().iter().map(|region| region.base).collect();
    assert_eq!(bases, [0xf0, 0x100, 0x110]);
}

#[test]
fn test_detach_twice_is_refused() {
    let bus = Bus::new(0xffff);
    let id = put(&bus, 0, 4).unwrap();
    assert_eq!(bus.detach(id).unwrap().base, 0);
    assert!(matches!(bus.detach(id), Err(BusError::NotAttached)));
}

#[test]
fn test_cursor_after_attach_and_detach_sees_the_new_map_at_once() {
    let bus = Bus::new(0xffff);
    let mut cursor = Cursor::default();
    assert!(cursor.find(&bus, 0x20, 1).is_none());
    let id = put(&bus, 0x20, 4).unwrap();
    assert_eq!(cursor.find(&bus, 0x21, 1).map(|region| region.id), Some(id));
    bus.detach(id).unwrap();
    assert!(cursor.find(&bus, 0x21, 1).is_none());
}

#[test]
fn test_cursor_released_keeps_no_device_alive() {
    let bus = Bus::new(0xffff);
    let device = Arc::new(Recorder::default());
    let id = bus.attach(0, 4, "test device".into(), Rung::Native, device.clone()).unwrap();
    let mut cursor = Cursor::default();
    cursor.find(&bus, 0, 1).unwrap();
    drop(bus.detach(id).unwrap());
    assert_eq!(Arc::strong_count(&device), 2);
    cursor.release();
    assert_eq!(Arc::strong_count(&device), 1);
}

#[test]
fn test_exclusive_device_that_panicked_answers_on() {
    struct Moody(u64);
    impl DeviceMut for Moody {
        fn read(&mut self, _: Access) -> u64 {
            self.0 += 1;
            assert_ne!(self.0, 1, "first read");
            self.0
        }
        fn write(&mut self, _: Access, _: u64) -> Action {
            Action::Continue
        }
        fn reset(&mut self) {
            self.0 = 100;
        }
    }
    let device = Exclusive::new(Moody(0));
    let at = Access { offset: 0, size: 1, vcpu: 0 };
    assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| device.read(at))).is_err());
    assert_eq!(device.read(at), 2);
    device.reset();
    assert_eq!(device.with(|moody| moody.0), 100);
}

const HERE: Place = Place(2);

#[test]
fn test_presence_in_another_place_is_not_waited_for_and_in_this_one_until_the_host_wants_its_thread() {
    let presence = Presence::default();
    presence.enter();
    for place in [Place::ELSEWHERE, Place::of(Space::Mmio, RegionId(1))] {
        presence.go_to(place);
        assert!(presence.wait_until_left(HERE, || panic!("waited")));
    }
    for place in [HERE, Place::ANY] {
        presence.go_to(place);
        let mut looks = 0;
        let third = || {
            looks += 1;
            looks == 3
        };
        assert!(!presence.wait_until_left(Place::of(Space::Pio, RegionId(1)), third));
        assert_eq!(looks, 3);
    }
    // It leaves while the host is asked.
    let leave = || {
        presence.leave();
        false
    };
    assert!(presence.wait_until_left(HERE, leave));
}

#[test]
fn test_presence_outside_is_not_waited_for() {
    let presence = Presence::default();
    assert!(presence.wait_until_left(HERE, || false));
    presence.enter();
    presence.leave();
    assert!(presence.wait_until_left(HERE, || false));
}

#[test]
fn test_presence_waited_for_by_many_lets_all_go_on_once_it_left() {
    // Each round is one device that is detached: nobody may see it in use after the wait.
    let presence = Presence::default();
    let (round, entered, over) = (AtomicU64::new(0), AtomicU64::new(0), AtomicBool::new(false));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::SeqCst) {
                presence.enter();
                // Inside with the round as it is; leaves before it enters again.
                entered.store(round.load(Ordering::SeqCst), Ordering::SeqCst);
                presence.leave();
            }
        });
        let waiters: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(|| {
                    for _ in 0..5_000 {
                        let now = round.fetch_add(1, Ordering::SeqCst) + 1;
                        assert!(presence.wait_until_left(HERE, || false));
                        // Who entered before the round began has left: what is stored from now on is not older.
                        entered.store(u64::MAX, Ordering::SeqCst);
                        let next = entered.load(Ordering::SeqCst);
                        assert!(next >= now, "entered in {next}, inside after the wait of {now}");
                    }
                })
            })
            .collect();
        for waiter in waiters {
            waiter.join().unwrap();
        }
        over.store(true, Ordering::SeqCst);
    });
}

/// What a list of changes leaves on a bus.
#[derive(Default)]
struct Model(Vec<(RegionId, u64, u64)>);

impl Model {
    fn find(&self, address: u64, size: u8) -> Option<RegionId> {
        let last = u128::from(address) + u128::from(size) - 1;
        let holds = |base: u64, len: u64| base <= address && last < u128::from(base) + u128::from(len);
        self.0.iter().find(|(_, base, len)| holds(*base, *len)).map(|(id, ..)| *id)
    }
    fn overlaps(&self, base: u64, len: u64) -> bool {
        let end = u128::from(base) + u128::from(len);
        self.0.iter().any(|&(_, b, l)| u128::from(b) < end && u128::from(base) < u128::from(b) + u128::from(l))
    }
}

/// Addresses near each other and near both ends of the bus, so that they meet.
fn address() -> impl Strategy<Value = u64> {
    prop_oneof![0..64_u64, (u64::MAX - 63)..=u64::MAX, any::<u64>()]
}

fn length() -> impl Strategy<Value = u64> {
    prop_oneof![0..16_u64, any::<u64>()]
}

proptest! {
    // fault row 13
    #[test]
    fn test_find_in_random_maps_agrees_with_a_naive_model(
        changes in prop::collection::vec((address(), length(), any::<Option<u8>>()), 1..24),
        accesses in prop::collection::vec((address(), 1..=8_u8), 1..48),
    ) {
        let bus = Bus::new(u64::MAX);
        let mut model = Model::default();
        let mut cursor = Cursor::default();
        for (base, len, detach) in changes {
            if let (Some(which), false) = (detach, model.0.is_empty()) {
                let (id, ..) = model.0.remove(usize::from(which) % model.0.len());
                bus.detach(id).unwrap();
            }
            let fits = len > 0 && base.checked_add(len - 1).is_some();
            match put(&bus, base, len) {
                Ok(id) => {
                    prop_assert!(fits && !model.overlaps(base, len));
                    model.0.push((id, base, len));
                }
                Err(BusError::Overlap { .. }) => prop_assert!(fits && model.overlaps(base, len)),
                Err(_) => prop_assert!(!fits),
            }
            for &(address, size) in &accesses {
                let found = cursor.find(&bus, address, size).map(|region| region.id);
                prop_assert_eq!(found, model.find(address, size), "{:#x} for {}", address, size);
            }
        }
    }
}
