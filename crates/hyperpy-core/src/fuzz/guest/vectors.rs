//! Where a guest's handlers of exceptions are: its interrupt vector table in real mode (SDM vol. 3, 21.1.4), its IDT
//! elsewhere (6.10, 6.14.1); and the frame that the processor has pushed where one begins (6.12.1, 6.14.2).
//!
//! Tables and stacks are the guest's, and may be anything. Which vectors push an error code is not looked up: several may
//! share a handler.

use super::view::View;
use crate::arch::x86_64::Regs;

const CR0_PE: u64 = 1;
const EFER_LMA: u64 = 1 << 10;
/// A gate's present bit, and the types that have an address: interrupt and trap gates, of 16 and 32 (64) bits.
const GATE_PRESENT: u8 = 0x80;
const GATE_TYPES: [u8; 4] = [0x6, 0x7, 0xe, 0xf];
/// RFLAGS: the bit that is always 1.
const FLAGS_ONE: u64 = 2;

/// The linear address at which the handler of a vector begins, if it has one.
#[must_use]
pub fn handler(view: &View<'_>, vector: u8) -> Option<u64> {
    let sregs = view.sregs;
    let is_long = sregs.efer & EFER_LMA != 0;
    let size: u64 = match (sregs.cr0 & CR0_PE != 0, is_long) {
        (false, _) => 4,
        (true, false) => 8,
        (true, true) => 16,
    };
    let at = size * u64::from(vector);
    if at + size - 1 > u64::from(sregs.idt.limit) {
        return None;
    }
    let mut gate = [0; 16];
    let gate = gate.get_mut(..usize::try_from(size).ok()?)?;
    if view.read(sregs.idt.base.checked_add(at)?, gate) != gate.len() {
        return None;
    }
    if let [ip_low, ip_high, cs_low, cs_high] = *gate {
        let (ip, cs) = (u16::from_le_bytes([ip_low, ip_high]), u16::from_le_bytes([cs_low, cs_high]));
        // A table of zeros is none.
        return (ip, cs).ne(&(0, 0)).then(|| u64::from(cs) * 16 + u64::from(ip));
    }
    let [a, b, selector_low, selector_high, _, kind, c, d, ref rest @ ..] = *gate else { return None };
    let kind_is = kind & 0xf;
    if kind & GATE_PRESENT == 0 || !GATE_TYPES.contains(&kind_is) {
        return None;
    }
    let is_wide = kind_is & 8 != 0;
    let low = u64::from(u32::from_le_bytes(if is_wide { [a, b, c, d] } else { [a, b, 0, 0] }));
    match *rest {
        [e, f, g, h, ..] => Some(low | u64::from(u32::from_le_bytes([e, f, g, h])) << 32),
        _ => {
            let selector = u16::from_le_bytes([selector_low, selector_high]);
            Some(code_base(view, selector)?.wrapping_add(low) & 0xffff_ffff)
        }
    }
}

/// The base of a segment of the GDT or the LDT.
fn code_base(view: &View<'_>, selector: u16) -> Option<u64> {
    let table = if selector & 4 == 0 { view.sregs.gdt.base } else { view.sregs.ldt.base };
    let raw = view.number(table.checked_add(u64::from(selector & !7))?, 8)?;
    Some(raw >> 16 & 0xff_ffff | raw >> 32 & 0xff00_0000)
}

/// What the processor has pushed where a handler begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    /// The instruction that was interrupted, as CS and the pointer in it give it.
    pub rip: u64,
    /// The error code, if there is one.
    pub error_code: Option<u64>,
    /// Linear address of the stack before it.
    pub stack: u64,
}

/// Reads it, where the vCPU is about to execute a handler's first instruction.
#[must_use]
pub fn frame(view: &View<'_>, regs: &Regs) -> Option<Frame> {
    let sregs = view.sregs;
    let is_long = sregs.efer & EFER_LMA != 0;
    let is_real = sregs.cr0 & CR0_PE == 0;
    let width: usize = match (is_real, is_long) {
        (true, _) => 2,
        (_, true) => 8,
        _ => 4,
    };
    let stack = stack_of(view, regs);
    let word = |index: u64| view.number(stack.wrapping_add(index * width as u64), width);
    // RIP, CS, RFLAGS; before them an error code or not: what looks like CS and flags tells.
    let looks = |first: u64| {
        let (cs, flags) = (word(first + 1)?, word(first + 2)?);
        (cs <= 0xffff && (is_real || cs & !3 != 0) && flags & FLAGS_ONE != 0 && flags >> 22 == 0).then_some(cs)
    };
    let (first, cs) = match looks(0) {
        Some(cs) => (0, cs),
        None if !is_real => (1, looks(1)?),
        None => return None,
    };
    let ip = word(first)?;
    let rip = if is_real { cs * 16 + ip } else { ip };
    let error_code = if first == 1 { word(0) } else { None };
    // In long mode, and where the privilege has changed, RSP and SS follow.
    let changes = is_long || !is_real && cs & 3 != u64::from(sregs.cs.selector & 3);
    let before = if changes { word(first + 3)? } else { stack.wrapping_add((first + 3) * width as u64) };
    Some(Frame { rip, error_code, stack: before })
}

/// The linear address of the top of the stack.
#[must_use]
pub fn stack_of(view: &View<'_>, regs: &Regs) -> u64 {
    let sregs = view.sregs;
    match (sregs.code_bits(), sregs.ss.db) {
        (64, _) => regs.rsp,
        (_, true) => sregs.ss.base.wrapping_add(regs.rsp & 0xffff_ffff) & 0xffff_ffff,
        (_, false) => sregs.ss.base.wrapping_add(regs.rsp & 0xffff) & 0xffff_ffff,
    }
}

#[cfg(test)]
#[path = "vectors_test.rs"]
mod tests;
