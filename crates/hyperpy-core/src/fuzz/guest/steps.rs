//! What is seen of a guest that is executed instruction by instruction: which follows which, and what is compared.
//!
//! An instruction is looked at before it is executed: CMP, SUB and TEST with their operands, and the string instructions that compare. Two
//! numbers that are not equal may be what an input lacks. Code and operands are the guest's, and may be anything.

use iced_x86::{Decoder, DecoderOptions, Instruction, Mnemonic, OpKind, Register};

use super::view::View;
use crate::arch::x86_64::{Regs, Sregs};
use crate::fuzz::coverage::Counters;
use crate::fuzz::rng::mixed;

/// Comparisons of one execution that are told.
const MOST: usize = 128;
/// Bytes of the longest instruction.
const LONGEST_CODE: usize = 15;

/// What was seen.
#[derive(Debug, Default)]
pub struct Steps {
    /// The instruction that comes next, and the one before it.
    pub last: Option<u64>,
    before: u64,
    /// How many there were.
    pub count: u64,
    /// The next one is HLT.
    pub is_at_halt: bool,
    /// Where the instruction that was looked at last begins, there was a patch.
    pub was_live: bool,
    /// Numbers that were compared and are not equal.
    pub compared: Vec<(u64, u64)>,
}

impl Steps {
    /// Begins an execution.
    pub fn clear(&mut self) {
        (self.last, self.before, self.count) = (None, 0, 0);
        (self.is_at_halt, self.was_live) = (false, false);
        self.compared.clear();
    }

    /// The instruction at a linear address comes next.
    pub fn count(&mut self, pc: u64) {
        self.count += 1;
        self.before = self.last.replace(pc).unwrap_or_default();
    }

    /// It is covered, after the one before.
    pub fn edge(&self, pc: u64, counters: &mut Counters) {
        counters.hit(mixed(self.before.wrapping_add(1)) ^ pc);
    }

    /// What the instruction at `pc` will compare.
    pub fn compare(&mut self, view: View<'_>, regs: &Regs, pc: u64) {
        if self.compared.len() >= MOST {
            return;
        }
        let sregs = view.sregs;
        let mut code = [0; LONGEST_CODE];
        let read = view.read(pc, &mut code);
        let code = code.get(..read).unwrap_or_default();
        let instruction = Decoder::with_ip(sregs.code_bits(), code, regs.rip, DecoderOptions::NONE).decode();
        let at = Looking { view, regs, sregs };
        let Some((one, other)) = at.operands(&instruction) else { return };
        if one != other && !self.compared.contains(&(one, other)) {
            self.compared.push((one, other));
            self.compared.push((other, one));
        }
    }
}

/// What operands are of.
struct Looking<'a> {
    view: View<'a>,
    regs: &'a Regs,
    sregs: &'a Sregs,
}

impl Looking<'_> {
    fn operands(&self, instruction: &Instruction) -> Option<(u64, u64)> {
        let size = match instruction.mnemonic() {
            Mnemonic::Cmpsb | Mnemonic::Cmpsw | Mnemonic::Cmpsd | Mnemonic::Cmpsq if instruction.has_repe_prefix() => {
                // All of a text at once, as far as a number goes.
                Some(8)
            }
            Mnemonic::Cmp
            | Mnemonic::Sub
            | Mnemonic::Test
            | Mnemonic::Cmpsb
            | Mnemonic::Cmpsw
            | Mnemonic::Cmpsd
            | Mnemonic::Cmpsq
            | Mnemonic::Scasb
            | Mnemonic::Scasw
            | Mnemonic::Scasd
            | Mnemonic::Scasq => None,
            _ => return None,
        };
        Some((self.operand(instruction, 0, size)?, self.operand(instruction, 1, size)?))
    }

    fn operand(&self, instruction: &Instruction, index: u32, size: Option<usize>) -> Option<u64> {
        match instruction.op_kind(index) {
            OpKind::Register => {
                let register = instruction.op_register(index);
                self.register(register)
            }
            OpKind::NearBranch16 | OpKind::NearBranch32 | OpKind::NearBranch64 => None,
            OpKind::FarBranch16 | OpKind::FarBranch32 => None,
            OpKind::Immediate8
            | OpKind::Immediate8to16
            | OpKind::Immediate8to32
            | OpKind::Immediate8to64
            | OpKind::Immediate16
            | OpKind::Immediate32
            | OpKind::Immediate32to64
            | OpKind::Immediate64 => {
                let width = width_of(instruction);
                Some(instruction.immediate(index) & crate::bus::ones(width))
            }
            _ => {
                let gva = instruction.virtual_address(index, 0, |register, _, _| self.any(register))?;
                let gva = if self.sregs.code_bits() == 64 { gva } else { gva & 0xffff_ffff };
                let size = size.unwrap_or_else(|| usize::from(width_of(instruction)));
                self.view.number(gva, size)
            }
        }
    }

    /// What an address is made of.
    fn any(&self, register: Register) -> Option<u64> {
        let segment = |it: crate::arch::x86_64::Segment| Some(it.base);
        match register {
            Register::CS if self.sregs.code_bits() != 64 => segment(self.sregs.cs),
            Register::DS if self.sregs.code_bits() != 64 => segment(self.sregs.ds),
            Register::ES if self.sregs.code_bits() != 64 => segment(self.sregs.es),
            Register::SS if self.sregs.code_bits() != 64 => segment(self.sregs.ss),
            Register::CS | Register::DS | Register::ES | Register::SS => Some(0),
            Register::FS => segment(self.sregs.fs),
            Register::GS => segment(self.sregs.gs),
            _ => self.register(register),
        }
    }

    fn register(&self, register: Register) -> Option<u64> {
        let regs = self.regs;
        let whole = match register.full_register() {
            Register::RAX => regs.rax,
            Register::RBX => regs.rbx,
            Register::RCX => regs.rcx,
            Register::RDX => regs.rdx,
            Register::RSI => regs.rsi,
            Register::RDI => regs.rdi,
            Register::RSP => regs.rsp,
            Register::RBP => regs.rbp,
            Register::R8 => regs.r8,
            Register::R9 => regs.r9,
            Register::R10 => regs.r10,
            Register::R11 => regs.r11,
            Register::R12 => regs.r12,
            Register::R13 => regs.r13,
            Register::R14 => regs.r14,
            Register::R15 => regs.r15,
            Register::RIP => regs.rip,
            _ => return None,
        };
        let is_high = matches!(register, Register::AH | Register::BH | Register::CH | Register::DH);
        let size = u8::try_from(register.size()).ok()?;
        Some(if is_high { whole >> 8 & 0xff } else { whole & crate::bus::ones(size) })
    }
}

/// Bytes of what is compared.
fn width_of(instruction: &Instruction) -> u8 {
    let of_memory = || instruction.memory_size().size();
    let size = match instruction.op0_kind() {
        OpKind::Register => instruction.op0_register().size(),
        _ => of_memory(),
    };
    u8::try_from(size).unwrap_or(8).clamp(1, 8)
}

#[cfg(test)]
#[path = "steps_test.rs"]
mod tests;
