//! hyperpy's stock devices: what a PC has besides processors, memory and the interrupt controllers in the kernel.
//!
//! Each is a plain state machine behind [`Device`](hyperpy_core::bus::Device). It holds handles to what it needs
//! (an interrupt [`Line`](hyperpy_core::irq::Line), a [`Console`](console::Console), a [`Clock`](clock::Clock)) and
//! never its machine; it starts no thread and knows no KVM. [`pc::Board`] puts them all onto a bus.
//!
//! One rule of access holds for all of them: they are devices of an 8-bit bus, as on a PC. An access of n bytes is n
//! accesses of one byte at rising offsets, lowest byte first. Offsets that a device does not have read as 0xff and
//! ignore writes. Where a device differs (the debug-exit port, fw_cfg, the sampling of the PM timer) its module says so.

#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing))]

pub mod acpi_pm;
pub mod clock;
pub mod console;
pub mod debugcon;
pub mod debugexit;
pub mod fw_cfg;
pub mod i8042;
mod names;
pub mod pc;
pub mod rtc;
#[cfg(any(test, fuzzing))]
pub mod targets;
pub mod uart;

use std::sync::{Mutex, MutexGuard, PoisonError};

use hyperpy_core::bus::{Access, Action};

/// What an 8-bit bus reads where nothing drives it.
const OPEN_BUS: u8 = 0xff;

/// Reads as a bus of 8-bit devices does: byte by byte at rising offsets, the first one lowest.
fn read_bytes(at: Access, mut byte: impl FnMut(u64) -> u8) -> u64 {
    (0..u64::from(at.size.min(8))).fold(0, |value, i| value | u64::from(byte(at.offset.saturating_add(i))) << (8 * i))
}

/// Writes as a bus of 8-bit devices does. The first action that is not `Continue` ends the access: the machine stops
/// or starts again there.
fn write_bytes(at: Access, value: u64, mut byte: impl FnMut(u64, u8) -> Action) -> Action {
    for i in 0..u64::from(at.size.min(8)) {
        match byte(at.offset.saturating_add(i), (value >> (8 * i)) as u8) {
            Action::Continue => {}
            action => return action,
        }
    }
    Action::Continue
}

/// Locks, whatever a panic inside an earlier holder left behind: every state of a device is one that a guest could
/// have made.
fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
#[path = "state_test.rs"]
mod state_tests;
#[cfg(test)]
#[path = "testing_test.rs"]
mod testing;
