//! What an accelerator knows of a vCPU and of a VM besides memory: everything that must be put back for the guest to go on as
//! if nothing had happened. Taken while no vCPU runs and no access is pending.
//!
//! The parts have the names of the processor's and the chips' manuals (SDM vol. 3; 82093AA, 8259A and 8254 data sheets), and
//! where a part is KVM's invention, of the kernel's api.rst. [`plain`] turns them into plain data and back, [`shape`] tells what
//! keeps a state from being put back elsewhere.

mod chips;
mod named;
pub(crate) mod plain;
mod shape;

use std::hash::Hasher;
use std::sync::Arc;

use twox_hash::XxHash3_64;

pub use self::chips::{IoApic, Irqchip, Pic, Pit, PitChannel};
use self::named::{APIC_TMCCT, cpuid_from, debug_from, debug_value, lapic_from, lapic_value, msrs_from, msrs_value};
use self::plain::{Plain, no_more, part, plain};
pub(crate) use self::shape::same_cpuid;
pub use self::shape::{Shape, differences};
use crate::arch::x86_64::cpuid::Leaf;
use crate::arch::x86_64::msrs::{IA32_TSC, IA32_TSC_DEADLINE};
use crate::arch::x86_64::{DescriptorTable, Regs, Segment, Sregs};
use crate::snapshot::{StateFault, Value};

/// A vCPU's state.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct VcpuState {
    /// General registers.
    pub regs: Regs,
    /// Segment, table and control registers. An interrupt that waits to be delivered is in `events`.
    pub sregs: Sregs,
    /// The four page-directory pointers of PAE paging, where the accelerator has them apart from memory.
    pub pdptrs: Option<[u64; 4]>,
    /// The XSAVE area in its standard form, as long as the accelerator has it (SDM vol. 1, 13.4); the 512 bytes of FXSAVE on one
    /// without.
    pub xsave: Box<[u8]>,
    /// XCR0, where there is one.
    pub xcr0: Option<u64>,
    /// Model-specific registers: index and value, in the accelerator's order, none twice.
    pub msrs: Vec<(u32, u64)>,
    /// Exceptions, interrupts, NMIs and SMIs under way.
    pub events: Events,
    /// DR0 to DR3, DR6, DR7.
    pub debug: [u64; 6],
    /// Registers of the local APIC, where it is in the kernel: one for each 16 bytes of its page.
    pub lapic: Option<Box<[u32; 64]>>,
    /// What the vCPU is doing: running, halted, waiting for INIT or SIPI (`kvm_mp_state`).
    pub mp_state: u32,
    /// Frequency of the time-stamp counter in kHz; 0 where it is not known.
    pub tsc_khz: u32,
    /// The CPUID table, as it was set. A vCPU that has run keeps its own: there it is compared.
    pub cpuid: Arc<[Leaf]>,
}

/// Events that a vCPU is in the middle of (`kvm_vcpu_events`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)] // the fields are KVM's
pub struct Events {
    pub exception_injected: u8,
    pub exception_nr: u8,
    pub exception_has_error_code: u8,
    pub exception_pending: u8,
    pub exception_error_code: u32,
    pub exception_has_payload: u8,
    pub exception_payload: u64,
    pub interrupt_injected: u8,
    pub interrupt_nr: u8,
    pub interrupt_soft: u8,
    pub interrupt_shadow: u8,
    pub nmi_injected: u8,
    pub nmi_pending: u8,
    pub nmi_masked: u8,
    pub sipi_vector: u32,
    pub smi_smm: u8,
    pub smi_pending: u8,
    pub smi_smm_inside_nmi: u8,
    pub smi_latched_init: u8,
    pub triple_fault_pending: u8,
    /// Which of these the accelerator has (`KVM_VCPUEVENT_VALID_*`).
    pub flags: u32,
}

/// A VM's state.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct VmState {
    /// The controllers, where they are in the kernel.
    pub irqchip: Option<Box<Irqchip>>,
    /// The paravirtual clock in nanoseconds.
    pub clock_ns: Option<u64>,
}

plain!(Regs { rax, rbx, rcx, rdx, rsi, rdi, rsp, rbp, r8, r9, r10, r11, r12, r13, r14, r15, rip, rflags });
plain!(Segment { base, limit, selector, type_: "type", present, dpl, db, s, l, g, avl, unusable });
plain!(DescriptorTable { base, limit });
plain!(Sregs {
    cs,
    ds,
    es,
    fs,
    gs,
    ss,
    tr,
    ldt: "ldtr",
    gdt: "gdtr",
    idt: "idtr",
    cr0,
    cr2,
    cr3,
    cr4,
    cr8,
    efer: "IA32_EFER",
    apic_base: "IA32_APIC_BASE",
});
plain!(Leaf { leaf, subleaf, indexed, eax, ebx, ecx, edx });
plain!(Events {
    exception_injected,
    exception_nr,
    exception_has_error_code,
    exception_pending,
    exception_error_code,
    exception_has_payload,
    exception_payload,
    interrupt_injected,
    interrupt_nr,
    interrupt_soft,
    interrupt_shadow,
    nmi_injected,
    nmi_pending,
    nmi_masked,
    sipi_vector,
    smi_smm,
    smi_pending,
    smi_smm_inside_nmi,
    smi_latched_init,
    triple_fault_pending,
    flags,
});

/// Most leaves of a CPUID table: KVM takes no more (KVM_MAX_CPUID_ENTRIES).
pub const LEAVES_MAX: usize = 256;
/// Hyper-V's counters of time (TLFS 12.3 and 7.8): a register of the partition and one of the virtual processor.
const HV_TIME_REF_COUNT: u32 = 0x4000_0020;
const HV_VP_RUNTIME: u32 = 0x4000_0010;

/// Whether a register counts while nothing runs.
fn counts(index: u32) -> bool {
    matches!(index, IA32_TSC | HV_TIME_REF_COUNT | HV_VP_RUNTIME)
}

impl VcpuState {
    /// As plain data, with the registers' names.
    #[must_use]
    pub fn value(&self) -> Value {
        Value::map([
            ("regs", self.regs.value()),
            ("sregs", self.sregs.value()),
            ("pdptrs", self.pdptrs.value()),
            ("xsave", self.xsave.value()),
            ("xcr0", self.xcr0.value()),
            ("msrs", msrs_value(&self.msrs)),
            ("events", self.events.value()),
            ("dr", debug_value(&self.debug)),
            ("lapic", self.lapic.as_ref().map_or(Value::Nothing, |lapic| lapic_value(lapic))),
            ("mp_state", self.mp_state.value()),
            ("tsc_khz", self.tsc_khz.value()),
            ("cpuid", Value::List(self.cpuid.iter().map(Plain::value).collect())),
        ])
    }

    /// A state from plain data, which may be anything.
    ///
    /// # Errors
    /// It is none: what of it is missing, unknown or does not fit.
    pub fn from_value(value: &Value) -> Result<Self, StateFault> {
        let names = [
            "regs", "sregs", "pdptrs", "xsave", "xcr0", "msrs", "events", "dr", "lapic", "mp_state", "tsc_khz", "cpuid",
        ];
        no_more(value, "a vcpu", &names)?;
        let state = Self {
            regs: part(value, "", "regs")?,
            sregs: part(value, "", "sregs")?,
            pdptrs: part(value, "", "pdptrs")?,
            xsave: part(value, "", "xsave")?,
            xcr0: part(value, "", "xcr0")?,
            msrs: msrs_from(value.get("msrs"))?,
            events: part(value, "", "events")?,
            debug: debug_from(value.get("dr"))?,
            lapic: lapic_from(value.get("lapic"))?,
            mp_state: part(value, "", "mp_state")?,
            tsc_khz: part(value, "", "tsc_khz")?,
            cpuid: cpuid_from(value.get("cpuid"))?,
        };
        Ok(state)
    }

    /// A number of 64 bits that tells states apart, and is the same in every version and on every host. It is of everything
    /// that is put back but what counts by itself while nothing runs: IA32_TSC and the local APIC's current count.
    #[must_use]
    pub fn hash(&self) -> u64 {
        let mut hash = XxHash3_64::new();
        self.regs.feed(&mut hash);
        self.sregs.feed(&mut hash);
        self.pdptrs.feed(&mut hash);
        self.xsave.feed(&mut hash);
        self.xcr0.feed(&mut hash);
        (self.msrs.len() as u64).feed(&mut hash);
        for &(index, value) in &self.msrs {
            index.feed(&mut hash);
            if !counts(index) {
                value.feed(&mut hash);
            }
        }
        self.events.feed(&mut hash);
        self.debug.feed(&mut hash);
        hash.write(&[u8::from(self.lapic.is_some())]);
        for (number, register) in self.lapic.iter().flat_map(|lapic| lapic.iter().enumerate()) {
            if number != APIC_TMCCT {
                register.feed(&mut hash);
            }
        }
        self.mp_state.feed(&mut hash);
        self.tsc_khz.feed(&mut hash);
        (self.cpuid.len() as u64).feed(&mut hash);
        self.cpuid.iter().for_each(|leaf| leaf.feed(&mut hash));
        hash.finish()
    }

    /// The value of a model-specific register, if it is part of the state.
    #[must_use]
    pub fn msr(&self, index: u32) -> Option<u64> {
        self.msrs.iter().find(|(known, _)| *known == index).map(|(_, value)| *value)
    }

    /// The moment at which the local APIC's timer is to fire, on the time-stamp counter; 0: it is not armed.
    #[must_use]
    pub fn tsc_deadline(&self) -> u64 {
        self.msr(IA32_TSC_DEADLINE).unwrap_or(0)
    }
}

impl VmState {
    /// As plain data.
    #[must_use]
    pub fn value(&self) -> Value {
        Value::map([("irqchip", self.irqchip.value()), ("clock_ns", self.clock_ns.value())])
    }

    /// A state from plain data, which may be anything.
    ///
    /// # Errors
    /// It is none: what of it is missing, unknown or does not fit.
    pub fn from_value(value: &Value) -> Result<Self, StateFault> {
        no_more(value, "a vm", &["irqchip", "clock_ns"])?;
        Ok(Self { irqchip: part(value, "", "irqchip")?, clock_ns: part(value, "", "clock_ns")? })
    }

    /// As [`VcpuState::hash`]; the clock counts by itself.
    #[must_use]
    pub fn hash(&self) -> u64 {
        let mut hash = XxHash3_64::new();
        self.irqchip.feed(&mut hash);
        self.clock_ns.is_some().feed(&mut hash);
        hash.finish()
    }
}

#[cfg(test)]
#[path = "state_test.rs"]
mod tests;
