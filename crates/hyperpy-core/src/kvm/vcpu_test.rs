//! Kicks at the worst moment on the host's KVM, what stays in the kernel after a close, and page walks held against its own.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::sync::atomic::Ordering;

use kvm_bindings::{KVM_GUESTDBG_ENABLE, KVM_GUESTDBG_SINGLESTEP, KVM_GUESTDBG_USE_HW_BP};

use super::*;
use crate::accel::{MsrRange, Slot, VmConfig};
use crate::arch::x86_64::Segment;
use crate::arch::x86_64::fpu::Wide;
use crate::arch::x86_64::valid::Invalid;
use crate::debug::On;
use crate::error::RunError;
use crate::kvm::Kvm;
use crate::machine::Machine;
use crate::memory::Memory;
use crate::testing::Nobody;

/// A vCPU of KVM itself, in real mode at 0x1000.
pub(in crate::kvm) fn vcpu(code: &[u8]) -> (KvmVcpu, Arc<dyn crate::accel::Vm>, Memory) {
    let memory = Memory::with_ram(1 << 20).unwrap();
    memory.write(0x1000, code).unwrap();
    let fd = kvm_ioctls::Kvm::new().unwrap();
    let config = VmConfig { vcpus: 1, irqchip: false };
    let vm = crate::kvm::vm::KvmVm::new(&fd, config, false).unwrap();
    let mut vcpu = vm.make_vcpu(0).unwrap();
    let vm: Arc<dyn crate::accel::Vm> = Arc::new(vm);
    memory.connect(&vm).unwrap();
    let mut sregs = vcpu.sregs().unwrap();
    (sregs.cs.base, sregs.cs.selector) = (0, 0);
    vcpu.set_sregs(&sregs).unwrap();
    vcpu.set_regs(&Regs { rip: 0x1000, rflags: 2, ..Regs::default() }).unwrap();
    (vcpu, vm, memory)
}

#[test]
fn test_run_flag_set_between_the_look_and_kvm_run_is_never_lost() {
    // jmp $: nothing but the flag ends it, there is no timer and no signal.
    let (mut vcpu, _vm, _memory) = vcpu(&[0xeb, 0xfe]);
    let page = vcpu.page.clone();
    vcpu.before_run = Some(|page| page.byte().store(1, Ordering::SeqCst));
    for _ in 0..1_000 {
        page.byte().store(0, Ordering::SeqCst);
        assert!(matches!(vcpu.run(), Err(Interruption::Kicked)));
    }
    assert_eq!(vcpu.regs().unwrap().rip, 0x1000);
}

#[test]
fn test_run_flag_set_with_an_access_pending_completes_it_and_runs_nothing() {
    // in al,0x99; inc bx; jmp $
    let (mut vcpu, _vm, _memory) = vcpu(&[0xe4, 0x99, 0x43, 0xeb, 0xfe]);
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
    assert_eq!(machine.regs(0, &Nobody).unwrap().rip, 0xfff0);
    machine.set_regs(0, &Nobody, |regs| regs.r15 = 0x1234_5678_9abc_def0).unwrap();
    assert_eq!(machine.regs(0, &Nobody).unwrap().r15, 0x1234_5678_9abc_def0);
    machine.close(None).unwrap();
}

// fault row 25
#[test]
fn test_set_sregs_that_kvm_refuses_names_the_call() {
    let (mut vcpu, _vm, _memory) = vcpu(&[0xf4]);
    let mut sregs = vcpu.sregs().unwrap();
    // Paging without protection (SDM vol. 3, 2.5: a general-protection fault).
    sregs.cr0 = sregs.cr0 & !1 | 1 << 31;
    let error = vcpu.set_sregs(&sregs).unwrap_err();
    assert_eq!(error.to_string(), "KVM_SET_SREGS failed: Invalid argument (os error 22)");
    assert!(error.hint().contains("hyperpy doctor"));
    // Nothing was changed.
    assert_eq!(vcpu.sregs().unwrap().cr0 & 1 << 31, 0);
}

// fault row 25
#[test]
fn test_machine_refused_registers_can_still_be_used() {
    let memory = Memory::with_ram(1 << 20).unwrap();
    let accel = Arc::new(Kvm::open().unwrap());
    let machine = Arc::new(Machine::new(accel, memory, VmConfig { vcpus: 1, irqchip: false }));
    let refused = machine.set_sregs(0, &Nobody, |sregs| sregs.cr0 = 1 << 31);
    assert!(matches!(refused, Err(RunError::Register(Invalid { register: "cr0", .. }))), "{refused:?}");
    let refused = machine.set_msrs(0, &[(0xdead_beef, 1)], &Nobody);
    let index = 0xdead_beef;
    assert!(matches!(refused, Err(RunError::Accel(AccelError::Msr { index: i, .. })) if i == index), "{refused:?}");
    machine.set_sregs(0, &Nobody, |sregs| sregs.cs.base = 0).unwrap();
    machine.close(None).unwrap();
}

#[test]
fn test_map_of_an_overlapping_slot_is_an_error_and_keeps_nothing() {
    let (_vcpu, vm, memory) = vcpu(&[0xf4]);
    let mapping = memory.a_mapping();
    let before = Arc::strong_count(&mapping);
    let slot =
        Slot { id: 7, gpa: 0x1000, len: mapping.len(), mapping: mapping.clone(), at: 0, writable: true, logged: false };
    // And one that goes beyond its mapping.
    for slot in [slot.clone(), Slot { gpa: 1 << 30, at: 0x1000, ..slot }] {
        let refused = vm.map(&slot);
        assert!(matches!(refused, Err(AccelError::Call { call: "KVM_SET_USER_MEMORY_REGION", .. })), "{refused:?}");
    }
    assert_eq!(Arc::strong_count(&mapping), before);
}

#[test]
fn test_mapping_outlives_the_vm_while_a_vcpu_could_run() {
    let (vcpu, vm, memory) = vcpu(&[0xf4]);
    let mapping = Arc::downgrade(&memory.a_mapping());
    memory.clear();
    drop(vm);
    assert!(mapping.upgrade().is_some());
    drop(vcpu);
    assert!(mapping.upgrade().is_none());
}

// fault row 47
#[test]
fn test_mark_written_without_a_logged_slot_marks_nothing_and_is_no_error() {
    let (_vcpu, vm, memory) = vcpu(&[0xf4]);
    vm.mark_written().unwrap();
    memory.track(true).unwrap();
    vm.mark_written().unwrap();
    vm.unmap(0).unwrap();
    vm.unmap(0).unwrap();
    vm.mark_written().unwrap();
    assert_eq!(memory.dirty(true).unwrap(), []);
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
            machine.regs(0, &Nobody).unwrap();
            machine
        })
        .collect();
    let open = fds();
    assert!(count("/proc/self/maps", "anon_inode:kvm-vcpu") >= 6);
    for machine in &kept {
        machine.close(None).unwrap();
    }
    // /dev/kvm, a VM, two vCPUs and the memory each; the machines themselves are still there, for their statistics.
    assert!(fds() <= open - 3 * 5, "{} of {open}", fds());
    assert_eq!(count("/proc/self/maps", "anon_inode:kvm"), 0);
    assert_eq!(count("/proc/self/maps", "memfd:hyperpy"), 0);
}

#[test]
fn test_page_access_outside_the_mapping_does_nothing() {
    let (vcpu, _vm, _memory) = vcpu(&[0xf4]);
    for offset in [usize::MAX, usize::MAX - 7, 1 << 40] {
        let mut bytes = [0xaa; 8];
        vcpu.page.read(offset, &mut bytes);
        assert_eq!(bytes, [0xaa; 8]);
        vcpu.page.write(offset, &bytes);
    }
}

/// Present, writable, for user mode.
const ALL: u64 = 7;

#[test]
fn test_walk_of_our_own_agrees_with_kvm_translate_in_every_mode() {
    use crate::arch::x86_64::paging::{Paging, walk};

    let (mut vcpu, _vm, memory) = vcpu(&[0xf4]);
    let code = Segment { type_: 11, present: true, s: true, g: true, limit: u32::MAX, ..Segment::default() };
    let at = |gpa: u64, words: &[u64]| {
        for (i, word) in (0_u64..).zip(words) {
            memory.write(gpa + i * 8, &word.to_le_bytes()).unwrap();
        }
    };
    // Two roots: one of 32-bit paging, one of the others, whose first table serves as PDPT or PML4 by what it leads to.
    at(0x2000, &[0x3000 | ALL | (0x0040_0000 | 0x80 | ALL) << 32]);
    at(0x3000, &[0x5000 | ALL | (0x6000 | 1) << 32, 0]);
    at(0x4000, &[0x7001, 0, 0, 0x7001]);
    at(0x7000, &[0x8000 | ALL, 0x20_0000 | 0x80 | ALL, 0]);
    at(0x8000, &[0x9000 | ALL, 0, 0xf_f000 | ALL]);
    at(0xa000, &[0xb000 | ALL, 0]);
    at(0xb000, &[0x7000 | ALL, 0]); // no page of 1 GiB: not every host's processor has them
    at(0xaff8, &[0xb000 | ALL]);
    let base = vcpu.sregs().unwrap();
    let modes = [(0, 0, 0, 0), (1 << 31, 0x10, 0, 0x2000), (1 << 31, 0x20, 0, 0x4000), (1 << 31, 0x20, 0xd00, 0xa000)];
    let mut seen = Vec::new();
    for (cr0, cr4, efer, cr3) in modes {
        let cs = Segment { l: efer != 0, db: efer == 0, ..code };
        vcpu.set_sregs(&Sregs { cs, cr0: cr0 | 0x11, cr4, efer, cr3, ..base }).unwrap();
        let sregs = vcpu.sregs().unwrap();
        seen.push(Paging::of(&sregs));
        for gva in
            [0, 0x123, 0x1008, 0x2ff8, 0x20_1234, 0x40_0fff, 0x40_1000, 0x4000_1234, 0xc000_0042, 0xffff_ff80_0000_0321]
        {
            let ours = walk(gva, &sregs, |gpa| {
                let mut entry = [0; 8];
                memory.read(gpa, &mut entry).ok().map(|()| u64::from_le_bytes(entry))
            });
            if gva >> 32 != 0 && efer == 0 {
                continue; // KVM cuts such an address off instead of refusing it
            }
            let kvms = vcpu.fd.translate_gva(gva).unwrap();
            let kvms = (kvms.valid != 0).then_some(kvms.physical_address);
            assert_eq!(ours.page().map(|page| page.gpa), kvms, "{ours}");
        }
    }
    // A page-table KVM drops CR0.PG outside long mode: the tables in between are compared where it stays.
    assert!(seen.contains(&Paging::Off) && seen.contains(&Paging::Level4), "{seen:?}");
}

#[test]
fn test_vector_registers_are_read_back_as_they_were_set() {
    let (mut vcpu, _vm, _memory) = vcpu(&[0xf4]);
    let mut fpu = vcpu.fpu().unwrap();
    assert_eq!((fpu.fcw, fpu.mxcsr), (0x37f, 0x1f80));
    let value = Wide { low: 0x0123_4567_89ab_cdef << 64 | 0xfeed, high: 0xcafe << 100 };
    for name in fpu.names() {
        let small = Wide { low: 0x1f80, high: 0 };
        assert!(fpu.set(&name, if name.starts_with(['s', 'x', 'y']) { value } else { small }), "{name}");
    }
    fpu.fsw = 0x3800;
    vcpu.set_fpu(&fpu).unwrap();
    assert_eq!(vcpu.fpu().unwrap(), fpu);
    // Where KVM has no XSAVE the same, without the upper halves.
    vcpu.xsave = false;
    let plain = vcpu.fpu().unwrap();
    assert_eq!((plain.st, plain.xmm, plain.ymm_high), (fpu.st, fpu.xmm, None));
    vcpu.set_fpu(&Fpu { fcw: 0x27f, ..plain }).unwrap();
    vcpu.xsave = true;
    assert_eq!(vcpu.fpu().unwrap(), Fpu { fcw: 0x27f, ..fpu });
}

#[test]
fn test_msr_that_is_trapped_exits_takes_an_answer_and_faults() {
    // mov ecx,0x4b564d00; rdmsr; mov ebx,eax; wrmsr; rdmsr (real mode, its interrupt table leads nowhere but to 0:0)
    let code = [0x66, 0xb9, 0x00, 0x4d, 0x56, 0x4b, 0x0f, 0x32, 0x66, 0x89, 0xc3, 0x0f, 0x30, 0x0f, 0x32, 0xf4];
    let (mut vcpu, vm, memory) = vcpu(&code);
    // The handler of the general-protection fault: hlt.
    memory.write(4 * 13, &[0x00, 0x20, 0, 0]).unwrap();
    memory.write(0x2000, &[0xf4]).unwrap();
    vm.trap_msrs(&[MsrRange { first: 0x4b56_4d00, count: 2 }]).unwrap();
    let read = AccelExit::Msr { index: 0x4b56_4d00, is_write: false, value: 0 };
    assert_eq!(vcpu.run().unwrap(), read);
    vcpu.set_io_value(0, 0x1_2345_6789);
    assert_eq!(vcpu.run().unwrap(), AccelExit::Msr { index: 0x4b56_4d00, is_write: true, value: 0x1_2345_6789 });
    assert_eq!(vcpu.run().unwrap(), read);
    vcpu.set_msr_fault(true);
    assert_eq!(vcpu.run().unwrap(), AccelExit::Halt);
    let regs = vcpu.regs().unwrap();
    assert_eq!((regs.rip, regs.rbx), (0x2001, 0x2345_6789));
}

#[test]
fn test_cpuid_table_that_a_kernel_filled_up_with_zeros_ends_at_its_last_leaf() {
    let entry = |function, eax| kvm_bindings::kvm_cpuid_entry2 { function, eax, ..Default::default() };
    let raw = [entry(0, 7), entry(1, 0), entry(0, 0), entry(4, 0), entry(0, 0), entry(0, 0)];
    let leaves = state::leaves(&kvm_bindings::CpuId::from_entries(&raw).unwrap());
    assert_eq!(leaves.iter().map(|leaf| leaf.leaf).collect::<Vec<_>>(), [0, 1, 0, 4]);
    assert_eq!(state::leaves(&kvm_bindings::CpuId::from_entries(&raw[4..]).unwrap()), []);
}

#[test]
fn test_debug_registers_are_encoded_as_the_sdm_has_them() {
    use crate::debug::Breakpoint;

    let one = |address, size, on| Some(Breakpoint { address, size, on });
    let breakpoints = [
        one(0x1000, 1, On::Execute),
        one(0x2000, 2, On::Write),
        one(0x3000, 4, On::ReadWrite),
        one(0x4000, 8, On::Write),
    ];
    let raw = kvm_from_debug(&DebugControl { step: true, breakpoints, int3: false });
    assert_eq!(raw.control, KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_SINGLESTEP | KVM_GUESTDBG_USE_HW_BP);
    // Global enables 7, 5, 3, 1, then from bit 16 on: 00/00, 01/01, 11/11, 10/01 (length/kind; SDM vol. 3, 18.2.4).
    assert_eq!(raw.arch.debugreg, [0x1000, 0x2000, 0x3000, 0x4000, 0, 0, 0, 0x9f50_06aa]);
    let none = kvm_from_debug(&DebugControl::default());
    assert_eq!((none.control, none.arch.debugreg[7]), (0, 0));
    let (mut vcpu, _vm, _memory) = vcpu(&[0x43, 0x43, 0xf4]);
    vcpu.set_debug(&DebugControl { step: true, ..DebugControl::default() }).unwrap();
    assert!(matches!(vcpu.run(), Ok(AccelExit::Debug { pc: 0x1001, .. })));
    vcpu.set_debug(&DebugControl::default()).unwrap();
    assert_eq!(vcpu.run().unwrap(), AccelExit::Halt);
}
