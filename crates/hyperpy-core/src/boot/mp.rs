//! The MP table (Intel MultiProcessor Specification 1.4, chapter 4): processors and interrupts for kernels that know no
//! ACPI, or were told not to use it.
//!
//! The floating pointer lies at the beginning of the second half of the BIOS area, where it is looked for, and the
//! configuration table follows. It says what the MADT says: gsi n is pin n of the one I/O APIC, interrupts of the ISA
//! bus are edges, and the 8259 is reached through LINT0 ("virtual wire"). The SCI is ACPI's affair and not in it.

use super::acpi::Platform;
use crate::arch::x86_64::layout::{IOAPIC_START, LAPIC_START, MP_TABLE_START};

/// Most processors: local APIC ids from 0, one more for the I/O APIC, and 255 means all.
const MOST_CPUS: u32 = 254;
/// Version 1.4.
const SPEC_REV: u8 = 4;
/// Version of the APICs: integrated ones, as KVM's.
const APIC_VERSION: u8 = 0x14;
const IOAPIC_VERSION: u8 = 0x11;
/// CPU flags: usable, and the one that boots.
const ENABLED: u8 = 1 << 0;
const BOOTS: u8 = 1 << 1;
/// Signature and feature flags of a processor that is to be asked itself: family 6, with an APIC and a coprocessor.
const SIGNATURE: u32 = 0x600;
const FEATURES: u32 = 1 << 9 | 1 << 0;
/// Types of interrupts (table 4-10).
const INT: u8 = 0;
const NMI: u8 = 1;
const EXT_INT: u8 = 3;
/// Interrupts of an ISA bus.
const ISA_IRQS: u8 = 16;
/// Bytes in the floating pointer, and in the table's header.
const POINTER_LEN: usize = 16;
const HEADER_LEN: usize = 44;

/// The pointer and the table as they lie from [`MP_TABLE_START`]; nothing for more processors than there are ids for.
pub(super) fn build(platform: &Platform) -> Vec<u8> {
    if platform.cpus > MOST_CPUS {
        return Vec::new();
    }
    let cpus = platform.cpus as u8;
    let mut entries: Vec<Vec<u8>> = Vec::new();
    for id in 0..cpus {
        let flags = if id == 0 { ENABLED | BOOTS } else { ENABLED };
        let mut cpu = vec![0, id, APIC_VERSION, flags];
        cpu.extend([SIGNATURE, FEATURES, 0, 0].iter().flat_map(|v| v.to_le_bytes()));
        entries.push(cpu);
    }
    entries.push(b"\x01\0ISA   ".to_vec());
    let mut ioapic = vec![2, cpus, IOAPIC_VERSION, 1];
    ioapic.extend((IOAPIC_START as u32).to_le_bytes());
    entries.push(ioapic);
    // Type, flags (as the bus has it), source bus, its irq, destination APIC, its pin.
    entries.extend((0..ISA_IRQS).map(|irq| vec![3, INT, 0, 0, 0, irq, cpus, irq]));
    entries.push(vec![4, EXT_INT, 0, 0, 0, 0, 0, 0]);
    entries.push(vec![4, NMI, 0, 0, 0, 0, 0xff, 1]);

    let count = entries.len() as u16;
    let body = entries.concat();
    let mut table = b"PCMP".to_vec();
    table.extend(((HEADER_LEN + body.len()) as u16).to_le_bytes());
    table.extend([SPEC_REV, 0]);
    table.extend(b"HYPERPY HYPERPY     ");
    table.extend([0; 6]); // no OEM table
    table.extend(count.to_le_bytes());
    table.extend((LAPIC_START as u32).to_le_bytes());
    table.extend([0; 4]); // no extended table
    table.extend(body);
    seal(&mut table, 7);

    let mut bytes = b"_MP_".to_vec();
    bytes.extend((MP_TABLE_START as u32 + POINTER_LEN as u32).to_le_bytes());
    // Length in units of 16 bytes, version, checksum; there is a table, and no IMCR.
    bytes.extend([1, SPEC_REV, 0, 0, 0, 0, 0, 0]);
    seal(&mut bytes, 10);
    bytes.extend(table);
    bytes
}

/// Makes all bytes sum to 0.
fn seal(bytes: &mut [u8], checksum_at: usize) {
    let sum = bytes.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte));
    if let Some(checksum) = bytes.get_mut(checksum_at) {
        *checksum = sum.wrapping_neg();
    }
}
