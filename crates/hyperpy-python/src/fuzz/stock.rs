//! The devices of a PC one by one, for a bench: whoever fuzzes them needs no machine.
//!
//! Their time is the bench's, and what somebody outside the guest does to them is an event. They drive lines that lead nowhere.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hyperpy_core::bus::{Access, Action, Device, Exclusive};
use hyperpy_core::clock::Clock as Time;
use hyperpy_core::fuzz::device::Around;
use hyperpy_core::irq::Unconnected;
use hyperpy_core::snapshot::{Saved, State, StateFault};
use hyperpy_devices::acpi_pm::{
    CONTROL_PORTS, EVENT_PORTS, Pm1Control, Pm1Event, PmTimer, RESET_PORTS, ResetRegister, TIMER_PORTS,
};
use hyperpy_devices::clock::Clock;
use hyperpy_devices::console::Console;
use hyperpy_devices::debugcon::DebugConsole;
use hyperpy_devices::debugexit::{self, DebugExit};
use hyperpy_devices::fw_cfg::{self, FwCfg};
use hyperpy_devices::i8042::{COMMAND_PORT_OFFSET, I8042};
use hyperpy_devices::rtc::{self, Rtc};
use hyperpy_devices::uart::{self, Uart};

/// What the time is where a bench's begins, in seconds of 1970: 2020-01-01.
const BEGINS: u64 = 1_577_836_800;
/// RAM that the clock's CMOS tells of.
const RAM: u64 = 64 << 20;

/// The time of a bench; before the device is on one, it stands still.
#[derive(Default)]
pub(crate) struct BenchTime(OnceLock<Arc<Time>>);

impl BenchTime {
    /// The device is put on a bench: the first one is whose time it has.
    pub(crate) fn follow(&self, time: &Arc<Time>) {
        let _ = self.0.set(time.clone());
    }
}

impl Clock for BenchTime {
    fn wall(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(BEGINS) + Duration::from_nanos(self.monotonic_ns())
    }
    fn monotonic_ns(&self) -> u64 {
        self.0.get().map_or(0, |time| time.now())
    }
}

/// A device, its size, and what is around it.
pub(crate) struct Stock {
    pub(crate) name: &'static str,
    pub(crate) device: Arc<dyn Device>,
    pub(crate) size: u64,
    pub(crate) time: Arc<BenchTime>,
    pub(crate) around: Option<Arc<dyn Around + Send + Sync>>,
}

impl Stock {
    /// The one of a name.
    pub(crate) fn named(name: &str) -> Option<Self> {
        let (time, line) = (Arc::new(BenchTime::default()), Unconnected::new());
        let mut around: Option<Arc<dyn Around + Send + Sync>> = None;
        let (name, device, size): (_, Arc<dyn Device>, _) = match name {
            "uart" => {
                // What is sent is of no interest, and is not kept.
                let console = Arc::new(Console::new(0));
                around = Some(Arc::new(Input(console.clone())));
                ("uart", Uart::new(line, console), uart::PORTS)
            }
            "rtc" => ("rtc", Arc::new(Exclusive::new(Rtc::new(time.clone(), RAM))), rtc::PORTS),
            "i8042" => {
                let (data, command) = I8042::windows();
                ("i8042", Arc::new(TwoPorts { data, command }), u64::from(COMMAND_PORT_OFFSET) + 1)
            }
            "acpi-event" => {
                let device = Arc::new(Pm1Event::new(line));
                around = Some(Arc::new(Button(device.clone())));
                ("acpi-event", device, EVENT_PORTS)
            }
            "acpi-control" => ("acpi-control", Arc::new(Exclusive::new(Pm1Control::default())), CONTROL_PORTS),
            "acpi-timer" => ("acpi-timer", Arc::new(PmTimer::new(time.clone())), TIMER_PORTS),
            "reset-register" => ("reset-register", Arc::new(Exclusive::new(ResetRegister::default())), RESET_PORTS),
            "fw-cfg" => {
                let files = vec![("opt/one".to_owned(), (0..16).collect()), ("opt/empty".to_owned(), Vec::new())];
                ("fw-cfg", Arc::new(FwCfg::new(2, files).ok()?), fw_cfg::PORTS)
            }
            "debug-console" => ("debug-console", Arc::new(DebugConsole::new(Arc::new(Console::new(0)))), 1),
            "debug-exit" => ("debug-exit", Arc::new(DebugExit), debugexit::PORTS),
            _ => return None,
        };
        Some(Self { name, device, size, time, around })
    }
}

/// The host's end of a serial line.
struct Input(Arc<Console>);

impl Around for Input {
    fn begin(&self) {
        if self.0.input_len() != 0 {
            let _ = self.0.take_input(usize::MAX);
        }
    }
    fn event(&self, _: u32, data: &[u8]) {
        // What finds no room is lost, as with any host that does not wait.
        let _ = self.0.send(data);
    }
}

/// The power button.
struct Button(Arc<Pm1Event>);

impl Around for Button {
    fn begin(&self) {}
    fn event(&self, _: u32, _: &[u8]) {
        self.0.press_power_button();
    }
}

/// The keyboard controller's two ports in one range, and nobody between them.
struct TwoPorts {
    data: Arc<dyn Device>,
    command: Arc<dyn Device>,
}

impl TwoPorts {
    /// The port of a byte of an access.
    fn port(&self, at: Access, byte: u8) -> (Option<&dyn Device>, Access) {
        let one = Access { offset: 0, size: 1, vcpu: at.vcpu };
        let offset = at.offset.saturating_add(byte.into());
        let port = match offset {
            0 => Some(&*self.data),
            it if it == u64::from(COMMAND_PORT_OFFSET) => Some(&*self.command),
            _ => None,
        };
        (port, one)
    }
}

impl Device for TwoPorts {
    fn read(&self, at: Access) -> u64 {
        (0..at.size.min(8)).fold(0, |value, byte| {
            let (port, one) = self.port(at, byte);
            value | port.map_or(0xFF, |port| port.read(one) & 0xFF) << (8 * byte)
        })
    }

    fn write(&self, at: Access, value: u64) -> Action {
        for byte in 0..at.size.min(8) {
            let (port, one) = self.port(at, byte);
            match port.map_or(Action::Continue, |port| port.write(one, value >> (8 * byte) & 0xFF)) {
                Action::Continue => {}
                asked => return asked,
            }
        }
        Action::Continue
    }

    // One controller is behind both.
    fn reset(&self) {
        self.data.reset();
    }

    fn save(&self) -> Result<State, StateFault> {
        self.data.save()
    }

    fn check(&self, state: &dyn Saved) -> Result<(), StateFault> {
        self.data.check(state)
    }

    fn load(&self, state: &dyn Saved) -> Result<(), StateFault> {
        self.data.load(state)
    }
}
