//! Regions, aliases, slots that come and go, accesses across regions, what they cost, and views.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use super::layout::MOST;
use super::*;
use crate::accel::{Accelerator, VmConfig};
use crate::arch::x86_64::layout::GPA_END;
use crate::scripted::Scripted;

const MIB: u64 = 1 << 20;

impl Memory {
    /// What is behind the first region that has memory, for tests of other modules.
    pub(crate) fn a_mapping(&self) -> Arc<Mapping> {
        self.layout().parts.iter().find_map(|part| part.backed.clone()).unwrap().mapping
    }
}

#[test]
fn test_memory_of_64_gib_commits_only_what_is_touched() {
    let memory = Memory::with_ram(64 << 30).unwrap();
    assert_eq!(memory.committed(), 0);
    memory.write(HIGH_RAM_START + (40 << 30), &[1]).unwrap();
    memory.write(0x1000, &[1]).unwrap();
    assert!((1..=4 * MIB).contains(&memory.committed()), "{}", memory.committed());
}

#[test]
fn test_zero_clears_the_range_alone_and_gives_pages_back() {
    let memory = Memory::with_ram(MIB).unwrap();
    memory.add(MIB, MIB, Kind::Ram, "more").unwrap();
    memory.write(0, &[7; 2 << 20]).unwrap();
    for (gpa, len, pages) in
        [(0x1ff0, 0x20, 0), (0x3800, 0x3000, 2), (0x9000, 0, 0), (MIB - 0x1800, 0x3000, 2), (0x20_0000 - 1, 1, 0)]
    {
        let before = memory.committed();
        memory.zero(gpa, len).unwrap();
        // Looking at a page commits it again.
        assert_eq!(before - memory.committed(), pages * PAGE_SIZE, "{gpa:#x} + {len:#x}");
        let mut around = vec![1; len as usize];
        memory.read(gpa, &mut around).unwrap();
        assert!(around.iter().all(|byte| *byte == 0), "{gpa:#x} + {len:#x}");
        for beside in [gpa.wrapping_sub(1), gpa + len] {
            let mut byte = [7];
            let _ = memory.read(beside, &mut byte);
            assert_eq!(byte, [7], "{beside:#x} beside {gpa:#x} + {len:#x}");
        }
    }
    for (gpa, len) in [(MIB, MIB + 1), (u64::MAX, 2), (0, u64::MAX)] {
        assert!(matches!(memory.zero(gpa, len), Err(MemoryError::Access { .. })), "{gpa:#x} + {len:#x}");
    }
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

// fault row 40
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

/// A VM that has the memory's regions.
fn connected(memory: &Memory) -> (Scripted, Arc<dyn Vm>) {
    let scripted = Scripted::default();
    let vm = scripted.create_vm(VmConfig { vcpus: 1, irqchip: false }).unwrap();
    memory.connect(&vm).unwrap();
    (scripted, vm)
}

// fault row 40
#[test]
fn test_region_that_ends_with_the_address_space_can_be_mmio_and_not_memory() {
    let memory = Memory::default();
    memory.add(u64::MAX - 4095, 4096, Kind::Mmio, "last").unwrap();
    assert_eq!(memory.regions()[0].last(), u64::MAX);
    assert!(!memory.holds(u64::MAX, 1));
    for gpa in [u64::MAX - 8191, GPA_END, GPA_END - 4096] {
        let refused = memory.add(gpa, 8192 - u64::from(gpa == u64::MAX - 8191) * 4096, Kind::Ram, "last");
        assert!(matches!(refused, Err(MemoryError::Beyond { .. })), "{gpa:#x}: {refused:?}");
    }
    memory.add(GPA_END - 4096, 4096, Kind::Ram, "last").unwrap();
    memory.write(GPA_END - 1, &[1]).unwrap();
}

#[test]
fn test_change_after_the_vm_has_the_regions_reaches_it() {
    let memory = Memory::with_ram(MIB).unwrap();
    memory.add(MIB, 4096, Kind::Rom, "rom").unwrap();
    memory.add(2 * MIB, 4096, Kind::Mmio, "window").unwrap();
    let (scripted, _vm) = connected(&memory);
    assert_eq!(scripted.log().slots, [(0, 0, MIB), (1, MIB, 4096)]);
    memory.add(3 * MIB, 4096, Kind::Ram, "late").unwrap();
    memory.alias(4 * MIB, 0x1000, 8192, "again").unwrap();
    assert_eq!(scripted.log().slots[2..], [(2, 3 * MIB, 4096), (3, 4 * MIB, 8192)]);
    memory.remove(3 * MIB).unwrap();
    memory.remove(2 * MIB).unwrap();
    memory.add(2 * MIB, 4096, Kind::Ram, "number of the one that is gone").unwrap();
    assert_eq!(scripted.log().slots, [(0, 0, MIB), (1, MIB, 4096), (3, 4 * MIB, 8192), (2, 2 * MIB, 4096)]);
    assert!(matches!(memory.read(3 * MIB, &mut [0]), Err(MemoryError::Access { .. })));
    memory.protect(0, false).unwrap();
    memory.protect(0, false).unwrap();
    memory.protect(MIB, true).unwrap();
    assert_eq!(
        scripted.log().slot_changes[6..],
        [(0, false, false), (0, false, false), (1, false, false), (1, true, false)]
    );
    let writable: Vec<_> = memory.regions().iter().map(|region| region.writable).collect();
    assert_eq!(writable, [false, true, true, true]);
}

#[test]
fn test_memory_that_the_vm_has_is_unmapped_only_when_it_has_let_go() {
    let memory = Memory::with_ram(MIB).unwrap();
    memory.add(MIB, 4096, Kind::Ram, "other").unwrap();
    let (_scripted, vm) = connected(&memory);
    let mappings: Vec<_> =
        memory.layout().parts.iter().map(|p| Arc::downgrade(&p.backed.as_ref().unwrap().mapping)).collect();
    memory.remove(MIB).unwrap();
    assert!(mappings[1].upgrade().is_none() && mappings[0].upgrade().is_some());
    memory.clear();
    assert!(mappings[0].upgrade().is_some());
    drop(vm);
    assert!(mappings[0].upgrade().is_none());
}

#[test]
fn test_remove_of_what_is_not_there_or_has_an_alias_is_refused() {
    let memory = Memory::with_ram(MIB).unwrap();
    memory.alias(MIB, 0, 4096, "again").unwrap();
    assert!(matches!(memory.remove(4096), Err(MemoryError::NoRegion { gpa: 4096 })));
    assert!(matches!(memory.remove(0), Err(MemoryError::Aliased { gpa: 0, alias: MIB })));
    memory.remove(MIB).unwrap();
    memory.remove(0).unwrap();
    assert!(memory.regions().is_empty() && !memory.is_closed());
    assert!(matches!(memory.remove(0), Err(MemoryError::NoRegion { gpa: 0 })));
}

#[test]
fn test_alias_is_the_same_memory() {
    let memory = Memory::with_ram(MIB).unwrap();
    memory.alias(2 * MIB, 0x3000, 0x2000, "again").unwrap();
    memory.alias(3 * MIB, 2 * MIB + 0x1000, 0x1000, "and again").unwrap();
    memory.write(3 * MIB + 8, b"here").unwrap();
    let mut seen = [0; 4];
    for gpa in [0x4008, 2 * MIB + 0x1008] {
        memory.read(gpa, &mut seen).unwrap();
        assert_eq!(&seen, b"here");
    }
    let of: Vec<_> = memory.regions().iter().map(|region| region.alias_of).collect();
    assert_eq!(of, [None, Some(0x3000), Some(0x4000)]);
    assert_eq!(memory.committed(), 4096);
    for (of, len) in [(MIB, 4096), (MIB - 4096, 8192), (u64::MAX, 4096), (0, u64::MAX - 4095)] {
        assert!(matches!(memory.alias(4 * MIB, of, len, "no"), Err(MemoryError::Access { .. })), "{of:#x} {len:#x}");
    }
    assert!(matches!(memory.alias(4 * MIB, 1, 4096, "no"), Err(MemoryError::Unaligned { .. })));
    assert!(matches!(memory.alias(0x1000, 0, 4096, "no"), Err(MemoryError::Overlap { other: 0, .. })));
}

// fault row 40
#[test]
fn test_add_beyond_the_slots_is_refused_and_a_removal_makes_room() {
    let memory = Memory::with_ram(MIB).unwrap();
    memory.limit_slots(3);
    memory.alias(MIB, 0, 4096, "one").unwrap();
    memory.alias(2 * MIB, 0, 4096, "two").unwrap();
    memory.add(4 * MIB, 4096, Kind::Mmio, "takes none").unwrap();
    for _ in 0..2 {
        let refused = memory.add(3 * MIB, 4096, Kind::Ram, "three").unwrap_err();
        assert!(matches!(refused, MemoryError::TooManySlots { most: 3, .. }), "{refused}");
        assert!(memory.add(0, 4096, Kind::Ram, "over another").is_err());
    }
    memory.remove(MIB).unwrap();
    memory.add(3 * MIB, 4096, Kind::Ram, "three").unwrap();
}

#[test]
fn test_reset_leaves_rom_and_gives_ram_back() {
    let memory = Memory::with_ram(MIB).unwrap();
    memory.add(MIB, 4096, Kind::Rom, "rom").unwrap();
    memory.alias(2 * MIB, 0x1000, 4096, "again").unwrap();
    memory.write(0x1000, &vec![7; 0x8000]).unwrap();
    memory.write(MIB, b"rom").unwrap();
    memory.reset();
    assert_eq!(memory.committed(), 4096);
    let (mut ram, mut rom) = ([1; 3], [1; 3]);
    memory.read(2 * MIB, &mut ram).unwrap();
    memory.read(MIB, &mut rom).unwrap();
    assert_eq!((&ram, &rom), (&[0; 3], b"rom"));
}

// fault row 38
#[test]
fn test_huge_pages_of_an_empty_pool_are_an_error_that_says_how_to_fill_it() {
    let pool = std::fs::read_to_string("/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages");
    let free: u64 = pool.map_or(0, |text| text.trim().parse().unwrap());
    let refused = Memory::with_ram_in((free + 1) << 21, Pages::Huge2M).unwrap_err();
    assert!(refused.hint().contains("nr_hugepages"), "{refused}: {}", refused.hint());
    let unaligned = Memory::with_ram_in(MIB, Pages::Huge2M).unwrap_err();
    assert!(unaligned.to_string().contains("whole pages of 2 MiB"), "{unaligned}");
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
        assert!(there(memory.view(gpa, len, false).unwrap_err()), "{gpa:#x}");
        assert!(!memory.holds(gpa, len));
    }
    let mut last = [0xaa];
    memory.read(MIB - 1, &mut last).unwrap();
    assert_eq!(last, [0]);
}

#[test]
fn test_view_after_clear_keeps_its_mapping() {
    let memory = Memory::with_ram(MIB).unwrap();
    memory.write(0x3000, b"kept").unwrap();
    let view = memory.view(0x3000, 4, false).unwrap();
    memory.clear();
    assert!(matches!(memory.read(0x3000, &mut [0; 4]), Err(MemoryError::Access { .. })));
    assert!(matches!(memory.add(0, 4096, Kind::Ram, "late"), Err(MemoryError::Closed)));
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

// fault row 28
#[test]
fn test_memory_file_cannot_be_shortened_under_the_mapping() {
    let block = Mapping::new(MIB, Pages::Small, "short").unwrap();
    assert!(block.shorten().is_err());
    block.begin(&mut block.backing()).unwrap();
    assert!(block.shorten().is_err());
}

#[test]
fn test_reset_zeroes_ram_gives_it_back_and_keeps_rom_and_views() {
    let memory = Memory::default();
    memory.add(0, 8 * PAGE_SIZE, Kind::Ram, "ram").unwrap();
    memory.add(0x10_0000, PAGE_SIZE, Kind::Rom, "rom").unwrap();
    memory.write(0x1000, &[7; 0x3000]).unwrap();
    memory.write(0x10_0000, b"firmware").unwrap();
    let view = memory.view(0x2000, 16, false).unwrap();
    let before = memory.committed();
    memory.reset();
    assert!(memory.committed() < before);
    let mut bytes = [1; 0x3000];
    memory.read(0x1000, &mut bytes).unwrap();
    assert!(bytes.iter().all(|&byte| byte == 0));
    let mut firmware = [0; 8];
    memory.read(0x10_0000, &mut firmware).unwrap();
    assert_eq!(&firmware, b"firmware");
    assert_eq!(view.hva(), memory.view(0x2000, 1, false).unwrap().hva());
}

#[test]
fn test_gathered_memory_keeps_its_content_and_is_committed_by_whole_huge_pages() {
    const HUGE: u64 = 2 << 20;
    let memory = Memory::with_ram(16 << 20).unwrap();
    let hva = memory.view(0, 1, false).unwrap().hva();
    assert!(hva.is_multiple_of(HUGE), "the host can map it by huge pages: {hva:#x}");
    memory.write(5 << 20, b"here").unwrap();
    let gathered = memory.gather((5 << 20) + 3, 2 << 20);
    let mut bytes = [0; 4];
    memory.read(5 << 20, &mut bytes).unwrap();
    assert_eq!(&bytes, b"here");
    // Linux 6.1 and later can, given memory in one piece; before that nothing is taken.
    let committed = if gathered { 2 * HUGE } else { 3 * PAGE_SIZE };
    assert!(memory.committed() <= committed, "{}", memory.committed());
    memory.reset();
    assert_eq!(memory.committed(), 0);
}

#[test]
fn test_gather_of_what_is_small_or_not_all_there_does_nothing() {
    let small = Memory::with_ram(MIB).unwrap();
    assert!(!small.gather(0, MIB));
    assert!(!small.gather(0, 4 * MIB));
    assert!(!small.gather(u64::MAX, 2));
    assert!(small.committed() <= MIB);
}

#[test]
fn test_ram_of_a_pc_is_the_ram_that_lies_as_a_pc_has_it() {
    let memory = Memory::with_ram(64 << 20).unwrap();
    memory.add(0xd000_0000, 1 << 28, Kind::Mmio, "window").unwrap();
    memory.add(0xe000_0000, 1 << 24, Kind::Rom, "rom").unwrap();
    memory.alias(0x8000_0000, 0, 1 << 24, "alias").unwrap();
    memory.add(HIGH_RAM_START, 1 << 24, Kind::Ram, "more").unwrap(); // with a hole before it, which CMOS knows not
    memory.add(u64::MAX - 0xffff_ffff, 1 << 32, Kind::Mmio, "far").unwrap();
    memory.add(1 << 60, 1 << 46, Kind::Mmio, "huge").unwrap();
    assert_eq!(memory.pc_ram(), 64 << 20);
    let large = Memory::with_ram(5 << 30).unwrap();
    assert_eq!(large.pc_ram(), 5 << 30);
    large.remove(HIGH_RAM_START).unwrap();
    large.add(HIGH_RAM_START, 1 << 24, Kind::Rom, "rom").unwrap();
    assert_eq!(large.pc_ram(), MMIO_HOLE_START);
    large.remove(0).unwrap();
    assert_eq!(large.pc_ram(), 0);
}
