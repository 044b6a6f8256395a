//! CPUID before and after there are vCPUs, and errors that name a register, on scripted machines.
#![allow(clippy::unwrap_used, clippy::panic)]

use super::*;
use crate::arch::x86_64::Sregs;
use crate::scripted::REFUSED_MSR;
use crate::testing::{LONG, Rig};

fn without_bit_0(leaf: Leaf) -> CpuidChange {
    CpuidChange::Set(Leaf { ecx: leaf.ecx & !1, ..leaf })
}

#[test]
fn test_cpuid_changed_before_there_are_vcpus_is_what_they_are_made_with() {
    let rig = Rig::new(vec![vec![], vec![]]);
    let [leaf] = *rig.machine.cpuid(1, &rig).unwrap() else { panic!() };
    assert_eq!((leaf.ebx, leaf.ecx), (1 << 24, 0xff));
    rig.machine.set_cpuid(1, without_bit_0(leaf), &rig).unwrap();
    let changed = Leaf { ecx: 0xfe, ..leaf };
    assert_eq!(rig.machine.cpuid(1, &rig).unwrap(), [changed]);
    assert!(rig.machine.made().is_none());
    rig.machine.regs(0, &rig).unwrap();
    assert_eq!(rig.machine.cpuid(1, &rig).unwrap(), [changed]);
    assert_eq!(rig.machine.cpuid(0, &rig).unwrap(), [Leaf { ebx: 0, ..leaf }]);
}

#[test]
fn test_cpuid_is_changed_until_the_vcpu_has_run() {
    let rig = Rig::new(vec![vec![]]);
    rig.machine.regs(0, &rig).unwrap();
    let remove = CpuidChange::Remove { leaf: 1, subleaf: 0 };
    rig.machine.set_cpuid(0, remove, &rig).unwrap();
    assert_eq!(rig.machine.cpuid(0, &rig).unwrap(), []);
    rig.run().unwrap();
    let refused = rig.machine.set_cpuid(0, remove, &rig).unwrap_err();
    assert_eq!(refused.to_string(), "cannot change cpuid: vcpu 0 has run");
    assert_eq!(refused.hint(), "change it before the first run");
}

#[test]
fn test_cpuid_of_no_vcpu_or_of_a_closed_machine_is_refused() {
    let rig = Rig::new(vec![vec![]]);
    assert!(matches!(rig.machine.cpuid(1, &rig), Err(RunError::NoVcpu { vcpu: 1 })));
    rig.machine.regs(0, &rig).unwrap();
    assert!(matches!(rig.machine.cpuid(1, &rig), Err(RunError::NoVcpu { vcpu: 1 })));
    rig.machine.close(None).unwrap();
    assert!(matches!(rig.machine.cpuid(0, &rig), Err(RunError::State(_))));
    let remove = CpuidChange::Remove { leaf: 1, subleaf: 0 };
    assert!(matches!(rig.machine.set_cpuid(0, remove, &rig), Err(RunError::State(_))));
}

// fault row 34
#[test]
fn test_cpuid_where_no_verb_may_is_refused_before_a_lock_is_waited_for() {
    let rig = Rig::new(vec![vec![]]);
    // The lock may be held by a thread that a fork has left behind: who is refused must not come to it.
    let held = rig.machine.made();
    let (machine, (tell, told)) = (rig.machine.clone(), std::sync::mpsc::channel());
    std::thread::spawn(move || {
        let _inside = crate::vcpu::Inside::enter(machine.id);
        tell.send(machine.cpuid(0, &crate::testing::Nobody))
    });
    let answer = told.recv_timeout(LONG);
    drop(held);
    assert!(matches!(answer.unwrap(), Err(RunError::WhileRunning { verb: "read cpuid" })));
}

#[test]
fn test_msr_that_is_refused_is_named_and_those_before_it_are_set() {
    let rig = Rig::new(vec![vec![]]);
    let refused = rig.machine.set_msrs(0, &[(0x10, 5), (REFUSED_MSR, 6), (0x11, 7)], &rig).unwrap_err();
    assert_eq!(refused.to_string(), "KVM_SET_MSRS refuses msr 0xdead: 0x6");
    assert_eq!(rig.machine.msrs(0, &[0x10, 0x11], &rig).unwrap(), [5, 0]);
    let refused = rig.machine.msrs(0, &[0x10, REFUSED_MSR], &rig).unwrap_err();
    assert_eq!(refused.to_string(), "KVM_GET_MSRS refuses msr 0xdead");
}

// fault row 25
#[test]
fn test_registers_that_no_processor_has_are_refused_before_the_accelerator_sees_them() {
    let rig = Rig::new(vec![vec![]]);
    let register = |error| match error {
        RunError::Register(invalid) => invalid.register,
        other => panic!("{other}"),
    };
    assert_eq!(register(rig.machine.set_sregs(0, &rig, |sregs| sregs.cr8 = 16).unwrap_err()), "cr8");
    assert_eq!(register(rig.machine.set_regs(0, &rig, |regs| regs.rip = 1 << 63).unwrap_err()), "rip");
    assert_eq!(register(rig.machine.set_fpu(0, &rig, |fpu| fpu.mxcsr = 1 << 16).unwrap_err()), "mxcsr");
    assert_eq!(register(rig.machine.set_sregs(0, &rig, |sregs| sregs.cr3 = 1 << 36).unwrap_err()), "cr3");
    assert_eq!(rig.machine.sregs(0, &rig).unwrap(), Sregs::default());
    // Five-level paging makes addresses wide, and rip with them.
    rig.machine.set_sregs(0, &rig, |sregs| sregs.cr4 = 1 << 12).unwrap();
    rig.machine.set_regs(0, &rig, |regs| regs.rip = 1 << 55).unwrap();
    assert_eq!(register(rig.machine.set_regs(0, &rig, |regs| regs.rip = 1 << 56).unwrap_err()), "rip");
}

// fault row 25
#[test]
fn test_cr3_where_no_memory_is_is_refused_once_paging_is_on() {
    let rig = Rig::new(vec![vec![]]);
    rig.machine.set_sregs(0, &rig, |sregs| sregs.cr3 = 0x1000_0000).unwrap();
    let refused = rig.machine.set_sregs(0, &rig, |sregs| sregs.cr0 = 1 << 31 | 1).unwrap_err();
    assert_eq!(refused.to_string(), "cr3 cannot be set: 0x10000000, no memory is there");
    rig.machine.set_sregs(0, &rig, |sregs| (sregs.cr0, sregs.cr3) = (1 << 31 | 1, 0x1000)).unwrap();
    assert!(rig.machine.set_sregs(0, &rig, |sregs| sregs.cr3 = 0x10_0000).is_err());
    rig.machine.set_sregs(0, &rig, |sregs| sregs.cr2 = 1).unwrap();
}
