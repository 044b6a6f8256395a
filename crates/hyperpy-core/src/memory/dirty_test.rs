//! Written pages: by the guest, by the host, through views and aliases, and what a query forgets.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use super::*;
use crate::accel::{Accelerator, Vm, VmConfig};
use crate::memory::Kind;
use crate::scripted::Scripted;

const MIB: u64 = 1 << 20;

fn tracked() -> (Memory, Scripted, Arc<dyn Vm>) {
    let memory = Memory::with_ram(MIB).unwrap();
    let scripted = Scripted::default();
    let vm = scripted.create_vm(VmConfig { vcpus: 1, irqchip: false }).unwrap();
    memory.connect(&vm).unwrap();
    memory.track(true).unwrap();
    (memory, scripted, vm)
}

#[test]
fn test_dirty_without_tracking_is_refused() {
    let memory = Memory::with_ram(MIB).unwrap();
    assert!(matches!(memory.dirty(true), Err(MemoryError::NotTracked)));
    memory.track(true).unwrap();
    assert_eq!(memory.dirty(true).unwrap(), []);
    memory.track(false).unwrap();
    assert!(matches!(memory.dirty(true), Err(MemoryError::NotTracked)));
    memory.clear();
    assert!(matches!(memory.dirty(true), Err(MemoryError::Closed)));
    assert!(matches!(memory.track(true), Err(MemoryError::Closed)));
}

#[test]
fn test_dirty_tells_the_hosts_and_the_guests_pages_once() {
    let (memory, scripted, _vm) = tracked();
    memory.write(0x1fff, &[1, 2]).unwrap();
    memory.write(0x9000, &[]).unwrap();
    scripted.set_dirty(0, vec![1 << 3 | 1 << 63, 1]);
    let expected = [(0x1000, 0x3000), (0x3f000, 0x2000)];
    assert_eq!(memory.dirty(false).unwrap(), expected);
    assert_eq!(memory.dirty(true).unwrap(), expected);
    assert_eq!(memory.dirty(true).unwrap(), []);
}

#[test]
fn test_dirty_begins_when_tracking_does() {
    let memory = Memory::with_ram(MIB).unwrap();
    memory.write(0, &[1]).unwrap();
    memory.track(true).unwrap();
    memory.write(0x5000, &[1]).unwrap();
    memory.track(true).unwrap();
    assert_eq!(memory.dirty(true).unwrap(), [(0x5000, 0x1000)]);
}

#[test]
fn test_tracking_switches_the_log_of_what_the_guest_can_write() {
    let (memory, scripted, _vm) = tracked();
    memory.add(MIB, 4096, Kind::Rom, "rom").unwrap();
    memory.add(2 * MIB, 4096, Kind::Ram, "late").unwrap();
    memory.track(false).unwrap();
    let expected =
        [(0, true, false), (0, true, true), (1, false, false), (2, true, true), (0, true, false), (2, true, false)];
    assert_eq!(scripted.log().slot_changes, expected);
}

// fault row 47
#[test]
fn test_log_larger_than_the_slot_tells_only_pages_that_are_there() {
    let (memory, scripted, _vm) = tracked();
    memory.add(MIB, 65 * 4096, Kind::Ram, "odd").unwrap();
    memory.add(4 * MIB, 4096, Kind::Ram, "one").unwrap();
    scripted.set_dirty(1, vec![0, u64::MAX, u64::MAX]);
    scripted.set_dirty(2, vec![u64::MAX; 9]);
    assert_eq!(memory.dirty(true).unwrap(), [(MIB + 64 * 4096, 4096), (4 * MIB, 4096)]);
}

// fault row 47
#[test]
fn test_slot_removed_with_the_log_on_takes_its_pages_with_it() {
    let (memory, scripted, _vm) = tracked();
    memory.add(MIB, 4096, Kind::Ram, "short-lived").unwrap();
    memory.write(MIB, &[1]).unwrap();
    scripted.set_dirty(1, vec![1]);
    memory.remove(MIB).unwrap();
    assert_eq!(memory.dirty(true).unwrap(), []);
    memory.add(MIB, 4096, Kind::Ram, "new").unwrap();
    scripted.set_dirty(1, vec![0]);
    assert_eq!(memory.dirty(true).unwrap(), []);
}

// fault row 47
#[test]
fn test_region_that_is_protected_with_the_log_on_keeps_what_was_logged() {
    let (memory, scripted, _vm) = tracked();
    scripted.set_dirty(0, vec![1 << 7]);
    memory.protect(0, false).unwrap();
    assert_eq!(memory.dirty(true).unwrap(), [(0x7000, 0x1000)]);
    memory.protect(0, true).unwrap();
    assert_eq!(scripted.log().slot_changes.last(), Some(&(0, true, true)));
}

#[test]
fn test_page_written_through_an_alias_is_told_at_its_region() {
    let (memory, scripted, _vm) = tracked();
    memory.alias(4 * MIB, 0x5000, 0x3000, "again").unwrap();
    memory.write(4 * MIB, &[1]).unwrap();
    scripted.set_dirty(1, vec![1 << 2]);
    assert_eq!(memory.dirty(true).unwrap(), [(0x5000, 0x1000), (0x7000, 0x1000)]);
}

#[test]
fn test_writable_view_is_written_as_long_as_it_lives_and_once_after() {
    let (memory, _scripted, _vm) = tracked();
    let reader = memory.view(0, 0x8000, false).unwrap();
    let writer = memory.view(0x2800, 0x1000, true).unwrap();
    let same = memory.view(0x2800, 0x1000, true).unwrap();
    let empty = memory.view(0x9000, 0, true).unwrap();
    assert!(!reader.is_writable() && writer.is_writable());
    for _ in 0..3 {
        assert_eq!(memory.dirty(true).unwrap(), [(0x2000, 0x2000)]);
    }
    drop(writer);
    assert_eq!(memory.dirty(true).unwrap(), [(0x2000, 0x2000)]);
    drop(same);
    assert_eq!(memory.dirty(true).unwrap(), [(0x2000, 0x2000)]);
    assert_eq!(memory.dirty(true).unwrap(), []);
    drop((reader, empty));
    assert_eq!(memory.dirty(true).unwrap(), []);
}

#[test]
fn test_reset_counts_as_written() {
    let (memory, _scripted, _vm) = tracked();
    memory.reset();
    assert_eq!(memory.dirty(true).unwrap(), [(0, MIB)]);
}
