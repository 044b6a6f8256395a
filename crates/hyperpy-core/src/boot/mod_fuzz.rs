//! Loaders given damaged images, payloads that unpack to anything, and the platform's tables for anything that can be asked for.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::cast_possible_truncation, clippy::panic)]

use std::cell::RefCell;
use std::io::Write;

use arbitrary::{Result, Unstructured};

use super::acpi::{Irq, ListedDevice, Platform, Range, Uid, build};
use super::images_test::{
    RAM, bytes, bzimage, elf, firmware_of, flat_header, multiboot_elf, multiboot_flat, put, pvh_elf, ram,
};
use super::linux::{Linux, linux};
use super::multiboot::{Multiboot, multiboot};
use super::pvh::{Pvh, pvh};
use super::{Entry, Module, firmware, flat, mp, recognise, trim, unpack};
use crate::arch::x86_64::Sregs;
use crate::arch::x86_64::layout::{ACPI_START, CMDLINE_START, INFO_START, MP_TABLE_START};
use crate::error::BootError;
use crate::memory::Memory;
use crate::targets::{any_of, edited, near, with};

thread_local! {
    /// A memory that nobody has written: what was refused has left it alone, so that it serves again.
    static CLEAN: RefCell<Option<Memory>> = const { RefCell::new(None) };
}

/// Loads into a machine of 64 MiB. A refusal writes nothing and adds nothing; what is loaded is entered where there is memory.
fn attempt(load: impl FnOnce(&Memory) -> core::result::Result<Entry, BootError>, check: impl FnOnce(&Memory, &Entry)) {
    let memory = CLEAN.take().unwrap_or_else(ram);
    match load(&memory) {
        Err(_) => {
            assert_eq!((memory.committed(), memory.regions().len()), (0, 1), "a refused load wrote");
            CLEAN.set(Some(memory));
        }
        Ok(entry) => {
            let mut sregs = Sregs::default();
            entry.apply(&mut sregs);
            assert!(memory.holds(sregs.cs.base.wrapping_add(entry.regs.rip), 1), "entered where no memory is");
            check(&memory, &entry);
        }
    }
}

fn line(u: &mut Unstructured<'_>) -> Result<Vec<u8>> {
    Ok(match u.int_in_range(0..=3)? {
        0 => u.arbitrary::<&[u8]>()?.to_vec(),
        1 => vec![b'x'; near(u, &[0, 255, 2048, 0x1_0000])?.min(0x2_0000) as usize],
        _ => b"console=ttyS0 quiet".to_vec(),
    })
}

/// A bzImage or an ELF file for Linux's protocol, with any command line and initrd.
pub fn boot_linux(data: &[u8]) {
    with(data, |u| {
        let image = if u.arbitrary()? { elf() } else { bzimage(b"\x7fELF") };
        let setup = if u.ratio(1, 4)? { Some(edited(u, bzimage(b""))?) } else { None };
        let (cmdline, initrd) = (line(u)?, vec![7; near(u, &[0, 100, 0x1000])?.min(0x2000) as usize]);
        let kernel = edited(u, image)?;
        let linux_ = Linux {
            kernel: &kernel,
            setup: setup.as_deref(),
            initrd: Some(&initrd),
            cmdline: &cmdline,
            rsdp: Some(ACPI_START),
        };
        attempt(
            |memory| linux(memory, &linux_),
            |memory, entry| {
                let there = bytes(memory, CMDLINE_START, cmdline.len() + 1);
                assert_eq!((&there[..cmdline.len()], there[cmdline.len()]), (&cmdline[..], 0));
                // boot_params: ramdisk_image, ramdisk_size.
                let word = |at| super::images_test::number(memory, entry.regs.rsi + at, 4);
                if !initrd.is_empty() {
                    assert_eq!(word(0x21c), initrd.len() as u64);
                    assert_eq!(bytes(memory, word(0x218), initrd.len()), initrd);
                }
            },
        );
        Ok(())
    });
}

/// An ELF file with notes, by PVH.
pub fn boot_pvh(data: &[u8]) {
    with(data, |u| {
        let (wide, cmdline) = (u.arbitrary()?, line(u)?);
        let module = line(u)?;
        let modules = [Module { bytes: &[3; 5000], cmdline: &module }, Module { bytes: b"", cmdline: b"" }];
        let modules = &modules[..u.int_in_range(0..=2)?];
        let kernel = edited(u, pvh_elf(wide))?;
        let pvh_ = Pvh { kernel: &kernel, cmdline: &cmdline, modules, rsdp: Some(ACPI_START) };
        attempt(
            |memory| pvh(memory, &pvh_),
            |memory, entry| {
                let field = |at, len| super::images_test::number(memory, entry.regs.rbx + at, len);
                // hvm_start_info: magic, version, flags, nr_modules, modlist_paddr.
                assert_eq!((field(0, 4), field(12, 4)), (0x336e_c578, modules.len() as u64));
                for (at, module) in (0..).zip(modules) {
                    let entry = field(16, 8) + at * 32;
                    let place = super::images_test::number(memory, entry, 8);
                    assert_eq!(bytes(memory, place, module.bytes.len()), module.bytes);
                }
            },
        );
        Ok(())
    });
}

/// A Multiboot kernel: ELF of either class, or with address fields.
pub fn boot_multiboot(data: &[u8]) {
    with(data, |u| {
        let image = match u.int_in_range(0..=3)? {
            0 => multiboot_elf(false, 3),
            1 => multiboot_elf(true, 3),
            2 => multiboot_flat(),
            _ => {
                let mut image = multiboot_flat();
                let mut offset = || Ok::<_, arbitrary::Error>(near(u, &[0x40, 0, 0x700, 0xf00, 1 << 24])? as u32);
                put(&mut image, 0x140, &flat_header([offset()?, offset()?, offset()?, offset()?, offset()?]));
                image
            }
        };
        let (cmdline, module) = (line(u)?, line(u)?);
        let modules = [Module { bytes: &[3; 5000], cmdline: &module }, Module { bytes: b"x", cmdline: b"" }];
        let modules = &modules[..u.int_in_range(0..=2)?];
        let kernel = edited(u, image)?;
        let given = Multiboot { kernel: &kernel, modules, cmdline: &cmdline };
        attempt(
            |memory| multiboot(memory, &given),
            |memory, entry| {
                assert_eq!((entry.regs.rax, entry.regs.rbx), (0x2bad_b002, INFO_START));
                let word = |at| super::images_test::number(memory, at, 4);
                assert_eq!(word(INFO_START + 20), modules.len() as u64);
                for (at, module) in (0..).zip(modules) {
                    let (start, end) =
                        (word(word(INFO_START + 24) + 16 * at), word(word(INFO_START + 24) + 16 * at + 4));
                    assert_eq!(bytes(memory, start, (end - start) as usize), module.bytes);
                }
            },
        );
        Ok(())
    });
}

/// Firmware, and flat code anywhere in any mode.
pub fn boot_flat(data: &[u8]) {
    with(data, |u| {
        if u.ratio(1, 3)? {
            let image = firmware_of(any_of(u, &[0x1000, 0x2000, 0x2_0000, 0x2_1000])?);
            let image = edited(u, image)?;
            attempt(|memory| firmware::firmware(memory, &image), |memory, _| assert_eq!(memory.regions().len(), 2));
            return Ok(());
        }
        let mode = any_of(u, &[flat::Mode::Real, flat::Mode::Protected, flat::Mode::Long])?;
        let at = near(u, &[0, 0x500, 0x7000, 0x9000, 0xf000, 0x1_0000, 0x10_0000, RAM, 1 << 32, u64::MAX])?;
        let image = vec![0x90; near(u, &[1, 0x1000, 0x1_0000])?.min(0x2_0000) as usize];
        let load = |memory: &Memory| flat::flat(memory, &image, at, mode);
        attempt(load, |memory, _| assert_eq!(bytes(memory, at, image.len()), image, "something lies over the image"));
        Ok(())
    });
}

/// The bound of what is unpacked.
const LIMIT: usize = 1 << 16;

fn packed(u: &mut Unstructured<'_>) -> Result<Vec<u8>> {
    let mut plain = elf();
    plain.resize(near(u, &[0, 0x2000, LIMIT as u64])?.min(1 << 18) as usize, 7);
    let mut packed = match u.int_in_range(0..=4)? {
        0 => zstd::bulk::compress(&plain, 1).unwrap(),
        1 => {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            encoder.write_all(&plain).unwrap();
            encoder.finish().unwrap()
        }
        2 => {
            let mut encoder = liblzma::write::XzEncoder::new(Vec::new(), 0);
            encoder.write_all(&plain).unwrap();
            encoder.finish().unwrap()
        }
        3 => {
            let block = lz4_flex::block::compress(&plain);
            [b"\x02\x21\x4c\x18", &(block.len() as u32).to_le_bytes()[..], &block].concat()
        }
        _ => plain,
    };
    packed.extend(near(u, &[0x2000, u32::MAX.into()])?.to_le_bytes()[..4].iter());
    edited(u, packed)
}

/// Payloads of any kind, damaged: refused, or no longer than allowed; and what a file is for, whatever it is.
pub fn boot_unpack(data: &[u8]) {
    with(data, |u| {
        let packed = packed(u)?;
        let image = edited(u, bzimage(&packed))?;
        if let Ok(Some(vmlinux)) = unpack::payload(&image, LIMIT) {
            assert!(vmlinux.len() <= LIMIT && vmlinux.starts_with(b"\x7fELF"));
        }
        if let Ok(Some(plain)) = unpack::gunzip(&packed, LIMIT) {
            assert!(plain.len() <= LIMIT);
        }
        let _ = recognise::recognise(&image);
        Ok(())
    });
}

/// A kernel without the zeros at its end is loaded as the one with them, and is for the same loader.
pub fn boot_trim(data: &[u8]) {
    with(data, |u| {
        let mut image = match u.int_in_range(0..=3)? {
            0 => elf(),
            1 => pvh_elf(u.arbitrary()?),
            _ => multiboot_elf(true, 3),
        };
        for _ in 0..u.int_in_range(0..=3)? {
            let from = u.int_in_range(0x1000..=image.len())?;
            let end = (from + u.int_in_range(0..=0x1000)?).min(image.len());
            image[from..end].fill(0);
        }
        let image = edited(u, image)?;
        let trimmed = trim::trimmed(image.clone());
        assert!(trimmed.len() <= image.len().max(64));
        let load = |kernel: &[u8]| {
            let memory = ram();
            let loaded = linux(&memory, &Linux { kernel, ..Linux::default() });
            loaded.is_ok().then(|| (loaded.unwrap(), bytes(&memory, super::images_test::LOAD, 0x6000)))
        };
        if let Some(before) = load(&image) {
            assert!(load(&trimmed) == Some(before), "another kernel is loaded");
        }
        Ok(())
    });
}

fn listed(u: &mut Unstructured<'_>) -> Result<ListedDevice> {
    let id = |u: &mut Unstructured<'_>| -> Result<String> {
        Ok(match u.int_in_range(0..=7)? {
            0 => u.arbitrary::<&str>()?.into(),
            1 => "ACPI0013".into(),
            2 => "PNP0501".into(),
            3 => "LNRO0005".into(),
            _ => format!("PNP{:04X}", u.arbitrary::<u16>()?),
        })
    };
    let mut device = ListedDevice { hid: id(u)?, ..ListedDevice::default() };
    for _ in 0..u.int_in_range(0..=3)? {
        device.cids.push(id(u)?);
    }
    device.uid = match u.int_in_range(0..=3)? {
        0 => Some(Uid::Text(u.arbitrary::<&str>()?.into())),
        1 => Some(Uid::Number(near(u, &[0, 255, 1 << 32])?)),
        _ => None,
    };
    let range = |u: &mut Unstructured<'_>, limits: &[u64]| Ok(Range { base: near(u, limits)?, len: near(u, limits)? });
    for _ in 0..u.int_in_range(0..=3)? {
        device.mmio.push(range(u, &[0, 0x1000, 0xfe00_0000, 1 << 32, u64::MAX])?);
        device.pio.push(range(u, &[0, 8, 0x100, 0xffff, 1 << 16])?);
        device.irqs.push(Irq { gsi: near(u, &[5, 23])? as u32, level: u.arbitrary()? });
    }
    Ok(device)
}

fn number(bytes: &[u8]) -> usize {
    bytes.iter().rev().fold(0, |n, b| n << 8 | usize::from(*b))
}

fn sum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
}

/// The table at a gpa; those with a checksum have a right one.
fn table(tables: &[u8], gpa: usize) -> &[u8] {
    let at = gpa - ACPI_START as usize;
    let table = &tables[at..at + number(&tables[at + 4..at + 8])];
    assert!(table.starts_with(b"FACS") || sum(table) == 0);
    table
}

/// The objects of an AML block, one after the other: each package says its own length, and lies in the one around it.
fn walk(aml: &[u8], devices: &mut Vec<Vec<u8>>) {
    let mut at = 0;
    while at < aml.len() {
        // PkgLength of ScopeOp (0x10) and DeviceOp (0x5b 0x82): ACPI 6.5, 20.2.4.
        let head = match &aml[at..] {
            [0x10, ..] => 1,
            [0x5b, 0x82, ..] => 2,
            _ => return, // what comes before a device's own names is not looked into
        };
        let first = aml[at + head];
        let more = usize::from(first >> 6);
        let len = if more == 0 {
            usize::from(first & 0x3f)
        } else {
            usize::from(first & 0xf) | number(&aml[at + head + 1..at + head + 1 + more]) << 4
        };
        let (from, end) = (at + head + 1 + more, at + head + len);
        assert!(end <= aml.len(), "a package leaves what it is in");
        if head == 1 {
            walk(&aml[from + 4..end], devices);
        } else {
            devices.push(aml[from..from + 4].to_vec());
        }
        at = end;
    }
}

/// Any platform: refused, or tables that are linked, sum to zero, name every device once, and fit.
pub fn acpi(data: &[u8]) {
    with(data, |u| {
        let mut platform = Platform {
            cpus: near(u, &[1, 255])? as u32,
            com1: u.arbitrary()?,
            rtc: u.arbitrary()?,
            devices: Vec::new(),
        };
        for _ in 0..u.int_in_range(0..=6)? {
            platform.devices.push(listed(u)?);
        }
        if u.ratio(1, 50)? {
            let one = platform.devices.first().cloned().unwrap_or_default();
            platform.devices.resize(near(u, &[500, 0x1000])?.min(0x1100) as usize, ListedDevice { uid: None, ..one });
        }
        let mp = mp::build(&platform);
        assert!(mp.is_empty() || sum(&mp[..16]) == 0 && sum(&mp[16..]) == 0);
        assert!(mp.len() as u64 <= 0x10_0000 - MP_TABLE_START);
        let Ok(tables) = build(&platform) else { return Ok(()) };
        assert_eq!((&tables[..8], sum(&tables[..20]), sum(&tables[..36])), (b"RSD PTR ".as_slice(), 0, 0));
        let xsdt = table(&tables, number(&tables[24..32]));
        let fadt = table(&tables, number(&xsdt[36..44]));
        let madt = table(&tables, number(&xsdt[44..52]));
        assert_eq!(madt[44..].chunks(8).filter(|it| it.starts_with(&[0, 8])).count(), platform.cpus as usize);
        let dsdt = table(&tables, number(&fadt[40..44]));
        let scope = 36 + dsdt[36..].iter().position(|byte| *byte == 0x10).unwrap();
        let mut devices = Vec::new();
        walk(&dsdt[scope..], &mut devices);
        let expected = 2 + usize::from(platform.com1) + usize::from(platform.rtc) + platform.devices.len();
        assert_eq!(devices.len(), expected);
        devices.sort();
        devices.dedup();
        assert_eq!(devices.len(), expected, "two devices of one name");
        Ok(())
    });
}
