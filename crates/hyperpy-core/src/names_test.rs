//! Names by place and moment, and of registers.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use super::*;
use crate::bus::{Access, Action, Bus, Device, Rung};
use crate::kvm::thread::monotonic_ns;
use crate::regfile::{Bits, Cell, Delivery, Kind, Layout, Rule, Tell, When};

struct Quiet;

impl Device for Quiet {
    fn read(&self, _: Access) -> u64 {
        0
    }
    fn write(&self, _: Access, _: u64) -> Action {
        Action::Continue
    }
    fn names(&self) -> Option<Arc<dyn Names>> {
        Some(Arc::new(Fixed(&[(0, 1, "data", "data"), (1, 1, "status", "command"), (4, 4, "count", "count")])))
    }
}

fn put(bus: &Bus, base: u64, name: &str) -> crate::bus::RegionId {
    bus.attach(base, 8, name.into(), Rung::Native, Arc::new(Quiet)).unwrap()
}

/// A moment that is after all others before, and before all others after.
fn moment() -> u64 {
    let next = |before| std::iter::repeat_with(monotonic_ns).find(|&now| now > before).unwrap();
    let moment = next(monotonic_ns());
    next(moment);
    moment
}

fn history(bus: &Bus) -> History {
    History { pio: bus.known(), mmio: Bus::new(u64::MAX).known() }
}

fn device(history: &History, address: u64, ns: u64) -> Option<String> {
    history.find(Space::Pio, address, 1, false, ns).map(|found| found.device.to_string())
}

#[test]
fn test_history_of_a_place_that_changed_hands_names_who_was_there_at_the_time() {
    let bus = Bus::new(0xffff);
    let before = moment();
    let first = put(&bus, 0x10, "first");
    let in_first = moment();
    bus.detach(first).unwrap();
    let empty = moment();
    put(&bus, 0x14, "second");
    let history = history(&bus);
    let at = |ns| [0x13, 0x14, 0x18, 0x1c].map(|address| device(&history, address, ns));
    let named = |names: [&str; 4]| names.map(|name| (!name.is_empty()).then(|| name.to_owned()));
    assert_eq!(at(before), named(["", "", "", ""]));
    assert_eq!(at(in_first), named(["first", "first", "", ""]));
    assert_eq!(at(empty), named(["", "", "", ""]));
    assert_eq!(at(monotonic_ns()), named(["", "second", "second", ""]));
    assert_eq!(history.find(Space::Mmio, 0x14, 1, false, monotonic_ns()), None);
    assert_eq!(history.find(Space::Pio, 0x1b, 2, false, monotonic_ns()), None, "it ends outside");
}

#[test]
fn test_history_remembers_the_last_regions_that_went_and_no_more() {
    let bus = Bus::new(0xffff);
    let mut times = Vec::new();
    for n in 0..REMEMBERED + 2 {
        let id = put(&bus, 0x10, &n.to_string());
        times.push(moment());
        bus.detach(id).unwrap();
    }
    let history = history(&bus);
    let named: Vec<_> = times.iter().map(|&ns| device(&history, 0x10, ns)).collect();
    let expected: Vec<_> = (0..REMEMBERED + 2).map(|n| (n >= 2).then(|| n.to_string())).collect();
    assert_eq!(named, expected);
}

#[test]
fn test_fixed_names_tell_reads_from_writes_and_join_what_an_access_touches() {
    let names = Quiet.names().unwrap();
    let name = |offset, size, is_write| names.register(offset, size, is_write).unwrap_or_default();
    assert_eq!((name(1, 1, false), name(1, 1, true)), ("status".into(), "command".into()));
    assert_eq!((name(0, 8, true), name(2, 2, true)), ("data+command+count".into(), String::new()));
    assert_eq!((name(5, 1, false), name(u64::MAX, 8, false)), ("count".into(), String::new()));
}

#[test]
fn test_declared_names_join_banks_by_a_bar_and_neighbours_by_a_plus() {
    let cell = |offset, width, sides, when| Cell {
        offset: Some(offset),
        width,
        kind: Kind::Plain,
        bits: Bits::default(),
        reset: 0,
        big_endian: false,
        sides,
        when,
        on_read: false,
        on_write: Tell::Never,
        delivery: Delivery::Now,
    };
    let bank = |equals| Some(When { cell: 3, mask: 1, equals });
    let both = (true, true);
    let cells = vec![
        cell(0, 1, both, bank(0)),
        cell(0, 1, both, bank(1)),
        cell(1, 1, (true, false), None),
        cell(4, 4, both, None),
    ];
    let names = ["data", "divisor", "status", "control"].map(Into::into).to_vec();
    let layout = Layout::new(cells, 8, Rule::Split, false).unwrap().named(names);
    let name = |offset, size, is_write| layout.register(offset, size, is_write).unwrap_or_default();
    assert_eq!(name(0, 1, false), "data|divisor");
    assert_eq!(name(0, 8, false), "data|divisor+status+control");
    assert_eq!(name(0, 8, true), "data|divisor+control");
    assert_eq!(
        (name(1, 1, true), name(6, 2, true), name(8, 8, true)),
        (String::new(), "control".into(), String::new())
    );
}
