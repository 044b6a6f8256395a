//! What is read out of the page, whatever KVM leaves there.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::ptr::addr_of_mut;

use super::*;
use crate::accel::Vcpu as _;
use crate::kvm::vcpu::tests::vcpu;

// fault row 24
#[test]
fn test_instruction_bytes_of_an_emulation_failure_are_found_and_bounded() {
    let low = u64::from_le_bytes([3, 0x0f, 0xae, 0xe8, 0, 0, 0, 0]);
    let high = u64::from_le_bytes([9; 8]);
    let (bytes, len) = instruction_bytes(ERROR_EMULATION, 3, &[WITH_INSTRUCTION_BYTES, low, high]);
    assert_eq!((&bytes[..3], bytes[14], len), (&[0x0f, 0xae, 0xe8][..], 9, 3));
    let none = ([0; 15], 0);
    assert_eq!(instruction_bytes(ERROR_EMULATION, 3, &[0, low, high]), none);
    assert_eq!(instruction_bytes(ERROR_EMULATION, 2, &[WITH_INSTRUCTION_BYTES, low, high]), none);
    assert_eq!(instruction_bytes(2, 3, &[WITH_INSTRUCTION_BYTES, low, high]), none);
    assert_eq!(instruction_bytes(ERROR_EMULATION, 3, &[WITH_INSTRUCTION_BYTES]), none);
    let lying = [WITH_INSTRUCTION_BYTES, u64::MAX, u64::MAX];
    assert_eq!(instruction_bytes(ERROR_EMULATION, 3, &lying), ([0xff; 15], 15));
}

/// What the vCPU reports if KVM leaves this in the page: the exit reason, and the words of its part of the union.
fn patched(vcpu: &mut KvmVcpu, reason: u32, words: &[u64]) -> AccelExit {
    let run = vcpu.page.run();
    let arms = std::mem::offset_of!(kvm_run, __bindgen_anon_1);
    // SAFETY: the field lies inside the mapping, and no thread runs this vCPU.
    unsafe { addr_of_mut!((*run).exit_reason).write_volatile(reason) };
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    vcpu.page.write(arms, &bytes);
    vcpu.decode()
}

// fault row 24
#[test]
fn test_page_with_an_entry_failure_or_an_unknown_reason_is_told_with_its_number() {
    let (mut vcpu, _vm, _memory) = vcpu(&[0xf4]);
    let failed = patched(&mut vcpu, KVM_EXIT_FAIL_ENTRY, &[0x8000_0021, 3]);
    assert_eq!(failed, AccelExit::FailEntry { reason: 0x8000_0021 });
    for reason in [0, 1, 99, u32::MAX] {
        assert_eq!(patched(&mut vcpu, reason, &[u64::MAX; 32]), AccelExit::Unknown { reason });
    }
}

// fault row 24
#[test]
fn test_page_with_a_port_access_of_no_width_or_of_more_values_than_there_is_room_for_is_cut() {
    let (mut vcpu, _vm, _memory) = vcpu(&[0xf4]);
    let mut access =
        |width: u64, count: u64| patched(&mut vcpu, KVM_EXIT_IO, &[width << 8 | 0x80 << 16 | count << 32, 4096]);
    let exit = |size, count| AccelExit::Pio { port: 0x80, size, count, is_write: false };
    assert_eq!(access(4, 1024), exit(4, 1024));
    assert_eq!(access(0, 1), exit(1, 1));
    assert_eq!(access(0xff, u64::from(u32::MAX)), exit(8, 4096));
}

// fault row 24
#[test]
fn test_page_with_an_internal_error_gives_the_suberror_and_no_more_bytes_than_there_are() {
    let (mut vcpu, _vm, _memory) = vcpu(&[0xf4]);
    let words = |ndata: u64, len: u64| [1 | ndata << 32, WITH_INSTRUCTION_BYTES, len | 0x29_0f << 8, 0];
    let mut bytes = [0; 15];
    (bytes[0], bytes[1]) = (0x0f, 0x29);
    let error = patched(&mut vcpu, KVM_EXIT_INTERNAL_ERROR, &words(4, 7));
    assert_eq!(error, AccelExit::InternalError { suberror: 1, bytes, len: 7 });
    let error = patched(&mut vcpu, KVM_EXIT_INTERNAL_ERROR, &words(4, 0xff));
    assert_eq!(error, AccelExit::InternalError { suberror: 1, bytes, len: 15 });
    let error = patched(&mut vcpu, KVM_EXIT_INTERNAL_ERROR, &[3 | 2 << 32, u64::MAX, u64::MAX, u64::MAX]);
    assert_eq!(error, AccelExit::InternalError { suberror: 3, bytes: [0; 15], len: 0 });
}

#[test]
fn test_page_with_a_system_event_gives_its_data_and_never_more_than_the_page_holds() {
    let (mut vcpu, _vm, _memory) = vcpu(&[0xf4]);
    let crash = patched(&mut vcpu, KVM_EXIT_SYSTEM_EVENT, &[3 | 2 << 32, 0x11, 0x22, 0x33]);
    assert_eq!(crash, AccelExit::SystemEvent(SystemEvent::Crash));
    assert_eq!(vcpu.event_data(), [0x11, 0x22]);
    let other = patched(&mut vcpu, KVM_EXIT_SYSTEM_EVENT, &[77 | u64::from(u32::MAX) << 32, 1]);
    assert_eq!(other, AccelExit::SystemEvent(SystemEvent::Other(77)));
    assert_eq!(vcpu.event_data().len(), 16);
    patched(&mut vcpu, KVM_EXIT_HLT, &[]);
    assert!(vcpu.event_data().is_empty());
}

#[test]
fn test_page_with_a_hypercall_takes_its_result_and_one_without_an_msr_no_fault() {
    let (mut vcpu, _vm, _memory) = vcpu(&[0xf4]);
    let hypercall = patched(&mut vcpu, KVM_EXIT_HYPERCALL, &[12, 1, 2, 3, 4, 5, 6, 0]);
    assert_eq!(hypercall, AccelExit::Hypercall { number: 12, arguments: [1, 2, 3, 4, 5, 6] });
    vcpu.set_io_value(0, 0x1122_3344_5566_7788);
    let arms = std::mem::offset_of!(kvm_run, __bindgen_anon_1);
    let mut result = [0; 8];
    vcpu.page.read(arms + 56, &mut result);
    assert_eq!(u64::from_le_bytes(result), 0x1122_3344_5566_7788);
    vcpu.set_msr_fault(true);
    let mut first = [0; 8];
    vcpu.page.read(arms, &mut first);
    assert_eq!(u64::from_le_bytes(first), 12);
}
