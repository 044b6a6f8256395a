//! Regions, accesses across them, what they cost, views, and the bitmap of pages that the host wrote.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use super::*;
use crate::scripted::Scripted;
use crate::{accel::Accelerator, accel::VmConfig};

const MIB: u64 = 1 << 20;

#[test]
fn test_memory_of_64_gib_commits_only_what_is_touched() {
    let memory = Memory::with_ram(64 << 30).unwrap();
    assert_eq!(memory.committed(), 0);
    memory.write(HIGH_RAM_START + (40 << 30), &[1]).unwrap();
    memory.write(0x1000, &[1]).unwrap();
    assert!((1..=4 * MIB).contains(&memory.committed()), "{}", memory.committed());
}

#[test]
fn test_with_ram_beyond_the_hole_goes_on_above_4_gib() {
    let places = |size| {
        let regions = Memory::with_ram(size).unwrap().regions();
        regions.iter().map(|region| (region.gpa, region.len)).collect::<Vec<_>>()
    };
    assert_eq!(places(MIB), [(0, MIB)]);
    assert_eq!(places(MMIO_HOLE_START), [(0, MMIO_HOLE_START)]);
    assert_eq!(places(MMIO_HOLE_START + 4096), [(0, MMIO_HOLE_START), (HIGH_RAM_START, 4096)]);
}

#[test]
fn test_add_range_that_cannot_be_is_refused() {
    let memory = Memory::with_ram(MIB).unwrap();
    let add = |gpa, len| memory.add(gpa, len, Kind::Ram, "more").unwrap_err();
    for (gpa, len) in [(MIB, 0), (MIB + 1, 4096), (MIB, 4095), (MIB, 1)] {
        assert!(matches!(add(gpa, len), MemoryError::Unaligned { .. }), "{gpa:#x} + {len:#x}");
    }
    for (gpa, len) in [(u64::MAX - 4095, 8192), (8192, u64::MAX - 4095)] {
        assert!(matches!(add(gpa, len), MemoryError::Wraps { .. }), "{gpa:#x} + {len:#x}");
    }
    for (gpa, len) in [(0, 4096), (MIB - 4096, 8192), (0, 2 * MIB)] {
        assert!(matches!(add(gpa, len), MemoryError::Overlap { other: 0, .. }), "{gpa:#x} + {len:#x}");
    }
    for len in [MOST + 4096, 1 << 62] {
        assert!(matches!(add(MIB, len), MemoryError::TooLarge { .. }), "{len:#x}");
    }
    assert!(matches!(Memory::with_ram(0), Err(MemoryError::Unaligned { .. })));
    assert!(matches!(Memory::with_ram(1 << 62), Err(MemoryError::TooLarge { .. })));
    assert!(matches!(Memory::with_ram(u64::MAX - 4095), Err(MemoryError::Wraps { .. })));
    assert_eq!(memory.regions().len(), 1);
}

#[test]
fn test_add_after_the_vm_has_the_regions_is_refused() {
    let memory = Memory::with_ram(MIB).unwrap();
    memory.add(MIB, 4096, Kind::Rom, "rom").unwrap();
    memory.add(2 * MIB, 4096, Kind::Mmio, "window").unwrap();
    let scripted = Scripted::default();
    let vm = scripted.create_vm(VmConfig { vcpus: 1, irqchip: false }).unwrap();
    let _kept = memory.seal_into(&*vm).unwrap();
    assert_eq!(scripted.log().slots, [(0, 0, MIB), (1, MIB, 4096), (2, 2 * MIB, 4096)]);
    assert!(matches!(memory.add(3 * MIB, 4096, Kind::Ram, "late"), Err(MemoryError::Sealed { .. })));
}

#[test]
fn test_access_across_adjoining_regions_is_one() {
    let memory = Memory::with_ram(MIB).unwrap();
    memory.add(MIB, 4096, Kind::Rom, "rom").unwrap();
    memory.write(MIB - 2, b"abcd").unwrap();
    let mut bytes = [0; 6];
    memory.read(MIB - 3, &mut bytes).unwrap();
    assert_eq!(&bytes, b"\0abcd\0");
    assert!(memory.holds(MIB - 2, 4));
}

#[test]
fn test_access_without_memory_is_refused_and_changes_nothing() {
    let memory = Memory::with_ram(MIB).unwrap();
    memory.add(2 * MIB, 4096, Kind::Mmio, "window").unwrap();
    for (gpa, len) in [(MIB - 1, 2), (MIB, 1), (2 * MIB, 1), (u64::MAX, 1), (u64::MAX, 2), (u64::MAX - 7, 16)] {
        let mut buffer = vec![0; len];
        let there = |error| matches!(error, MemoryError::Access { gpa: at, len: n } if at == gpa && n == len as u64);
        assert!(there(memory.read(gpa, &mut buffer).unwrap_err()), "{gpa:#x}");
        assert!(there(memory.write(gpa, &vec![0xff; len]).unwrap_err()), "{gpa:#x}");
        assert!(there(memory.view(gpa, len).unwrap_err()), "{gpa:#x}");
        assert!(!memory.holds(gpa, len));
    }
    let mut last = [0xaa];
    memory.read(MIB - 1, &mut last).unwrap();
    assert_eq!(last, [0]);
}

#[test]
fn test_write_marks_the_pages_that_it_touched() {
    let memory = Memory::with_ram(MIB).unwrap();
    memory.write(0x1fff, &[1, 2]).unwrap();
    memory.write(0x9000, &[]).unwrap();
    let layout = memory.layout();
    let region = layout.backing.find_region(GuestAddress(0)).unwrap();
    let dirty: Vec<usize> = (0..16).filter(|page| region.bitmap().dirty_at(page * 4096)).collect();
    assert_eq!(dirty, [1, 2]);
}

#[test]
fn test_view_after_clear_keeps_its_mapping() {
    let memory = Memory::with_ram(MIB).unwrap();
    memory.write(0x3000, b"kept").unwrap();
    let view = memory.view(0x3000, 4).unwrap();
    memory.clear();
    assert!(matches!(memory.read(0x3000, &mut [0; 4]), Err(MemoryError::Access { .. })));
    assert!(matches!(memory.add(0, 4096, Kind::Ram, "late"), Err(MemoryError::Sealed { .. })));
    // SAFETY: the view keeps its four bytes mapped, and nobody else has the memory any more.
    let bytes = unsafe { (view.hva() as *const [u8; 4]).read_volatile() };
    assert_eq!((&bytes, view.len(), view.is_empty()), (b"kept", 4, false));
}

#[test]
fn test_overlapping_looks_only_at_what_has_memory() {
    let memory = Memory::with_ram(MIB).unwrap();
    memory.add(MIB, 4096, Kind::Mmio, "window").unwrap();
    memory.add(2 * MIB, 4096, Kind::Rom, "rom").unwrap();
    assert!(memory.overlapping(MIB, 4096).is_none());
    assert_eq!(memory.overlapping(MIB - 1, 1).unwrap().gpa, 0);
    assert_eq!(memory.overlapping(MIB, u64::MAX).unwrap().gpa, 2 * MIB);
    assert!(memory.overlapping(3 * MIB, u64::MAX).is_none());
}

#[test]
fn test_memory_file_cannot_be_shortened_under_the_mapping() {
    let memory = Memory::with_ram(MIB).unwrap();
    let layout = memory.layout();
    let region = layout.backing.find_region(GuestAddress(0)).unwrap();
    assert!(region.file_offset().unwrap().file().set_len(0).is_err());
}

#[test]
fn test_reset_zeroes_ram_gives_it_back_and_keeps_rom_and_views() {
    let memory = Memory::default();
    memory.add(0, 8 * PAGE_SIZE, Kind::Ram, "ram").unwrap();
    memory.add(0x10_0000, PAGE_SIZE, Kind::Rom, "rom").unwrap();
    memory.write(0x1000, &[7; 0x3000]).unwrap();
    memory.write(0x10_0000, b"firmware").unwrap();
    let view = memory.view(0x2000, 16).unwrap();
    let before = memory.committed();
    memory.reset().unwrap();
    assert!(memory.committed() < before);
    let mut bytes = [1; 0x3000];
    memory.read(0x1000, &mut bytes).unwrap();
    assert!(bytes.iter().all(|&byte| byte == 0));
    let mut firmware = [0; 8];
    memory.read(0x10_0000, &mut firmware).unwrap();
    assert_eq!(&firmware, b"firmware");
    // The view is of the same pages: what is written now shows in it.
    memory.write(0x2000, &[9]).unwrap();
    assert_eq!(view.hva(), memory.view(0x2000, 1).unwrap().hva());
    memory.add(0x20_0000, PAGE_SIZE, Kind::Ram, "later").unwrap();
}
