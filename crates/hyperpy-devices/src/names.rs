//! What the registers of stock devices are called in a trace: by the data sheets' names, in lower case.
//!
//! A device of one register is not here: its own name tells all.

use std::sync::Arc;

use hyperpy_core::names::{Fixed, Names};

/// A 16550A (PC16550D data sheet, table II). With LCR.DLAB the first two are the divisor.
pub(crate) const UART: Fixed = Fixed(&[
    (0, 1, "receiver_buffer|divisor_low", "transmitter_holding|divisor_low"),
    (1, 1, "interrupt_enable|divisor_high", "interrupt_enable|divisor_high"),
    (2, 1, "interrupt_identification", "fifo_control"),
    (3, 1, "line_control", "line_control"),
    (4, 1, "modem_control", "modem_control"),
    (5, 1, "line_status", "line_status"),
    (6, 1, "modem_status", "modem_status"),
    (7, 1, "scratch", "scratch"),
]);
/// CMOS memory with the clock.
pub(crate) const RTC: Fixed = Fixed(&[(0, 1, "index", "index"), (1, 1, "data", "data")]);
/// The keyboard controller's port 0x64.
pub(crate) const I8042_COMMAND: Fixed = Fixed(&[(0, 1, "status", "command")]);
/// ACPI's PM1a event block (ACPI 6.5, 4.8.3.1).
pub(crate) const PM1_EVENT: Fixed = Fixed(&[(0, 2, "status", "status"), (2, 2, "enable", "enable")]);
/// fw_cfg's two ports.
pub(crate) const FW_CFG: Fixed = Fixed(&[(0, 1, "selector", "selector"), (1, 1, "data", "data")]);

/// What `Device::names` returns.
pub(crate) fn fixed(names: Fixed) -> Option<Arc<dyn Names>> {
    Some(Arc::new(names))
}
