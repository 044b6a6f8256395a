//! ACPI tables (ACPI specification 6.5, chapter 5): how an operating system learns of processors, interrupt
//! controllers, power-off, reset, and devices that no bus announces.
//!
//! RSDP, XSDT, FADT, FACS, MADT and DSDT lie in the first half of the BIOS area, the RSDP first, where a program that was not told
//! finds it too. The platform is not "hardware-reduced": it has PM1a blocks and a PM timer, is always in ACPI mode
//! (no SMI_CMD), has no GPE and no fixed buttons. gsi n is pin n of the one I/O APIC, as KVM routes it from the
//! start, so the timer's IRQ 0 needs no override. The bytes depend on the [`Platform`] alone.

use acpi_tables::Aml;
use acpi_tables::facs::FACS;
use acpi_tables::fadt::{FADTBuilder, Flags, PmProfile};
use acpi_tables::gas::{AccessSize, AddressSpace, GAS};
use acpi_tables::madt::{EnabledStatus, IoApic, ProcessorLocalApic};
use acpi_tables::rsdp::Rsdp;
use acpi_tables::sdt::Sdt;
use acpi_tables::xsdt::XSDT;

use super::dsdt;
pub use super::dsdt::{Irq, ListedDevice, Range, Uid};
use crate::arch::x86_64::layout::{
    ACPI_START, IOAPIC_START, LAPIC_START, MP_TABLE_START, PM_TIMER_PORT, PM1A_CONTROL_PORT, PM1A_EVENT_PORT,
    RESET_PORT, SCI_GSI,
};
use crate::error::BootError;

/// OEM id of every table.
const OEM_ID: [u8; 6] = *b"HYPRPY";
/// OEM table id of every table.
const OEM_TABLE_ID: [u8; 8] = *b"HYPERPY ";
/// OEM revision of every table.
const OEM_REVISION: u32 = 1;
/// Written to the reset register: a hard reset with the reset bit raised (Intel PCH, RST_CNT).
pub const RESET_VALUE: u8 = 0x06;
/// SLP_TYP of soft off, in `\_S5` and in what the guest writes to PM1a control.
pub const SOFT_OFF_SLP_TYP: u8 = 5;
/// Most processors: local APIC ids are 8 bits, and 255 means all.
pub const MOST_CPUS: u32 = 255;
/// Pins of the I/O APIC.
pub(super) const IOAPIC_PINS: u32 = 24;

/// IAPC_BOOT_ARCH: there are devices on an ISA bus.
const LEGACY_DEVICES: u16 = 1 << 0;
/// IAPC_BOOT_ARCH: leave VGA alone.
const VGA_NOT_PRESENT: u16 = 1 << 2;
/// IAPC_BOOT_ARCH: there is no CMOS RTC.
const CMOS_RTC_NOT_PRESENT: u16 = 1 << 5;
/// MADT: there are two 8259 beside the APICs.
const PCAT_COMPAT: u32 = 1;
/// MADT, MPS INTI flags: active high, edge.
const HIGH_EDGE: u8 = 0b0101;
/// MADT, MPS INTI flags: active high, level.
const HIGH_LEVEL: u8 = 0b1101;
/// MADT: bytes of the header before the structures.
const MADT_HEADER_LEN: u32 = 44;

/// What the tables describe.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Platform {
    /// Processors, 1 to [`MOST_CPUS`], with local APIC ids from 0.
    pub cpus: u32,
    /// Whether the stock 16550 is at COM1.
    pub com1: bool,
    /// Whether the stock CMOS RTC is there.
    pub rtc: bool,
    /// Devices that ask to be listed.
    pub devices: Vec<ListedDevice>,
}

/// The tables as they lie from [`ACPI_START`].
pub(super) fn build(platform: &Platform) -> Result<Vec<u8>, BootError> {
    if !(1..=MOST_CPUS).contains(&platform.cpus) {
        return Err(BootError::Cpus { cpus: platform.cpus, most: MOST_CPUS });
    }
    let mut area = Area { bytes: vec![0; 64] };
    let facs = area.put(&FACS::new());
    let dsdt = area.put(&table(*b"DSDT", 2, 36, &dsdt::body(platform)?));
    let fadt = area.put(&fadt(platform, facs, dsdt));
    let madt = area.put(&madt(platform));
    let mut xsdt = XSDT::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    xsdt.add_entry(fadt);
    xsdt.add_entry(madt);
    let xsdt = area.put(&xsdt);
    let mut rsdp = Vec::new();
    Rsdp::new(OEM_ID, xsdt).to_aml_bytes(&mut rsdp);
    area.bytes.splice(..rsdp.len(), rsdp);
    let (len, room) = (area.bytes.len() as u64, MP_TABLE_START - ACPI_START);
    if len > room {
        return Err(BootError::TablesTooLong { len, room });
    }
    Ok(area.bytes)
}

/// Tables one after the other, each at a multiple of 64 bytes, as the FACS wants it.
struct Area {
    bytes: Vec<u8>,
}

impl Area {
    /// Appends a table and returns its gpa.
    fn put(&mut self, table: &dyn Aml) -> u64 {
        self.bytes.resize(self.bytes.len().next_multiple_of(64), 0);
        let at = ACPI_START + self.bytes.len() as u64;
        table.to_aml_bytes(&mut self.bytes);
        at
    }
}

fn table(signature: [u8; 4], revision: u8, header_len: u32, body: &[u8]) -> Sdt {
    let mut table = Sdt::new(signature, header_len, revision, OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    table.append_slice(body);
    table
}

fn port(port: u16, bits: u8, size: AccessSize) -> GAS {
    GAS::new(AddressSpace::SystemIo, bits, 0, size, port.into())
}

fn fadt(platform: &Platform, facs: u64, dsdt: u64) -> impl Aml {
    let mut fadt = FADTBuilder::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION)
        .preferred_pm_profile(PmProfile::Unspecified)
        .flag(Flags::Wbinvd)
        .flag(Flags::ProcC1)
        // These two set mean that there is no such button among the fixed ones, FixRtc that the RTC wakes nobody.
        .flag(Flags::PwrButton)
        .flag(Flags::SlpButton)
        .flag(Flags::FixRtc)
        .flag(Flags::ResetRegSup);
    // Both lie below 1 MiB. Each is named once: a non-zero X_FIRMWARE_CTRL beside FIRMWARE_CTRL is not allowed.
    fadt.firmware_ctrl = (facs as u32).into();
    fadt.dsdt = (dsdt as u32).into();
    fadt.x_dsdt = dsdt.into();
    fadt.sci_int = (SCI_GSI as u16).into();
    fadt.pm1a_evt_blk = u32::from(PM1A_EVENT_PORT).into();
    fadt.pm1_evt_len = 4;
    fadt.x_pm1a_evt_blk = port(PM1A_EVENT_PORT, 32, AccessSize::WordAccess);
    fadt.pm1a_cnt_blk = u32::from(PM1A_CONTROL_PORT).into();
    fadt.pm1_cnt_len = 2;
    fadt.x_pm1a_cnt_blk = port(PM1A_CONTROL_PORT, 16, AccessSize::WordAccess);
    fadt.pm_tmr_blk = u32::from(PM_TIMER_PORT).into();
    fadt.pm_tmr_len = 4;
    fadt.x_pm_tmr_blk = port(PM_TIMER_PORT, 32, AccessSize::DwordAccess);
    // Above these latencies C2 and C3 are not there.
    fadt.p_lvl2_lat = 101.into();
    fadt.p_lvl3_lat = 1001.into();
    let rtc = if dsdt::has_rtc(platform) { 0 } else { CMOS_RTC_NOT_PRESENT };
    fadt.iapc_boot_arch = (LEGACY_DEVICES | VGA_NOT_PRESENT | rtc).into();
    fadt.reset_reg = port(RESET_PORT, 8, AccessSize::ByteAccess);
    fadt.reset_value = RESET_VALUE;
    fadt.finalize()
}

fn madt(platform: &Platform) -> Sdt {
    let mut body = Vec::new();
    // At most 255, so ids fit in 8 bits; the I/O APIC's id is in a space of its own.
    for id in 0..platform.cpus as u8 {
        ProcessorLocalApic::new(id, id, EnabledStatus::Enabled).to_aml_bytes(&mut body);
    }
    IoApic::new(0, IOAPIC_START as u32, 0).to_aml_bytes(&mut body);
    // Interrupt Source Override (5.2.12.5): the SCI is a level interrupt, ISA ones are edge. Bus 0, source, gsi, flags.
    body.extend([2, 10, 0, SCI_GSI as u8]);
    body.extend(SCI_GSI.to_le_bytes());
    body.extend([HIGH_LEVEL, 0]);
    // Local APIC NMI (5.2.12.7): LINT1 of every processor (0xff). Uid, flags, LINT.
    body.extend([4, 6, 0xff, HIGH_EDGE, 0, 1]);
    let mut madt = table(*b"APIC", 5, MADT_HEADER_LEN, &body);
    madt.write_u32(36, LAPIC_START as u32);
    madt.write_u32(40, PCAT_COMPAT);
    madt
}
