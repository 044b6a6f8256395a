//! Flat images: where they go, how they are entered, what is refused.

use super::flat::{Mode, STACK_ROOM, flat};
use crate::arch::x86_64::Sregs;
use crate::error::BootError;
use crate::memory::{Kind, Memory};

fn entered(ram: u64, len: usize, at: u64, mode: Mode) -> (super::Entry, Sregs, Memory) {
    let memory = Memory::with_ram(ram).unwrap();
    let entry = flat(&memory, &vec![0xf4; len], at, mode).unwrap();
    let mut sregs = Sregs { cr0: 0x6000_0010, apic_base: 0xfee0_0900, ..Sregs::default() };
    entry.apply(&mut sregs);
    (entry, sregs, memory)
}

fn qword(memory: &Memory, gpa: u64) -> u64 {
    let mut bytes = [0; 8];
    memory.read(gpa, &mut bytes).unwrap();
    u64::from_le_bytes(bytes)
}

/// What a processor's page walk makes of an address (SDM vol. 3, 4.5.4), for pages of 2 MiB.
fn walk(memory: &Memory, cr3: u64, gva: u64) -> Option<u64> {
    let mut table = cr3;
    for shift in [39, 30, 21] {
        let entry = qword(memory, table + ((gva >> shift) & 511) * 8);
        if entry & 1 == 0 {
            return None;
        }
        assert_eq!(entry & 0b10, 0b10, "not writable");
        if shift == 21 {
            assert_eq!(entry & 0x80, 0x80, "not a large page");
            return Some((entry & 0xf_ffff_ffe0_0000) + (gva & 0x1f_ffff));
        }
        table = entry & 0xf_ffff_ffff_f000;
    }
    None
}

#[test]
fn test_flat_real_mode_below_64k_has_ip_at_the_image() {
    let (entry, sregs, memory) = entered(0x10000, 2, 0x1000, Mode::Real);
    assert_eq!((entry.regs.rip, entry.regs.rsp, entry.regs.rflags), (0x1000, 0x8ff0, 2));
    assert_eq!((sregs.cs.base, sregs.cs.selector, sregs.cs.limit), (0, 0, 0xffff));
    assert_eq!((sregs.cr0, sregs.cr4, sregs.efer, sregs.apic_base), (0x10, 0, 0, 0xfee0_0900));
    assert_eq!(qword(&memory, 0x1000), 0xf4f4);
}

#[test]
fn test_flat_real_mode_above_64k_has_a_segment_that_reaches() {
    let (entry, sregs, _) = entered(1 << 20, 2, 0xf_1234, Mode::Real);
    assert_eq!((sregs.cs.selector, sregs.cs.base, entry.regs.rip), (0xf000, 0xf0000, 0x1234));
}

#[test]
fn test_flat_protected_mode_is_flat_without_paging() {
    let (entry, sregs, memory) = entered(0x10000, 0x100, 0x2000, Mode::Protected);
    assert_eq!((entry.regs.rip, sregs.cr0, sregs.efer), (0x2000, 0x31, 0));
    assert!(sregs.cs.db && !sregs.cs.l && sregs.cs.limit == u32::MAX && sregs.cs.selector == 0x10);
    assert_eq!(qword(&memory, sregs.gdt.base + 0x10), 0x00cf_9b00_0000_ffff);
    assert_eq!(qword(&memory, sregs.gdt.base + 0x18), 0x00cf_9300_0000_ffff);
}

#[test]
fn test_flat_long_mode_maps_four_gib_in_a_machine_of_64_kib() {
    let (entry, sregs, memory) = entered(0x10000, 0x1000, 0x1000, Mode::Long);
    assert_eq!((entry.regs.rip, entry.regs.rsp, sregs.cr3), (0x1000, 0x8ff0, 0x9000));
    assert_eq!((sregs.cr0, sregs.cr4, sregs.efer), (0x8000_0033, 0x620, 0x500));
    assert!(sregs.cs.l && !sregs.cs.db);
    assert_eq!(qword(&memory, sregs.gdt.base + 0x10), 0x00af_9b00_0000_ffff);
    for gva in [0, 0x1000, 0x1f_ffff, 0x20_0000, 0xbfff_ffff, 0xfe00_0008, 0xffff_ffff] {
        assert_eq!(walk(&memory, sregs.cr3, gva), Some(gva));
    }
    assert_eq!(walk(&memory, sregs.cr3, 1 << 32), None);
    assert_eq!(walk(&memory, sregs.cr3, 1 << 39), None);
}

#[test]
fn test_flat_image_over_the_usual_places_moves_what_is_beside_it() {
    let (entry, sregs, memory) = entered(1 << 20, 0x2_0000, 0, Mode::Long);
    let image = 0..0x2_0000;
    for place in [entry.regs.rsp - STACK_ROOM, entry.regs.rsp - 1, sregs.gdt.base, sregs.cr3, sregs.cr3 + 0x5fff] {
        assert!(!image.contains(&place), "{place:#x} is in the image");
    }
    assert_eq!(walk(&memory, sregs.cr3, 0x1234), Some(0x1234));
    assert_eq!(qword(&memory, 0x1_fff8), 0xf4f4_f4f4_f4f4_f4f4);
}

#[test]
fn test_flat_image_in_rom_keeps_its_tables_in_ram() {
    let memory = Memory::with_ram(0x10000).unwrap();
    memory.add(0xf_0000, 0x1_0000, Kind::Rom, "bios").unwrap();
    let entry = flat(&memory, &[0xf4], 0xf_fff0, Mode::Long).unwrap();
    assert_eq!((entry.regs.rip, entry.regs.rsp), (0xf_fff0, 0x8ff0));
}

#[test]
fn test_flat_image_that_leaves_no_room_is_refused_and_writes_nothing() {
    let memory = Memory::with_ram(0x1_0000).unwrap();
    let error = flat(&memory, &[0xf4; 0xa000], 0x1000, Mode::Long).unwrap_err();
    assert!(matches!(error, BootError::NoRoom { what: "page tables", .. }), "{error}");
    assert!(error.hint().contains("move the image"));
    assert_eq!(qword(&memory, 0x1000), 0);
    assert_eq!(qword(&memory, 0x510), 0);
}

#[test]
fn test_flat_images_out_of_reach_are_refused() {
    let memory = Memory::with_ram(0x1_0000).unwrap();
    let refused = |image: &[u8], at, mode| flat(&memory, image, at, mode).unwrap_err();
    assert!(matches!(refused(&[], 0, Mode::Real), BootError::FlatEmpty));
    assert!(matches!(refused(&[0; 2], 0xf_ffff, Mode::Real), BootError::FlatOutOfReach { end: 0x10_0000, .. }));
    assert!(matches!(refused(&[0; 2], 0xffff_ffff, Mode::Protected), BootError::FlatOutOfReach { .. }));
    assert!(matches!(refused(&[0], 1 << 32, Mode::Long), BootError::FlatOutOfReach { .. }));
    assert!(matches!(refused(&[0; 2], u64::MAX, Mode::Long), BootError::FlatOutOfReach { .. }));
    assert!(matches!(refused(&[0; 2], 0xffff, Mode::Long), BootError::Memory(_)));
}
