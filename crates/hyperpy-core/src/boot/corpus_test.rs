//! Every loader against damaged files: cut at every length, each byte changed, fields overwritten. What comes of it may
//! be anything but a panic; and who refuses has touched no memory (docs/faults.md, 41).

use proptest::prelude::*;

use super::images_test::{bzimage, elf, firmware_of, multiboot_elf, multiboot_flat, put, pvh_elf, ram};
use super::info::Module;
use super::linux::{Linux, linux};
use super::multiboot::{Multiboot, multiboot};
use super::pvh::{Pvh, pvh};
use super::recognise::recognise;
use super::trim::trimmed;
use super::unpack::{gunzip, payload};
use super::{Entry, firmware};
use crate::error::BootError;
use crate::memory::Memory;

const MODULES: [Module; 2] =
    [Module { bytes: &[1; 100], cmdline: b"one" }, Module { bytes: &[2; 5000], cmdline: b"two" }];

type Load = fn(&Memory, &[u8]) -> Result<Entry, BootError>;

fn as_linux(memory: &Memory, kernel: &[u8]) -> Result<Entry, BootError> {
    linux(memory, &Linux { kernel, cmdline: b"quiet", initrd: Some(&[1; 100]), ..Linux::default() })
}

fn as_setup(memory: &Memory, setup: &[u8]) -> Result<Entry, BootError> {
    linux(memory, &Linux { kernel: &elf(), setup: Some(setup), ..Linux::default() })
}

fn as_pvh(memory: &Memory, kernel: &[u8]) -> Result<Entry, BootError> {
    pvh(memory, &Pvh { kernel, cmdline: b"quiet", modules: &MODULES, rsdp: Some(0xe_0000) })
}

fn as_multiboot(memory: &Memory, kernel: &[u8]) -> Result<Entry, BootError> {
    multiboot(memory, &Multiboot { kernel, cmdline: b"quiet", modules: &MODULES })
}

const LOADERS: [Load; 5] = [as_linux, as_setup, as_pvh, as_multiboot, firmware::firmware];

/// Every kind of image with the loader that it is for.
fn corpus() -> Vec<(Load, Vec<u8>)> {
    let mut all: Vec<(Load, Vec<u8>)> = vec![(LOADERS[0], bzimage(b"\x7fELF")), (LOADERS[0], elf())];
    all.push((LOADERS[1], bzimage(b"")));
    for wide in [false, true] {
        all.extend([(LOADERS[2], pvh_elf(wide)), (LOADERS[3], multiboot_elf(wide, 3))]);
    }
    all.extend([(LOADERS[3], multiboot_flat()), (LOADERS[4], firmware_of(0x2000))]);
    all
}

/// Where the headers of an image of the corpus are, without the magics that come first: first offset and length.
fn headers(which: usize) -> &'static [(usize, usize)] {
    match which {
        0 | 2 => &[(0x1f1, 0x11), (0x206, 0x66)],
        7 => &[(0x144, 28)],
        8 => &[(0x1ff0, 16)],
        _ => &[(4, 0x100), (0x1004, 8), (0x1800, 80)],
    }
}

/// Tries to load a file. Memory that a refusal has left alone serves again; after a success it is made anew.
fn attempt(memory: &mut Memory, load: Load, image: &[u8]) -> bool {
    let loaded = load(memory, image).is_ok();
    if loaded {
        *memory = ram();
    } else {
        assert_eq!((memory.committed(), memory.regions().len()), (0, 1), "a refused load wrote");
    }
    let _ = (recognise(image), payload(image, 1 << 20), gunzip(image, 1 << 20), trimmed(image.to_vec()));
    loaded
}

#[test]
fn test_images_of_the_corpus_are_loaded_by_their_loader_and_by_no_other() {
    let mut memory = ram();
    for (own, image) in corpus() {
        assert!(attempt(&mut memory, own, &image));
    }
    let (_, kernel) = &corpus()[0];
    assert!(
        !attempt(&mut memory, as_pvh, kernel)
            && !attempt(&mut memory, as_multiboot, kernel)
            && !attempt(&mut memory, firmware::firmware, kernel)
    );
}

// fault row 41
#[test]
fn test_image_truncated_at_every_length_never_panics_and_leaves_memory_alone() {
    let mut memory = ram();
    for (load, image) in corpus() {
        for len in 0..image.len() {
            attempt(&mut memory, load, &image[..len]);
        }
    }
}

// fault row 41
#[test]
fn test_image_with_each_byte_of_its_headers_damaged_never_panics_and_leaves_memory_alone() {
    let mut memory = ram();
    for (which, (load, image)) in corpus().into_iter().enumerate() {
        let headers = headers(which).iter().flat_map(|(from, len)| *from..from + len);
        // Code is only copied: a few places in it stand for all.
        for at in headers.chain((0..image.len()).step_by(257)) {
            for value in [0, 0x7f, 0x80, image[at] ^ 0xff] {
                let mut image = image.clone();
                image[at] = value;
                attempt(&mut memory, load, &image);
            }
        }
    }
}

#[test]
fn test_every_loader_takes_foreign_files_for_what_they_are() {
    let mut memory = ram();
    let foreign: [&[u8]; 6] = [b"", b"\0", b"MZ", b"\x1f\x8b\x08", &[0xff; 0x3000], &[0; 0x1000]];
    for load in LOADERS {
        for file in foreign {
            assert!(!attempt(&mut memory, load, file));
        }
        for (_, image) in corpus() {
            attempt(&mut memory, load, &image);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    // fault row 41
    #[test]
    fn test_image_with_fields_overwritten_never_panics_and_leaves_memory_alone(
        which in 0..9_usize,
        patches in proptest::collection::vec((any::<prop::sample::Index>(), any::<[u8; 8]>(), 1usize..=8), 1..6),
    ) {
        let mut memory = ram();
        let (load, mut image) = corpus().swap_remove(which);
        let fields = headers(which);
        for (index, bytes, len) in patches {
            let (from, room) = fields[index.index(fields.len())];
            let at = from + index.index(room);
            let len = len.min(image.len() - at);
            put(&mut image, at, &bytes[..len]);
        }
        attempt(&mut memory, load, &image);
    }
}
