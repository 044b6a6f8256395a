//! The DSDT's contents: `\_S5`, COM1, the RTC and the devices that ask to be listed (ACPI 6.5, chapters 6 and 19).
//!
//! acpi_tables asserts where a name or a number is wrong, so that everything a user can give is checked here first.

use acpi_tables::Aml;
use acpi_tables::aml::{
    AddressSpace, AddressSpaceCacheable, Device, EISAName, IO, Interrupt, Memory32Fixed, Name, Package, Path,
    ResourceTemplate, Scope,
};

use super::acpi::{IOAPIC_PINS, Platform, SOFT_OFF_SLP_TYP};
use crate::arch::x86_64::layout::{CMOS_PORT, COM1_GSI, COM1_PORT, RTC_GSI};
use crate::error::BootError;

/// Listed devices are named D000 to DFFF.
const MOST_DEVICES: usize = 0x1000;
/// Ports on the bus.
const PORTS: u64 = 0x1_0000;

/// A device that no bus announces and that asks to be listed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListedDevice {
    /// Hardware id: an EISA id (PNP0C02) or an ACPI id (LNRO0005).
    pub hid: String,
    /// Registers in memory.
    pub mmio: Vec<Range>,
    /// Registers on ports.
    pub pio: Vec<Range>,
    /// Interrupts.
    pub irqs: Vec<Irq>,
}

/// A range of registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// First address or port.
    pub base: u64,
    /// Length in bytes.
    pub len: u64,
}

/// An interrupt of a listed device, active high.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Irq {
    /// Its gsi, 0 to 23.
    pub gsi: u32,
    /// Level-triggered, otherwise edge.
    pub level: bool,
}

/// The AML after the table's header.
pub(super) fn body(platform: &Platform) -> Result<Vec<u8>, BootError> {
    let mut aml = Vec::new();
    let off = SOFT_OFF_SLP_TYP;
    Name::new("_S5_".into(), &Package::new(vec![&off, &off, &0u8, &0u8])).to_aml_bytes(&mut aml);
    let mut devices = Vec::new();
    if platform.com1 {
        let resources = [port_range(COM1_PORT, 8), irq(COM1_GSI, false)];
        device("COM1", &eisa("PNP0501"), 0, &resources, &mut devices);
    }
    if platform.rtc {
        let resources = [port_range(CMOS_PORT, 2), irq(RTC_GSI, false)];
        device("RTC_", &eisa("PNP0B00"), 0, &resources, &mut devices);
    }
    if platform.devices.len() > MOST_DEVICES {
        // Each takes more than 32 bytes.
        let len = platform.devices.len() as u64 * 32;
        return Err(BootError::TablesTooLong { len, room: MOST_DEVICES as u64 * 32 });
    }
    for (uid, listed) in platform.devices.iter().enumerate() {
        let hid = hardware_id(&listed.hid)?;
        device(&format!("D{uid:03X}"), &hid, uid as u32, &resources(listed)?, &mut devices);
    }
    if !devices.is_empty() {
        aml.extend(Scope::raw(Path::new("_SB_"), devices));
    }
    Ok(aml)
}

fn device(name: &str, hid: &[u8], uid: u32, resources: &[Box<dyn Aml>], aml: &mut Vec<u8>) {
    let template = ResourceTemplate::new(resources.iter().map(AsRef::as_ref).collect());
    let hid = Name::new("_HID".into(), &Raw(hid));
    let uid = Name::new("_UID".into(), &uid);
    let crs = Name::new("_CRS".into(), &template);
    Device::new(Path::new(name), vec![&hid, &uid, &crs]).to_aml_bytes(aml);
}

/// AML that is there already.
struct Raw<'a>(&'a [u8]);

impl Aml for Raw<'_> {
    fn to_aml_bytes(&self, sink: &mut dyn acpi_tables::AmlSink) {
        sink.vec(self.0);
    }
}

fn eisa(id: &str) -> Vec<u8> {
    let mut aml = Vec::new();
    EISAName::new(id).to_aml_bytes(&mut aml);
    aml
}

/// A checked `_HID`: three capitals and four hex digits pack into a number, four capitals or digits and four hex
/// digits are a string (6.1.5).
fn hardware_id(hid: &str) -> Result<Vec<u8>, BootError> {
    let capital = |b: &u8| b.is_ascii_uppercase();
    let hex = |b: &u8| b.is_ascii_digit() || (b'A'..=b'F').contains(b);
    let (vendor, product) = hid.as_bytes().split_at(hid.len().saturating_sub(4));
    let good = product.len() == 4 && product.iter().all(hex);
    match vendor.len() {
        3 if good && vendor.iter().all(capital) => Ok(eisa(hid)),
        4 if good && vendor.iter().all(|b| capital(b) || b.is_ascii_digit()) => {
            let mut aml = Vec::new();
            hid.to_owned().to_aml_bytes(&mut aml);
            Ok(aml)
        }
        _ => Err(BootError::HardwareId { hid: hid.chars().take(64).collect() }),
    }
}

fn resources(listed: &ListedDevice) -> Result<Vec<Box<dyn Aml>>, BootError> {
    let mut resources: Vec<Box<dyn Aml>> = Vec::new();
    let bad = |space, r: &Range| BootError::DeviceRange { hid: listed.hid.clone(), space, base: r.base, len: r.len };
    for range in &listed.mmio {
        let last = last_of(range).ok_or_else(|| bad("mmio", range))?;
        resources.push(memory_range(range, last));
    }
    for range in &listed.pio {
        // Of the whole bus the length does not fit in its field.
        let last = last_of(range).filter(|last| *last < PORTS && range.len < PORTS).ok_or_else(|| bad("pio", range))?;
        resources.push(match u8::try_from(range.len) {
            Ok(len) => port_range(range.base as u16, len),
            Err(_) => Box::new(AddressSpace::new_io(range.base as u16, last as u16, None)),
        });
    }
    for Irq { gsi, level } in listed.irqs.iter().copied() {
        if gsi >= IOAPIC_PINS {
            return Err(BootError::Gsi { hid: listed.hid.clone(), gsi });
        }
        resources.push(irq(gsi, level));
    }
    Ok(resources)
}

/// Last address of a range that has one. The whole address space has a length that no field holds.
fn last_of(range: &Range) -> Option<u64> {
    range.base.checked_add(range.len.checked_sub(1)?)
}

fn memory_range(range: &Range, last: u64) -> Box<dyn Aml> {
    match (u32::try_from(range.base), u32::try_from(range.len), u32::try_from(last)) {
        (Ok(base), Ok(len), Ok(_)) => Box::new(Memory32Fixed::new(true, base, len)),
        _ => Box::new(AddressSpace::new_memory(AddressSpaceCacheable::NotCacheable, true, range.base, last, None)),
    }
}

fn port_range(base: u16, len: u8) -> Box<dyn Aml> {
    Box::new(IO::new(base, base, 1, len))
}

/// An interrupt that this device consumes, active high and not shared.
fn irq(gsi: u32, level: bool) -> Box<dyn Aml> {
    Box::new(Interrupt::new(true, !level, false, false, gsi))
}
