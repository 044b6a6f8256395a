//! What can be wrong with an image or with the place that it shall go to. Python raises it as `BootError`.

use std::io;

use thiserror::Error;

use super::dsdt::Uid;
use crate::error::MemoryError;

/// An image could not be put into guest memory. A refused load has changed nothing there.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum BootError {
    /// Nothing that any loader is for.
    #[error("not a kernel of any known kind: first bytes: {found:02x?}")]
    NotKernel {
        /// Its first bytes, at most four.
        found: Vec<u8>,
    },
    /// A kernel that must be an ELF file and is none.
    #[error("kernel is not an ELF file: first bytes: {found:02x?}")]
    NotElf {
        /// Its first bytes, at most four.
        found: Vec<u8>,
    },
    /// An ELF file without the note that names its PVH entry.
    #[error("kernel has no PVH entry: no note of type 18 of Xen in it")]
    NoPvhNote,
    /// No header of Multiboot 1.
    #[error("kernel has no Multiboot header in its first 8 KiB")]
    NotMultiboot,
    /// A header of Multiboot 2 alone.
    #[error("kernel speaks Multiboot 2 alone")]
    Multiboot2,
    /// A Multiboot header that asks for a video mode.
    #[error("kernel wants a screen, and there is none: bit 2 of the Multiboot flags is set")]
    WantsScreen,
    /// Modules, their lines and the memory map beyond what is set aside for them.
    #[error("boot information is too long: {len:#x} bytes, {most:#x} are set aside")]
    InfoTooLong {
        /// Its length in bytes.
        len: u64,
        /// Most.
        most: u64,
    },
    /// A firmware image of a length that no flash chip has.
    #[error("firmware image has an unusable length: {len:#x} bytes")]
    FirmwareSize {
        /// Its length in bytes.
        len: u64,
        /// It must be a multiple of this.
        unit: u64,
        /// Most.
        most: u64,
    },
    /// A firmware image whose last bytes are empty.
    #[error("firmware image has no code at the reset vector, 16 bytes before its end")]
    FirmwareVector,
    /// A firmware image on top of something else.
    #[error("firmware has no place: {gpa:#x} + {len:#x} overlaps the memory at {other:#x}")]
    FirmwarePlace {
        /// Where it must go.
        gpa: u64,
        /// Its length in bytes.
        len: u64,
        /// Where the other region is.
        other: u64,
    },
    /// The file ends before something that its header speaks of.
    #[error("file ends inside {what}: {need:#x} bytes wanted, {have:#x} there")]
    Truncated {
        /// What is cut off.
        what: &'static str,
        /// Bytes from the beginning of the file that it takes.
        need: u64,
        /// Bytes that there are.
        have: u64,
    },
    /// A boot protocol from before [`crate::boot::linux::OLDEST_PROTOCOL`].
    #[error("boot protocol too old: {version:#06x}")]
    OldProtocol {
        /// As in the setup header, 0x020c for 2.12.
        version: u16,
    },
    /// A zImage, which loads below 1 MiB.
    #[error("kernel is a zImage, which loads below 1 MiB: loadflags {loadflags:#04x}")]
    LoadsLow {
        /// Of the setup header.
        loadflags: u8,
    },
    /// A header field with a value that cannot be.
    #[error("{format} header is unusable: {field} is {value:#x}")]
    Header {
        /// "bzImage", "ELF", "PVH note" or "Multiboot".
        format: &'static str,
        /// The field, by its name in the specification.
        field: &'static str,
        /// What it holds.
        value: u64,
    },
    /// A piece of an image that has no RAM where it must go.
    #[error("no ram for {what}: {gpa:#x} + {len:#x}")]
    NoRam {
        /// The piece.
        what: &'static str,
        /// Where it must go.
        gpa: u64,
        /// Its length in bytes.
        len: u64,
    },
    /// Two segments at one place.
    #[error("ELF segment overlaps the one at {other:#x}: {gpa:#x} + {len:#x}")]
    SegmentsOverlap {
        /// Where it must go.
        gpa: u64,
        /// Its length in bytes.
        len: u64,
        /// Where the other one goes.
        other: u64,
    },
    /// An entry address that no segment holds.
    #[error("entry is outside the image: {entry:#x}")]
    EntryOutside {
        /// The address.
        entry: u64,
    },
    /// A command line beyond what the kernel takes.
    #[error("command line is too long: {len} bytes, the kernel takes {most}")]
    CommandLineTooLong {
        /// Its length without a NUL.
        len: usize,
        /// Most bytes without a NUL.
        most: usize,
    },
    /// A NUL byte, at which the kernel would stop reading.
    #[error("command line has a NUL byte at offset: {at}")]
    CommandLineNul {
        /// Its offset.
        at: usize,
    },
    /// No room for the initrd between the kernel and the highest address that it may have.
    #[error("initrd does not fit: {len:#x} bytes, {room:#x} free between kernel and {top:#x}")]
    InitrdTooLarge {
        /// Its length in bytes.
        len: u64,
        /// Bytes free.
        room: u64,
        /// End of low RAM, or the end of what the kernel can reach.
        top: u64,
    },
    /// More RAM regions than an E820 table in the zero page has entries.
    #[error("memory map has too many entries: {count}, the zero page takes {most}")]
    TooManyRegions {
        /// Entries wanted.
        count: usize,
        /// Entries that there are.
        most: usize,
    },
    /// A flat image of no bytes.
    #[error("flat image is empty")]
    FlatEmpty,
    /// A flat image beyond what its mode addresses.
    #[error("flat image is beyond what {mode} mode reaches: {at:#x} + {len:#x} is above {end:#x}")]
    FlatOutOfReach {
        /// "real", "protected" or "long".
        mode: &'static str,
        /// Where it should go.
        at: u64,
        /// Its length in bytes.
        len: u64,
        /// First address that the mode does not reach.
        end: u64,
    },
    /// A flat image leaves no room for what its mode needs beside it.
    #[error("no free ram beside the image for its {what}: {len:#x} bytes below {end:#x}")]
    NoRoom {
        /// What has no place.
        what: &'static str,
        /// Its length in bytes.
        len: u64,
        /// It must lie below this address.
        end: u64,
    },
    /// A payload packed in a way that is not unpacked here.
    #[error("kernel payload is packed as {format}, which is not unpacked here")]
    PayloadFormat {
        /// Name of the format, or "an unknown format".
        format: &'static str,
    },
    /// A damaged payload.
    #[error("kernel payload ({format}) does not unpack: {source}")]
    Payload {
        /// Name of the format.
        format: &'static str,
        /// What the decoder said.
        source: io::Error,
    },
    /// A payload larger than the bound.
    #[error("kernel payload unpacks to more than: {limit:#x} bytes")]
    PayloadTooLarge {
        /// The bound.
        limit: usize,
    },
    /// A payload that unpacks to something that is no ELF file.
    #[error("kernel payload is not an ELF file: first bytes: {found:02x?}")]
    PayloadNotElf {
        /// Its first bytes, at most four.
        found: Vec<u8>,
    },
    /// A hardware id that ACPI does not allow.
    #[error("not an ACPI hardware id: {hid:?}")]
    HardwareId {
        /// As given.
        hid: String,
    },
    /// A unique id that ACPI's tables cannot hold.
    #[error("not a unique id for ACPI device {hid}: {uid}")]
    UniqueId {
        /// Hardware id of the device.
        hid: String,
        /// As given.
        uid: Uid,
    },
    /// A unique id given twice.
    #[error("two ACPI devices {hid} have one unique id: {uid}")]
    SameUniqueId {
        /// Hardware id of both.
        hid: String,
        /// Their unique id.
        uid: Uid,
    },
    /// More compatible ids than are listed.
    #[error("ACPI device {hid} has too many compatible ids: {count}")]
    CompatibleIds {
        /// Hardware id of the device.
        hid: String,
        /// How many.
        count: usize,
        /// Most.
        most: usize,
    },
    /// A register range that ACPI cannot describe.
    #[error("{space} range of ACPI device {hid} is empty or leaves the bus: {base:#x} + {len:#x}")]
    DeviceRange {
        /// Hardware id of the device.
        hid: String,
        /// "mmio" or "pio".
        space: &'static str,
        /// Its base.
        base: u64,
        /// Its length in bytes.
        len: u64,
    },
    /// An interrupt beyond the I/O APIC.
    #[error("gsi of ACPI device {hid} has no I/O APIC pin: {gsi}")]
    Gsi {
        /// Hardware id of the device.
        hid: String,
        /// The gsi.
        gsi: u32,
    },
    /// No processor, or more than the MADT describes.
    #[error("number of processors is not 1 to {most}: {cpus}")]
    Cpus {
        /// As given.
        cpus: u32,
        /// Most.
        most: u32,
    },
    /// More devices than there are names or room for.
    #[error("ACPI tables are too long: {len:#x} bytes, the BIOS area takes {room:#x}")]
    TablesTooLong {
        /// Their length.
        len: u64,
        /// Bytes from ACPI_START to MP_TABLE_START.
        room: u64,
    },
    /// Guest memory refused an access.
    #[error(transparent)]
    Memory(#[from] MemoryError),
}

impl BootError {
    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> String {
        let hint = match self {
            Self::Memory(error) => return error.hint(),
            Self::NotKernel { .. } => {
                "give a bzImage (vmlinuz), an ELF file (vmlinux) or a Multiboot kernel; gzip is unpacked, other packing is not"
            }
            Self::NotElf { .. } => "a bzImage goes into Linux(...); its vmlinux is unpacked by `hyperpy.Pvh` itself",
            Self::NoPvhNote => "a Linux kernel has it when built with CONFIG_PVH; Linux(...) boots it without",
            Self::NotMultiboot => "Linux(...) and Pvh(...) boot other kernels; `hyperpy.boot.recognise` tells which",
            Self::Multiboot2 => "only Multiboot 1 is loaded: build the kernel with a header of that version too",
            Self::WantsScreen => "build the kernel without a video mode in its Multiboot header; it may print to COM1",
            Self::InfoTooLong { .. } => "give fewer modules, or shorter lines for them",
            Self::FirmwareSize { .. } => "an image has whole 4 KiB pages, and at most 16 MiB",
            Self::FirmwareVector => "is it a firmware's code, as bios.bin is, and not its variables or an option ROM?",
            Self::FirmwarePlace { .. } => {
                "keep the end of the first 4 GiB free, and load one firmware for each machine"
            }
            Self::Truncated { .. } => "the file is incomplete: copy or download it again",
            Self::OldProtocol { .. } | Self::LoadsLow { .. } => {
                "use a kernel of Linux 2.6.14 or later, built as bzImage"
            }
            Self::NoRam { .. } => "give the machine more memory",
            Self::CommandLineTooLong { .. } => "shorten the command line, or build the kernel with a larger limit",
            Self::CommandLineNul { .. } => "remove the NUL: the kernel would read no further",
            Self::InitrdTooLarge { .. } => "give the machine more memory, or make the initrd smaller",
            Self::FlatEmpty => "give the machine code to run, as bytes",
            Self::FlatOutOfReach { .. } => "load the image lower, or enter it in a wider mode",
            Self::NoRoom { .. } => {
                "move the image, or give the machine more memory: beside it a page for the stack is needed, and in long mode six for page tables"
            }
            Self::PayloadFormat { .. } => {
                "boot the bzImage itself (the guest unpacks it); unpacked here are xz, zstd, gzip and lz4"
            }
            Self::PayloadTooLarge { .. } => "raise the bound, or boot the bzImage itself (the guest unpacks it)",
            Self::HardwareId { .. } => {
                "use three capital letters and four hex digits (PNP0C02), or four letters or digits and four hex digits (LNRO0005), hex digits in capitals"
            }
            Self::UniqueId { .. } => "acpi_uid is a number from 0 to 2^64 - 1, or 1 to 63 printable ASCII characters",
            Self::SameUniqueId { .. } => "give each its own acpi_uid, or leave it out: then they are numbered",
            Self::CompatibleIds { most, .. } => return format!("at most {most} in acpi_cid"),
            Self::DeviceRange { .. } => "mmio ranges lie below 2^64, pio ranges below 0x10000",
            Self::Gsi { .. } => "use a gsi from 0 to 23",
            Self::Header { format: "ELF", field: "p_paddr", .. } => {
                "a kernel loads from 1 MiB up: this looks like a program, and programs run under a kernel"
            }
            Self::Header { .. } | Self::SegmentsOverlap { .. } | Self::EntryOutside { .. } => {
                "is it a kernel for x86-64, and whole? `file PATH` tells; copy or build it again"
            }
            Self::TooManyRegions { .. } => "make fewer and larger regions of ram",
            Self::Payload { .. } | Self::PayloadNotElf { .. } => {
                "the file is damaged: copy it again; with unpack=False the guest unpacks it, and says what it finds"
            }
            Self::Cpus { .. } => "give the machine fewer vcpus",
            Self::TablesTooLong { .. } => "give fewer devices an `acpi_hid`, or the machine fewer vcpus",
        };
        hint.into()
    }
}
