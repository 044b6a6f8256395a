//! Linux kernels: what the loader puts where, by the offsets of the boot protocol's document, and what it refuses.

use super::images_test::{LOAD, Phdr, RAM, bytes, bzimage, elf, elf_of, number, put, ram};
use super::linux::{Linux, linux};
use super::trim::trimmed;
use crate::arch::x86_64::Sregs;
use crate::arch::x86_64::layout::{BOOT_PARAMS_START, CMDLINE_START};
use crate::error::BootError;
use crate::memory::{Kind, Memory};

/// A little-endian field of the zero page.
fn field(memory: &Memory, offset: u64, len: usize) -> u64 {
    number(memory, BOOT_PARAMS_START + offset, len)
}

fn of(kernel: &[u8]) -> Linux<'_> {
    Linux { kernel, ..Linux::default() }
}

/// Start, length and type of each row of the memory map.
fn e820(memory: &Memory) -> Vec<(u64, u64, u64)> {
    let row = |i| {
        let at = 0x2d0 + i * 20;
        (field(memory, at, 8), field(memory, at + 8, 8), field(memory, at + 16, 4))
    };
    (0..field(memory, 0x1e8, 1)).map(row).collect()
}

fn refused(kernel: &[u8]) -> BootError {
    let memory = ram();
    let error = linux(&memory, &of(kernel)).unwrap_err();
    assert_eq!(memory.committed(), 0, "a refused load wrote");
    error
}

#[test]
fn test_linux_bzimage_fills_the_zero_page() {
    let (memory, image) = (ram(), bzimage(b""));
    let initrd = [7; 5000];
    let boot = Linux { initrd: Some(&initrd), cmdline: b"console=ttyS0", rsdp: Some(0xe_0000), ..of(&image) };
    let entry = linux(&memory, &boot).unwrap();

    assert_eq!((entry.regs.rip, entry.regs.rsi, entry.regs.rflags), (LOAD + 0x200, BOOT_PARAMS_START, 2));
    assert_eq!(bytes(&memory, LOAD, 0x400), image[1024..]);
    assert_eq!(field(&memory, 0x202, 4), u64::from(u32::from_le_bytes(*b"HdrS")));
    assert_eq!(field(&memory, 0x210, 1), 0xff); // type_of_loader
    assert_eq!(field(&memory, 0x214, 4), LOAD); // code32_start
    assert_eq!(field(&memory, 0x070, 8), 0xe_0000); // acpi_rsdp_addr
    assert_eq!(field(&memory, 0x228, 4), CMDLINE_START);
    assert_eq!(bytes(&memory, CMDLINE_START, 14), b"console=ttyS0\0");
    assert_eq!((field(&memory, 0x218, 4), field(&memory, 0x21c, 4)), (RAM - 0x2000, 5000)); // ramdisk
    assert_eq!(bytes(&memory, RAM - 0x2000, 5000), initrd);

    let mut sregs = Sregs::default();
    entry.apply(&mut sregs);
    assert!(sregs.cs.l && sregs.efer == 0x500 && sregs.cr3 == 0x9000 && sregs.cr0 & (1 << 31) != 0);
}

#[test]
fn test_linux_e820_leaves_out_the_bios_area_and_the_hole() {
    let memory = Memory::with_ram(5 << 30).unwrap();
    linux(&memory, &of(&bzimage(b""))).unwrap();
    let low = [(0, 0x9_fc00, 1), (0x9_fc00, 0x6_0400, 2), (0x10_0000, 0xc000_0000 - 0x10_0000, 1)];
    assert_eq!(e820(&memory), [low.as_slice(), &[(1 << 32, 2 << 30, 1)]].concat());
}

#[test]
fn test_linux_memory_map_beyond_the_zero_page_is_refused() {
    let memory = ram();
    for i in 0..130 {
        memory.add((1 << 32) + i * 0x2000, 0x1000, Kind::Ram, "sliver").unwrap();
    }
    let error = linux(&memory, &of(&bzimage(b""))).unwrap_err();
    assert!(matches!(error, BootError::TooManyRegions { count: 133, most: 128 }), "{error}");
}

#[test]
fn test_linux_bzimage_that_cannot_move_goes_to_1_mib() {
    let mut image = bzimage(b"");
    image[0x234] = 0;
    let memory = ram();
    let entry = linux(&memory, &of(&image)).unwrap();
    assert_eq!((entry.regs.rip, field(&memory, 0x214, 4)), (0x10_0200, 0x10_0000));
}

#[test]
fn test_linux_bzimage_without_a_64_bit_entry_is_entered_in_protected_mode() {
    let mut image = bzimage(b"");
    image[0x236] = 0;
    let entry = linux(&ram(), &of(&image)).unwrap();
    let mut sregs = Sregs::default();
    entry.apply(&mut sregs);
    assert_eq!((entry.regs.rip, sregs.cr0, sregs.efer), (LOAD, 0x31, 0));
    assert_eq!((sregs.cs.selector, sregs.ds.selector), (0x10, 0x18));
}

#[test]
fn test_linux_header_ends_where_its_jump_leads() {
    let mut image = bzimage(b"");
    image[0x201] = 0x66; // as memtest86+: the header ends at 0x268, code follows
    put(&mut image, 0x268, &[0xfa, 0xfc, 0x31, 0xc0]);
    let memory = ram();
    linux(&memory, &of(&image)).unwrap();
    assert_eq!(field(&memory, 0x268, 4), 0);
}

#[test]
fn test_linux_old_protocols_lack_what_came_later() {
    let mut image = bzimage(b"");
    put(&mut image, 0x206, &0x204_u16.to_le_bytes());
    let memory = ram();
    let entry = linux(&memory, &Linux { cmdline: &[b'a'; 255], ..of(&image) }).unwrap();
    assert_eq!(entry.regs.rip, 0x10_0000); // neither relocatable nor 64-bit
    put(&mut image, 0x206, &0x203_u16.to_le_bytes());
    assert!(matches!(refused(&image), BootError::OldProtocol { version: 0x203 }));
}

#[test]
fn test_linux_elf_is_loaded_and_what_follows_its_bytes_is_cleared() {
    let (memory, image) = (ram(), elf());
    memory.write(LOAD, &[0xee; 0x5000]).unwrap();
    let entry = linux(&memory, &of(&image)).unwrap();
    assert_eq!(entry.regs.rip, LOAD + 0x10);
    assert_eq!(bytes(&memory, LOAD, 0x800), image[0x1000..0x1800]);
    assert_eq!(bytes(&memory, LOAD + 0x1000, 0x800), image[0x1800..]);
    assert_eq!(bytes(&memory, LOAD + 0x1800, 0x3000), [0; 0x3000]);
    assert_eq!(bytes(&memory, LOAD + 0x4800, 1), [0xee]);
    assert_eq!(field(&memory, 0x206, 2), 0x20f);
}

#[test]
fn test_linux_elf_segment_without_bytes_in_the_file_is_cleared() {
    let code = Phdr { kind: 1, offset: 0x1000, paddr: LOAD, filesz: 0x800, memsz: 0x800 };
    let bss = Phdr { kind: 1, offset: 0x10_0000, paddr: LOAD + 0x1000, filesz: 0, memsz: 0x2_0001 };
    let memory = ram();
    memory.write(LOAD + 0x1000, &[0xee; 0x2_0002]).unwrap();
    linux(&memory, &of(&elf_of(LOAD, &[code, bss]))).unwrap();
    assert!(bytes(&memory, LOAD + 0x1000, 0x2_0001).iter().all(|b| *b == 0));
    assert_eq!(bytes(&memory, LOAD + 0x2_1001, 1), [0xee]);
}

#[test]
fn test_linux_elf_takes_the_header_of_its_bzimage() {
    let (memory, image, mut setup) = (ram(), elf(), bzimage(b""));
    put(&mut setup, 0x250, &[1, 2, 3, 4]); // setup_data
    linux(&memory, &Linux { setup: Some(&setup[..0x26c]), ..of(&image) }).unwrap();
    assert_eq!((field(&memory, 0x238, 4), field(&memory, 0x250, 4)), (255, 0x0403_0201));
}

// fault row 41
#[test]
fn test_linux_elf_with_impossible_segments_is_refused() {
    let one = |offset, paddr, filesz, memsz| refused(&elf_of(LOAD, &[Phdr { kind: 1, offset, paddr, filesz, memsz }]));
    assert!(matches!(one(0x1000, LOAD, 0x20, 0x10), BootError::Header { field: "p_filesz", .. }));
    let low = one(0x1000, 0x8000, 0x10, 0x10);
    assert!(matches!(low, BootError::Header { field: "p_paddr", .. }));
    assert!(low.hint().contains("looks like a program"));
    assert!(matches!(one(0x1000, LOAD, 0x10, RAM), BootError::NoRam { .. }));
    assert!(matches!(one(0x1000, LOAD, 0x10, u64::MAX), BootError::NoRam { .. }));
    assert!(matches!(one(0x1000, u64::MAX - 4, 8, 8), BootError::NoRam { .. }));
    assert!(matches!(one(0x1ff8, LOAD, 0x10, 0x10), BootError::Truncated { need: 0x2008, .. }));
    assert!(matches!(one(u64::MAX, LOAD, 0x10, 0x10), BootError::Truncated { .. }));
    assert!(matches!(one(0x1000, LOAD + 0x1000, 0x10, 0x10), BootError::EntryOutside { entry: LOAD }));
    assert!(matches!(refused(&elf_of(LOAD, &[])), BootError::Header { value: 0, .. }));
    let at = |paddr| Phdr { kind: 1, offset: 0x1000, paddr, filesz: 0x10, memsz: 0x2000 };
    let overlapping = refused(&elf_of(LOAD, &[at(LOAD + 0x1000), at(LOAD)]));
    assert!(matches!(overlapping, BootError::SegmentsOverlap { other: LOAD, .. }), "{overlapping}");
}

// fault row 41
#[test]
fn test_linux_foreign_elf_files_are_refused() {
    for (at, value, name) in [(4, 1, "EI_CLASS"), (5, 2, "EI_DATA"), (18, 183, "e_machine"), (54, 32, "e_phentsize")] {
        let mut image = elf();
        image[at] = value;
        let error = refused(&image);
        assert!(matches!(error, BootError::Header { field, .. } if field == name), "{error}");
    }
}

// fault row 41
#[test]
fn test_linux_command_lines_that_the_kernel_would_cut_are_refused() {
    let image = bzimage(b"");
    let with = |cmdline: &[u8]| linux(&ram(), &Linux { cmdline, ..of(&image) });
    assert!(with(&[b'a'; 255]).is_ok());
    assert!(matches!(with(&[b'a'; 256]), Err(BootError::CommandLineTooLong { len: 256, most: 255 })));
    assert!(matches!(with(b"a\0b"), Err(BootError::CommandLineNul { at: 1 })));
    let mut greedy = image.clone();
    put(&mut greedy, 0x238, &[0xff; 4]); // cmdline_size of 4 GiB
    let long = vec![b'a'; 0x1_0000];
    let error = linux(&ram(), &Linux { cmdline: &long, ..of(&greedy) }).unwrap_err();
    assert!(matches!(error, BootError::CommandLineTooLong { most: 0xffff, .. }), "{error}");
}

#[test]
fn test_linux_initrd_stays_between_kernel_and_its_limit() {
    let mut image = bzimage(b"");
    put(&mut image, 0x22c, &0x1ff_ffff_u32.to_le_bytes()); // initrd_addr_max: 32 MiB
    let free = (0x200_0000 - LOAD - 0x10_0000) as usize;
    let initrd = vec![1; free + 1];
    let with = |memory: &Memory, initrd| linux(memory, &Linux { initrd: Some(initrd), ..of(&image) });
    let memory = ram();
    with(&memory, &initrd[..free]).unwrap();
    assert_eq!(field(&memory, 0x218, 4), LOAD + 0x10_0000);
    let error = with(&ram(), &initrd).unwrap_err();
    assert!(matches!(error, BootError::InitrdTooLarge { top: 0x200_0000, .. }), "{error}");
    with(&memory, &[]).unwrap();
    assert_eq!((field(&memory, 0x218, 4), field(&memory, 0x21c, 4)), (0, 0));
}

// fault row 41
#[test]
fn test_linux_kernels_that_do_not_fit_are_refused() {
    let mut image = bzimage(b"");
    put(&mut image, 0x260, &(RAM as u32).to_le_bytes()); // init_size
    assert!(matches!(refused(&image), BootError::NoRam { gpa: LOAD, .. }));
    put(&mut image, 0x258, &u64::MAX.to_le_bytes()); // pref_address
    assert!(matches!(refused(&image), BootError::Header { field: "pref_address", .. }));
    let mut image = bzimage(b"");
    put(&mut image, 0x230, &3_u32.to_le_bytes());
    assert!(matches!(refused(&image), BootError::Header { field: "kernel_alignment", value: 3, .. }));
    let small = Memory::with_ram(0x8000).unwrap();
    assert!(matches!(linux(&small, &of(&image)).unwrap_err(), BootError::NoRam { gpa: 0x500, .. }));
}

// fault row 41
#[test]
fn test_linux_files_that_are_no_kernels_are_refused() {
    assert!(matches!(refused(b"MZ"), BootError::NotKernel { found } if found == b"MZ"));
    assert!(matches!(refused(b""), BootError::NotKernel { .. }));
    let image = bzimage(b"");
    assert!(matches!(refused(&image[..0x210]), BootError::Truncated { what: "the setup header", .. }));
    assert!(matches!(refused(&image[..1024 + 0x200]), BootError::Truncated { what: "the kernel's code", .. }));
    let mut low = image;
    low[0x211] = 0;
    assert!(matches!(refused(&low), BootError::LoadsLow { loadflags: 0 }));
}

#[test]
fn test_linux_e820_has_no_second_place_of_memory_and_none_that_cannot_be_written() {
    let memory = ram();
    memory.alias(0x800_0000, 0x100_0000, 16 << 20, "again").unwrap();
    memory.add(0xa00_0000, 16 << 20, Kind::Ram, "locked").unwrap();
    memory.protect(0xa00_0000, false).unwrap();
    memory.add(0xc00_0000, 16 << 20, Kind::Ram, "more").unwrap();
    linux(&memory, &of(&bzimage(b""))).unwrap();
    let usable: Vec<_> = e820(&memory).into_iter().filter(|row| row.2 == 1).map(|row| (row.0, row.1)).collect();
    assert_eq!(usable, [(0, 0x9_fc00), (0x10_0000, RAM - 0x10_0000), (0xc00_0000, 16 << 20)]);
    // What says itself where it goes may go there.
    let load = |paddr| Phdr { kind: 1, offset: 0x1000, paddr, filesz: 0x1000, memsz: 0x1000 };
    linux(&memory, &of(&elf_of(0x800_0000, &[load(0x800_0000), load(0xa00_0000)]))).unwrap();
}

// fault row 41
#[test]
fn test_linux_elf_whose_segments_are_all_the_same_bytes_is_left_as_it_is() {
    // Each segment would be looked through: as many headers as a file can have, times its length.
    let same = |_| Phdr { kind: 1, offset: 0x1000, paddr: LOAD, filesz: 0x1000, memsz: 0x1000 };
    let mut image = elf_of(LOAD, &(0..8).map(same).collect::<Vec<_>>());
    image.truncate(0x1800);
    image.resize(0x4000, 0);
    assert_eq!(trimmed(image.clone()), image);
}

#[test]
fn test_linux_elf_without_its_zeros_is_the_same_in_memory() {
    let load = |offset, paddr, filesz, memsz| Phdr { kind: 1, offset, paddr, filesz, memsz };
    let mut image =
        elf_of(LOAD, &[load(0x1000, LOAD, 0x1000, 0x3000), load(0x2000, LOAD + 0x10_0000, 0x3_0000, 0x8_0000)]);
    image.resize(0x3_2000, 0);
    put(&mut image, 0x2_1234, &[5]);
    let short = trimmed(image.clone());
    assert_eq!(short.len(), 0x2_1235);
    let contents = |image: &[u8]| {
        let memory = ram();
        memory.write(LOAD, &vec![0xaa; 0x20_0000]).unwrap();
        linux(&memory, &of(image)).unwrap();
        let mut bytes = vec![0; 0x20_0000];
        memory.read(LOAD, &mut bytes).unwrap();
        bytes
    };
    assert_eq!(contents(&image), contents(&short));
    for len in 0..0x200 {
        let cut = image[..len].to_vec();
        assert_eq!(trimmed(cut.clone()), cut);
    }
}

#[test]
fn test_kernel_whose_segments_have_its_headers_is_not_trimmed() {
    let segment = |offset| Phdr { kind: 1, offset, paddr: LOAD, filesz: 0x800, memsz: 0x800 };
    for (offset, is_shorter) in [(0, false), (0x3f, false), (0x77, false), (0x78, true)] {
        let mut image = elf_of(LOAD + 0x10, &[segment(offset)]);
        image[0x100..].fill(0);
        assert_eq!(trimmed(image.clone()).len() < image.len(), is_shorter, "{offset:#x}");
    }
}
