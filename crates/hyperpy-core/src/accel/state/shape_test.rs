//! What differs between a state and a machine, line by line.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use super::*;

fn leaf(leaf: u32, subleaf: u32, [eax, ebx, ecx, edx]: [u32; 4]) -> Leaf {
    Leaf { leaf, subleaf, indexed: leaf == 7 || leaf == 0xd, eax, ebx, ecx, edx }
}

fn table(edit: impl Fn(&mut Vec<Leaf>)) -> Arc<[Leaf]> {
    let mut leaves = vec![
        leaf(0, 0, [0xd, 1, 2, 3]),
        leaf(1, 0, [0xa00, 0x800, 0x0100_0001, 0x0000_0201]),
        leaf(7, 0, [1, 0x20, 0, 0]),
        leaf(0xd, 0, [7, 0x340, 0x340, 0]),
        leaf(0x8000_0002, 0, [9, 9, 9, 9]),
    ];
    edit(&mut leaves);
    leaves.into()
}

fn here(has_run: bool) -> Shape {
    let (xcr0, msrs) = (Some(7), [0x10, 0xc000_0082].as_slice().into());
    Shape { cpuid: table(|_| ()), has_run, xsave: 4, xcr0, msrs, irqchip: true, tsc_khz: 2_000_000, tsc_control: false }
}

fn fitting() -> (VmState, VcpuState) {
    let vcpu = VcpuState {
        xsave: Box::new([0; 4]),
        xcr0: Some(3),
        msrs: vec![(0x10, 5)],
        lapic: Some(Box::new([0; 64])),
        tsc_khz: 2_000_001,
        cpuid: table(|_| ()),
        ..VcpuState::default()
    };
    (VmState { irqchip: Some(Box::default()), clock_ns: None }, vcpu)
}

#[test]
fn test_differences_of_a_state_that_fits_are_none() {
    let (vm, mut vcpu) = fitting();
    for has_run in [false, true] {
        assert_eq!(differences(&vm, &[vcpu.clone()], &[here(has_run)]), [""; 0]);
    }
    // What follows the registers is no difference: OSXSAVE, MONITOR, APIC, OSPKE, the sizes of what is enabled.
    vcpu.cpuid = table(|leaves| {
        leaves[1].ecx ^= 1 << 27 | 1 << 3;
        leaves[1].edx ^= 1 << 9;
        leaves[2].ecx ^= 1 << 4;
        leaves[3].ebx = 0x240;
    });
    assert_eq!(differences(&vm, &[vcpu], &[here(true)]), [""; 0]);
}

#[test]
fn test_differences_of_another_machine_are_told_all_at_once() {
    let (_, vcpu) = fitting();
    let other = VcpuState {
        xsave: Box::new([0; 8]),
        xcr0: Some(0xe7),
        msrs: vec![(0x10, 5), (0x48, 1), (0xdead_beef, 2)],
        lapic: None,
        tsc_khz: 3_000_000,
        ..vcpu.clone()
    };
    assert_eq!(
        differences(&VmState::default(), &[vcpu, other], &[here(true), here(true), here(true)]),
        [
            "vcpus: 2 in the snapshot, 3 here",
            "interrupt controllers: none in the snapshot, in the kernel here",
            "vcpu 1: local apic: none in the snapshot, in the kernel here",
            "vcpu 1: xsave area: 8 bytes in the snapshot, 4 here",
            "vcpu 1: xcr0: bits 0xe0 are set in the snapshot and cannot be here",
            "vcpu 1: msr IA32_SPEC_CTRL (0x48): 0x1 in the snapshot, cannot be set here",
            "vcpu 1: msr 0xdeadbeef: 0x2 in the snapshot, cannot be set here",
            "vcpu 1: tsc: 3000000 kHz in the snapshot, 2000000 kHz here, and this host cannot scale it",
        ]
    );
}

#[test]
fn test_differences_of_cpuid_are_all_that_differs_on_a_vcpu_that_has_run() {
    let (vm, vcpu) = fitting();
    let cpuid = table(|leaves| {
        leaves[1].eax = 0xa01;
        leaves[2].ebx = 0x21;
        leaves[4] = leaf(0x8000_0003, 0, [8, 0, 0, 0]);
    });
    assert_eq!(
        differences(&vm, &[VcpuState { cpuid, ..vcpu }], &[here(true)]),
        [
            "vcpu 0: cpuid 0x1.0x0 eax: 0x00000a01 in the snapshot, 0x00000a00 here",
            "vcpu 0: cpuid 0x7.0x0 ebx: 0x00000021 in the snapshot, 0x00000020 here",
            "vcpu 0: cpuid 0x80000003.0x0 eax: 0x00000008 in the snapshot, 0x00000000 here",
            "vcpu 0: cpuid 0x80000002.0x0: not in the snapshot",
        ]
    );
}

// fault row 26
#[test]
fn test_frequency_of_the_counter_is_no_difference_where_it_can_be_scaled_to() {
    let (vm, vcpu) = fitting();
    let here = Shape { tsc_control: true, ..here(true) };
    for (tsc_khz, fits) in [(0, true), (1_000_000, true), (0x7fff_fffe, true), (0x7fff_ffff, false), (u32::MAX, false)]
    {
        let state = VcpuState { tsc_khz, ..vcpu.clone() };
        assert_eq!(differences(&vm, &[state], std::slice::from_ref(&here)).is_empty(), fits, "{tsc_khz}");
    }
}

// fault row 26
#[test]
fn test_differences_of_cpuid_on_a_new_vcpu_are_features_that_are_not_here_and_another_make() {
    let (vm, vcpu) = fitting();
    let cpuid = table(|leaves| {
        leaves[0].ebx = 7;
        leaves[1].eax = 0xa01;
        leaves[2].ebx = 0x21;
        leaves[4].eax = 8;
    });
    assert_eq!(
        differences(&vm, &[VcpuState { cpuid, ..vcpu.clone() }], &[here(false)]),
        [
            "vcpu 0: cpuid 0x0.0x0 ebx: 0x00000007 in the snapshot, 0x00000001 here",
            "vcpu 0: cpuid 0x7.0x0 ebx: bits 0x1 in the snapshot are not here",
        ]
    );
    // Fewer features than the processor has are nothing but a change.
    let cpuid = table(|leaves| leaves[2].ebx = 0);
    assert_eq!(differences(&vm, &[VcpuState { cpuid, ..vcpu }], &[here(false)]), [""; 0]);
}
