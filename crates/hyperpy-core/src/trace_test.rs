//! What is recorded and in which order, readers beside a writer, and a machine that is traced.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use super::*;
use crate::accel::VmConfig;
use crate::bus::{Access, Action, Device, Space};
use crate::machine::Machine;
use crate::memory::Memory;
use crate::scripted::{Scripted, Step};
use crate::testing::Rig;

fn write(gpa: u64) -> AccelExit {
    AccelExit::Mmio { gpa, size: 4, is_write: true }
}

#[test]
fn test_ring_of_any_length_keeps_that_many_of_the_last_exits() {
    for len in [1, 2, 3, 100] {
        let ring = Ring::new(len).unwrap();
        assert_eq!(ring.entries(), []);
        for n in 0..250 {
            ring.record(&write(n), n * 2, n * 3);
            ring.record(&AccelExit::Nothing, 0, 0);
        }
        let kept: Vec<_> = ring.entries().iter().map(|e| (e.address, e.value, e.rip)).collect();
        let expected: Vec<_> = (250 - u64::from(len)..250).map(|n| (n, n * 2, n * 3)).collect();
        assert_eq!(kept, expected, "{len}");
        let times: Vec<_> = ring.entries().iter().map(|e| e.ns).collect();
        assert!(times.is_sorted());
    }
}

#[test]
fn test_ring_read_from_a_number_gives_what_came_since_and_leaves_an_open_exit_for_the_next_time() {
    let ring = Ring::new(4).unwrap();
    let from = |first, is_open| {
        let (entries, next) = ring.entries_from(first, is_open);
        (entries.iter().map(|entry| entry.address).collect::<Vec<_>>(), next)
    };
    assert_eq!((from(0, true), from(0, false), from(7, true)), ((vec![], 0), (vec![], 0), (vec![], 7)));
    (0..3).for_each(|n| ring.record(&write(n), 0, 0));
    assert_eq!((from(0, true), from(0, false)), ((vec![0, 1], 2), (vec![0, 1, 2], 3)));
    assert_eq!((from(2, true), from(2, false)), ((vec![], 2), (vec![2], 3)));
    (3..9).for_each(|n| ring.record(&write(n), 0, 0));
    assert_eq!((from(2, true), from(7, false)), ((vec![5, 6, 7], 8), (vec![7, 8], 9)));
}

#[test]
fn test_ring_keeps_every_kind_of_exit_as_it_was() {
    let exits = [
        AccelExit::Pio { port: 0xffff, size: 2, count: u32::MAX, is_write: false },
        AccelExit::Mmio { gpa: u64::MAX, size: 8, is_write: true },
        AccelExit::Halt,
        AccelExit::Hypercall { number: 7, arguments: [0; 6] },
        AccelExit::Msr { index: 0xc000_0080, is_write: true, value: 5 },
        AccelExit::Debug { pc: 0x1000, dr6: 0x4000 },
        AccelExit::Shutdown,
        AccelExit::SystemEvent(SystemEvent::Reset),
        AccelExit::FailEntry { reason: 9 },
        AccelExit::InternalError { suberror: 1, bytes: [0; 15], len: 0 },
        AccelExit::Unknown { reason: 99 },
    ];
    let ring = Ring::new(16).unwrap();
    exits.iter().for_each(|exit| ring.record(exit, u64::MAX, 0));
    let kept = ring.entries();
    let facts: Vec<_> = kept.iter().map(|e| (e.reason.name(), e.address, e.value)).collect();
    let expected = [
        ("pio", 0xffff, u64::MAX),
        ("mmio", u64::MAX, u64::MAX),
        ("halt", 0, 0),
        ("hypercall", 7, 0),
        ("msr", 0xc000_0080, 5),
        ("debug", 0x1000, 0x4000),
        ("shutdown", 0, 0),
        ("system-event", 0, 2),
        ("fail-entry", 0, 9),
        ("internal-error", 0, 1),
        ("unknown", 0, 99),
    ];
    assert_eq!(facts, expected);
    assert_eq!((kept[0].size, kept[0].count, kept[0].is_write), (2, u32::MAX, false));
    assert_eq!((kept[1].size, kept[1].count, kept[1].is_write), (8, 1, true));
}

#[test]
fn test_ring_read_while_it_is_written_never_mixes_two_exits() {
    let ring = Arc::new(Ring::new(4).unwrap());
    let over = Arc::new(AtomicBool::new(false));
    let writer = std::thread::spawn({
        let (ring, over) = (ring.clone(), over.clone());
        move || {
            let mut n = 0;
            while !over.load(Ordering::Relaxed) {
                ring.record(&AccelExit::Mmio { gpa: n, size: 4, is_write: false }, 0, n);
                ring.answered(n);
                n += 1;
            }
            n
        }
    });
    let (began, mut seen, mut last) = (Instant::now(), 0_u64, 0);
    while began.elapsed().as_millis() < 300 {
        let entries = ring.entries();
        assert!(entries.is_sorted_by_key(|entry| entry.address));
        for entry in entries {
            // The answer comes after the entry: not there yet, or the right one.
            assert!(entry.rip == entry.address && [0, entry.address].contains(&entry.value), "{entry:?}");
            last = last.max(entry.address);
            seen += 1;
        }
    }
    over.store(true, Ordering::Relaxed);
    let written = writer.join().unwrap();
    assert!(seen > 0 && last > 0 && last < written);
}

/// Reads as 0x42.
struct Fixed;

impl Device for Fixed {
    fn read(&self, _: Access) -> u64 {
        0x42
    }
    fn write(&self, _: Access, _: u64) -> Action {
        Action::Continue
    }
}

fn steps() -> Vec<Step> {
    vec![
        Step::Exit(AccelExit::Mmio { gpa: 0xd000_0000, size: 4, is_write: true }, vec![0x99]),
        Step::Exit(AccelExit::Pio { port: 0x10, size: 2, count: 1, is_write: false }, vec![]),
        Step::Exit(AccelExit::Mmio { gpa: 0xe000_0000, size: 1, is_write: false }, vec![]),
    ]
}

#[test]
fn test_machine_that_is_traced_tells_accesses_with_what_was_written_and_answered() {
    let memory = Memory::with_ram(1 << 20).unwrap();
    let config = VmConfig { vcpus: 1, irqchip: false };
    let machine = Arc::new(Machine::new(Arc::new(Scripted::new(vec![steps()])), memory, config).traced(8));
    let rig = Rig::of(machine.clone());
    rig.attach(Space::Pio, 0x10, 2, Fixed);
    rig.attach(Space::Mmio, 0xd000_0000, 8, Fixed);
    let crate::exit::Exit::Mmio(open) = rig.run().unwrap() else { unreachable!() };
    let facts = || {
        let entries = machine.control.vcpus()[0].trace().unwrap().entries();
        entries.iter().map(|e| (e.reason.name(), e.address, e.value, e.is_write)).collect::<Vec<_>>()
    };
    let before = [("mmio", 0xd000_0000, 0x99, true), ("pio", 0x10, 0x42, false)];
    assert_eq!(facts()[..2], before);
    // Nobody answered yet; then somebody does.
    assert_eq!(facts()[2], ("mmio", 0xe000_0000, 0, false));
    machine.answer(&open, 7, &rig).unwrap().unwrap();
    assert_eq!(facts()[2], ("mmio", 0xe000_0000, 7, false));
    rig.run().unwrap();
    assert_eq!(facts()[3], ("halt", 0, 0, false));
}

#[test]
fn test_machine_that_is_not_traced_has_no_ring() {
    let rig = Rig::new(vec![steps()]);
    rig.run().unwrap();
    assert!(rig.machine.control.vcpus()[0].trace().is_none());
}
