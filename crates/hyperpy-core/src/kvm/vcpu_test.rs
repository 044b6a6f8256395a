//! Kicks at the worst moment on the host's KVM, what stays in the kernel after a close, and the decoding of the page.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::sync::atomic::Ordering;

use super::*;
use crate::accel::VmConfig;
use crate::error::RunError;
use crate::kvm::Kvm;
use crate::machine::Machine;
use crate::memory::{Kind, Memory, RegionInfo};

/// A vCPU of KVM itself, in real mode at 0x1000; the memory must outlive it.
fn vcpu(code: &[u8]) -> (KvmVcpu, Arc<dyn crate::accel::Vm>, crate::memory::Backing, Memory) {
    let memory = Memory::with_ram(1 << 20).unwrap();
    memory.write(0x1000, code).unwrap();
    let fd = kvm_ioctls::Kvm::new().unwrap();
    let config = VmConfig { vcpus: 1, irqchip: false };
    let vm = crate::kvm::vm::KvmVm::new(&fd, config).unwrap();
    let mut vcpu = vm.make_vcpu(0).unwrap();
    let vm: Arc<dyn crate::accel::Vm> = Arc::new(vm);
    let backing = memory.seal_into(&*vm).unwrap();
    let mut sregs = vcpu.sregs().unwrap();
    (sregs.cs.base, sregs.cs.selector) = (0, 0);
    vcpu.set_sregs(&sregs).unwrap();
    vcpu.set_regs(&Regs { rip: 0x1000, rflags: 2, ..Regs::default() }).unwrap();
    (vcpu, vm, backing, memory)
}

#[test]
fn test_run_flag_set_between_the_look_and_kvm_run_is_never_lost() {
    // jmp $: nothing but the flag ends it, there is no timer and no signal.
    let (mut vcpu, _vm, _backing, _memory) = vcpu(&[0xeb, 0xfe]);
    let page = vcpu.page.clone();
    vcpu.before_run = Some(|page| page.byte().store(1, Ordering::SeqCst));
    for _ in 0..1_000 {
        page.byte().store(0, Ordering::SeqCst);
        assert!(matches!(vcpu.run(), Err(Interruption::Kicked)));
    }
    assert_eq!((vcpu.calls(), vcpu.regs().unwrap().rip), (1_000, 0x1000));
}

#[test]
fn test_run_flag_set_with_an_access_pending_completes_it_and_runs_nothing() {
    // in al,0x99; inc bx; jmp $
    let (mut vcpu, _vm, _backing, _memory) = vcpu(&[0xe4, 0x99, 0x43, 0xeb, 0xfe]);
    let exit = vcpu.run().unwrap();
    assert_eq!(exit, AccelExit::Pio { port: 0x99, size: 1, count: 1, is_write: false });
    assert_eq!(vcpu.regs().unwrap().rip, 0x1000);
    vcpu.set_io_value(0, 0x142);
    vcpu.page.byte().store(1, Ordering::SeqCst);
    assert!(matches!(vcpu.run(), Err(Interruption::Kicked)));
    let regs = vcpu.regs().unwrap();
    assert_eq!((regs.rip, regs.rax & 0xff, regs.rbx), (0x1002, 0x42, 0));
}

#[test]
fn test_regs_before_the_first_run_are_kvms_own_and_then_what_was_set() {
    let memory = Memory::with_ram(1 << 20).unwrap();
    let accel = Arc::new(Kvm::open().unwrap());
    let machine = Arc::new(Machine::new(accel, memory, VmConfig { vcpus: 1, irqchip: false }));
    // The reset vector (SDM vol. 3, table 10-1).
    assert_eq!(machine.regs(0).unwrap().rip, 0xfff0);
    machine.set_regs(0, |regs| regs.r15 = 0x1234_5678_9abc_def0).unwrap();
    assert_eq!(machine.regs(0).unwrap().r15, 0x1234_5678_9abc_def0);
    machine.close(None).unwrap();
}

#[test]
fn test_set_sregs_that_kvm_refuses_names_the_call() {
    let (mut vcpu, _vm, _backing, _memory) = vcpu(&[0xf4]);
    let mut sregs = vcpu.sregs().unwrap();
    // Paging without protection (SDM vol. 3, 2.5: a general-protection fault).
    sregs.cr0 = sregs.cr0 & !1 | 1 << 31;
    let error = vcpu.set_sregs(&sregs).unwrap_err();
    assert_eq!(error.to_string(), "KVM_SET_SREGS failed: Invalid argument (os error 22)");
    assert!(error.hint().contains("hyperpy doctor"));
    // Nothing was changed.
    assert_eq!(vcpu.sregs().unwrap().cr0 & 1 << 31, 0);
}

#[test]
fn test_machine_refused_registers_can_still_be_used() {
    let memory = Memory::with_ram(1 << 20).unwrap();
    let accel = Arc::new(Kvm::open().unwrap());
    let machine = Arc::new(Machine::new(accel, memory, VmConfig { vcpus: 1, irqchip: false }));
    let refused = machine.set_sregs(0, |sregs| sregs.cr0 = 1 << 31);
    assert!(matches!(refused, Err(RunError::Accel(AccelError::Call { call: "KVM_SET_SREGS", .. }))));
    machine.set_sregs(0, |sregs| sregs.cs.base = 0).unwrap();
    machine.close(None).unwrap();
}

#[test]
fn test_map_of_an_overlapping_slot_is_an_error() {
    let (_vcpu, vm, _backing, _memory) = vcpu(&[0xf4]);
    let region = RegionInfo { gpa: 0x1000, len: 0x1000, kind: Kind::Mmio, name: "none".into(), hva: 0 };
    // SAFETY: a region of kind mmio has no memory.
    unsafe { vm.map(7, &region) }.unwrap();
    let other = Memory::with_ram(0x2000).unwrap();
    let region = RegionInfo { hva: other.regions()[0].hva, kind: Kind::Ram, ..region };
    // SAFETY: `other` keeps the page mapped until the end of the test, and the VM goes before it.
    let refused = unsafe { vm.map(7, &region) };
    assert!(matches!(refused, Err(AccelError::Call { call: "KVM_SET_USER_MEMORY_REGION", .. })), "{refused:?}");
}

fn count(path: &str, what: &str) -> usize {
    std::fs::read_to_string(path).unwrap().matches(what).count()
}

#[test]
fn test_close_leaves_no_descriptor_and_no_page_of_a_vcpu() {
    let fds = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    let kept: Vec<_> = (0..3)
        .map(|_| {
            let memory = Memory::with_ram(1 << 20).unwrap();
            let accel = Arc::new(Kvm::open().unwrap());
            let machine = Arc::new(Machine::new(accel, memory, VmConfig { vcpus: 2, irqchip: true }));
            machine.regs(0).unwrap();
            machine
        })
        .collect();
    let open = fds();
    assert!(count("/proc/self/maps", "anon_inode:kvm-vcpu") >= 6);
    for machine in &kept {
        machine.close(None).unwrap();
    }
    // A VM and two vCPUs each, and the memory; the machines themselves are still there, for their statistics.
    assert!(fds() <= open - 3 * 4, "{} of {open}", fds());
    assert_eq!(count("/proc/self/maps", "anon_inode:kvm"), 0);
    assert_eq!(count("/proc/self/maps", "memfd:hyperpy"), 0);
}

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

#[test]
fn test_page_access_outside_the_mapping_does_nothing() {
    let (vcpu, _vm, _backing, _memory) = vcpu(&[0xf4]);
    for offset in [usize::MAX, usize::MAX - 7, 1 << 40] {
        let mut bytes = [0xaa; 8];
        vcpu.page.read(offset, &mut bytes);
        assert_eq!(bytes, [0xaa; 8]);
        vcpu.page.write(offset, &bytes);
    }
}
