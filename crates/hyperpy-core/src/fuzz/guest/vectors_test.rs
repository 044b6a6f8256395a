#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use super::*;
use crate::arch::x86_64::{DescriptorTable, Segment, Sregs};
use crate::memory::Memory;

const TABLE: u64 = 0x3000;
const STACK: u64 = 0x8000;

fn memory() -> Memory {
    Memory::with_ram(1 << 20).unwrap()
}

fn idt(limit: u16) -> DescriptorTable {
    DescriptorTable { base: TABLE, limit }
}

fn real() -> Sregs {
    Sregs { idt: idt(0x3ff), ..Sregs::default() }
}

fn protected() -> Sregs {
    let flat = Segment { db: true, limit: u32::MAX, selector: 8, ..Segment::default() };
    let gdt = DescriptorTable { base: 0x5000, limit: 0x1f };
    Sregs { cr0: 1, idt: idt(0x7ff), gdt, cs: flat, ss: flat, ..Sregs::default() }
}

/// 64-bit code; the walk of its page tables is not what is tested, so that paging is off.
fn long() -> Sregs {
    let cs = Segment { l: true, selector: 0x10, ..Segment::default() };
    Sregs { efer: EFER_LMA, idt: idt(0xfff), cs, ..protected() }
}

#[test]
fn test_handler_in_real_mode_is_read_from_the_table_of_far_pointers() {
    let memory = memory();
    memory.write(TABLE + 4 * 6, &[0x34, 0x12, 0x00, 0x20]).unwrap();
    let view = View { memory: &memory, sregs: &real() };
    assert_eq!(handler(&view, 6), Some(0x2_1234));
    assert_eq!(handler(&view, 7), None);
}

#[test]
fn test_handler_in_protected_mode_is_moved_by_its_segment() {
    let memory = memory();
    // A code segment whose base is 0x123000.
    memory.write(0x5008, &[0xff, 0xff, 0x00, 0x30, 0x12, 0x9a, 0xcf, 0x00]).unwrap();
    memory.write(TABLE + 8 * 13, &[0x78, 0x56, 0x08, 0x00, 0, 0x8e, 0x34, 0x12]).unwrap();
    memory.write(TABLE + 8 * 14, &[0x78, 0x56, 0x08, 0x00, 0, 0x0e, 0x34, 0x12]).unwrap(); // not present
    memory.write(TABLE + 8 * 8, &[0x78, 0x56, 0x08, 0x00, 0, 0x85, 0x34, 0x12]).unwrap(); // a task gate
    let sregs = protected();
    let view = View { memory: &memory, sregs: &sregs };
    assert_eq!(handler(&view, 13), Some(0x1234_5678 + 0x12_3000));
    assert_eq!([14, 8, 0].map(|vector| handler(&view, vector)), [None; 3]);
    let short = Sregs { idt: idt(8 * 13 + 6), ..sregs };
    assert_eq!(handler(&View { memory: &memory, sregs: &short }, 13), None);
    let gone = Sregs { idt: DescriptorTable { base: u64::MAX - 4, limit: 0xfff }, ..sregs };
    assert_eq!(handler(&View { memory: &memory, sregs: &gone }, 13), None);
}

#[test]
fn test_handler_in_long_mode_has_an_address_of_64_bits() {
    let memory = memory();
    let gate = [0x78, 0x56, 0x10, 0, 0, 0x8e, 0x34, 0x12, 0x80, 0xff, 0xff, 0xff, 0, 0, 0, 0];
    memory.write(TABLE + 16 * 14, &gate).unwrap();
    // A walk of addresses needs paging; reading the table is what counts, and it lies where there is none.
    let sregs = Sregs { cr0: 1, ..long() };
    assert_eq!(handler(&View { memory: &memory, sregs: &sregs }, 14), Some(0xffff_ff80_1234_5678));
}

#[test]
fn test_frame_is_found_with_an_error_code_and_without() {
    let memory = memory();
    let sregs = protected();
    let view = View { memory: &memory, sregs: &sregs };
    let regs = Regs { rsp: STACK, ..Regs::default() };
    let push = |words: &[u32]| {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        memory.write(STACK, &bytes).unwrap();
    };
    push(&[0x1234, 8, 0x202, 0, 0]);
    assert_eq!(frame(&view, &regs), Some(Frame { rip: 0x1234, error_code: None, stack: STACK + 12 }));
    push(&[0xd, 0x1234, 8, 0x202, 0]);
    assert_eq!(frame(&view, &regs), Some(Frame { rip: 0x1234, error_code: Some(0xd), stack: STACK + 16 }));
    push(&[0; 5]);
    assert_eq!(frame(&view, &regs), None);
}

#[test]
fn test_frame_in_real_mode_and_in_long_mode_is_found() {
    let memory = memory();
    let regs = Regs { rsp: STACK, ..Regs::default() };
    memory.write(STACK, &[0x34, 0x12, 0x00, 0x10, 0x02, 0x00]).unwrap();
    let found = frame(&View { memory: &memory, sregs: &real() }, &regs);
    assert_eq!(found, Some(Frame { rip: 0x1_1234, error_code: None, stack: STACK + 6 }));
    let words: Vec<u8> = [2_u64, 0x40_1000, 0x10, 0x246, 0x9000, 0x18].iter().flat_map(|it| it.to_le_bytes()).collect();
    memory.write(STACK, &words).unwrap();
    let found = frame(&View { memory: &memory, sregs: &long() }, &regs);
    assert_eq!(found, Some(Frame { rip: 0x40_1000, error_code: Some(2), stack: 0x9000 }));
}
