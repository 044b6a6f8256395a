//! The setup header of a bzImage: what a kernel says of itself (Linux: Documentation/arch/x86/boot.rst, "The
//! Real-Mode Kernel Header").
//!
//! The fields are linux-loader's; its bzImage loader is not used: it reads a header that may be cut off, takes bytes
//! after the header's end for fields (memtest86+ has code there), and knows neither alignment nor the room that the
//! kernel wants. A field that the header's version does not have reads as what the specification says of old kernels.

use linux_loader::loader::bootparam::setup_header;
use vm_memory::ByteValued;

use super::elf::Fields;
use super::linux::OLDEST_PROTOCOL;
use crate::error::BootError;

/// Offset of the header in the file and in the zero page.
const OFFSET: usize = 0x1f1;
/// Offset of the magic, and what the length at 0x201 counts from.
const MAGIC_OFFSET: usize = 0x202;
const MAGIC: &[u8] = b"HdrS";
/// loadflags: the code loads at 1 MiB.
const LOADED_HIGH: u8 = 1 << 0;
/// xloadflags: there is a 64-bit entry at 0x200.
const XLF_KERNEL_64: u16 = 1 << 0;
/// Loader id of those that have none assigned.
const UNASSIGNED_LOADER: u8 = 0xff;

/// Whether a file has a setup header.
pub(super) fn is_bzimage(image: &[u8]) -> bool {
    image.get(MAGIC_OFFSET..MAGIC_OFFSET + MAGIC.len()) == Some(MAGIC)
}

/// A checked setup header.
#[derive(Clone, Copy, Debug)]
pub(super) struct Setup(setup_header);

impl Setup {
    /// Reads the header of a bzImage, of which no more than the header need be there.
    pub(super) fn parse(image: &[u8]) -> Result<Self, BootError> {
        if !is_bzimage(image) {
            return Err(BootError::NotKernel { found: image.iter().copied().take(4).collect() });
        }
        let mut header = setup_header::default();
        // The byte at 0x201 is the operand of the jump at 0x200, which leads to the header's end.
        let end = MAGIC_OFFSET + usize::from(image.get(MAGIC_OFFSET - 1).copied().unwrap_or_default());
        let len = (end - OFFSET).min(size_of::<setup_header>());
        let bytes = Fields { image, what: "the setup header" }.slice(OFFSET as u64, len as u64)?;
        for (to, from) in header.as_mut_slice().iter_mut().zip(bytes) {
            *to = *from;
        }
        let setup = Self(header);
        if header.version < OLDEST_PROTOCOL {
            return Err(BootError::OldProtocol { version: header.version });
        }
        if header.loadflags & LOADED_HIGH == 0 {
            return Err(BootError::LoadsLow { loadflags: header.loadflags });
        }
        let align = header.kernel_alignment;
        if setup.relocatable() && !align.is_power_of_two() {
            return Err(BootError::Header { format: "bzImage", field: "kernel_alignment", value: align.into() });
        }
        Ok(setup)
    }

    /// The header of a kernel that comes as a bare ELF file: what every 64-bit Linux since 3.8 would say.
    pub(super) fn of_bare_elf() -> Self {
        Self(setup_header {
            boot_flag: 0xaa55,
            header: u32::from_le_bytes(*b"HdrS"),
            version: 0x20f,
            loadflags: LOADED_HIGH,
            initrd_addr_max: 0x7fff_ffff,
            kernel_alignment: 0x20_0000,
            cmdline_size: 2047,
            ..setup_header::default()
        })
    }

    fn since<T: Default>(&self, version: u16, value: T) -> T {
        if self.0.version >= version { value } else { T::default() }
    }
    /// Bytes of real-mode code before the code that is loaded.
    pub(super) fn code_offset(&self) -> u64 {
        let sectors = if self.0.setup_sects == 0 { 4 } else { self.0.setup_sects };
        (u64::from(sectors) + 1) * 512
    }
    pub(super) fn relocatable(&self) -> bool {
        self.since(0x205, self.0.relocatable_kernel) != 0
    }
    /// Alignment of a relocatable kernel; a power of two.
    pub(super) fn alignment(&self) -> u64 {
        self.0.kernel_alignment.into()
    }
    /// Where the kernel would like to run, if it says so.
    pub(super) fn preferred_address(&self) -> Option<u64> {
        self.since(0x20a, Some(self.0.pref_address))
    }
    /// Bytes that the kernel needs from where it runs, before it knows its memory map.
    pub(super) fn init_size(&self) -> u64 {
        self.since(0x20a, self.0.init_size).into()
    }
    pub(super) fn has_64_bit_entry(&self) -> bool {
        self.since(0x20c, self.0.xloadflags) & XLF_KERNEL_64 != 0
    }
    /// Most bytes of a command line, without its NUL.
    pub(super) fn cmdline_most(&self) -> usize {
        // Before 2.06 a command line had 255 bytes.
        if self.0.version >= 0x206 { self.0.cmdline_size as usize } else { 255 }
    }
    /// First address that the initrd must not reach.
    pub(super) fn initrd_end(&self) -> u64 {
        u64::from(self.0.initrd_addr_max) + 1
    }
    /// The compressed kernel, as offset from the loaded code and length.
    pub(super) fn payload(&self) -> Option<(u64, u64)> {
        let (offset, len) = self.since(0x208, (self.0.payload_offset, self.0.payload_length));
        (len != 0).then_some((offset.into(), len.into()))
    }

    /// The header as the kernel finds it: with what a loader fills in.
    pub(super) fn filled(&self, load: u64, cmdline: u64, initrd: (u64, u64)) -> setup_header {
        // Each lies below 4 GiB: the callers have checked.
        setup_header {
            type_of_loader: UNASSIGNED_LOADER,
            code32_start: load as u32,
            cmd_line_ptr: cmdline as u32,
            ramdisk_image: initrd.0 as u32,
            ramdisk_size: initrd.1 as u32,
            ..self.0
        }
    }
}
