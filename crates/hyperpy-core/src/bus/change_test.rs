//! Changes of a map: several regions at once, all of it or nothing, and what a vCPU sees while they are made.
#![allow(clippy::unwrap_used)]

use std::sync::atomic::AtomicBool;

use super::*;
use crate::bus::Cursor;
use crate::testing::Recorder;

fn placed(base: u64, len: u64, name: &str) -> Placement {
    Placement { base, len, name: name.into(), rung: Rung::Native, device: Arc::new(Recorder::default()) }
}

fn shown(bus: &Bus) -> Vec<(String, u64)> {
    bus.map().regions().iter().map(|region| (region.name.to_string(), region.base)).collect()
}

#[test]
fn test_change_swaps_places_and_tells_what_went_and_came() {
    let bus = Bus::new(0xffff);
    let (_, ids) = bus.prepare(&[], &[placed(0x20, 4, "b"), placed(0x10, 4, "a")]).unwrap().publish();
    let (removed, added) = bus.prepare(&ids, &[placed(0x10, 4, "b"), placed(0x20, 4, "a")]).unwrap().publish();
    assert_eq!(shown(&bus), [("b".into(), 0x10), ("a".into(), 0x20)]);
    assert_eq!(removed.iter().map(|region| region.base).collect::<Vec<_>>(), [0x10, 0x20]);
    assert_eq!(bus.map().regions().iter().map(|region| region.id).collect::<Vec<_>>(), added);
    assert!(added.iter().all(|id| !ids.contains(id)));
}

// fault row 40
#[test]
fn test_change_of_which_one_part_cannot_be_changes_nothing() {
    let bus = Bus::new(0xffff);
    let (_, ids) = bus.prepare(&[], &[placed(0x10, 4, "a"), placed(0x20, 4, "b")]).unwrap().publish();
    let before = shown(&bus);
    let generation = bus.generation.load(Ordering::SeqCst);
    let a = *ids.first().unwrap();
    let overlap = bus.prepare(&[a], &[placed(0x30, 4, "a"), placed(0x22, 8, "c")]);
    assert!(matches!(overlap.err().unwrap(), BusError::Overlap { other, other_base: 0x20, .. } if other == "b"));
    let each_other = bus.prepare(&[a], &[placed(0x10, 4, "c"), placed(0x13, 1, "d")]);
    assert!(matches!(each_other.err().unwrap(), BusError::Overlap { other, .. } if other == "c"));
    let gone = bus.prepare(&[a, RegionId(99)], &[]);
    assert!(matches!(gone.err().unwrap(), BusError::NotAttached));
    let outside = bus.prepare(&ids, &[placed(0xffff, 2, "a")]);
    assert!(matches!(outside.err().unwrap(), BusError::OutsideBus { .. }));
    let nothing = bus.prepare(&[], &[]).unwrap().publish();
    assert!(nothing.0.is_empty());
    assert_eq!((shown(&bus), bus.generation.load(Ordering::SeqCst)), (before, generation));
}

#[test]
fn test_lookups_beside_swaps_find_one_of_the_two_at_either_place_always() {
    let bus = Bus::new(0xffff);
    let (_, mut ids) = bus.prepare(&[], &[placed(0x10, 4, "a"), placed(0x20, 4, "b")]).unwrap().publish();
    let ended = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for address in [0x10, 0x20] {
            let (bus, ended) = (&bus, &ended);
            scope.spawn(move || {
                let mut cursor = Cursor::default();
                while !ended.load(Ordering::SeqCst) {
                    assert!(cursor.find(bus, address, 4).is_some_and(|region| region.base == address));
                }
            });
        }
        for round in 0..2_000 {
            let (one, two) = if round % 2 == 0 { ("b", "a") } else { ("a", "b") };
            (_, ids) = bus.prepare(&ids, &[placed(0x10, 4, one), placed(0x20, 4, two)]).unwrap().publish();
        }
        ended.store(true, Ordering::SeqCst);
    });
}
