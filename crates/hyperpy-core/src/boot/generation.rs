//! The identifier of a virtual machine's generation: how an operating system learns that it is a copy, so that it makes new
//! random numbers ("Virtual Machine Generation ID", Microsoft, 2012; Linux: drivers/virt/vmgenid.c).
//!
//! `ADDR` tells where its 16 bytes are. That they have changed is told by an interrupt, which a Generic Event Device turns into a
//! notification (ACPI 6.5, 5.6.9). Who changes them is the machine.

use acpi_tables::Aml;
use acpi_tables::aml::{Arg, Device, Equal, If, Interrupt, Method, Name, Notify, Package, Path, ResourceTemplate};

use crate::arch::x86_64::layout::{GENERATION_GSI, GENERATION_START};
use crate::error::MemoryError;
use crate::memory::Memory;

/// A notification's value: the identifier has changed.
const CHANGED: u8 = 0x80;

/// The two devices, for a scope of `\_SB`.
pub(super) fn describe(aml: &mut Vec<u8>) {
    let (low, high) = (GENERATION_START as u32, (GENERATION_START >> 32) as u32);
    Device::new(
        "VGEN".into(),
        vec![
            &Name::new("_HID".into(), &"HYPR0001"),
            &Name::new("_CID".into(), &"VM_Gen_Counter"),
            &Name::new("_DDN".into(), &"VM_Gen_Counter"),
            &Name::new("ADDR".into(), &Package::new(vec![&low, &high])),
        ],
    )
    .to_aml_bytes(aml);
    let event = Interrupt::new(true, true, false, false, GENERATION_GSI);
    let who = Path::new("\\_SB_.VGEN");
    let told = Notify::new(&who, &CHANGED);
    let is_it = Equal::new(&Arg(0), &GENERATION_GSI);
    let when = If::new(&is_it, vec![&told]);
    Device::new(
        "GED_".into(),
        vec![
            &Name::new("_HID".into(), &"ACPI0013"),
            &Name::new("_UID".into(), &0u8),
            &Name::new("_CRS".into(), &ResourceTemplate::new(vec![&event])),
            &Method::new("_EVT".into(), 1, true, vec![&when]),
        ],
    )
    .to_aml_bytes(aml);
}

/// Puts an identifier in.
///
/// # Errors
/// No memory is there.
pub fn set(memory: &Memory, id: u128) -> Result<(), MemoryError> {
    memory.write(GENERATION_START, &id.to_le_bytes())
}
