//! What a device reaches: ram, rom to read, lists of ranges, the refusals that change nothing, and the end of it.
#![allow(clippy::unwrap_used)]

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use super::*;
use crate::memory::Kind;

const MIB: u64 = 1 << 20;
const ROM: u64 = 16 * MIB;
const DEVICES: u64 = 32 * MIB;

/// Ram in two adjoining regions up to 2 MiB, rom, and a place for devices.
fn machine() -> (Arc<Memory>, Dma) {
    let memory = Arc::new(Memory::with_ram(MIB).unwrap());
    memory.add(MIB, MIB, Kind::Ram, "more").unwrap();
    memory.add(ROM, MIB, Kind::Rom, "rom").unwrap();
    memory.add(DEVICES, MIB, Kind::Mmio, "devices").unwrap();
    let dma = Dma::new(&memory, 4 * MIB);
    (memory, dma)
}

fn bytes(memory: &Memory, gpa: u64, len: usize) -> Vec<u8> {
    let mut buffer = vec![0; len];
    memory.read(gpa, &mut buffer).unwrap();
    buffer
}

#[test]
fn test_scatter_and_gather_over_regions_keep_the_order_of_the_list() {
    let (memory, dma) = machine();
    let list = [(0x3000, 3), (MIB - 2, 4), (0x9999, 0), (0x2000, 2)];
    assert_eq!(dma.total(&list), Ok(9));
    dma.scatter(&list, b"123456789").unwrap();
    assert_eq!(bytes(&memory, MIB - 2, 4), b"4567");
    let mut back = [0; 9];
    dma.gather(&list, &mut back).unwrap();
    assert_eq!(&back, b"123456789");
}

#[test]
fn test_scatter_of_less_than_the_list_leaves_the_rest_as_it_was() {
    let (memory, dma) = machine();
    memory.write(0x1000, b"........").unwrap();
    dma.scatter(&[(0x1000, 2), (0x1004, 4)], b"abc").unwrap();
    assert_eq!(bytes(&memory, 0x1000, 8), b"ab..c...");
}

// fault row 15
#[test]
fn test_range_that_is_no_memory_is_refused_and_changes_nothing() {
    let (memory, dma) = machine();
    for (gpa, len) in [
        (2 * MIB - 2, 4),
        (3 * MIB, 1),
        (DEVICES, 4),
        (DEVICES - 1, 2),
        (ROM - 1, 1),
        (u64::MAX, 1),
        (u64::MAX, 2),
        (0, u64::MAX),
        (1, u64::MAX),
    ] {
        let refused = Err(DmaError::Access { gpa, len });
        assert_eq!(dma.check(&[(gpa, len)], false), refused, "{gpa:#x} + {len:#x}");
        assert_eq!(dma.check(&[(gpa, len)], true), refused, "{gpa:#x} + {len:#x}");
        assert_eq!(dma.scatter(&[(0x1000, 2), (gpa, len)], b"abcd"), refused, "{gpa:#x} + {len:#x}");
        assert_eq!(dma.gather(&[(0x1000, 2), (gpa, len)], &mut [0; 4]), refused, "{gpa:#x} + {len:#x}");
        assert_eq!(bytes(&memory, 0x1000, 2), [0, 0], "{gpa:#x} + {len:#x}");
    }
}

#[test]
fn test_rom_and_protected_ram_are_read_and_not_written() {
    let (memory, dma) = machine();
    memory.write(ROM, b"rom").unwrap();
    memory.protect(MIB, false).unwrap();
    let mut read = [0; 3];
    dma.gather(&[(ROM, 3)], &mut read).unwrap();
    assert_eq!(&read, b"rom");
    for (gpa, len) in [(ROM, 3), (MIB, 3), (MIB - 1, 3)] {
        assert_eq!(dma.scatter(&[(0x1000, 3), (gpa, len)], b"abcdef"), Err(DmaError::ReadOnly { gpa, len }));
    }
    assert_eq!(bytes(&memory, 0x1000, 3), [0; 3]);
    memory.protect(MIB, true).unwrap();
    dma.scatter(&[(MIB - 1, 3)], b"abc").unwrap();
    // What is missing is told before what is read-only.
    assert_eq!(dma.check(&[(ROM, 2 * MIB)], true), Err(DmaError::Access { gpa: ROM, len: 2 * MIB }));
}

#[test]
fn test_list_above_the_limit_is_refused_by_its_sum() {
    let (_memory, dma) = machine();
    assert_eq!(dma.total(&[(0, 4 * MIB)]), Ok(4 << 20));
    let too_much = |gpa, len| Err(DmaError::TooMuch { gpa, len, most: 4 * MIB });
    assert_eq!(dma.total(&[(0, 4 * MIB), (7, 1)]), too_much(7, 4 * MIB + 1));
    assert_eq!(dma.total(&[(5, 1), (6, u64::MAX)]), too_much(6, u64::MAX));
}

#[test]
fn test_data_longer_than_the_list_are_refused_and_not_begun() {
    let (memory, dma) = machine();
    let refused = dma.scatter(&[(0x1000, 1), (0x2000, 1)], b"abc");
    assert_eq!(refused, Err(DmaError::Short { len: 2, data: 3 }));
    assert_eq!(bytes(&memory, 0x1000, 1), [0]);
}

#[test]
fn test_written_pages_are_marked_as_the_hosts_and_read_ones_not() {
    let (memory, dma) = machine();
    memory.track(true).unwrap();
    dma.gather(&[(0x5000, 0x1000)], &mut [0; 0x1000]).unwrap();
    dma.scatter(&[(0x1fff, 2), (MIB, 1)], b"abc").unwrap();
    assert!(dma.scatter(&[(0x8000, 1), (DEVICES, 1)], b"ab").is_err());
    assert_eq!(memory.dirty(true).unwrap(), [(0x1000, 0x2000), (MIB, 0x1000)]);
}

#[test]
fn test_revoked_dma_says_so_and_memory_that_is_gone_is_the_closed_machines() {
    let (memory, dma) = machine();
    dma.revoke();
    assert_eq!(dma.check(&[(0, 1)], false), Err(DmaError::Detached));
    assert!(!dma.is_usable());
    let other = Dma::new(&memory, MIB);
    assert!(other.is_usable());
    memory.clear();
    assert_eq!(other.gather(&[(0, 1)], &mut [0]), Err(DmaError::Closed));
    drop(memory); // the device keeps none of it
    assert_eq!(other.scatter(&[(0, 1)], &[0]), Err(DmaError::Closed));
}

#[test]
fn test_nothing_is_written_once_revoke_has_returned() {
    let (memory, dma) = machine();
    let is_revoked = AtomicBool::new(false);
    thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let mut count = 0_u32;
            while dma.scatter(&[(0x1000, 0x4000)], &[0xAA; 0x4000]).is_ok() {
                count += 1;
            }
            assert!(is_revoked.load(Ordering::SeqCst));
            count
        });
        while bytes(&memory, 0x1000, 1) != [0xAA] {
            thread::yield_now();
        }
        is_revoked.store(true, Ordering::SeqCst);
        dma.revoke();
        memory.write(0x1000, &[0; 0x4000]).unwrap();
        assert!(writer.join().unwrap() > 0);
    });
    assert_eq!(bytes(&memory, 0x1000, 0x4000), [0; 0x4000]);
}

// fault row 16
#[test]
fn test_aligned_words_are_read_and_written_whole_while_another_changes_them() {
    #[repr(align(8))]
    struct Word([u8; 8]);
    let (_memory, dma) = machine();
    let ended = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let (ones, zeros) = (Word([0xff; 8]), Word([0; 8]));
            while !ended.load(Ordering::Relaxed) {
                dma.scatter(&[(0x2008, 8)], &ones.0).unwrap();
                dma.scatter(&[(0x2008, 8)], &zeros.0).unwrap();
            }
        });
        for _ in 0..20_000 {
            let mut word = Word([1; 8]);
            dma.gather(&[(0x2008, 8)], &mut word.0).unwrap();
            assert!(word.0 == [0; 8] || word.0 == [0xff; 8], "torn: {:?}", word.0);
        }
        ended.store(true, Ordering::Relaxed);
    });
}

// fault row 15
#[test]
fn test_list_of_more_bytes_than_there_are_addresses_is_too_much_without_a_limit_too() {
    let (memory, _) = machine();
    let dma = Dma::new(&memory, u64::MAX);
    assert_eq!(dma.total(&[(0, u64::MAX)]), Ok(usize::MAX));
    let wraps = DmaError::TooMuch { gpa: 7, len: u64::MAX, most: u64::MAX };
    assert_eq!(dma.total(&[(0, u64::MAX), (7, 1)]), Err(wraps));
}
