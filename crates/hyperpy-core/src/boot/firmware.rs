//! Firmware: a raw image that ends where the first 4 GiB end, entered at the processor's reset vector (SDM vol. 3,
//! 10.1.4), as a PC's flash chip is.
//!
//! The image becomes read-only memory. Its last 128 KiB are also copied into RAM below 1 MiB, where a BIOS runs after
//! its first far jump: a copy and not an alias, because a BIOS keeps variables there once it has made it writable
//! ("shadow RAM"). There is no chip set whose registers could protect it. Firmware finds out about the platform by
//! itself: from the CMOS, and from fw_cfg, for which the memory map is made here.

use super::ram::Ram;
use super::{Entry, EntryMode, RFLAGS_CLEAR};
use crate::arch::x86_64::Regs;
use crate::arch::x86_64::layout::{BIOS_END, FIRMWARE_END, FIRMWARE_MOST, IDENTITY_MAP_START, KVM_PAGES_END};
use crate::error::{BootError, MemoryError};
use crate::memory::{Kind, Memory, PAGE_SIZE};

/// Most bytes that lie below 1 MiB too.
const LOW_MOST: usize = 128 << 10;
/// Bytes from the reset vector to the end.
const VECTOR_LEN: usize = 16;
/// ip at reset; the base of cs is 0xffff0000.
const RESET_IP: u64 = 0xfff0;
/// edx at reset: family 6, when the processor is not asked.
const RESET_EDX: u64 = 0x600;
/// E820 types.
const USABLE: u32 = 1;
const RESERVED: u32 = 2;

/// Puts a firmware image into memory.
///
/// # Errors
/// Its length is no flash chip's, it has no code at the reset vector, or something else lies where it must go. Memory
/// is then unchanged.
pub fn firmware(memory: &Memory, image: &[u8]) -> Result<Entry, BootError> {
    let len = image.len() as u64;
    if len == 0 || !len.is_multiple_of(PAGE_SIZE) || len > FIRMWARE_MOST {
        return Err(BootError::FirmwareSize { len, unit: PAGE_SIZE, most: FIRMWARE_MOST });
    }
    let tail = |most: usize| image.get(image.len().saturating_sub(most)..).unwrap_or(image);
    // What was never written reads as all ones in flash, and as zeros in a file that was only made long.
    if tail(VECTOR_LEN).iter().all(|b| *b == 0xff) || tail(VECTOR_LEN).iter().all(|b| *b == 0) {
        return Err(BootError::FirmwareVector);
    }
    let low = tail(LOW_MOST);
    let low_at = BIOS_END - low.len() as u64;
    Ram::of(memory).require("the firmware below 1 MiB", low_at, low.len() as u64)?;
    let at = FIRMWARE_END - len;
    let is_there = memory.regions().iter().any(|r| (r.gpa, r.len, r.kind) == (at, len, Kind::Rom));
    if !is_there {
        memory.add(at, len, Kind::Rom, "firmware").map_err(|error| match error {
            MemoryError::Overlap { other, .. } => BootError::FirmwarePlace { gpa: at, len, other },
            error => error.into(),
        })?;
    }
    memory.write(at, image)?;
    memory.write(low_at, low)?;
    let regs = Regs { rip: RESET_IP, rdx: RESET_EDX, rflags: RFLAGS_CLEAR, ..Regs::default() };
    Ok(Entry { regs, mode: EntryMode::Reset })
}

/// The memory map as firmware reads it from fw_cfg, file `etc/e820`: base and length of 8 bytes and a type of 4 each.
#[must_use]
pub fn e820(memory: &Memory) -> Vec<u8> {
    let ram = Ram::of(memory).all().iter().map(|span| (span.start, span.end, USABLE)).collect::<Vec<_>>();
    let firmware =
        memory.regions().into_iter().filter(|r| r.kind == Kind::Rom && r.gpa >= FIRMWARE_END - FIRMWARE_MOST);
    let firmware = firmware.map(|r| (r.gpa, r.gpa.saturating_add(r.len), RESERVED));
    let kvm = (IDENTITY_MAP_START, KVM_PAGES_END, RESERVED);
    let rows = ram.into_iter().chain([kvm]).chain(firmware);
    rows.flat_map(|(start, end, kind)| {
        [&start.to_le_bytes()[..], &(end - start).to_le_bytes(), &kind.to_le_bytes()].concat()
    })
    .collect()
}
