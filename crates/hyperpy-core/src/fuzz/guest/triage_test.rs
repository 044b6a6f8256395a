#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use super::*;
use crate::arch::x86_64::{Segment, Sregs};
use crate::memory::Memory;

const STACK: u64 = 0x8000;

/// A finding in 32-bit code at `rip`, with these words on the stack.
fn found(memory: &Memory, what: What, rip: u64, stack: &[u32]) -> Finding {
    let words: Vec<u8> = stack.iter().flat_map(|word| word.to_le_bytes()).collect();
    memory.write(STACK, &[0; 512]).unwrap();
    memory.write(STACK, &words).unwrap();
    let flat = Segment { db: true, limit: u32::MAX, ..Segment::default() };
    let sregs = Sregs { cr0: 1, cs: flat, ss: flat, ..Sregs::default() };
    let regs = Regs { rip, rsp: STACK, ..Regs::default() };
    Finding::look(what, None, 0, &View { memory, sregs: &sregs }, &regs)
}

fn memory() -> Memory {
    let memory = Memory::with_ram(1 << 20).unwrap();
    memory.write(0x1000, &[0xe8, 0, 0, 0, 0]).unwrap(); // call
    memory.write(0x2000, &[0xff, 0x53, 0x08]).unwrap(); // call [ebx+8]
    memory
}

#[test]
fn test_callers_are_the_words_on_the_stack_that_follow_a_call() {
    let memory = memory();
    let finding = found(&memory, What::Address, 0x3000, &[7, 0x1005, 0x1004, 0x2003, u32::MAX]);
    assert_eq!(finding.callers, [0x1005, 0x2003]);
}

#[test]
fn test_findings_are_one_if_how_where_and_callers_are() {
    let memory = memory();
    let key = |what, rip, stack: &[u32]| found(&memory, what, rip, stack).key();
    let one = key(What::Address, 0x3000, &[0x1005, 1]);
    assert_eq!(one, key(What::Address, 0x3000, &[0x1005, 2, 3]));
    assert_ne!(one, key(What::Exit(ExitKind::Shutdown), 0x3000, &[0x1005]));
    assert_ne!(one, key(What::Address, 0x3001, &[0x1005]));
    assert_ne!(one, key(What::Address, 0x3000, &[0x2003]));
    assert_ne!(key(What::Address, 0x3000, &[0x1005, 0x2003]), key(What::Address, 0x3000, &[0x2003, 0x1005]));
    // Where in its loop a guest is found is chance.
    assert_eq!(key(What::Hang, 0x3000, &[0x1005]), key(What::Hang, 0x3004, &[0x1005]));
}

#[test]
fn test_stack_outside_of_memory_has_no_callers() {
    let memory = memory();
    let flat = Segment { db: true, limit: u32::MAX, ..Segment::default() };
    let sregs = Sregs { cr0: 1, cs: flat, ss: flat, ..Sregs::default() };
    let regs = Regs { rip: 0xffff_fff0, rsp: 0xffff_fffe, ..Regs::default() };
    let view = View { memory: &memory, sregs: &sregs };
    assert!(Finding::look(What::Hang, None, 0, &view, &regs).callers.is_empty());
}

#[test]
fn test_exit_kinds_have_the_names_of_exits() {
    for kind in [ExitKind::Halt, ExitKind::Mmio, ExitKind::SystemEvent, ExitKind::InternalError] {
        assert_eq!(ExitKind::named(kind.name()), Some(kind));
    }
    assert_eq!(ExitKind::named("halt"), None);
    assert_eq!(ExitKind::of(&Exit::Timeout), ExitKind::Timeout);
}
