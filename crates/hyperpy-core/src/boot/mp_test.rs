//! The MP table: sums, counts and entries, by the tables of the specification's chapter 4.

use super::acpi::Platform;
use super::mp::build;

fn sum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
}

#[test]
fn test_mp_pointer_and_table_sum_to_zero_and_lead_to_each_other() {
    let bytes = build(&Platform { cpus: 2, ..Platform::default() });
    let (pointer, table) = bytes.split_at(16);
    assert_eq!((&pointer[..4], sum(pointer), sum(table)), (&b"_MP_"[..], 0, 0));
    assert_eq!(pointer[4..8], 0xf_0010_u32.to_le_bytes());
    assert_eq!((pointer[8], pointer[9], pointer[11], pointer[12]), (1, 4, 0, 0));
    assert_eq!((&table[..4], usize::from(table[5]) << 8 | usize::from(table[4])), (&b"PCMP"[..], table.len()));
    assert_eq!(table[36..40], 0xfee0_0000_u32.to_le_bytes());
}

#[test]
fn test_mp_entries_are_processors_bus_ioapic_and_interrupts() {
    let bytes = build(&Platform { cpus: 2, ..Platform::default() });
    let table = &bytes[16..];
    let count = usize::from(table[34]);
    assert_eq!((count, table.len()), (2 + 1 + 1 + 16 + 2, 44 + 2 * 20 + 20 * 8));
    assert_eq!(table[44..48], [0, 0, 0x14, 3]);
    assert_eq!(table[64..68], [0, 1, 0x14, 1]);
    assert_eq!(table[84..92], *b"\x01\0ISA   ");
    assert_eq!(table[92..100], [2, 2, 0x11, 1, 0, 0, 0xc0, 0xfe]);
    assert_eq!(table[100..108], [3, 0, 0, 0, 0, 0, 2, 0]);
    assert_eq!(table[100 + 4 * 8..][..8], [3, 0, 0, 0, 0, 4, 2, 4]); // COM1
    assert_eq!(table[228..], [[4, 3, 0, 0, 0, 0, 0, 0], [4, 1, 0, 0, 0, 0, 0xff, 1]].concat());
}

#[test]
fn test_mp_table_for_more_processors_than_ids_is_none() {
    assert_eq!(build(&Platform { cpus: 254, ..Platform::default() }).len(), 16 + 44 + 254 * 20 + 160);
    assert!(build(&Platform { cpus: 255, ..Platform::default() }).is_empty());
}
