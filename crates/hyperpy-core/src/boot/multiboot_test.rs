//! Multiboot 1: what the kernel finds, by the offsets of the specification, and what is refused.

use super::images_test::{
    FLAT_HEADER, LOAD, RAM, bytes, elf, flat_header, header, line, multiboot_elf, multiboot_flat, number, put, ram,
};
use super::info::Module;
use super::multiboot::{Multiboot, multiboot};
use crate::arch::x86_64::Sregs;
use crate::arch::x86_64::layout::INFO_START;
use crate::error::BootError;
use crate::memory::Memory;

fn of(kernel: &[u8]) -> Multiboot<'_> {
    Multiboot { kernel, ..Multiboot::default() }
}

fn refused(boot: &Multiboot) -> BootError {
    let memory = ram();
    let error = multiboot(&memory, boot).unwrap_err();
    assert_eq!(memory.committed(), 0, "a refused load wrote");
    error
}

/// A field of the information.
fn field(memory: &Memory, offset: u64) -> u64 {
    number(memory, INFO_START + offset, 4)
}

#[test]
fn test_multiboot_elf_of_either_class_is_entered_in_protected_mode() {
    for wide in [false, true] {
        let (memory, image) = (ram(), multiboot_elf(wide, 3));
        memory.write(LOAD, &[0xee; 0x1801]).unwrap();
        let entry = multiboot(&memory, &of(&image)).unwrap();
        assert_eq!((entry.regs.rip, entry.regs.rax, entry.regs.rbx), (LOAD + 0x10, 0x2bad_b002, INFO_START));
        assert_eq!(bytes(&memory, LOAD, 0x800), image[0x1000..0x1800]);
        assert_eq!(bytes(&memory, LOAD + 0x800, 0x1001), [vec![0; 0x1000], vec![0xee]].concat());
        let mut sregs = Sregs::default();
        entry.apply(&mut sregs);
        assert_eq!((sregs.cr0, sregs.cr4, sregs.efer, sregs.cs.base, sregs.cs.limit), (0x11, 0, 0, 0, u32::MAX));
        assert!(sregs.cs.db && !sregs.cs.l);
    }
}

#[test]
fn test_multiboot_information_tells_of_memory_command_line_and_loader() {
    let memory = Memory::with_ram(5 << 30).unwrap();
    multiboot(&memory, &Multiboot { cmdline: b"xen console=com1", ..of(&multiboot_elf(false, 3)) }).unwrap();
    assert_eq!(field(&memory, 0), 0b10_0100_1101);
    assert_eq!((field(&memory, 4), field(&memory, 8)), (639, (3 << 20) - 1024));
    assert_eq!(line(&memory, field(&memory, 16)), b"xen console=com1");
    assert_eq!(field(&memory, 20), 0);
    assert_eq!(line(&memory, field(&memory, 64)), b"hyperpy");
    assert_eq!(field(&memory, 44), 4 * 24);
    let entry = |i: u64| {
        let at = field(&memory, 48) + 24 * i;
        let (size, kind) = (number(&memory, at, 4), number(&memory, at + 20, 4));
        (size, number(&memory, at + 4, 8), number(&memory, at + 12, 8), kind)
    };
    assert_eq!(entry(0), (20, 0, 0x9_fc00, 1));
    assert_eq!(entry(1), (20, 0x9_fc00, 0x6_0400, 2));
    assert_eq!(entry(2), (20, 0x10_0000, 0xc000_0000 - 0x10_0000, 1));
    assert_eq!(entry(3), (20, 1 << 32, 2 << 30, 1));
}

#[test]
fn test_multiboot_modules_lie_on_pages_behind_the_kernel() {
    let modules = [
        Module { bytes: &[7; 5000], cmdline: b"vmlinuz console=hvc0" },
        Module { bytes: &[], cmdline: b"" },
        Module { bytes: &[9; 3], cmdline: b"last" },
    ];
    let memory = ram();
    multiboot(&memory, &Multiboot { modules: &modules, ..of(&multiboot_elf(false, 3)) }).unwrap();
    assert_eq!(field(&memory, 20), 3);
    let entry = |i: u64| {
        let at = field(&memory, 24) + 16 * i;
        (number(&memory, at, 4), number(&memory, at + 4, 4), line(&memory, number(&memory, at + 8, 4)))
    };
    assert_eq!(entry(0), (LOAD + 0x2000, LOAD + 0x2000 + 5000, b"vmlinuz console=hvc0".to_vec()));
    assert_eq!(entry(1), (LOAD + 0x4000, LOAD + 0x4000, b"".to_vec()));
    assert_eq!(entry(2), (LOAD + 0x4000, LOAD + 0x4003, b"last".to_vec()));
    assert_eq!(bytes(&memory, LOAD + 0x2000, 5000), [7; 5000]);
    assert_eq!(bytes(&memory, LOAD + 0x4000, 4), [9, 9, 9, 0]);
}

#[test]
fn test_multiboot_entry_is_a_virtual_address_of_the_segment_that_holds_it() {
    let mut image = multiboot_elf(true, 3);
    put(&mut image, 24, &0xffff_8000_0000_0010_u64.to_le_bytes()); // e_entry
    put(&mut image, 64 + 16, &0xffff_8000_0000_0000_u64.to_le_bytes()); // p_vaddr
    assert_eq!(multiboot(&ram(), &of(&image)).unwrap().regs.rip, LOAD + 0x10);
    put(&mut image, 24, &0xffff_8000_0000_1800_u64.to_le_bytes());
    assert!(matches!(refused(&of(&image)), BootError::EntryOutside { entry: 0xffff_8000_0000_1800 }));
}

#[test]
fn test_multiboot_address_fields_say_what_goes_where() {
    let (memory, image) = (ram(), multiboot_flat());
    memory.write(LOAD, &[0xee; 0xf01]).unwrap();
    let entry = multiboot(&memory, &of(&image)).unwrap();
    assert_eq!(entry.regs.rip, LOAD + 0x80);
    assert_eq!(bytes(&memory, LOAD, 0x700), image[0x100..]);
    assert_eq!(bytes(&memory, LOAD + 0x700, 0x801), [vec![0; 0x800], vec![0xee]].concat());

    // Zero ends: all of the file, and nothing to clear. The fields hold for an ELF file too.
    let mut image = elf();
    let fields = [LOAD as u32 + 0x100, LOAD as u32, 0, 0, LOAD as u32 + 8];
    put(&mut image, 0x400, &header(0x1_0003, &fields));
    let memory = ram();
    assert_eq!(multiboot(&memory, &of(&image)).unwrap().regs.rip, LOAD + 8);
    assert_eq!(bytes(&memory, LOAD, 0x1d00), image[0x300..]);
}

// fault row 41
#[test]
fn test_multiboot_impossible_address_fields_are_refused() {
    let with = |offsets| {
        let mut image = multiboot_flat();
        put(&mut image, 0x100 + FLAT_HEADER, &flat_header(offsets));
        refused(&of(&image))
    };
    let at = FLAT_HEADER as u32;
    let below = |by: u32| 0_u32.wrapping_sub(by);
    assert!(matches!(with([at, at + 1, 0x700, 0xf00, 0x80]), BootError::Header { field: "header_addr", .. }));
    assert!(matches!(with([at + 0x101, 0, 0x700, 0xf00, 0x80]), BootError::Header { field: "header_addr", .. }));
    let low = below(LOAD as u32 - 0xf_ffff);
    assert!(matches!(with([low, low, 0x700, 0xf00, 0x80]), BootError::Header { field: "load_addr", .. }));
    assert!(matches!(with([at, 0, below(1), 0xf00, 0x80]), BootError::Header { field: "load_end_addr", .. }));
    assert!(matches!(with([at, 0, 0x700, 0x6ff, 0x80]), BootError::Header { field: "bss_end_addr", .. }));
    assert!(matches!(with([at, 0, 0x701, 0xf00, 0x80]), BootError::Truncated { what: "the kernel's code", .. }));
    assert!(matches!(with([at, 0, 0x700, RAM as u32, 0x80]), BootError::NoRam { .. }));
    assert!(matches!(with([at, 0, 0x700, 0xf00, 0xf00]), BootError::EntryOutside { .. }));
    let image = multiboot_flat();
    assert!(matches!(refused(&of(&image[..0x100 + FLAT_HEADER + 31])), BootError::Truncated { .. }));
}

// fault row 41
#[test]
fn test_multiboot_headers_that_cannot_be_served_are_refused() {
    assert!(matches!(refused(&of(&multiboot_elf(false, 7))), BootError::WantsScreen));
    assert!(matches!(
        refused(&of(&multiboot_elf(false, 0x8003))),
        BootError::Header { field: "flags", value: 0x8003, .. }
    ));
    assert!(multiboot(&ram(), &of(&multiboot_elf(false, 0x8000_0000))).is_ok()); // optional ones are ignored
    let mut image = multiboot_elf(false, 3);
    image[0x1008] ^= 1; // the checksum
    assert!(matches!(refused(&of(&image)), BootError::NotMultiboot));
    put(&mut image, 0x1008, &0xe852_50d6_u32.to_le_bytes());
    assert!(matches!(refused(&of(&image)), BootError::Multiboot2));
    let far = [vec![0; 8192 - 8], header(3, &[])].concat(); // ends behind the first 8 KiB
    assert!(matches!(refused(&of(&far)), BootError::NotMultiboot));
    let near = [vec![0; 8192 - 12], header(3, &[])].concat();
    assert!(matches!(refused(&of(&near)), BootError::NotElf { .. }));
}

// fault row 41
#[test]
fn test_multiboot_lines_and_modules_that_do_not_fit_are_refused() {
    let image = multiboot_elf(false, 3);
    let with = |modules: &[Module]| refused(&Multiboot { modules, ..of(&image) });
    assert!(matches!(with(&[Module { bytes: &[], cmdline: b"a\0b" }]), BootError::CommandLineNul { at: 1 }));
    let long = vec![b'a'; 0x1_0001];
    assert!(matches!(with(&[Module { bytes: &[], cmdline: &long }]), BootError::CommandLineTooLong { .. }));
    assert!(matches!(with(&[Module::default(); 0x1000]), BootError::InfoTooLong { most: 0x1_0000, .. }));
    let large = vec![0; RAM as usize];
    assert!(matches!(with(&[Module { bytes: &large, cmdline: b"" }]), BootError::NoRam { what: "a module", .. }));
    let line = |cmdline| refused(&Multiboot { cmdline, ..of(&image) });
    assert!(matches!(line(b"\0"), BootError::CommandLineNul { at: 0 }));
    // 4 GiB that nobody touches: the length alone decides.
    let huge = vec![0; 1 << 32];
    assert!(matches!(line(&huge), BootError::CommandLineTooLong { len: 0x1_0000_0000, most: 0xffff }));
    let small = Memory::with_ram(0x8000).unwrap();
    assert!(matches!(multiboot(&small, &of(&image)), Err(BootError::NoRam { .. })));
}
