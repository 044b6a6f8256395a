//! Names of model-specific registers: those of the SDM vol. 4, of AMD's APM vol. 2 where Intel has none, and the kernel's own for
//! KVM's (Documentation/virt/kvm/x86/msr.rst). `hyperpy.msrs` has the same ones.

use std::borrow::Cow;

/// IA32_TIME_STAMP_COUNTER.
pub const IA32_TSC: u32 = 0x10;
/// IA32_TSC_DEADLINE.
pub const IA32_TSC_DEADLINE: u32 = 0x6e0;
/// IA32_MTRR_PHYSBASE0, followed by seven pairs of base and mask.
const IA32_MTRR_PHYSBASE0: u32 = 0x200;
/// IA32_MTRR_PHYSMASK7.
const IA32_MTRR_PHYSMASK7: u32 = 0x20f;
/// IA32_MC0_CTL, followed by the other three of each bank.
const IA32_MC0_CTL: u32 = 0x400;
/// IA32_MC31_MISC.
const IA32_MC31_MISC: u32 = 0x47f;

const NAMES: &[(&str, u32)] = &[
    ("IA32_TSC", IA32_TSC),
    ("IA32_APIC_BASE", 0x1b),
    ("IA32_FEATURE_CONTROL", 0x3a),
    ("IA32_TSC_ADJUST", 0x3b),
    ("IA32_SPEC_CTRL", 0x48),
    ("IA32_PRED_CMD", 0x49),
    ("IA32_BIOS_SIGN_ID", 0x8b),
    ("IA32_MTRRCAP", 0xfe),
    ("IA32_ARCH_CAPABILITIES", 0x10a),
    ("IA32_TSX_CTRL", 0x122),
    ("IA32_SYSENTER_CS", 0x174),
    ("IA32_SYSENTER_ESP", 0x175),
    ("IA32_SYSENTER_EIP", 0x176),
    ("IA32_MCG_CAP", 0x179),
    ("IA32_MCG_STATUS", 0x17a),
    ("IA32_MCG_CTL", 0x17b),
    ("IA32_MISC_ENABLE", 0x1a0),
    ("IA32_XFD", 0x1c4),
    ("IA32_XFD_ERR", 0x1c5),
    ("IA32_DEBUGCTL", 0x1d9),
    ("IA32_MTRR_FIX64K_00000", 0x250),
    ("IA32_MTRR_FIX16K_80000", 0x258),
    ("IA32_MTRR_FIX16K_A0000", 0x259),
    ("IA32_MTRR_FIX4K_C0000", 0x268),
    ("IA32_MTRR_FIX4K_C8000", 0x269),
    ("IA32_MTRR_FIX4K_D0000", 0x26a),
    ("IA32_MTRR_FIX4K_D8000", 0x26b),
    ("IA32_MTRR_FIX4K_E0000", 0x26c),
    ("IA32_MTRR_FIX4K_E8000", 0x26d),
    ("IA32_MTRR_FIX4K_F0000", 0x26e),
    ("IA32_MTRR_FIX4K_F8000", 0x26f),
    ("IA32_PAT", 0x277),
    ("IA32_MTRR_DEF_TYPE", 0x2ff),
    ("IA32_PERF_CAPABILITIES", 0x345),
    ("IA32_VMX_BASIC", 0x480),
    ("IA32_U_CET", 0x6a0),
    ("IA32_S_CET", 0x6a2),
    ("IA32_PL0_SSP", 0x6a4),
    ("IA32_PL3_SSP", 0x6a7),
    ("IA32_TSC_DEADLINE", IA32_TSC_DEADLINE),
    ("IA32_XSS", 0xda0),
    ("IA32_EFER", 0xc000_0080),
    ("IA32_STAR", 0xc000_0081),
    ("IA32_LSTAR", 0xc000_0082),
    ("IA32_CSTAR", 0xc000_0083),
    ("IA32_FMASK", 0xc000_0084),
    ("IA32_FS_BASE", 0xc000_0100),
    ("IA32_GS_BASE", 0xc000_0101),
    ("IA32_KERNEL_GS_BASE", 0xc000_0102),
    ("IA32_TSC_AUX", 0xc000_0103),
    ("TSC_RATIO", 0xc000_0104),
    ("SYSCFG", 0xc001_0010),
    ("HWCR", 0xc001_0015),
    ("VM_CR", 0xc001_0114),
    ("VM_HSAVE_PA", 0xc001_0117),
    ("VIRT_SPEC_CTL", 0xc001_011f),
    ("KVM_WALL_CLOCK", 0x11),
    ("KVM_SYSTEM_TIME", 0x12),
    ("KVM_WALL_CLOCK_NEW", 0x4b56_4d00),
    ("KVM_SYSTEM_TIME_NEW", 0x4b56_4d01),
    ("KVM_ASYNC_PF_EN", 0x4b56_4d02),
    ("KVM_STEAL_TIME", 0x4b56_4d03),
    ("KVM_PV_EOI_EN", 0x4b56_4d04),
    ("KVM_POLL_CONTROL", 0x4b56_4d05),
    ("KVM_ASYNC_PF_INT", 0x4b56_4d06),
    ("KVM_ASYNC_PF_ACK", 0x4b56_4d07),
    ("KVM_MIGRATION_CONTROL", 0x4b56_4d08),
    ("HV_X64_MSR_GUEST_OS_ID", 0x4000_0000),
    ("HV_X64_MSR_HYPERCALL", 0x4000_0001),
];

/// The name of a register, or its index in hexadecimal.
#[must_use]
pub fn name(index: u32) -> Cow<'static, str> {
    if let Some((name, _)) = NAMES.iter().find(|(_, known)| *known == index) {
        return Cow::Borrowed(name);
    }
    Cow::Owned(match index {
        IA32_MTRR_PHYSBASE0..=IA32_MTRR_PHYSMASK7 => {
            let half = if index & 1 == 0 { "BASE" } else { "MASK" };
            format!("IA32_MTRR_PHYS{half}{}", (index - IA32_MTRR_PHYSBASE0) / 2)
        }
        IA32_MC0_CTL..=IA32_MC31_MISC => {
            let part = match index & 3 {
                0 => "CTL",
                1 => "STATUS",
                2 => "ADDR",
                _ => "MISC",
            };
            format!("IA32_MC{}_{part}", (index - IA32_MC0_CTL) / 4)
        }
        _ => format!("{index:#x}"),
    })
}

/// The register that [`name`] gives this name.
#[must_use]
pub fn index(called: &str) -> Option<u32> {
    let known = NAMES.iter().find(|(name, _)| *name == called).map(|(_, index)| *index);
    let numbered = || (IA32_MTRR_PHYSBASE0..=IA32_MC31_MISC).find(|&index| name(index) == called);
    let plain = || u32::from_str_radix(called.strip_prefix("0x")?, 16).ok();
    // Each register has one name: "0x10" is none.
    known.or_else(plain).or_else(numbered).filter(|&index| name(index) == called)
}

#[cfg(test)]
#[path = "msrs_test.rs"]
mod tests;
