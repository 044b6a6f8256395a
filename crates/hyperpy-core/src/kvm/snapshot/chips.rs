//! A VM's state: interrupt controllers, PIT, clock.
//!
//! | part | ioctls of `save` | of `load` |
//! |---|---|---|
//! | each 8259, I/O APIC, PIT, where they are in the kernel | 4 | 5 |
//! | clock | 1 | 1 |
//!
//! They come before the vCPUs' (`Known::moment`); and what the I/O APIC sends when it is put back goes to local APICs
//! that are overwritten. The PIT is stopped first and put back last, after these: a tick meanwhile would wait at an 8259 that was put back
//! already, or be lost with a local APIC, and KVM waits for the end of the last one. The clock is set as it was, not as it would be by now: KVM_CLOCK_REALTIME is not asked for.
//!
//! A tick is a pulse that a thread of the kernel's makes, whether the vCPUs stand still or not. A state that is taken between its two
//! edges would have the PIT's inputs high: put back there would be no rising edge at the next tick, and no other after it, since KVM
//! waits for the end of that one. So the pulse ends in what is taken ([`end_pulse`]).

use std::sync::atomic::Ordering;

use kvm_bindings::{
    KVM_IRQCHIP_IOAPIC, KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE, kvm_clock_data, kvm_ioapic_state, kvm_irqchip,
    kvm_pic_state, kvm_pit_channel_state, kvm_pit_state2,
};
use kvm_ioctls::VmFd;

use super::{Known, raw, unfit};
use crate::accel::state::{IoApic, Irqchip, Pic, Pit, PitChannel, VmState};
use crate::accel::{AccelError, Route};

/// The mode of a channel that has none yet, in KVM's words.
const UNPROGRAMMED: u8 = 0xff;
/// Where the in-kernel PIT's channel 0 leads.
const PIT_GSI: u32 = 0;
/// Where the 8259s' inputs begin in [`ticks`].
const PIC_SHIFT: u32 = 32;
const PICS: [u32; 2] = [KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE];

pub(in crate::kvm) fn save(fd: &VmFd, known: &Known) -> Result<VmState, AccelError> {
    known.begin();
    let clock = if known.clock { Some(raw::clock(fd)?.clock) } else { None };
    let irqchip = if known.irqchip {
        let mut chips = irqchip(fd)?;
        end_pulse(&mut chips, known.ticks.load(Ordering::Relaxed));
        Some(Box::new(chips))
    } else {
        None
    };
    Ok(VmState { irqchip, clock_ns: clock })
}

pub(in crate::kvm) fn load(fd: &VmFd, known: &Known, state: &VmState) -> Result<(), AccelError> {
    if state.irqchip.is_some() != known.irqchip {
        return Err(unfit("interrupt controllers", "are only in one of the two machines"));
    }
    known.begin();
    if let Some(chips) = &state.irqchip {
        raw::set_pit(fd, &stopped())?;
        for (chip_id, pic) in PICS.into_iter().zip(&chips.pics) {
            let mut raw = kvm_irqchip { chip_id, ..Default::default() };
            raw.chip.pic = kvm_from_pic(pic);
            raw::set_irqchip(fd, &raw)?;
        }
        let mut raw = kvm_irqchip { chip_id: KVM_IRQCHIP_IOAPIC, ..Default::default() };
        raw.chip.ioapic = kvm_from_ioapic(&chips.ioapic);
        raw::set_irqchip(fd, &raw)?;
    }
    match state.clock_ns {
        Some(clock) if known.clock => raw::set_clock(fd, &kvm_clock_data { clock, ..Default::default() }),
        _ => Ok(()),
    }
}

/// The PIT, which ticks on from here. A tick that is on its way is forgotten: until its end KVM would send no other.
pub(in crate::kvm) fn load_timers(fd: &VmFd, state: &VmState) -> Result<(), AccelError> {
    state.irqchip.as_ref().map_or(Ok(()), |chips| raw::set_pit(fd, &kvm_from_pit(&chips.pit)))
}

/// A PIT as it is before anybody has programmed it: it does not tick, and KVM waits until a tick that is on its way has arrived.
fn stopped() -> kvm_pit_state2 {
    let channel = kvm_pit_channel_state { mode: UNPROGRAMMED, ..Default::default() };
    kvm_pit_state2 { channels: [channel; 3], ..Default::default() }
}

/// The inputs that the PIT's gsi leads to: those of the I/O APIC in the lower half, those of the two 8259s in the upper one.
pub(in crate::kvm) fn ticks(routes: &[Route]) -> u64 {
    let input = |route: &Route| match *route {
        Route::IoApic { gsi: PIT_GSI, pin } => 1_u64.checked_shl(pin),
        Route::Pic { gsi: PIT_GSI, input } => 1_u64.checked_shl(input.saturating_add(PIC_SHIFT)),
        _ => None,
    };
    routes.iter().filter_map(input).fold(0, |all, one| all | one)
}

/// As it is when the tick that may be under way has ended: its inputs low again, what an edge has brought kept. While nobody has
/// programmed the PIT the inputs are others' to drive.
fn end_pulse(chips: &mut Irqchip, ticks: u64) {
    if chips.pit.channels[0].mode == UNPROGRAMMED {
        return;
    }
    #[allow(clippy::cast_possible_truncation)] // the two halves, of which each 8259 has a byte
    let (pins, [master, slave, ..]) = (ticks as u32, ((ticks >> PIC_SHIFT) as u32).to_le_bytes());
    chips.ioapic.irr &= !pins;
    for (pic, inputs) in chips.pics.iter_mut().zip([master, slave]) {
        pic.last_irr &= !inputs;
        pic.irr &= !(inputs & pic.elcr);
    }
}

fn irqchip(fd: &VmFd) -> Result<Irqchip, AccelError> {
    let mut chips = Irqchip::default();
    for (chip_id, into) in PICS.into_iter().zip(&mut chips.pics) {
        let mut raw = kvm_irqchip { chip_id, ..Default::default() };
        raw::irqchip(fd, &mut raw)?;
        // SAFETY: the union's arms are integers, for which every bit pattern is valid; this is the chip that was asked for.
        *into = pic_from_kvm(unsafe { &raw.chip.pic });
    }
    let mut raw = kvm_irqchip { chip_id: KVM_IRQCHIP_IOAPIC, ..Default::default() };
    raw::irqchip(fd, &mut raw)?;
    // SAFETY: as above.
    chips.ioapic = ioapic_from_kvm(unsafe { &raw.chip.ioapic });
    chips.pit = pit_from_kvm(&raw::pit(fd)?);
    Ok(chips)
}

macro_rules! same_fields {
    ($ours:ident $theirs:ident $from:ident $into:ident: $($field:ident)*) => {
        fn $from(raw: &$theirs) -> $ours {
            $ours { $($field: raw.$field),* }
        }
        fn $into(ours: &$ours) -> $theirs {
            #[allow(clippy::needless_update)] // one of them has all
            $theirs { $($field: ours.$field,)* ..Default::default() }
        }
    };
}
same_fields!(Pic kvm_pic_state pic_from_kvm kvm_from_pic: last_irr irr imr isr priority_add irq_base read_reg_select poll
    special_mask init_state auto_eoi rotate_on_auto_eoi special_fully_nested_mode init4 elcr elcr_mask);
same_fields!(PitChannel kvm_pit_channel_state channel_from_kvm kvm_from_channel: count latched_count count_latched
    status_latched status read_state write_state write_latch rw_mode mode bcd gate);

fn pit_from_kvm(raw: &kvm_pit_state2) -> Pit {
    Pit { channels: raw.channels.each_ref().map(channel_from_kvm), flags: raw.flags }
}

fn kvm_from_pit(pit: &Pit) -> kvm_pit_state2 {
    kvm_pit_state2 { channels: pit.channels.each_ref().map(kvm_from_channel), flags: pit.flags, ..Default::default() }
}

fn ioapic_from_kvm(raw: &kvm_ioapic_state) -> IoApic {
    let kvm_ioapic_state { base_address, ioregsel, id, irr, ref redirtbl, .. } = *raw;
    // SAFETY: both arms of the union are plain bits.
    IoApic { base_address, ioregsel, id, irr, redirtbl: redirtbl.map(|entry| unsafe { entry.bits }) }
}

fn kvm_from_ioapic(ioapic: &IoApic) -> kvm_ioapic_state {
    let IoApic { base_address, ioregsel, id, irr, redirtbl } = *ioapic;
    let mut raw = kvm_ioapic_state { base_address, ioregsel, id, irr, ..Default::default() };
    for (entry, bits) in raw.redirtbl.iter_mut().zip(redirtbl) {
        entry.bits = bits;
    }
    raw
}
