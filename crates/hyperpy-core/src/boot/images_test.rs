//! Tiny kernels for the loaders' tests: a bzImage and an ELF vmlinux of a few hundred bytes, with every header field
//! that a loader reads.

use proptest::prelude::*;

use super::elf::trimmed;
use super::linux::{Linux, linux};
use super::unpack::payload;
use crate::memory::Memory;

/// RAM of the tests' machines: enough for every image here.
pub(super) const RAM: u64 = 64 << 20;
/// Where the tests' kernels go.
pub(super) const LOAD: u64 = 0x100_0000;

pub(super) fn put(image: &mut [u8], at: usize, bytes: &[u8]) {
    image[at..at + bytes.len()].copy_from_slice(bytes);
}

/// A relocatable 64-bit bzImage of protocol 2.15 whose code is 0x400 bytes that count up, then `payload`.
pub(super) fn bzimage(packed: &[u8]) -> Vec<u8> {
    let mut image = vec![0; 1024];
    put(&mut image, 0x1f1, &[1]); // setup_sects
    put(&mut image, 0x1fe, &[0x55, 0xaa, 0xeb, 0x6a]);
    put(&mut image, 0x202, b"HdrS");
    put(&mut image, 0x206, &0x20f_u16.to_le_bytes());
    put(&mut image, 0x211, &[1]); // loadflags
    put(&mut image, 0x214, &0x10_0000_u32.to_le_bytes());
    put(&mut image, 0x22c, &0x7fff_ffff_u32.to_le_bytes()); // initrd_addr_max
    put(&mut image, 0x230, &0x20_0000_u32.to_le_bytes()); // kernel_alignment
    put(&mut image, 0x234, &[1]); // relocatable_kernel
    put(&mut image, 0x236, &1_u16.to_le_bytes()); // xloadflags
    put(&mut image, 0x238, &255_u32.to_le_bytes()); // cmdline_size
    put(&mut image, 0x248, &0x400_u32.to_le_bytes()); // payload_offset
    put(&mut image, 0x24c, &(packed.len() as u32).to_le_bytes());
    put(&mut image, 0x258, &LOAD.to_le_bytes()); // pref_address
    put(&mut image, 0x260, &0x10_0000_u32.to_le_bytes()); // init_size
    image.extend((0..0x400).map(|i| i as u8));
    image.extend(packed);
    image
}

pub(super) struct Phdr {
    pub(super) kind: u32,
    pub(super) offset: u64,
    pub(super) paddr: u64,
    pub(super) filesz: u64,
    pub(super) memsz: u64,
}

/// An ELF file with these program headers and 0x1000 bytes that count up, from offset 0x1000.
pub(super) fn elf_of(entry: u64, phdrs: &[Phdr]) -> Vec<u8> {
    let mut image = vec![0; 0x1000];
    put(&mut image, 0, b"\x7fELF\x02\x01\x01");
    put(&mut image, 16, &[2, 0, 62, 0, 1]);
    put(&mut image, 24, &entry.to_le_bytes());
    put(&mut image, 32, &64_u64.to_le_bytes());
    put(&mut image, 52, &[64, 0, 56, 0, phdrs.len() as u8]);
    for (i, p) in phdrs.iter().enumerate() {
        let at = 64 + i * 56;
        put(&mut image, at, &p.kind.to_le_bytes());
        for (field, value) in [(8, p.offset), (24, p.paddr), (32, p.filesz), (40, p.memsz)] {
            put(&mut image, at + field, &value.to_le_bytes());
        }
    }
    image.extend((0..0x1000).map(|i| i as u8));
    image
}

/// Code, and data with 0x3000 bytes after the file's.
pub(super) fn elf() -> Vec<u8> {
    let code = Phdr { kind: 1, offset: 0x1000, paddr: LOAD, filesz: 0x800, memsz: 0x800 };
    let data = Phdr { kind: 1, offset: 0x1800, paddr: LOAD + 0x1000, filesz: 0x800, memsz: 0x3800 };
    let note = Phdr { kind: 4, offset: u64::MAX, paddr: u64::MAX, filesz: u64::MAX, memsz: u64::MAX };
    elf_of(LOAD + 0x10, &[code, data, note])
}

pub(super) fn ram() -> Memory {
    Memory::with_ram(RAM).unwrap()
}

/// Everything hostile that these calls may answer is an error: that nothing panics or allocates is the test.
fn load_anything(image: &[u8]) {
    let memory = ram();
    let _ = linux(&memory, &Linux { kernel: image, cmdline: b"quiet", initrd: Some(&[1; 100]), ..Linux::default() });
    let _ = linux(&memory, &Linux { kernel: &elf(), setup: Some(image), ..Linux::default() });
    let _ = payload(image, 1 << 20);
    let _ = trimmed(image.to_vec());
}

// fault row 41
#[test]
fn test_kernel_truncated_at_every_length_never_panics() {
    for image in [bzimage(b"\x1f\x8b"), elf()] {
        for len in 0..image.len() {
            load_anything(&image[..len]);
        }
    }
}

// fault row 41
#[test]
fn test_kernel_header_bytes_at_extremes_never_panic() {
    for (image, header) in [(bzimage(b"\x7fELF"), 0x1f1..0x26c), (elf(), 0..64 + 3 * 56)] {
        for at in header {
            for value in [0, 0x7f, 0x80, 0xff] {
                let mut image = image.clone();
                image[at] = value;
                load_anything(&image);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    // fault row 41
    #[test]
    fn test_kernel_with_header_fields_overwritten_never_panics(
        is_elf: bool,
        patches in proptest::collection::vec((0usize..0x26c, any::<[u8; 8]>(), 1usize..=8), 1..6),
    ) {
        let mut image = if is_elf { elf() } else { bzimage(b"\x7fELF") };
        for (at, bytes, len) in patches {
            // The magics stay: without them there is nothing to test.
            let at = if is_elf { 4 + at % 228 } else { at.max(0x206) };
            put(&mut image, at, &bytes[..len]);
        }
        load_anything(&image);
    }
}
