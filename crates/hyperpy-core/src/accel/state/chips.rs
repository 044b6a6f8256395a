//! Interrupt controllers and the PIT, where they are in the kernel, by the names of the kernel's structures.

use super::plain::plain;

/// Interrupt controllers and the PIT.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Irqchip {
    /// The first and the second 8259.
    pub pics: [Pic; 2],
    /// The I/O APIC.
    pub ioapic: IoApic,
    /// The 8254.
    pub pit: Pit,
}

/// An 8259 (`kvm_pic_state`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)] // the fields are the chip's
pub struct Pic {
    pub last_irr: u8,
    pub irr: u8,
    pub imr: u8,
    pub isr: u8,
    pub priority_add: u8,
    pub irq_base: u8,
    pub read_reg_select: u8,
    pub poll: u8,
    pub special_mask: u8,
    pub init_state: u8,
    pub auto_eoi: u8,
    pub rotate_on_auto_eoi: u8,
    pub special_fully_nested_mode: u8,
    pub init4: u8,
    pub elcr: u8,
    pub elcr_mask: u8,
}

/// An I/O APIC (`kvm_ioapic_state`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)] // the fields are the chip's
pub struct IoApic {
    pub base_address: u64,
    pub ioregsel: u32,
    pub id: u32,
    pub irr: u32,
    pub redirtbl: [u64; 24],
}

/// An 8254 (`kvm_pit_state2`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pit {
    /// Its channels.
    pub channels: [PitChannel; 3],
    /// `KVM_PIT_FLAGS_*`: of the HPET, and whether the speaker is on.
    pub flags: u32,
}

/// One channel of an 8254 (`kvm_pit_channel_state`). A count begins anew when it is put back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)] // the fields are the chip's
pub struct PitChannel {
    pub count: u32,
    pub latched_count: u16,
    pub count_latched: u8,
    pub status_latched: u8,
    pub status: u8,
    pub read_state: u8,
    pub write_state: u8,
    pub write_latch: u8,
    pub rw_mode: u8,
    pub mode: u8,
    pub bcd: u8,
    pub gate: u8,
}

plain!(Pic {
    last_irr,
    irr,
    imr,
    isr,
    priority_add,
    irq_base,
    read_reg_select,
    poll,
    special_mask,
    init_state,
    auto_eoi,
    rotate_on_auto_eoi,
    special_fully_nested_mode,
    init4,
    elcr,
    elcr_mask,
});
plain!(IoApic { base_address, ioregsel, id, irr, redirtbl });
plain!(PitChannel {
    count,
    latched_count,
    count_latched,
    status_latched,
    status,
    read_state,
    write_state,
    write_latch,
    rw_mode,
    mode,
    bcd,
    gate,
});
plain!(Pit { channels, flags });
plain!(Irqchip { pics, ioapic, pit });
