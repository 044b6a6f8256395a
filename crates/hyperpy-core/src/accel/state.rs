//! What an accelerator knows of a vCPU and of a VM besides memory: everything that must be put back for the guest to go on as
//! if nothing had happened. Taken while no vCPU runs and no access is pending.

use crate::arch::x86_64::cpuid::Leaf;
use crate::arch::x86_64::{Regs, Sregs};

/// A vCPU's state.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct VcpuState {
    /// General registers.
    pub regs: Regs,
    /// Segment, table and control registers.
    pub sregs: Sregs,
    /// The interrupt that waits to be delivered, one bit of 256 (`kvm_sregs.interrupt_bitmap`).
    pub interrupt_bitmap: [u64; 4],
    /// The XSAVE area in its standard form, as long as the accelerator has it (SDM vol. 1, 13.4).
    pub xsave: Box<[u8]>,
    /// Extended control registers: index and value.
    pub xcrs: Vec<(u32, u64)>,
    /// Model-specific registers: index and value, in the accelerator's order.
    pub msrs: Vec<(u32, u64)>,
    /// Exceptions, interrupts, NMIs and SMIs under way, in the accelerator's own form.
    pub events: Box<[u8]>,
    /// DR0 to DR3, DR6, DR7.
    pub debug: [u64; 6],
    /// Registers of the local APIC, where it is in the kernel.
    pub lapic: Option<Box<[u8; 1024]>>,
    /// What the vCPU is doing: running, halted, waiting for INIT or SIPI (`kvm_mp_state`).
    pub mp_state: u32,
    /// Frequency of the time-stamp counter in kHz; 0 where it is not known.
    pub tsc_khz: u32,
    /// The CPUID table. It cannot be put back: a vCPU that has run keeps its own. It is compared.
    pub cpuid: Vec<Leaf>,
}

/// A VM's state.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct VmState {
    /// The first and second 8259 and the I/O APIC, where they are in the kernel, in its own form.
    pub irqchips: Option<[Box<[u8]>; 3]>,
    /// The PIT, in the kernel's own form.
    pub pit: Option<Box<[u8]>>,
    /// The paravirtual clock in nanoseconds.
    pub clock_ns: Option<u64>,
}
