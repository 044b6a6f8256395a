//! The DSDT's contents: `\_S5`, COM1, the RTC, the generation's identifier and the devices that ask to be listed (ACPI 6.5, chapters 6 and 19).
//!
//! acpi_tables asserts where a name or a number is wrong, so that everything a user can give is checked here first.

use std::collections::{BTreeMap, BTreeSet};

use acpi_tables::Aml;
use acpi_tables::aml::{
    AddressSpace, AddressSpaceCacheable, Device, EISAName, IO, Interrupt, Memory32Fixed, Name, Package, Path,
    ResourceTemplate, Scope,
};

use super::acpi::{IOAPIC_PINS, Platform, SOFT_OFF_SLP_TYP};
use super::generation;
use crate::arch::x86_64::layout::{CMOS_PORT, COM1_GSI, COM1_PORT, RTC_GSI};
use crate::error::BootError;

/// Listed devices are named D000 to DFFF.
const MOST_DEVICES: usize = 0x1000;
/// Most compatible ids of a device: AML counts elements in a byte, and an operating system looks at each.
const MOST_CIDS: usize = 16;
/// Longest unique id that is text.
const UID_LEN: usize = 63;
/// Ports on the bus.
const PORTS: u64 = 0x1_0000;
/// Hardware ids of COM1 and of the RTC, and those that a CMOS RTC can have besides.
const COM1_HID: &str = "PNP0501";
const RTC_HID: &str = "PNP0B00";
const RTC_HIDS: [&str; 3] = [RTC_HID, "PNP0B01", "PNP0B02"];
/// General flags of an address space descriptor: the device consumes the range.
const CONSUMER: u8 = 1;
/// `_STA`: present, enabled, shown, working.
const WORKING: u8 = 0b1111;

/// A device that no bus announces and that asks to be listed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListedDevice {
    /// Hardware id: an EISA id (PNP0C02) or an ACPI id (LNRO0005).
    pub hid: String,
    /// Ids of what it is compatible with, for a driver that does not know `hid`.
    pub cids: Vec<String>,
    /// What tells it from others of its `hid`; if left out, the first number from 0 that none of them has.
    pub uid: Option<Uid>,
    /// Registers in memory.
    pub mmio: Vec<Range>,
    /// Registers on ports.
    pub pio: Vec<Range>,
    /// Interrupts.
    pub irqs: Vec<Irq>,
}

/// A unique id: unique among the devices with one hardware id (6.1.12).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Uid {
    /// A number.
    Number(u64),
    /// Text.
    Text(String),
}

impl std::fmt::Display for Uid {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Number(number) => write!(f, "{number}"),
            // Cut, since it is for a message.
            Self::Text(text) => write!(f, "{:?}", text.chars().take(UID_LEN + 1).collect::<String>()),
        }
    }
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
    let mut uids = Uids::default();
    if platform.com1 {
        let resources = [port_range(COM1_PORT, 8), irq(COM1_GSI, false)];
        device("COM1", COM1_HID, &[], &uids.free(COM1_HID), &resources, &mut devices)?;
    }
    if platform.rtc {
        let resources = [port_range(CMOS_PORT, 2), irq(RTC_GSI, false)];
        device("RTC_", RTC_HID, &[], &uids.free(RTC_HID), &resources, &mut devices)?;
    }
    generation::describe(&mut devices);
    if platform.devices.len() > MOST_DEVICES {
        // Each takes more than 32 bytes.
        let len = platform.devices.len() as u64 * 32;
        return Err(BootError::TablesTooLong { len, room: MOST_DEVICES as u64 * 32 });
    }
    // Before those that are left out are given what is free.
    for listed in &platform.devices {
        uids.take(listed)?;
    }
    for (number, listed) in platform.devices.iter().enumerate() {
        let uid = listed.uid.clone().unwrap_or_else(|| uids.free(&listed.hid));
        let name = format!("D{number:03X}");
        device(&name, &listed.hid, &listed.cids, &uid, &resources(listed)?, &mut devices)?;
    }
    aml.extend(Scope::raw(Path::new("_SB_"), devices));
    Ok(aml)
}

/// Whether a CMOS RTC is there: ours, or a listed device that a driver takes for one.
pub(super) fn has_rtc(platform: &Platform) -> bool {
    let is_rtc = |id: &String| RTC_HIDS.contains(&id.as_str());
    platform.rtc || platform.devices.iter().any(|listed| is_rtc(&listed.hid) || listed.cids.iter().any(is_rtc))
}

/// Unique ids that are taken, by hardware id, and the first number that may be free.
#[derive(Default)]
struct Uids {
    taken: BTreeSet<(String, Uid)>,
    next: BTreeMap<String, u64>,
}

impl Uids {
    /// Takes the one that a device asks for.
    fn take(&mut self, listed: &ListedDevice) -> Result<(), BootError> {
        let Some(uid) = &listed.uid else { return Ok(()) };
        let hid = cut(&listed.hid);
        if let Uid::Text(text) = uid {
            let is_shown = |b: u8| b == b' ' || b.is_ascii_graphic();
            if !(1..=UID_LEN).contains(&text.len()) || !text.bytes().all(is_shown) {
                return Err(BootError::UniqueId { hid, uid: uid.clone() });
            }
        }
        if !self.taken.insert((listed.hid.clone(), uid.clone())) {
            return Err(BootError::SameUniqueId { hid, uid: uid.clone() });
        }
        Ok(())
    }

    /// Takes the first number that is free.
    fn free(&mut self, hid: &str) -> Uid {
        let next = self.next.entry(hid.to_owned()).or_default();
        loop {
            let uid = Uid::Number(*next);
            // There are fewer devices than numbers.
            *next = next.wrapping_add(1);
            if self.taken.insert((hid.to_owned(), uid.clone())) {
                return uid;
            }
        }
    }
}

fn device(
    name: &str,
    hid: &str,
    cids: &[String],
    uid: &Uid,
    resources: &[Box<dyn Aml>],
    aml: &mut Vec<u8>,
) -> Result<(), BootError> {
    let template = ResourceTemplate::new(resources.iter().map(AsRef::as_ref).collect());
    let compatible = compatible_ids(hid, cids)?;
    let hid = Name::new("_HID".into(), &Raw(&hardware_id(hid)?));
    let cid = compatible.map(|aml| Name::new("_CID".into(), &Raw(&aml)));
    let uid = match uid {
        Uid::Number(number) => Name::new("_UID".into(), number),
        Uid::Text(text) => Name::new("_UID".into(), text),
    };
    let sta = Name::new("_STA".into(), &WORKING);
    let crs = Name::new("_CRS".into(), &template);
    let mut children: Vec<&dyn Aml> = vec![&hid, &uid, &sta, &crs];
    if let Some(cid) = &cid {
        children.insert(1, cid);
    }
    Device::new(Path::new(name), children).to_aml_bytes(aml);
    Ok(())
}

/// `_CID`'s value: one id, or a package of several.
fn compatible_ids(hid: &str, cids: &[String]) -> Result<Option<Vec<u8>>, BootError> {
    if cids.len() > MOST_CIDS {
        return Err(BootError::CompatibleIds { hid: cut(hid), count: cids.len(), most: MOST_CIDS });
    }
    let ids = cids.iter().map(|cid| hardware_id(cid)).collect::<Result<Vec<_>, _>>()?;
    Ok(match ids.as_slice() {
        [] => None,
        [one] => Some(one.clone()),
        several => {
            let raw: Vec<_> = several.iter().map(|id| Raw(id)).collect();
            let mut aml = Vec::new();
            Package::new(raw.iter().map(|id| id as &dyn Aml).collect()).to_aml_bytes(&mut aml);
            Some(aml)
        }
    })
}

/// AML that is there already.
struct Raw<'a>(&'a [u8]);

/// The same, kept.
struct Owned(Vec<u8>);

impl Aml for Owned {
    fn to_aml_bytes(&self, sink: &mut dyn acpi_tables::AmlSink) {
        sink.vec(&self.0);
    }
}

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
        _ => Err(BootError::HardwareId { hid: cut(hid) }),
    }
}

/// What of an id is shown in a message.
fn cut(hid: &str) -> String {
    hid.chars().take(64).collect()
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
            Err(_) => consumed(&AddressSpace::new_io(range.base as u16, last as u16, None)),
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
        _ => consumed(&AddressSpace::new_memory(AddressSpaceCacheable::NotCacheable, true, range.base, last, None)),
    }
}

/// An address space descriptor of what a device takes: acpi_tables marks all as what a bridge hands on, which Linux gives
/// to no driver. Its general flags follow tag, length and type (6.4.3.5.1).
fn consumed(range: &dyn Aml) -> Box<dyn Aml> {
    let mut aml = Vec::new();
    range.to_aml_bytes(&mut aml);
    if let Some(flags) = aml.get_mut(4) {
        *flags |= CONSUMER;
    }
    Box::new(Owned(aml))
}

fn port_range(base: u16, len: u8) -> Box<dyn Aml> {
    Box::new(IO::new(base, base, 1, len))
}

/// An interrupt that this device consumes, active high. A level can be shared, an edge cannot.
fn irq(gsi: u32, level: bool) -> Box<dyn Aml> {
    Box::new(Interrupt::new(true, !level, false, level, gsi))
}
