//! ACPI tables: checksums and links by hand, the DSDT by the ACPI project's own compiler where it is installed.

use std::process::Command;

use super::acpi::{Irq, ListedDevice, MOST_CPUS, Platform, Range, Uid, build};
use super::flat::{Mode, flat};
use super::platform::describe;
use crate::arch::x86_64::layout::ACPI_START;
use crate::error::BootError;
use crate::memory::Memory;

fn platform() -> Platform {
    let range = |base, len| Range { base, len };
    let doorbell = ListedDevice {
        hid: "LNRO0005".into(),
        mmio: vec![range(0xfe00_0000, 0x1000), range(1 << 40, 1 << 33)],
        pio: vec![range(0x510, 4), range(0x1000, 0x800)],
        irqs: vec![Irq { gsi: 5, level: false }, Irq { gsi: 10, level: true }],
        ..ListedDevice::default()
    };
    let bare = ListedDevice { cids: vec!["QEMU0002".into()], ..listed("PNP0C02") };
    let named = ListedDevice {
        cids: vec!["PNP0C02".into(), "ACPI0001".into()],
        uid: Some(Uid::Text("left one".into())),
        ..listed("PNP0501")
    };
    let numbered = ListedDevice { uid: Some(Uid::Number(1 << 40)), ..listed("PNP0501") };
    let devices = vec![doorbell, bare, named, numbered, listed("PNP0501")];
    Platform { cpus: 3, com1: true, rtc: true, devices }
}

fn listed(hid: &str) -> ListedDevice {
    ListedDevice { hid: hid.into(), ..ListedDevice::default() }
}

fn number(bytes: &[u8]) -> usize {
    bytes.iter().rev().fold(0, |n, b| n << 8 | usize::from(*b))
}

/// The table at a gpa, with its checksum verified.
fn table(tables: &[u8], gpa: usize) -> &[u8] {
    let at = gpa - ACPI_START as usize;
    let table = &tables[at..at + number(&tables[at + 4..at + 8])];
    if &table[..4] != b"FACS" {
        assert_eq!(table.iter().fold(0_u8, |sum, b| sum.wrapping_add(*b)), 0, "checksum of {:?}", &table[..4]);
    }
    table
}

/// RSDP and XSDT verified; then FADT, MADT, FACS, DSDT.
fn tables(tables: &[u8]) -> [&[u8]; 4] {
    assert_eq!(&tables[..8], b"RSD PTR ");
    assert_eq!(tables[15], 2);
    assert_eq!(tables[..20].iter().fold(0_u8, |sum, b| sum.wrapping_add(*b)), 0);
    assert_eq!(tables[..36].iter().fold(0_u8, |sum, b| sum.wrapping_add(*b)), 0);
    let xsdt = table(tables, number(&tables[24..32]));
    assert_eq!((&xsdt[..4], xsdt.len()), (b"XSDT".as_slice(), 36 + 16));
    let fadt = table(tables, number(&xsdt[36..44]));
    let madt = table(tables, number(&xsdt[44..52]));
    let (facs_at, dsdt_at) = (number(&fadt[36..40]), number(&fadt[40..44]));
    assert_eq!(facs_at % 64, 0);
    assert_eq!((number(&fadt[132..140]), number(&fadt[140..148])), (0, dsdt_at));
    [fadt, madt, table(tables, facs_at), table(tables, dsdt_at)]
}

#[test]
fn test_acpi_tables_are_linked_and_sum_to_zero() {
    let bytes = build(&platform()).unwrap();
    let [fadt, madt, facs, dsdt] = tables(&bytes);
    assert_eq!([&fadt[..4], &madt[..4], &facs[..4], &dsdt[..4]], [b"FACP", b"APIC", b"FACS", b"DSDT"]);
    assert_eq!(bytes, build(&platform()).unwrap());
}

#[test]
fn test_platform_tables_are_written_around_a_loader_that_succeeds_alone() {
    let memory = Memory::with_ram(1 << 20).unwrap();
    let there = |len| {
        let mut there = vec![0; len];
        memory.read(ACPI_START, &mut there).unwrap();
        there
    };
    let refused = describe(&memory, &platform(), |_| Err(BootError::FlatEmpty));
    assert!(matches!(refused, Err(BootError::FlatEmpty)));
    assert_eq!(there(36), [0; 36]);
    describe(&memory, &platform(), |rsdp| {
        assert_eq!(rsdp, ACPI_START);
        flat(&memory, &[0xf4], 0x1000, Mode::Real)
    })
    .unwrap();
    assert_eq!(there(36), build(&platform()).unwrap()[..36]);
    let mut bios_data = [0; 7];
    memory.read(0x40e, &mut bios_data).unwrap();
    assert_eq!(bios_data, [0xc0, 0x9f, 0, 0, 0, 0x7f, 2]);
    let small = Memory::with_ram(0x10000).unwrap();
    let missing = describe(&small, &platform(), |_| panic!("the loader ran"));
    assert!(matches!(missing, Err(BootError::Memory(_))));
}

#[test]
fn test_acpi_fadt_names_the_platforms_ports() {
    let bytes = build(&platform()).unwrap();
    let [fadt, ..] = tables(&bytes);
    let port = |at: usize, len: usize| number(&fadt[at..at + len]);
    assert_eq!((port(46, 2), port(48, 4)), (9, 0)); // SCI_INT, SMI_CMD
    assert_eq!((port(56, 4), port(64, 4), port(76, 4)), (0x600, 0x604, 0x608));
    assert_eq!((fadt[88], fadt[89], fadt[91]), (4, 2, 4));
    assert_eq!(port(109, 2), 0b101); // IAPC_BOOT_ARCH: legacy devices, no VGA
    assert_eq!(port(112, 4) & (1 << 20 | 1 << 10), 1 << 10); // RESET_REG_SUP, not HW_REDUCED_ACPI
    assert_eq!((fadt[116], port(120, 8), fadt[128]), (1, 0xcf9, 6));
    let bytes = build(&Platform { rtc: false, ..platform() }).unwrap();
    assert_eq!(number(&tables(&bytes)[0][109..111]), 0b10_0101);
    for rtc in [listed("PNP0B00"), ListedDevice { cids: vec!["PNP0B01".into()], ..listed("ACPI000E") }] {
        let bytes = build(&Platform { rtc: false, devices: vec![rtc], ..platform() }).unwrap();
        assert_eq!(number(&tables(&bytes)[0][109..111]), 0b101);
    }
}

#[test]
fn test_acpi_madt_lists_processors_and_the_sci() {
    let bytes = build(&platform()).unwrap();
    let [_, madt, ..] = tables(&bytes);
    assert_eq!((number(&madt[36..40]), number(&madt[40..44])), (0xfee0_0000, 1));
    let expected = [
        vec![0, 8, 0, 0, 1, 0, 0, 0],
        vec![0, 8, 1, 1, 1, 0, 0, 0],
        vec![0, 8, 2, 2, 1, 0, 0, 0],
        vec![1, 12, 0, 0, 0, 0, 0xc0, 0xfe, 0, 0, 0, 0],
        vec![2, 10, 0, 9, 9, 0, 0, 0, 0x0d, 0],
        vec![4, 6, 0xff, 5, 0, 1],
    ];
    assert_eq!(madt[44..], expected.concat());
}

#[test]
fn test_acpi_devices_that_cannot_be_described_are_refused() {
    let with = |device| build(&Platform { cpus: 1, devices: vec![device], ..Platform::default() });
    let id = |hid: &str| with(ListedDevice { hid: hid.into(), ..ListedDevice::default() });
    for hid in ["PNP0501", "ACPI000F", "LNRO0005", "Q0QQ0000"] {
        assert!(id(hid).is_ok(), "{hid}");
    }
    for hid in [
        "",
        "PNP",
        "PNP050",
        "PNP050x",
        "PNP050a",
        "pnp0501",
        "P1P0501",
        "ABCDE0001",
        "ÄB0501",
        "ABCD 001",
        "A\0CD0001",
    ] {
        assert!(matches!(id(hid), Err(BootError::HardwareId { .. })), "{hid}");
    }
    let mmio = |base, len| {
        with(ListedDevice { hid: "PNP0C02".into(), mmio: vec![Range { base, len }], ..ListedDevice::default() })
    };
    let pio = |base, len| {
        with(ListedDevice { hid: "PNP0C02".into(), pio: vec![Range { base, len }], ..ListedDevice::default() })
    };
    assert!(mmio(0, 1 << 32).is_ok() && mmio(u64::MAX, 1).is_ok() && pio(0xffff, 1).is_ok() && pio(1, 0xffff).is_ok());
    assert!(mmio(0, u64::MAX).is_ok());
    for refused in [mmio(0, 0), mmio(2, u64::MAX), pio(0, 0), pio(0, 0x1_0000), pio(0xffff, 2), pio(1 << 40, 1)] {
        assert!(matches!(refused, Err(BootError::DeviceRange { .. })));
    }
    let irq = |gsi| {
        with(ListedDevice { hid: "PNP0C02".into(), irqs: vec![Irq { gsi, level: true }], ..ListedDevice::default() })
    };
    assert!(irq(23).is_ok() && matches!(irq(24), Err(BootError::Gsi { gsi: 24, .. })));
    let cids =
        |cids: Vec<&str>| with(ListedDevice { cids: cids.into_iter().map(Into::into).collect(), ..listed("PNP0C02") });
    assert!(cids(vec!["PNP0501"; 16]).is_ok());
    assert!(matches!(cids(vec!["PNP0501"; 17]), Err(BootError::CompatibleIds { count: 17, .. })));
    assert!(matches!(cids(vec!["PNP0501", "pnp"]), Err(BootError::HardwareId { .. })));
    let uid = |uid| with(ListedDevice { uid: Some(uid), ..listed("PNP0C02") });
    assert!(uid(Uid::Number(u64::MAX)).is_ok() && uid(Uid::Text("x".repeat(63))).is_ok());
    for text in [String::new(), "x".repeat(64), "a\0".into(), "\u{e4}".into(), "a\nb".into()] {
        assert!(matches!(uid(Uid::Text(text)), Err(BootError::UniqueId { .. })));
    }
}

#[test]
fn test_acpi_unique_ids_that_are_left_out_are_the_first_free_numbers_of_their_hardware_id() {
    let unique = |devices| {
        let source = disassembled("uids", &Platform { cpus: 1, com1: true, devices, ..Platform::default() });
        let uids = source.lines().filter_map(|line| line.trim().strip_prefix("Name (_UID, "));
        uids.map(|line| line.split(')').next().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let asks = |number| ListedDevice { uid: Some(Uid::Number(number)), ..listed("PNP0501") };
    if let Some(source) = iasl_is_there() {
        let uids = unique(vec![listed("PNP0501"), asks(1), listed("PNP0C02"), listed("PNP0501"), asks(0x10)]);
        // The second is the event device's.
        assert_eq!(uids, ["Zero", "Zero", "0x02", "One", "Zero", "0x03", "0x10"], "{source}");
    }
    let twice = build(&Platform { cpus: 1, com1: true, devices: vec![asks(0)], ..Platform::default() });
    let message = twice.unwrap_err().to_string();
    assert_eq!(message, "two ACPI devices PNP0501 have one unique id: 0");
}

#[test]
fn test_acpi_tells_where_the_generations_identifier_is_and_of_its_changes() {
    if iasl_is_there().is_none() {
        return;
    }
    let source = disassembled("generation", &Platform { cpus: 1, ..Platform::default() });
    for part in ["\"VM_Gen_Counter\"", "0x000E0028", "Notify (\\_SB.VGEN, 0x80)", "0x00000017", "\"ACPI0013\""] {
        assert!(source.contains(part), "{part}: {source}");
    }
}

#[test]
fn test_acpi_counts_are_bounded() {
    let cpus = |cpus| build(&Platform { cpus, ..Platform::default() });
    assert!(cpus(MOST_CPUS).is_ok());
    assert!(matches!(cpus(0), Err(BootError::Cpus { .. })));
    assert!(matches!(cpus(MOST_CPUS + 1), Err(BootError::Cpus { .. })));
    let devices = |count| {
        let one = ListedDevice { hid: "PNP0C02".into(), ..ListedDevice::default() };
        build(&Platform { cpus: 1, devices: vec![one; count], ..Platform::default() })
    };
    assert!(devices(1000).is_ok());
    assert!(matches!(devices(2048), Err(BootError::TablesTooLong { .. })));
    assert!(matches!(devices(4097), Err(BootError::TablesTooLong { .. })));
}

/// Runs iasl, which says what it found wrong on its output.
fn iasl(folder: &std::path::Path, arguments: &[&str]) -> String {
    let out = Command::new("iasl").args(arguments).current_dir(folder).output().unwrap();
    let text = String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "iasl {arguments:?}: {text}");
    text
}

/// iasl's version, if it is installed: acpica-tools, which `make test` installs.
fn iasl_is_there() -> Option<String> {
    Command::new("iasl").arg("-v").output().ok().map(|out| String::from_utf8_lossy(&out.stdout).into_owned())
}

/// The DSDT's source as iasl gives it, which then compiles it again without a word.
fn disassembled(name: &str, platform: &Platform) -> String {
    let folder = std::env::temp_dir().join(format!("hyperpy-acpi-{name}-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let bytes = build(platform).unwrap();
    for (name, table) in ["facp", "apic", "facs", "dsdt"].iter().zip(tables(&bytes)) {
        std::fs::write(folder.join(format!("{name}.dat")), table).unwrap();
        iasl(&folder, &["-d", &format!("{name}.dat")]);
        let source = std::fs::read_to_string(folder.join(format!("{name}.dsl"))).unwrap();
        assert!(!source.contains("Error") && !source.contains("Warning") && !source.contains("Invalid"), "{source}");
        let compiled = iasl(&folder, &["-p", "again", &format!("{name}.dsl")]);
        assert!(compiled.contains(" 0 Errors, 0 Warnings") || *name != "dsdt", "{compiled}");
    }
    let source = std::fs::read_to_string(folder.join("dsdt.dsl")).unwrap();
    std::fs::remove_dir_all(&folder).unwrap();
    source
}

#[test]
fn test_acpi_tables_are_understood_by_iasl() {
    if iasl_is_there().is_none() {
        return;
    }
    let source = disassembled("all", &platform());
    for line in [
        "Name (_S5, Package (0x04)",
        "Device (COM1)",
        "Name (_HID, EisaId (\"PNP0501\")",
        "Device (D000)",
        "Name (_HID, \"LNRO0005\")",
        "Device (D001)",
        "Name (_CID, \"QEMU0002\")",
        "Name (_CID, Package (0x02)",
        "Name (_UID, \"left one\")",
        "Name (_UID, 0x0000010000000000)",
        "Name (_STA, 0x0F)",
        "Interrupt (ResourceConsumer, Edge, ActiveHigh, Exclusive",
        "Interrupt (ResourceConsumer, Level, ActiveHigh, Shared",
        "QWordMemory (ResourceConsumer",
        "WordIO (ResourceConsumer",
        "0xFE000000,         // Address Base",
        "0x0000010000000000, // Range Minimum",
    ] {
        assert!(source.contains(line), "{line} is not in {source}");
    }
}
