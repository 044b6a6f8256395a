//! Registers, events and breakpoints between KVM's structures and ours. What the fields mean is the SDM's; no call is made here.

use kvm_bindings::{
    KVM_GUESTDBG_ENABLE, KVM_GUESTDBG_SINGLESTEP, KVM_GUESTDBG_USE_HW_BP, KVM_GUESTDBG_USE_SW_BP, kvm_dtable,
    kvm_guest_debug, kvm_regs, kvm_segment, kvm_sregs, kvm_sregs2, kvm_vcpu_events,
};

use crate::accel::state::Events;
use crate::arch::x86_64::{DescriptorTable, Regs, Segment, Sregs};
use crate::debug::{DebugControl, On};

/// DR7 and the addresses (SDM vol. 3, 18.2.4): a global-enable bit and four bits of kind and length for each.
pub(super) fn kvm_from_debug(control: &DebugControl) -> kvm_guest_debug {
    /// DR7 bits 9 and 10: exact breakpoints, and one that is always set.
    const DR7_FIXED: u64 = 0x600;
    let mut raw = kvm_guest_debug::default();
    let mut dr7 = DR7_FIXED;
    for (number, slot) in control.breakpoints.iter().enumerate() {
        let (Some(it), Some(address)) = (slot, raw.arch.debugreg.get_mut(number)) else { continue };
        *address = it.address;
        let kind = match it.on {
            On::Execute => 0,
            On::Write => 1,
            On::ReadWrite => 3,
        };
        let len = match it.size {
            2 => 1,
            4 => 3,
            8 => 2,
            _ => 0,
        };
        dr7 |= 2 << (2 * number) | (len << 2 | kind) << (16 + 4 * number);
    }
    if control.step {
        raw.control |= KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_SINGLESTEP;
    }
    if control.int3 {
        raw.control |= KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_USE_SW_BP;
    }
    if control.breakpoints.iter().any(Option::is_some) {
        raw.control |= KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_USE_HW_BP;
        raw.arch.debugreg[7] = dr7;
    }
    raw
}

macro_rules! general_registers {
    ($($name:ident)*) => {
        pub(super) fn regs_from_kvm(raw: &kvm_regs) -> Regs {
            Regs { $($name: raw.$name),* }
        }
        pub(super) fn kvm_from_regs(regs: &Regs) -> kvm_regs {
            kvm_regs { $($name: regs.$name),* }
        }
    };
}
general_registers!(rax rbx rcx rdx rsi rdi rsp rbp r8 r9 r10 r11 r12 r13 r14 r15 rip rflags);

macro_rules! special_registers {
    (segments $($segment:ident)*; tables $($table:ident)*; plain $($plain:ident)*) => {
        special_registers!(kvm_sregs sregs_from_kvm kvm_from_sregs ($($segment)*) ($($table)*) ($($plain)*));
        special_registers!(kvm_sregs2 sregs_from_kvm2 kvm2_from_sregs ($($segment)*) ($($table)*) ($($plain)*));
    };
    ($raw:ident $from:ident $into:ident ($($segment:ident)*) ($($table:ident)*) ($($plain:ident)*)) => {
        pub(super) fn $from(raw: &$raw) -> Sregs {
            Sregs {
                $($segment: segment_from_kvm(&raw.$segment),)*
                $($table: DescriptorTable { base: raw.$table.base, limit: raw.$table.limit },)*
                $($plain: raw.$plain),*
            }
        }
        pub(super) fn $into(sregs: &Sregs, raw: &mut $raw) {
            $(raw.$segment = kvm_from_segment(&sregs.$segment);)*
            $(raw.$table = kvm_dtable { base: sregs.$table.base, limit: sregs.$table.limit, ..Default::default() };)*
            $(raw.$plain = sregs.$plain;)*
        }
    };
}
special_registers!(segments cs ds es fs gs ss tr ldt; tables gdt idt; plain cr0 cr2 cr3 cr4 cr8 efer apic_base);

fn segment_from_kvm(raw: &kvm_segment) -> Segment {
    Segment {
        base: raw.base,
        limit: raw.limit,
        selector: raw.selector,
        type_: raw.type_,
        present: raw.present != 0,
        dpl: raw.dpl,
        db: raw.db != 0,
        s: raw.s != 0,
        l: raw.l != 0,
        g: raw.g != 0,
        avl: raw.avl != 0,
        unusable: raw.unusable != 0,
    }
}

fn kvm_from_segment(segment: &Segment) -> kvm_segment {
    kvm_segment {
        base: segment.base,
        limit: segment.limit,
        selector: segment.selector,
        type_: segment.type_,
        present: segment.present.into(),
        dpl: segment.dpl,
        db: segment.db.into(),
        s: segment.s.into(),
        l: segment.l.into(),
        g: segment.g.into(),
        avl: segment.avl.into(),
        unusable: segment.unusable.into(),
        padding: 0,
    }
}

macro_rules! events {
    ($($ours:ident = $($theirs:ident).+;)*) => {
        pub(super) fn events_from_kvm(raw: &kvm_vcpu_events) -> Events {
            Events { $($ours: raw.$($theirs).+),* }
        }
        pub(super) fn kvm_from_events(events: &Events) -> kvm_vcpu_events {
            let mut raw = kvm_vcpu_events::default();
            $(raw.$($theirs).+ = events.$ours;)*
            raw
        }
    };
}
events! {
    exception_injected = exception.injected;
    exception_nr = exception.nr;
    exception_has_error_code = exception.has_error_code;
    exception_pending = exception.pending;
    exception_error_code = exception.error_code;
    exception_has_payload = exception_has_payload;
    exception_payload = exception_payload;
    interrupt_injected = interrupt.injected;
    interrupt_nr = interrupt.nr;
    interrupt_soft = interrupt.soft;
    interrupt_shadow = interrupt.shadow;
    nmi_injected = nmi.injected;
    nmi_pending = nmi.pending;
    nmi_masked = nmi.masked;
    sipi_vector = sipi_vector;
    smi_smm = smi.smm;
    smi_pending = smi.pending;
    smi_smm_inside_nmi = smi.smm_inside_nmi;
    smi_latched_init = smi.latched_init;
    triple_fault_pending = triple_fault.pending;
    flags = flags;
}
