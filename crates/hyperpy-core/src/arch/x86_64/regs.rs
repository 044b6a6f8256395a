//! Register files of a vCPU, by their SDM names.

/// General-purpose registers, instruction pointer and flags (SDM vol. 1, 3.4).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)] // the fields are the registers
pub struct Regs {
    pub rax: u64,
    pub rbx: u64,
    pub rcx: u64,
    pub rdx: u64,
    pub rsi: u64,
    pub rdi: u64,
    pub rsp: u64,
    pub rbp: u64,
    pub r8: u64,
    pub r9: u64,
    pub r10: u64,
    pub r11: u64,
    pub r12: u64,
    pub r13: u64,
    pub r14: u64,
    pub r15: u64,
    pub rip: u64,
    pub rflags: u64,
}

/// A segment register with its hidden part (SDM vol. 3, 3.4.3 and 3.4.5).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Segment {
    /// Linear base address.
    pub base: u64,
    /// Limit in bytes, already scaled by the granularity.
    pub limit: u32,
    /// Selector.
    pub selector: u16,
    /// Type field, 4 bits.
    pub type_: u8,
    /// Present.
    pub present: bool,
    /// Descriptor privilege level, 0 to 3.
    pub dpl: u8,
    /// Default operation size is 32 bits (D/B).
    pub db: bool,
    /// Code or data segment (S).
    pub s: bool,
    /// 64-bit code segment (L).
    pub l: bool,
    /// Limit counts 4 KiB pages (G).
    pub g: bool,
    /// Available to software.
    pub avl: bool,
    /// Not usable: loaded with a null selector.
    pub unusable: bool,
}

/// GDTR or IDTR.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DescriptorTable {
    /// Linear base address.
    pub base: u64,
    /// Limit in bytes.
    pub limit: u16,
}

/// Segment, table and control registers (SDM vol. 3, 2.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)] // the fields are the registers
pub struct Sregs {
    pub cs: Segment,
    pub ds: Segment,
    pub es: Segment,
    pub fs: Segment,
    pub gs: Segment,
    pub ss: Segment,
    pub tr: Segment,
    pub ldt: Segment,
    pub gdt: DescriptorTable,
    pub idt: DescriptorTable,
    pub cr0: u64,
    pub cr2: u64,
    pub cr3: u64,
    pub cr4: u64,
    pub cr8: u64,
    pub efer: u64,
    pub apic_base: u64,
}

impl Sregs {
    /// How wide code is decoded: 16, 32 or 64 bits (SDM vol. 3, 3.4.5 and 5.2.1).
    #[must_use]
    pub fn code_bits(&self) -> u32 {
        const EFER_LMA: u64 = 1 << 10;
        match (self.efer & EFER_LMA != 0 && self.cs.l, self.cs.db) {
            (true, _) => 64,
            (false, true) => 32,
            (false, false) => 16,
        }
    }

    /// The linear address of an instruction pointer: in 64-bit code CS has no base.
    #[must_use]
    pub fn linear_rip(&self, rip: u64) -> u64 {
        if self.code_bits() == 64 { rip } else { self.cs.base.wrapping_add(rip) & 0xffff_ffff }
    }
}
