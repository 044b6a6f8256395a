//! The ELF vmlinux inside a bzImage (Documentation/arch/x86/boot.rst, `payload_offset` and `payload_length`), and files
//! that are packed whole.
//!
//! Unpacked once on the host, a kernel need not unpack itself at each boot. Output and the decoders' memory are
//! bounded: a payload is as hostile as any image. xz and zstd are decoded by the C libraries, which are bound
//! statically: measured on Debian's kernels they take 0.66 and 0.45 of the time of the pure Rust crates, and unlike the
//! one for xz they bound the dictionary.

use std::io::{self, Read};

use super::elf::{Fields, MAGIC, is_elf};
use super::setup::Setup;
use crate::error::BootError;

/// Most memory of the xz decoder: kernels are packed with dictionaries of up to 128 MiB.
const XZ_MEMORY: u64 = 160 << 20;
/// Largest zstd window, as a power of two: kernels are packed by `zstd -22 --ultra`, which takes 128 MiB.
const ZSTD_WINDOW_LOG: u32 = 27;
/// Bytes that the kernel's build appends to a payload: the size that it unpacks to.
const SIZE_LEN: usize = 4;
/// Least bytes that the output grows by.
const GROWTH: usize = 1 << 20;

/// How a payload is packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    Plain,
    Xz,
    Zstd,
    Gzip,
    Lz4,
    Unsupported(&'static str),
}

impl Format {
    fn of(payload: &[u8]) -> Self {
        const MAGICS: [(&[u8], Format); 9] = [
            (MAGIC, Format::Plain),
            (b"\xfd7zXZ\0", Format::Xz),
            (b"\x28\xb5\x2f\xfd", Format::Zstd),
            (b"\x1f\x8b", Format::Gzip),
            // The legacy frame of `lz4 -l`.
            (b"\x02\x21\x4c\x18", Format::Lz4),
            (b"BZh", Format::Unsupported("bzip2")),
            (b"\x5d\0\0", Format::Unsupported("lzma")),
            (b"\x89LZO", Format::Unsupported("lzo")),
            (b"", Format::Unsupported("an unknown format")),
        ];
        let known = MAGICS.iter().find(|(magic, _)| payload.starts_with(magic));
        known.map_or(Self::Unsupported("an unknown format"), |(_, format)| *format)
    }
    fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Xz => "xz",
            Self::Zstd => "zstd",
            Self::Gzip => "gzip",
            Self::Lz4 => "lz4",
            Self::Unsupported(name) => name,
        }
    }
}

/// The ELF file in a bzImage's payload, of at most `limit` bytes; `None` if `kernel` is an ELF file itself, or names
/// no payload (programs that only speak the boot protocol do not).
///
/// # Errors
/// The image or its payload is damaged, is packed in a way that is not known here, unpacks to more than `limit` bytes
/// or to something that is no ELF file.
pub fn payload(kernel: &[u8], limit: usize) -> Result<Option<Vec<u8>>, BootError> {
    if is_elf(kernel) {
        return Ok(None);
    }
    let setup = Setup::parse(kernel)?;
    let Some((offset, len)) = setup.payload() else {
        return Ok(None);
    };
    let packed = Fields { image: kernel, what: "the payload" }.slice(setup.code_offset() + offset, len)?;
    let format = Format::of(packed);
    let vmlinux = unpack(packed, format, limit).map_err(|source| BootError::Payload { format: format.name(), source });
    let vmlinux = match format {
        Format::Unsupported(format) => return Err(BootError::PayloadFormat { format }),
        _ => vmlinux?,
    };
    if vmlinux.len() > limit {
        return Err(BootError::PayloadTooLarge { limit });
    }
    if !vmlinux.starts_with(MAGIC) {
        return Err(BootError::PayloadNotElf { found: vmlinux.into_iter().take(4).collect() });
    }
    Ok(Some(vmlinux))
}

/// What a file holds that gzip has packed whole, as Multiboot kernels come and as GRUB takes them; `None` for another.
///
/// # Errors
/// It is damaged, or unpacks to more than `limit` bytes.
pub fn gunzip(file: &[u8], limit: usize) -> Result<Option<Vec<u8>>, BootError> {
    if Format::of(file) != Format::Gzip {
        return Ok(None);
    }
    let format = Format::Gzip.name();
    let bytes = unpack(file, Format::Gzip, limit).map_err(|source| BootError::Payload { format, source })?;
    if bytes.len() > limit { Err(BootError::PayloadTooLarge { limit }) } else { Ok(Some(bytes)) }
}

/// Unpacks at most `limit` bytes and one more, which tells that the limit was passed.
fn unpack(packed: &[u8], format: Format, limit: usize) -> io::Result<Vec<u8>> {
    let (data, size) = packed.split_at(packed.len().saturating_sub(SIZE_LEN));
    // Only a hint: whoever made the image may have written anything there.
    let hint = size.try_into().map_or(0, u32::from_le_bytes) as usize;
    match format {
        Format::Plain => drain(packed, packed.len(), limit),
        Format::Xz => {
            let stream = liblzma::stream::Stream::new_stream_decoder(XZ_MEMORY, 0)?;
            drain(liblzma::bufread::XzDecoder::new_stream(data, stream), hint, limit)
        }
        Format::Zstd => {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(data)?.single_frame();
            decoder.window_log_max(ZSTD_WINDOW_LOG)?;
            drain(decoder, hint, limit)
        }
        // The size at the end is gzip's own.
        Format::Gzip => drain(flate2::bufread::GzDecoder::new(packed), hint, limit),
        Format::Lz4 => drain(lz4_flex::frame::FrameDecoder::new(data), hint, limit),
        Format::Unsupported(name) => Err(io::Error::new(io::ErrorKind::Unsupported, name)),
    }
}

fn drain(mut from: impl Read, hint: usize, limit: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    // One byte more than may come, so that the end is seen without growing.
    let mut room = hint.saturating_add(1);
    while bytes.len() <= limit {
        let most = room.min(limit - bytes.len() + 1);
        bytes.try_reserve_exact(most)?;
        if from.by_ref().take(most as u64).read_to_end(&mut bytes)? < most {
            break;
        }
        room = bytes.len().max(GROWTH);
    }
    Ok(bytes)
}
