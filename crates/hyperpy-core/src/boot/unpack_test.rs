//! Payloads: each format that is unpacked, each that is not, and damaged ones.

use std::io::Write;

use super::images_test::{bzimage, elf, put};
use super::unpack::payload;
use crate::error::BootError;

const LIMIT: usize = 1 << 20;

fn xz(data: &[u8]) -> Vec<u8> {
    let mut encoder = liblzma::write::XzEncoder::new(Vec::new(), 6);
    encoder.write_all(data).unwrap();
    sized(encoder.finish().unwrap(), data)
}

fn zstd(data: &[u8]) -> Vec<u8> {
    sized(zstd::stream::encode_all(data, 3).unwrap(), data)
}

fn gzip(data: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(data).unwrap();
    encoder.finish().unwrap()
}

/// The legacy frame, as `lz4 -l` writes it (lz4 frame format, "Legacy frame"): blocks, each behind its length.
fn lz4(data: &[u8]) -> Vec<u8> {
    let mut packed = b"\x02\x21\x4c\x18".to_vec();
    for block in data.chunks(8 << 20) {
        let block = lz4_flex::block::compress(block);
        packed.extend((block.len() as u32).to_le_bytes());
        packed.extend(block);
    }
    sized(packed, data)
}

/// As the kernel's build does: the size behind the stream.
fn sized(mut packed: Vec<u8>, data: &[u8]) -> Vec<u8> {
    packed.extend((data.len() as u32).to_le_bytes());
    packed
}

/// An ELF file of some size that does not compress to nothing.
fn vmlinux(len: usize) -> Vec<u8> {
    let mut bytes = elf();
    let mut state = 1_u32;
    bytes.resize_with(len, || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 30) as u8
    });
    bytes
}

#[test]
fn test_payload_of_each_format_is_the_vmlinux() {
    let vmlinux = vmlinux(300_000);
    for (name, packed) in
        [("xz", xz(&vmlinux)), ("zstd", zstd(&vmlinux)), ("gzip", gzip(&vmlinux)), ("lz4", lz4(&vmlinux))]
    {
        let image = bzimage(&packed);
        assert!(payload(&image, LIMIT).unwrap().as_ref() == Some(&vmlinux), "{name}");
        assert!(payload(&image, vmlinux.len()).is_ok(), "{name}");
    }
    assert!(payload(&bzimage(&vmlinux), LIMIT).unwrap() == Some(vmlinux));
}

#[test]
fn test_payload_of_lz4_with_several_blocks_is_the_vmlinux() {
    let vmlinux = vmlinux((8 << 20) + 5);
    assert!(payload(&bzimage(&lz4(&vmlinux)), 16 << 20).unwrap() == Some(vmlinux));
}

#[test]
fn test_payload_beyond_the_limit_is_refused_whatever_size_it_claims() {
    let vmlinux = vmlinux(300_000);
    for packed in [xz(&vmlinux), zstd(&vmlinux), gzip(&vmlinux), lz4(&vmlinux)] {
        for claim in [0, 1, 299_999, u32::MAX] {
            let mut packed = packed.clone();
            let at = packed.len() - 4;
            packed.truncate(at);
            packed.extend(claim.to_le_bytes());
            match payload(&bzimage(&packed), 299_999) {
                // The size is part of gzip's own check.
                Err(BootError::PayloadTooLarge { limit: 299_999 } | BootError::Payload { format: "gzip", .. }) => {}
                other => panic!("{other:?}"),
            }
        }
    }
}

#[test]
fn test_payload_claiming_a_wrong_size_unpacks_all_the_same() {
    let vmlinux = vmlinux(300_000);
    let mut packed = xz(&vmlinux);
    for claim in [0, 1, 299_999, 300_001, u32::MAX] {
        let at = packed.len() - 4;
        packed.truncate(at);
        packed.extend(claim.to_le_bytes());
        assert!(payload(&bzimage(&packed), LIMIT).unwrap().as_ref() == Some(&vmlinux));
    }
}

#[test]
fn test_payload_of_other_formats_is_named() {
    for (magic, name) in [("BZh9", "bzip2"), ("\x5d\0\0\0\0", "lzma"), ("?!?!?!", "an unknown format")] {
        let error = payload(&bzimage(magic.as_bytes()), LIMIT).unwrap_err();
        assert!(matches!(error, BootError::PayloadFormat { format } if format == name), "{error}");
        assert!(error.hint().contains("zstd"));
    }
    let error = payload(&bzimage(b"\x89LZO\0\x0d\x0a"), LIMIT).unwrap_err();
    assert!(matches!(error, BootError::PayloadFormat { format: "lzo" }), "{error}");
}

#[test]
fn test_payload_of_an_elf_or_of_none_is_none() {
    assert!(payload(&elf(), LIMIT).unwrap().is_none());
    assert!(payload(&bzimage(b""), LIMIT).unwrap().is_none());
}

#[test]
fn test_payload_that_is_no_elf_is_refused() {
    let error = payload(&bzimage(&gzip(b"#!/bin/sh")), LIMIT).unwrap_err();
    assert!(matches!(error, BootError::PayloadNotElf { found } if found == b"#!/b"));
    let error = payload(&bzimage(b"\x1f\x8b\x08")[..1024 + 0x401], LIMIT).unwrap_err();
    assert!(matches!(error, BootError::Truncated { what: "the payload", .. }), "{error}");
}

#[test]
fn test_payload_wanting_a_huge_dictionary_is_refused() {
    // A zstd frame whose window descriptor says 2^41 bytes, and an xz stream whose LZMA2 filter says 4 GiB.
    let zstd = [0x28, 0xb5, 0x2f, 0xfd, 0x00, 0xf8, 0x01, 0, 0, 0, 0, 0, 0];
    let error = payload(&bzimage(&zstd), LIMIT).unwrap_err();
    assert!(matches!(error, BootError::Payload { format: "zstd", .. }), "{error}");
    let mut xz = xz(&elf());
    // Block header: size in words, flags, LZMA2, one byte of properties, dictionary size, padding, CRC32.
    assert_eq!(xz[14..16], [0x21, 1]);
    xz[16] = 40;
    let end = 12 + usize::from(xz[12]) * 4;
    let mut crc = flate2::Crc::new();
    crc.update(&xz[12..end]);
    put(&mut xz, end, &crc.sum().to_le_bytes());
    let error = payload(&bzimage(&xz), LIMIT).unwrap_err();
    let BootError::Payload { format: "xz", source } = error else { panic!("{error}") };
    assert!(source.to_string().contains("memory"), "{source}");
}

// fault row 41
#[test]
fn test_payload_with_any_byte_damaged_or_cut_never_panics() {
    let vmlinux = [b"\x7fELF".as_slice(), &[7; 200], b"end"].concat();
    for packed in [xz(&vmlinux), zstd(&vmlinux), gzip(&vmlinux), lz4(&vmlinux)] {
        for at in 0..packed.len() {
            let mut damaged = packed.clone();
            damaged[at] ^= 0x55;
            let _ = payload(&bzimage(&damaged), LIMIT);
            let cut = payload(&bzimage(&packed[..at]), LIMIT);
            assert!(at + 8 > packed.len() || at == 0 || cut.is_err(), "cut to {at} of {}", packed.len());
        }
    }
}
