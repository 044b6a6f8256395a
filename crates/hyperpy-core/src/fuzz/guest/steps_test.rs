#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use super::*;
use crate::arch::x86_64::Segment;
use crate::memory::Memory;

const CODE: u64 = 0x1000;

/// What an instruction of 32-bit code compares, where ebx is 0x2000 and eax 0x11223344.
fn compared(code: &[u8], memory: &Memory) -> Vec<(u64, u64)> {
    memory.write(CODE, code).unwrap();
    let flat = Segment { db: true, limit: u32::MAX, ..Segment::default() };
    let sregs = Sregs { cr0: 1, cs: flat, ds: flat, es: flat, ss: flat, ..Sregs::default() };
    let regs = Regs { rax: 0x1122_3344, rbx: 0x2000, rcx: 8, rsi: 0x2000, rdi: 0x2010, rip: CODE, ..Regs::default() };
    let mut steps = Steps::default();
    steps.compare(View { memory, sregs: &sregs }, &regs, CODE);
    steps.compared
}

#[test]
fn test_comparison_tells_registers_immediates_and_memory_both_ways() {
    let memory = Memory::with_ram(1 << 20).unwrap();
    memory.write(0x2000, b"GET /...").unwrap();
    memory.write(0x2010, b"POST /..").unwrap();
    let both = |one, other| vec![(one, other), (other, one)];
    // cmp eax, 0xcafe
    assert_eq!(compared(&[0x3d, 0xfe, 0xca, 0, 0], &memory), both(0x1122_3344, 0xcafe));
    // cmp ah, 0x7f
    assert_eq!(compared(&[0x80, 0xfc, 0x7f], &memory), both(0x33, 0x7f));
    // cmp byte [ebx+1], 'X'
    assert_eq!(compared(&[0x80, 0x7b, 1, b'X'], &memory), both(u64::from(b'E'), u64::from(b'X')));
    // cmp word [ebx], ax
    assert_eq!(compared(&[0x66, 0x39, 0x03], &memory), both(0x4547, 0x3344));
    // cmp eax, -1, of which the instruction has one byte
    assert_eq!(compared(&[0x83, 0xf8, 0xff], &memory), both(0x1122_3344, 0xffff_ffff));
    // sub eax, 5; test al, 1
    assert_eq!(compared(&[0x83, 0xe8, 5], &memory), both(0x1122_3344, 5));
    assert_eq!(compared(&[0xa8, 1], &memory), both(0x44, 1));
    // repe cmpsb: all of both texts
    let words = [*b"GET /...", *b"POST /.."].map(u64::from_le_bytes);
    assert_eq!(compared(&[0xf3, 0xa6], &memory), both(words[0], words[1]));
}

#[test]
fn test_comparison_of_what_is_equal_or_not_there_or_no_comparison_tells_nothing() {
    let memory = Memory::with_ram(1 << 20).unwrap();
    // cmp eax, eax; cmp byte [0x7fffffff], 1; mov eax, 1; what is no instruction; add eax, 5
    for code in
        [&[0x39, 0xc0][..], &[0x80, 0x3d, 0xff, 0xff, 0xff, 0x7f, 1], &[0xb8, 1], &[0x0f, 0x0b], &[0x83, 0xc0, 5]]
    {
        assert_eq!(compared(code, &memory), []);
    }
}

#[test]
fn test_steps_count_which_instruction_follows_which() {
    let covered = |way: &[u64]| {
        let (mut steps, mut counters) = (Steps::default(), Counters::default());
        for &pc in way {
            steps.count(pc);
            steps.edge(pc, &mut counters);
        }
        let mut slots: Vec<u32> = counters.slots().collect();
        slots.sort_unstable();
        (steps.count, slots)
    };
    assert_eq!(covered(&[1, 2, 3]), covered(&[1, 2, 3]));
    assert_ne!(covered(&[1, 2, 3]).1, covered(&[1, 3, 2]).1);
    assert_eq!(covered(&[1, 1, 1]).1.len(), 2);
}
