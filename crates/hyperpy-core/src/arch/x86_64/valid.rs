//! States of registers that no processor has, so that an error can name the register before KVM says only EINVAL.
//!
//! Rules that hold on every processor: of MOV to control registers and WRMSR (SDM vol. 3, 2.5, 4.1, 4.10.1, 11.4.4 and
//! 11.12.1), and of the guest state at VM entry (SDM vol. 3, 27.3.1). Bits that depend on what a processor has are KVM's to
//! check. Pure: what must be known besides is in [`Limits`].

use thiserror::Error;

use super::{Regs, Sregs};

/// A register that cannot have the value that it was to be set to.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("{register} cannot be set: {value:#x}")]
pub struct Invalid {
    /// Its name.
    pub register: &'static str,
    /// The value.
    pub value: u64,
    /// The rule that it breaks.
    pub rule: &'static str,
}

/// What the rules need to know of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bits of a physical address (MAXPHYADDR), 32 to 52.
    pub physical_bits: u32,
}

const PE: u64 = 1;
const WP: u64 = 1 << 16;
const NW: u64 = 1 << 29;
const CD: u64 = 1 << 30;
const PG: u64 = 1 << 31;

const PAE: u64 = 1 << 5;
const LA57: u64 = 1 << 12;
const PCIDE: u64 = 1 << 17;
const CET: u64 = 1 << 23;
/// Bits of CR4 that no processor defines.
const CR4_RESERVED: u64 = 1 << 15 | 1 << 26 | 0b111 << 29 | !0 << 33;

const LME: u64 = 1 << 8;
const LMA: u64 = 1 << 10;
/// SCE, LME, LMA, NXE, and AMD's SVME, LMSLE, FFXSR, TCE, MCOMMIT, INTWB, UAIE and AIBRSE.
const EFER_DEFINED: u64 = 1 | 0xfd << 8 | 1 << 17 | 1 << 18 | 0b11 << 20;

/// Bits of IA32_APIC_BASE that are reserved below the address; BSP is bit 8.
const APIC_BASE_RESERVED: u64 = 0x2ff;
const APIC_EXTD: u64 = 1 << 10;
const APIC_EN: u64 = 1 << 11;

/// RFLAGS bits that are always 0.
const RFLAGS_ZERO: u64 = 1 << 3 | 1 << 5 | 1 << 15 | !0 << 22;

/// Bits of CR3 above any physical address that are not one's: LAM's two, which choose how addresses are checked.
const CR3_LAM: u64 = 0b11 << 61;

/// The first rule that special registers break and `before` did not: a guest's own state is never in the way.
///
/// # Errors
/// There is one.
pub fn check_sregs(before: &Sregs, now: &Sregs, limits: Limits) -> Result<(), Invalid> {
    let known: Vec<_> = broken(before, limits).map(|old| (old.register, old.rule)).collect();
    broken(now, limits).find(|new| !known.contains(&(new.register, new.rule))).map_or(Ok(()), Err)
}

/// Whether general registers can be: rip is canonical and no reserved flag is set.
///
/// # Errors
/// One cannot.
pub fn check_regs(before: &Regs, now: &Regs, wide: bool) -> Result<(), Invalid> {
    let invalid = |register, value, rule| Err(Invalid { register, value, rule });
    if now.rip != before.rip && !is_canonical(now.rip, wide) {
        return invalid("rip", now.rip, "an address is canonical: bits 63 to 47 are equal (63 to 56 with cr4.LA57)");
    }
    if now.rflags != before.rflags && now.rflags & RFLAGS_ZERO != 0 {
        return invalid("rflags", now.rflags, "bits 3, 5, 15 and 22 to 63 are reserved");
    }
    Ok(())
}

/// Whether the upper bits of a linear address are all equal: from bit 47 on, or from 56 on with five-level paging (`wide`).
#[must_use]
pub fn is_canonical(address: u64, wide: bool) -> bool {
    let shift = if wide { 7 } else { 16 };
    #[allow(clippy::cast_possible_wrap, clippy::cast_sign_loss)] // bits, not numbers
    {
        ((address << shift) as i64 >> shift) as u64 == address
    }
}

/// Whether addresses have 57 bits.
#[must_use]
pub fn has_wide_addresses(sregs: &Sregs) -> bool {
    sregs.cr4 & LA57 != 0
}

/// Where the root of the page tables is, if paging is on.
#[must_use]
pub fn page_table_root(sregs: &Sregs, limits: Limits) -> Option<u64> {
    let alignment = if sregs.cr4 & PAE != 0 && sregs.efer & LMA == 0 { 0x1f } else { 0xfff };
    (sregs.cr0 & PG != 0).then_some(sregs.cr3 & !above(limits.physical_bits) & !alignment)
}

/// All bits from `bit` on.
fn above(bit: u32) -> u64 {
    u64::MAX.checked_shl(bit).unwrap_or(0)
}

fn broken(sregs: &Sregs, limits: Limits) -> impl Iterator<Item = Invalid> {
    let rules = control(sregs, limits).into_iter().chain(segments(sregs));
    rules.filter_map(|(broken, register, value, rule)| broken.then_some(Invalid { register, value, rule }))
}

/// (is broken, register, value, rule)
type Rule = (bool, &'static str, u64, &'static str);

#[rustfmt::skip] // one rule a line
fn control(sregs: &Sregs, limits: Limits) -> [Rule; 16] {
    let Sregs { cr0, cr3, cr4, cr8, efer, apic_base, .. } = *sregs;
    let (has0, has4, hase) = (|bit| cr0 & bit != 0, |bit| cr4 & bit != 0, |bit| efer & bit != 0);
    let long = hase(LME) && has0(PG);
    let above = above(limits.physical_bits);
    [
        (cr0 >> 32 != 0, "cr0", cr0, "bits 32 to 63 are reserved"),
        (has0(PG) && !has0(PE), "cr0", cr0, "PG (bit 31) needs PE (bit 0): paging needs protected mode"),
        (has0(NW) && !has0(CD), "cr0", cr0, "NW (bit 29) needs CD (bit 30)"),
        (cr4 & CR4_RESERVED != 0, "cr4", cr4, "bits 15, 26, 29 to 31 and 33 to 63 are reserved"),
        (has4(CET) && !has0(WP), "cr4", cr4, "CET (bit 23) needs cr0.WP (bit 16)"),
        (has4(PCIDE) && !hase(LMA), "cr4", cr4, "PCIDE (bit 17) needs IA-32e mode (efer.LMA)"),
        (long && !has4(PAE), "cr4", cr4, "efer.LME with cr0.PG needs PAE (bit 5)"),
        (efer & !EFER_DEFINED != 0, "efer", efer, "only bits 0, 8, 10 to 15, 17, 18, 20 and 21 are defined"),
        (long && !hase(LMA), "efer", efer, "LME (bit 8) with cr0.PG needs LMA (bit 10)"),
        (hase(LMA) && !hase(LME), "efer", efer, "LMA (bit 10) needs LME (bit 8)"),
        (hase(LMA) && !has0(PG), "efer", efer, "LMA (bit 10) needs cr0.PG: IA-32e mode needs paging"),
        (cr3 & above & !CR3_LAM != 0, "cr3", cr3, "it is above the processor's physical addresses"),
        (cr8 > 15, "cr8", cr8, "the task priority is 0 to 15"),
        (apic_base & APIC_BASE_RESERVED != 0, "apic_base", apic_base, "bits 0 to 7 and 9 are reserved"),
        (apic_base & above != 0, "apic_base", apic_base, "it is above the processor's physical addresses"),
        (apic_base & APIC_EXTD != 0 && apic_base & APIC_EN == 0, "apic_base", apic_base, "x2APIC mode (bit 10) needs the APIC enabled (bit 11)"),
    ]
}

#[rustfmt::skip] // one rule a line
fn segments(sregs: &Sregs) -> [Rule; 12] {
    let long = sregs.efer & LMA != 0;
    let far = |base| !is_canonical(base, has_wide_addresses(sregs));
    let high = |segment: &super::Segment| !segment.unusable && segment.base >> 32 != 0;
    [
        (sregs.cs.l && !long, "cs", sregs.cs.base, "a 64-bit code segment (l) needs IA-32e mode (efer.LMA)"),
        (sregs.cs.l && sregs.cs.db && long, "cs", sregs.cs.base, "a 64-bit code segment (l) is not a 32-bit one (db)"),
        (sregs.cs.base >> 32 != 0, "cs", sregs.cs.base, "its base has 32 bits"),
        (high(&sregs.ds), "ds", sregs.ds.base, "its base has 32 bits, unless it is unusable"),
        (high(&sregs.es), "es", sregs.es.base, "its base has 32 bits, unless it is unusable"),
        (high(&sregs.ss), "ss", sregs.ss.base, "its base has 32 bits, unless it is unusable"),
        (far(sregs.fs.base), "fs", sregs.fs.base, "its base is a canonical address"),
        (far(sregs.gs.base), "gs", sregs.gs.base, "its base is a canonical address"),
        (far(sregs.tr.base), "tr", sregs.tr.base, "its base is a canonical address"),
        (!sregs.ldt.unusable && far(sregs.ldt.base), "ldt", sregs.ldt.base, "its base is a canonical address"),
        (far(sregs.gdt.base), "gdt", sregs.gdt.base, "its base is a canonical address"),
        (far(sregs.idt.base), "idt", sregs.idt.base, "its base is a canonical address"),
    ]
}

#[cfg(test)]
#[path = "valid_test.rs"]
mod tests;
