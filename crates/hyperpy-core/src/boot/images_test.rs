//! Tiny images for the loaders' tests: kernels of each kind of a few hundred bytes, with every header field that a loader
//! reads, and firmware.

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

/// An ELF file of the 64-bit class with these program headers and 0x1000 bytes that count up, from offset 0x1000.
pub(super) fn elf_of(entry: u64, phdrs: &[Phdr]) -> Vec<u8> {
    elf_file(true, entry, phdrs)
}

/// The same of either class. Virtual addresses are the physical ones.
pub(super) fn elf_file(wide: bool, entry: u64, phdrs: &[Phdr]) -> Vec<u8> {
    let mut image = vec![0; 0x1000];
    put(&mut image, 0, if wide { b"\x7fELF\x02\x01\x01" } else { b"\x7fELF\x01\x01\x01" });
    put(&mut image, 16, &[2, 0, if wide { 62 } else { 3 }, 0, 1]);
    let word = |image: &mut [u8], at, value: u64| put(image, at, &value.to_le_bytes()[..if wide { 8 } else { 4 }]);
    word(&mut image, 24, entry);
    let (header, phdr, phoff, fields) =
        if wide { (64, 56, 32, [8, 16, 24, 32, 40]) } else { (52, 32, 28, [4, 8, 12, 16, 20]) };
    word(&mut image, phoff, header as u64);
    put(&mut image, header - 12, &[header as u8, 0, phdr as u8, 0, phdrs.len() as u8]);
    for (i, p) in phdrs.iter().enumerate() {
        let at = header + i * phdr;
        put(&mut image, at, &p.kind.to_le_bytes());
        for (field, value) in fields.into_iter().zip([p.offset, p.paddr, p.paddr, p.filesz, p.memsz]) {
            word(&mut image, at + field, value);
        }
    }
    image.extend((0..0x1000).map(|i| i as u8));
    image
}

/// Code at [`LOAD`] with 0x1000 bytes after the file's.
fn code() -> Phdr {
    Phdr { kind: 1, offset: 0x1000, paddr: LOAD, filesz: 0x800, memsz: 0x1800 }
}

/// A Multiboot header with these flags, and what follows its checksum.
pub(super) fn header(flags: u32, fields: &[u32]) -> Vec<u8> {
    let magic = 0x1bad_b002_u32;
    let words = [magic, flags, 0_u32.wrapping_sub(magic).wrapping_sub(flags)];
    words.iter().chain(fields).flat_map(|v| v.to_le_bytes()).collect()
}

/// A Multiboot kernel as an ELF file, entered 16 bytes behind its header.
pub(super) fn multiboot_elf(wide: bool, flags: u32) -> Vec<u8> {
    let mut image = elf_file(wide, LOAD + 0x10, &[code()]);
    put(&mut image, 0x1000, &header(flags, &[]));
    image
}

/// Offset of the header in [`multiboot_flat`].
pub(super) const FLAT_HEADER: usize = 0x40;

/// A Multiboot kernel by its address fields: 0x100 bytes before what is loaded, 0x700 loaded, 0x800 to clear.
pub(super) fn multiboot_flat() -> Vec<u8> {
    let mut image: Vec<u8> = (0..0x800).map(|i| i as u8).collect();
    put(&mut image, 0x100 + FLAT_HEADER, &flat_header([FLAT_HEADER as u32, 0, 0x700, 0xf00, 0x80]));
    image
}

/// Header address, load address, their ends and entry, all as offsets from [`LOAD`].
pub(super) fn flat_header(offsets: [u32; 5]) -> Vec<u8> {
    header(0x1_0003, &offsets.map(|offset| offset.wrapping_add(LOAD as u32)))
}

/// An ELF file with a PVH note behind another note, entered 32 bytes into its code.
pub(super) fn pvh_elf(wide: bool) -> Vec<u8> {
    let note = |kind: u32, name: &[u8; 4], content: &[u8]| {
        let head = [4, content.len() as u32, kind].into_iter().flat_map(u32::to_le_bytes);
        head.chain(*name).chain(content.iter().copied()).chain(vec![0; content.len().wrapping_neg() % 4]).collect()
    };
    let entry = (LOAD + 0x20).to_le_bytes();
    let other: Vec<u8> = note(18, b"GNU\0", &[1; 5]);
    let notes =
        [other, note(6, b"Xen\0", b"linux"), note(18, b"Xen\0", if wide { &entry } else { &entry[..4] })].concat();
    let segment = Phdr { kind: 4, offset: 0x1800, paddr: LOAD, filesz: notes.len() as u64, memsz: 0 };
    let mut image = elf_file(wide, LOAD, &[code(), segment]);
    put(&mut image, 0x1800, &notes);
    image
}

/// Firmware of `len` bytes that count up in their pages, with a jump at the reset vector.
pub(super) fn firmware_of(len: usize) -> Vec<u8> {
    let mut image: Vec<u8> = (0..len).map(|i| (i >> 12) as u8).collect();
    put(&mut image, len - 16, &[0xea, 0x5b, 0xe0, 0, 0xf0]);
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

pub(super) fn bytes(memory: &Memory, gpa: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    memory.read(gpa, &mut bytes).unwrap();
    bytes
}

/// A little-endian number in memory.
pub(super) fn number(memory: &Memory, gpa: u64, len: usize) -> u64 {
    bytes(memory, gpa, len).iter().rev().fold(0, |n, b| n << 8 | u64::from(*b))
}

/// A line of text in memory, up to its NUL.
pub(super) fn line(memory: &Memory, gpa: u64) -> Vec<u8> {
    bytes(memory, gpa, 256).into_iter().take_while(|b| *b != 0).collect()
}
