//! PVH: what the kernel finds, by the offsets of Xen's start_info.h, and what is refused.

use super::images_test::{LOAD, Phdr, RAM, bytes, bzimage, elf, elf_of, line, number, put, pvh_elf, ram};
use super::info::Module;
use super::pvh::{Pvh, pvh};
use crate::arch::x86_64::Sregs;
use crate::arch::x86_64::layout::INFO_START;
use crate::error::BootError;
use crate::memory::Memory;

fn of(kernel: &[u8]) -> Pvh<'_> {
    Pvh { kernel, ..Pvh::default() }
}

fn refused(boot: &Pvh) -> BootError {
    let memory = ram();
    let error = pvh(&memory, boot).unwrap_err();
    assert_eq!(memory.committed(), 0, "a refused load wrote");
    error
}

/// A field of the start info.
fn field(memory: &Memory, offset: u64, len: usize) -> u64 {
    number(memory, INFO_START + offset, len)
}

#[test]
fn test_pvh_elf_of_either_class_is_entered_at_its_note() {
    for wide in [false, true] {
        let (memory, image) = (ram(), pvh_elf(wide));
        let entry = pvh(&memory, &of(&image)).unwrap();
        assert_eq!((entry.regs.rip, entry.regs.rbx, entry.regs.rflags), (LOAD + 0x20, INFO_START, 2));
        assert_eq!(bytes(&memory, LOAD, 0x800), image[0x1000..0x1800]);
        let mut sregs = Sregs::default();
        entry.apply(&mut sregs);
        assert_eq!((sregs.cr0, sregs.cr4, sregs.efer, sregs.tr.limit), (0x11, 0, 0, 0x67));
        assert!(sregs.cs.db && !sregs.cs.l && sregs.ds.limit == u32::MAX);
    }
}

#[test]
fn test_pvh_start_info_tells_of_command_line_tables_and_memory() {
    let memory = Memory::with_ram(5 << 30).unwrap();
    pvh(&memory, &Pvh { cmdline: b"console=ttyS0", rsdp: Some(0xe_0000), ..of(&pvh_elf(true)) }).unwrap();
    assert_eq!((field(&memory, 0, 4), field(&memory, 4, 4), field(&memory, 8, 4)), (0x336e_c578, 1, 0));
    assert_eq!((field(&memory, 12, 4), field(&memory, 16, 8)), (0, 0));
    assert_eq!(line(&memory, field(&memory, 24, 8)), b"console=ttyS0");
    assert_eq!(field(&memory, 32, 8), 0xe_0000);
    assert_eq!((field(&memory, 48, 4), field(&memory, 52, 4)), (4, 0));
    let entry = |i: u64| {
        let at = field(&memory, 40, 8) + 24 * i;
        (number(&memory, at, 8), number(&memory, at + 8, 8), number(&memory, at + 16, 8))
    };
    assert_eq!(entry(0), (0, 0x9_fc00, 1));
    assert_eq!(entry(1), (0x9_fc00, 0x6_0400, 2));
    assert_eq!(entry(3), (1 << 32, 2 << 30, 1));
}

#[test]
fn test_pvh_modules_are_listed_with_their_lines() {
    let modules = [Module { bytes: &[7; 5000], cmdline: b"" }, Module { bytes: &[9; 3], cmdline: b"two" }];
    let memory = ram();
    pvh(&memory, &Pvh { modules: &modules, ..of(&pvh_elf(true)) }).unwrap();
    assert_eq!(field(&memory, 12, 4), 2);
    let list = field(&memory, 16, 8);
    let entry = |i: u64| [0, 8, 24].map(|at| number(&memory, list + 32 * i + at, 8));
    assert_eq!((entry(0), entry(1)), ([LOAD + 0x2000, 5000, 0], [LOAD + 0x4000, 3, 0]));
    assert_eq!(number(&memory, list + 16, 8), 0); // no line
    assert_eq!(line(&memory, number(&memory, list + 32 + 16, 8)), b"two");
    assert_eq!(bytes(&memory, LOAD + 0x2000, 5000), [7; 5000]);
}

// fault row 41
#[test]
fn test_pvh_kernels_without_an_entry_that_can_be_are_refused() {
    assert!(matches!(refused(&of(&elf()[..])), BootError::Truncated { what: "the ELF notes", .. }));
    assert!(matches!(refused(&of(&bzimage(b""))), BootError::NotElf { .. }));
    let image = pvh_elf(true);
    // The third note: 20 bytes and 3 of padding, then 16 and 8.
    let third = 0x1800 + 24 + 24;
    let with = |at: usize, value: &[u8]| {
        let mut image = image.clone();
        put(&mut image, third + at, value);
        refused(&of(&image))
    };
    assert!(matches!(with(12, b"Gnu"), BootError::NoPvhNote));
    assert!(matches!(with(8, &[19]), BootError::NoPvhNote));
    assert!(matches!(with(4, &[2]), BootError::Header { format: "PVH note", field: "length", value: 2 }));
    assert!(matches!(with(4, &[0xff; 4]), BootError::Truncated { what: "the ELF notes", .. }));
    assert!(matches!(with(0, &[0xff; 4]), BootError::Truncated { what: "the ELF notes", .. }));
    assert!(matches!(with(16 + 4, &[1]), BootError::EntryOutside { entry: 0x1_0100_0020 }));
    assert!(matches!(with(16, &[0xff, 0xff]), BootError::EntryOutside { .. }));
}

// fault row 41
#[test]
fn test_pvh_notes_longer_than_the_file_are_refused() {
    // Empty notes in the zeros behind the headers, named three times.
    let notes = || Phdr { kind: 4, offset: 0x300, paddr: 0, filesz: 0xc00, memsz: 0 };
    assert!(matches!(refused(&of(&elf_of(LOAD, &[notes(), notes()]))), BootError::NoPvhNote));
    let error = refused(&of(&elf_of(LOAD, &[notes(), notes(), notes()])));
    assert!(matches!(error, BootError::Header { field: "p_filesz of all notes", value: 0x2400, .. }), "{error}");
}

// fault row 41
#[test]
fn test_pvh_lines_and_modules_that_do_not_fit_are_refused() {
    let image = pvh_elf(true);
    let line = |cmdline| refused(&Pvh { cmdline, ..of(&image) });
    assert!(matches!(line(b"a\0"), BootError::CommandLineNul { at: 1 }));
    assert!(matches!(line(&vec![b'a'; 0x1_0000]), BootError::CommandLineTooLong { most: 0xffff, .. }));
    let with = |modules: &[Module]| refused(&Pvh { modules, ..of(&image) });
    assert!(matches!(with(&[Module::default(); 0x800]), BootError::InfoTooLong { .. }));
    let large = vec![0; RAM as usize];
    assert!(matches!(with(&[Module { bytes: &large, cmdline: b"" }]), BootError::NoRam { .. }));
}
