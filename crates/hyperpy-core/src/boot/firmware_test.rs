//! Firmware: where the image goes and how it is entered, and what is refused.

use super::firmware::{e820, firmware};
use super::images_test::{bytes, firmware_of, ram};
use crate::arch::x86_64::Sregs;
use crate::error::BootError;
use crate::memory::{Kind, Memory};

const END: u64 = 1 << 32;

#[test]
fn test_firmware_ends_at_4_gib_and_its_tail_lies_below_1_mib() {
    for (len, low) in [(0x1000, 0x1000), (0x2_0000, 0x2_0000), (0x4_0000, 0x2_0000), (16 << 20, 0x2_0000)] {
        let (memory, image) = (ram(), firmware_of(len));
        firmware(&memory, &image).unwrap();
        assert_eq!(bytes(&memory, END - len as u64, len), image);
        assert_eq!(bytes(&memory, 0x10_0000 - low as u64, low), image[len - low..]);
        let rom = memory.regions().into_iter().find(|r| r.gpa == END - len as u64).unwrap();
        assert_eq!((rom.len, rom.kind), (len as u64, Kind::Rom));
    }
}

#[test]
fn test_firmware_is_entered_at_the_reset_vector() {
    let entry = firmware(&ram(), &firmware_of(0x1000)).unwrap();
    let mut sregs = Sregs { cr3: 5, efer: 5, ..Sregs::default() };
    entry.apply(&mut sregs);
    assert_eq!((sregs.cs.base, sregs.cs.selector, sregs.cs.limit), (0xffff_0000, 0xf000, 0xffff));
    assert_eq!((entry.regs.rip, entry.regs.rflags, sregs.cr0), (0xfff0, 2, 0x6000_0010));
    assert_eq!((sregs.cr3, sregs.efer, sregs.ss.base, sregs.idt.limit), (0, 0, 0, 0x3ff));
}

#[test]
fn test_firmware_loaded_again_replaces_what_the_guest_has_changed() {
    let (memory, image) = (ram(), firmware_of(0x2_0000));
    firmware(&memory, &image).unwrap();
    memory.write(0xf_0000, &[0xee; 16]).unwrap();
    firmware(&memory, &image).unwrap();
    assert_eq!(bytes(&memory, 0xe_0000, 0x2_0000), image);
}

// fault row 41
#[test]
fn test_firmware_that_cannot_be_is_refused() {
    let refused = |image: &[u8]| {
        let memory = ram();
        let error = firmware(&memory, image).unwrap_err();
        assert_eq!((memory.committed(), memory.regions().len()), (0, 1), "a refused load wrote");
        error
    };
    for len in [0, 1, 0xfff, 0x1001, (16 << 20) + 0x1000] {
        assert!(matches!(refused(&vec![1; len]), BootError::FirmwareSize { .. }), "{len:#x}");
    }
    for empty in [0, 0xff] {
        let mut image = firmware_of(0x1000);
        image[0xff0..].fill(empty);
        assert!(matches!(refused(&image), BootError::FirmwareVector));
    }
}

// fault row 41
#[test]
fn test_firmware_without_room_is_refused() {
    let image = firmware_of(0x2_0000);
    let small = Memory::with_ram(0xf_f000).unwrap();
    assert!(matches!(firmware(&small, &image), Err(BootError::NoRam { gpa: 0xe_0000, .. })));
    let memory = ram();
    memory.add(END - 0x1_0000, 0x1000, Kind::Rom, "other").unwrap();
    let error = firmware(&memory, &image).unwrap_err();
    assert!(matches!(error, BootError::FirmwarePlace { other, .. } if other == END - 0x1_0000), "{error}");
    assert_eq!(memory.committed(), 0);
}

#[test]
fn test_firmware_memory_map_has_ram_kvms_pages_and_the_image() {
    let memory = Memory::with_ram(5 << 30).unwrap();
    firmware(&memory, &firmware_of(0x2_0000)).unwrap();
    let row =
        |start: u64, len: u64, kind: u32| [&start.to_le_bytes()[..], &len.to_le_bytes(), &kind.to_le_bytes()].concat();
    let rows = [row(0, 3 << 30, 1), row(END, 2 << 30, 1), row(0xfeff_c000, 0x4000, 2), row(0xfffe_0000, 0x2_0000, 2)];
    assert_eq!(e820(&memory), rows.concat());
}
