//! What a restore puts back, what it leaves, and what it refuses before anything has changed.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::sync::Arc;

use super::*;
use crate::accel::{Accelerator, Vm, VmConfig};
use crate::scripted::Scripted;

const MIB: u64 = 1 << 20;

fn byte(memory: &Memory, gpa: u64) -> u8 {
    let mut byte = [0];
    memory.read(gpa, &mut byte).unwrap();
    byte[0]
}

fn bytes(memory: &Memory, pages: &[u64]) -> Vec<u8> {
    pages.iter().map(|page| byte(memory, page * PAGE_SIZE)).collect()
}

#[test]
fn test_restore_to_any_of_a_tree_of_images_puts_back_what_differs_alone() {
    let memory = Memory::with_ram(MIB).unwrap();
    let mut images = vec![memory.image().unwrap()];
    for (from, page, value) in [(0, 1, 1), (1, 2, 2), (1, 3, 3), (0, 1, 4), (4, 200, 5)] {
        memory.restore(&images[from], &[]).unwrap();
        memory.write(page * PAGE_SIZE, &[value]).unwrap();
        images.push(memory.image().unwrap());
    }
    let expected = [[0, 0, 0, 0], [1, 0, 0, 0], [1, 2, 0, 0], [1, 0, 3, 0], [4, 0, 0, 0], [4, 0, 0, 5]];
    let differ = |a: [u8; 4], b: [u8; 4]| a.iter().zip(b).filter(|(a, b)| **a != *b).count() as u64;
    for from in 0..images.len() {
        for to in 0..images.len() {
            memory.restore(&images[from], &[]).unwrap();
            let restored = memory.restore(&images[to], &[]).unwrap();
            assert_eq!(bytes(&memory, &[1, 2, 3, 200]), expected[to], "{from} to {to}");
            assert_eq!(
                restored,
                Restored { pages: differ(expected[from], expected[to]), remapped: 0 },
                "{from} to {to}"
            );
        }
    }
    // Dropped in any order, the others are as they were.
    images.remove(1);
    images.remove(3);
    for (at, image) in [0, 2, 3, 5].into_iter().zip(&images) {
        memory.restore(image, &[]).unwrap();
        assert_eq!(bytes(&memory, &[1, 2, 3, 200]), expected[at]);
    }
}

#[test]
fn test_restore_of_another_machines_image_remaps_and_the_next_one_copies() {
    let other = Memory::with_ram(4 * MIB).unwrap();
    other.write(0x1000, &[1]).unwrap();
    let first = other.image().unwrap();
    other.write(0x2000, &[2]).unwrap();
    let second = other.image().unwrap();
    let memory = Memory::with_ram(4 * MIB).unwrap();
    memory.write(0x3000, &[3]).unwrap();
    memory.track(true).unwrap();
    let hva = memory.a_mapping().hva();
    let restored = memory.restore(&second, &[]).unwrap();
    assert_eq!(restored, Restored { pages: 1, remapped: 4 * MIB });
    assert_eq!((bytes(&memory, &[1, 2, 3]), memory.a_mapping().hva()), (vec![1, 2, 0], hva));
    assert_eq!(memory.dirty(true).unwrap(), [(0, 4 * MIB)]);
    assert_eq!(memory.restore(&first, &[]).unwrap(), Restored { pages: 1, remapped: 0 });
    assert_eq!(bytes(&memory, &[1, 2, 3]), [1, 0, 0]);
    assert_eq!(memory.dirty(true).unwrap(), [(0x2000, PAGE_SIZE)]);
    assert_eq!(bytes(&other, &[1, 2, 3]), [1, 2, 0]);
}

#[test]
fn test_restore_with_spared_ranges_leaves_them_until_they_are_spared_no_more() {
    let memory = Memory::with_ram(4 * MIB).unwrap();
    memory.alias(8 * MIB, 0x4000, 0x2000, "again").unwrap();
    let first = memory.image().unwrap();
    memory.write(0x1000, &[1; 0x6000]).unwrap();
    let second = memory.image().unwrap();
    let other = Memory::with_ram(4 * MIB).unwrap();
    other.alias(8 * MIB, 0x4000, 0x2000, "again").unwrap();
    other.write(0x1000, &[9; 0x8000]).unwrap();
    let other = other.image().unwrap();
    let spared = [(0x2000, 0x1000), (8 * MIB, 0x1000)]; // pages 2 and 4
    let all = [0, 1, 2, 3, 4, 5, 6, 7];
    assert_eq!(memory.restore(&first, &spared).unwrap().pages, 4);
    assert_eq!(bytes(&memory, &all), [0, 0, 1, 0, 1, 0, 0, 0]);
    memory.write(0x2000, &[5]).unwrap();
    memory.restore(&other, &spared).unwrap();
    assert_eq!(bytes(&memory, &all), [0, 9, 5, 9, 1, 9, 9, 9]);
    memory.restore(&other, &[]).unwrap();
    assert_eq!(bytes(&memory, &all), [0, 9, 9, 9, 9, 9, 9, 9]);
    memory.restore(&second, &[(0, 4 * MIB)]).unwrap();
    assert_eq!(bytes(&memory, &all), [0, 9, 9, 9, 9, 9, 9, 9]);
    memory.restore(&second, &[]).unwrap();
    assert_eq!(bytes(&memory, &all), [0, 1, 1, 1, 1, 1, 1, 0]);
    for (gpa, len) in [(1, 0x1000), (0, 1), (4 * MIB, 0x1000), (0x1000, 1 << 40), (u64::MAX - 0xfff, 0x2000)] {
        memory.write(0, &[7]).unwrap();
        assert!(memory.restore(&second, &[(gpa, len)]).is_err(), "{gpa:#x} + {len:#x}");
        assert_eq!(byte(&memory, 0), 7);
    }
}

#[test]
fn test_region_that_is_added_while_a_restore_goes_on_comes_after_it() {
    let memory = Memory::with_ram(MIB).unwrap();
    let image = memory.image().unwrap();
    memory.write(0, &[1]).unwrap();
    let restoring = memory.begin_restore(&image, &[]).unwrap();
    std::thread::scope(|scope| {
        let other = scope.spawn(|| memory.add(MIB, MIB, Kind::Ram, "late").map(|()| byte(&memory, 0)));
        assert!(memory.link.try_lock().is_err());
        assert_eq!(memory.regions().len(), 1);
        assert_eq!(restoring.put().unwrap().pages, 1);
        assert_eq!(other.join().unwrap().unwrap(), 0);
    });
    assert_eq!(memory.regions().len(), 2);
}

// fault row 29
#[test]
fn test_restore_to_other_regions_is_refused_with_what_differs_and_changes_nothing() {
    let memory = Memory::with_ram(MIB).unwrap();
    memory.add(4 * MIB, 0x1000, Kind::Rom, "rom").unwrap();
    memory.add(5 * MIB, 0x1000, Kind::Ram, "same").unwrap();
    let image = memory.image().unwrap();
    memory.write(0, &[1]).unwrap();
    memory.remove(4 * MIB).unwrap();
    memory.add(4 * MIB, 0x2000, Kind::Rom, "rom").unwrap();
    memory.add(6 * MIB, 0x1000, Kind::Mmio, "window").unwrap();
    memory.remove(5 * MIB).unwrap();
    let refused = memory.restore(&image, &[]).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "memory has other regions than the image: rom at 0x400000 + 0x1000, here rom at 0x400000 + 0x2000; \
         mmio at 0x600000 + 0x1000, only here; ram at 0x500000 + 0x1000, here it is not"
    );
    assert!(refused.hint().contains("same"), "{}", refused.hint());
    assert_eq!(byte(&memory, 0), 1);
    memory.remove(4 * MIB).unwrap();
    memory.remove(6 * MIB).unwrap();
    memory.add(4 * MIB, 0x1000, Kind::Rom, "of another name").unwrap();
    memory.add(5 * MIB, 0x1000, Kind::Ram, "same").unwrap();
    memory.restore(&image, &[]).unwrap();
    assert_eq!(byte(&memory, 0), 0);
}

#[test]
fn test_restore_puts_back_what_the_guest_may_write() {
    let memory = Memory::with_ram(MIB).unwrap();
    let scripted = Scripted::default();
    let vm: Arc<dyn Vm> = scripted.create_vm(VmConfig { vcpus: 1, irqchip: false }).unwrap();
    memory.connect(&vm).unwrap();
    let open = memory.image().unwrap();
    memory.protect(0, false).unwrap();
    let shut = memory.image().unwrap();
    memory.restore(&open, &[]).unwrap();
    assert!(memory.regions()[0].writable);
    memory.restore(&shut, &[]).unwrap();
    assert!(!memory.regions()[0].writable);
    assert_eq!(scripted.log().slot_changes.last(), Some(&(0, false, false)));
    memory.restore(&open, &[]).unwrap();
    assert_eq!(scripted.log().slot_changes.last(), Some(&(0, true, true)));
}

#[test]
fn test_region_added_after_an_image_is_kept_and_logged_from_then_on() {
    let memory = Memory::with_ram(MIB).unwrap();
    let scripted = Scripted::default();
    let vm: Arc<dyn Vm> = scripted.create_vm(VmConfig { vcpus: 1, irqchip: false }).unwrap();
    memory.connect(&vm).unwrap();
    let before = memory.image().unwrap();
    memory.add(MIB, MIB, Kind::Ram, "late").unwrap();
    assert_eq!(scripted.log().slot_changes.last(), Some(&(1, true, true)));
    memory.write(MIB, &[3]).unwrap();
    assert!(memory.restore(&before, &[]).is_err());
    let after = memory.image().unwrap();
    memory.write(MIB, &[4]).unwrap();
    memory.restore(&after, &[]).unwrap();
    assert_eq!(byte(&memory, MIB), 3);
    memory.remove(MIB).unwrap();
    memory.restore(&before, &[]).unwrap();
}
