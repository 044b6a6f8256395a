//! Which loader a file is for.

use super::images_test::{LOAD, Phdr, bzimage, elf_file, elf_of, multiboot_elf, multiboot_flat, put, pvh_elf};
use super::recognise::{Kind, recognise};
use crate::error::BootError;

fn code() -> Phdr {
    Phdr { kind: 1, offset: 0x1000, paddr: LOAD, filesz: 0x800, memsz: 0x800 }
}

#[test]
fn test_recognise_tells_kernels_by_their_marks() {
    assert_eq!(recognise(&bzimage(b"")).unwrap(), Kind::Linux);
    assert_eq!(recognise(&elf_of(LOAD, &[code()])).unwrap(), Kind::Linux);
    assert_eq!(recognise(&multiboot_flat()).unwrap(), Kind::Multiboot);
    for wide in [false, true] {
        assert_eq!(recognise(&multiboot_elf(wide, 3)).unwrap(), Kind::Multiboot);
        assert_eq!(recognise(&pvh_elf(wide)).unwrap(), Kind::Pvh);
    }
}

// fault row 41
#[test]
fn test_recognise_refuses_what_no_loader_is_for_by_name() {
    for file in [&b""[..], b"MZ", b"\x1f\x8b", &[0; 4096]] {
        assert!(matches!(recognise(file), Err(BootError::NotKernel { found }) if file.starts_with(&found)));
    }
    let narrow = elf_file(false, LOAD, &[code()]);
    assert!(matches!(recognise(&narrow), Err(BootError::Header { field: "EI_CLASS", value: 1, .. })));
    let mut second = narrow;
    put(&mut second, 0x1000, &0xe852_50d6_u32.to_le_bytes());
    assert!(matches!(recognise(&second), Err(BootError::Multiboot2)));
    let mut foreign = elf_of(LOAD, &[code()]);
    foreign[18] = 183; // EM_AARCH64
    assert!(matches!(recognise(&foreign), Err(BootError::Header { field: "e_machine", value: 183, .. })));
}
