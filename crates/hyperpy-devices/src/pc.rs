//! The stock devices of our PC, made and put onto the port bus together.
//!
//! Ports and gsis are core's `layout`. Not here: what the kernel answers (interrupt controllers, PIT with port 0x61).

use std::sync::Arc;

use hyperpy_core::arch::x86_64::layout::{
    CMOS_PORT, COM1_GSI, COM1_PORT, DEBUG_CONSOLE_PORT, I8042_PORT, PM_TIMER_PORT, PM1A_CONTROL_PORT, PM1A_EVENT_PORT,
    RESET_PORT, SCI_GSI,
};
use hyperpy_core::bus::{Bus, Device, Exclusive, RegionId, Rung};
use hyperpy_core::error::BusError;
use hyperpy_core::irq::Line;
use hyperpy_core::posted::Posts;

use crate::acpi_pm::{self, Pm1Control, Pm1Event, PmTimer, ResetRegister};
use crate::clock::Clock;
use crate::console::Console;
use crate::debugcon::DebugConsole;
use crate::debugexit::{self, DebugExit};
use crate::i8042::{COMMAND_PORT_OFFSET, I8042};
use crate::rtc::{self, Rtc};
use crate::uart::{self, Uart};

/// Names of devices that something else depends on.
pub const COM1: &str = "uart com1";
/// The clock chip's.
pub const RTC: &str = "rtc";
/// The power button's.
const PM1_EVENT: &str = "acpi pm1a event";

/// The lines that the devices drive: gsi, whether level-triggered, and whose.
pub const LINES: [(u32, bool, &str); 2] = [(COM1_GSI, false, COM1), (SCI_GSI, true, PM1_EVENT)];

/// What the devices are made from.
pub struct Parts<'a> {
    /// Gives the interrupt line of a gsi: COM1's (edge) and the SCI's (level, active high).
    pub lines: &'a dyn Fn(u32) -> Arc<dyn Line>,
    /// The time that the guest sees.
    pub clock: Arc<dyn Clock>,
    /// The host's end of COM1 and of the debug console.
    pub console: Arc<Console>,
    /// RAM in bytes, told through CMOS.
    pub memory_size: u64,
    /// Which writes cost no exit: COM1's THR, while nobody waits for its interrupt.
    pub posts: Arc<Posts>,
    /// Port of the debug-exit device; `None` for a machine without one.
    pub debug_exit: Option<u16>,
}

/// The devices that somebody outside the guest talks to, and where all of them are attached.
///
/// Reset goes through the bus: every attached device has `Device::reset`.
pub struct Board {
    /// The host's end of COM1 and of the debug console.
    pub console: Arc<Console>,
    /// The power button.
    pub pm1_event: Arc<Pm1Event>,
    uart: Arc<Uart>,
    regions: Vec<RegionId>,
    names: Vec<&'static str>,
}

impl Board {
    /// Makes the devices and attaches them: all, or none when one's ports are taken.
    ///
    /// One whose ports a device on the bus already has, all of them, is left out: that device stands for it.
    ///
    /// # Errors
    /// Some of a device's ports are taken, or the debug-exit port does not leave room for its four ports.
    pub fn attach(pio: &Bus, parts: Parts<'_>) -> Result<Self, BusError> {
        let Parts { lines, clock, console, memory_size, posts, debug_exit } = parts;
        let pm1_event = Arc::new(Pm1Event::new(lines(SCI_GSI)));
        let uart = Uart::new(lines(COM1_GSI), console.clone());
        let rtc = Rtc::new(clock.clone(), memory_size);
        let (i8042_data, i8042_command) = I8042::windows();
        let debug_console = DebugConsole::new(console.clone());

        let mut board =
            Self { console, pm1_event: pm1_event.clone(), uart: uart.clone(), regions: Vec::new(), names: Vec::new() };
        let devices: [(u16, u64, &'static str, Arc<dyn Device>); 9] = [
            (COM1_PORT, uart::PORTS, COM1, uart.clone()),
            (CMOS_PORT, rtc::PORTS, RTC, Arc::new(Exclusive::new(rtc))),
            (I8042_PORT, 1, "i8042 data", i8042_data),
            (I8042_PORT + COMMAND_PORT_OFFSET, 1, "i8042 command", i8042_command),
            (DEBUG_CONSOLE_PORT, 1, "debug console", Arc::new(debug_console)),
            (PM1A_EVENT_PORT, acpi_pm::EVENT_PORTS, PM1_EVENT, pm1_event),
            (
                PM1A_CONTROL_PORT,
                acpi_pm::CONTROL_PORTS,
                "acpi pm1a control",
                Arc::new(Exclusive::new(Pm1Control::default())),
            ),
            (PM_TIMER_PORT, acpi_pm::TIMER_PORTS, "acpi pm timer", Arc::new(PmTimer::new(clock))),
            (RESET_PORT, acpi_pm::RESET_PORTS, "reset register", Arc::new(Exclusive::new(ResetRegister::default()))),
        ];
        let debug_exit =
            debug_exit.map(|port| (port, debugexit::PORTS, "debug exit", Arc::new(DebugExit) as Arc<dyn Device>));
        for (port, ports, name, device) in devices.into_iter().chain(debug_exit) {
            if pio.map().is_one_region(port.into(), ports) {
                continue;
            }
            match pio.attach(port.into(), ports, name.into(), Rung::Native, device) {
                Ok(id) => {
                    board.regions.push(id);
                    board.names.push(name);
                }
                Err(error) => {
                    board.detach(pio);
                    return Err(error);
                }
            }
        }
        if board.has(COM1) {
            uart.post(posts, COM1_PORT.into());
        }
        Ok(board)
    }

    /// Whether the device of that name is attached.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.names.contains(&name)
    }

    /// The lines of the devices that are attached, as [`LINES`].
    pub fn lines(&self) -> impl Iterator<Item = (u32, bool, &'static str)> + '_ {
        LINES.into_iter().filter(|(_, _, name)| self.has(name))
    }

    /// Where the devices are attached; also those that somebody has detached since.
    #[must_use]
    pub fn regions(&self) -> &[RegionId] {
        &self.regions
    }

    /// Takes every device off the bus again.
    pub fn detach(self, pio: &Bus) {
        self.uart.stop_posting();
        for id in self.regions {
            // One that is no longer there was detached by somebody else: nothing is left to do.
            let _ = pio.detach(id);
        }
    }
}

#[cfg(test)]
#[path = "pc_test.rs"]
mod tests;
