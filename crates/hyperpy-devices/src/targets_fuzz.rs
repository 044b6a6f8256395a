//! What the stock devices are fuzzed with (`targets`): what all of them share, and their states. The devices are in `serial`, `times` and `ports`.
//!
//! Two of a device are played side by side where that says what it should do: one by wide accesses and one by their bytes, one
//! that goes on and one that is put back. What only one kind of device does is said again here in the plainest words.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arbitrary::{Result, Unstructured};
use hyperpy_core::bus::{Access, Action, Device, Exclusive, ones};
use hyperpy_core::irq::{Line, Unconnected};
use hyperpy_core::snapshot::{StateFault, Value};

#[path = "targets_fuzz/ports.rs"]
mod ports;
#[path = "targets_fuzz/serial.rs"]
mod serial;
#[path = "targets_fuzz/times.rs"]
mod times;

pub use self::ports::{fw_cfg, i8042};
pub use self::serial::{console, uart};
pub use self::times::{acpi_pm, rtc};
use crate::acpi_pm::{
    CONTROL_PORTS, EVENT_PORTS, Pm1Control, Pm1Event, PmTimer, RESET_PORTS, ResetRegister, TIMER_PORTS,
};
use crate::clock::Clock;
use crate::console::Console;
use crate::debugcon::DebugConsole;
use crate::debugexit::{self, DebugExit};
use crate::fw_cfg::{FwCfg, PORTS as FW_CFG_PORTS};
use crate::i8042::I8042;
use crate::rtc::{PORTS as RTC_PORTS, Rtc};
use crate::targets::{changed, sorted, with};
use crate::uart::{PORTS as UART_PORTS, Uart};

/// A clock that moves when it is told to.
#[derive(Default)]
struct Still(AtomicU64);

impl Clock for Still {
    fn wall(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_nanos(self.0.load(Ordering::SeqCst))
    }
    fn monotonic_ns(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }
}

/// A device, and what it drives.
struct Kit {
    device: Arc<dyn Device>,
    line: Arc<Unconnected>,
    console: Arc<Console>,
}

type Make = fn(Arc<Still>, Arc<Unconnected>, Arc<Console>) -> Arc<dyn Device>;

const UART: Make = |_, line, console| Uart::new(line, console);
const RTC: Make = |clock, _, _| Arc::new(Exclusive::new(Rtc::new(clock, 1 << 32)));
const FW_CFG: Make = |_, _, _| Arc::new(FwCfg::new(2, vec![("etc/table".to_owned(), vec![1, 2, 3])]).unwrap());

/// Each, with the bytes of its window.
const ALL: [(u64, Make); 11] = [
    (UART_PORTS, UART),
    (RTC_PORTS, RTC),
    (1, |_, _, _| I8042::windows().0),
    (1, |_, _, _| I8042::windows().1),
    (EVENT_PORTS, |_, line, _| Arc::new(Pm1Event::new(line))),
    (CONTROL_PORTS, |_, _, _| Arc::new(Exclusive::new(Pm1Control::default()))),
    (TIMER_PORTS, |clock, _, _| Arc::new(PmTimer::new(clock))),
    (RESET_PORTS, |_, _, _| Arc::new(Exclusive::new(ResetRegister::default()))),
    (1, |_, _, console| Arc::new(DebugConsole::new(console))),
    (debugexit::PORTS, |_, _, _| Arc::new(DebugExit)),
    (FW_CFG_PORTS, FW_CFG),
];

impl Kit {
    fn new(make: Make, clock: &Arc<Still>) -> Self {
        let (line, console) = (Unconnected::new(), Arc::new(Console::new(256)));
        Self { device: make(clock.clone(), line.clone(), console.clone()), line, console }
    }

    /// What a read gives, or a write asks for.
    fn access(&self, at: Access, written: Option<u64>) -> (u64, Action) {
        match written {
            Some(value) => (0, self.device.write(at, value)),
            None => {
                let value = self.device.read(at);
                assert_eq!(value & !ones(at.size), 0, "{at:?}");
                (value, Action::Continue)
            }
        }
    }

    fn state(&self) -> Value {
        self.device.save().unwrap().value()
    }
}

fn at(offset: u64, size: u8) -> Access {
    Access { offset, size, vcpu: 0 }
}

/// An access that begins in a window, or close behind it, and its value.
fn access(u: &mut Unstructured<'_>, window: u64) -> Result<(Access, Option<u64>)> {
    let size = if u.arbitrary()? { 1 } else { u.int_in_range(1..=8)? };
    let value = if u.arbitrary()? { u.arbitrary::<u8>()?.into() } else { u.arbitrary()? };
    Ok((at(u.int_in_range(0..=window)?, size), u.arbitrary::<bool>()?.then_some(value)))
}

/// A wide access is its bytes, one after the other, up to the first that asks for something.
fn wide_is_narrow(u: &mut Unstructured<'_>, make: Make, window: u64, clock: &Arc<Still>, input: &[u8]) -> Result<()> {
    let (wide, narrow) = (Kit::new(make, clock), Kit::new(make, clock));
    for kit in [&wide, &narrow] {
        let _ = kit.console.send(input);
    }
    for _ in 0..60 {
        if u.is_empty() {
            break;
        }
        let (whole, written) = access(u, window)?;
        clock.0.fetch_add(u.arbitrary::<u16>()?.into(), Ordering::SeqCst);
        let (value, asked) = wide.access(whole, written);
        let (mut bytes, mut first) = (0, Action::Continue);
        for byte in 0..u64::from(whole.size) {
            let (value, action) =
                narrow.access(at(whole.offset + byte, 1), written.map(|value| value >> (8 * byte) & 0xff));
            bytes |= value << (8 * byte);
            first = action;
            if first != Action::Continue {
                break;
            }
        }
        assert_eq!((value, asked), (bytes, first), "{whole:?} {written:x?}");
        assert_eq!(
            (wide.state(), wide.line.is_high()),
            (narrow.state(), narrow.line.is_high()),
            "{whole:?} {written:x?}"
        );
        assert_eq!(wide.console.read_from(0), narrow.console.read_from(0));
    }
    Ok(())
}

/// Any state, for any device: refused, and nothing has changed, or it is what is saved; and guests go on after it.
pub fn device_state(data: &[u8]) {
    with(data, |u| {
        let (window, make) = ALL[u.int_in_range(0..=ALL.len() - 1)?];
        let clock = Arc::new(Still(AtomicU64::new(1_000_000_000_000_000_000)));
        let kit = Kit::new(make, &clock);
        let play = |u: &mut Unstructured<'_>, kit: &Kit| -> Result<()> {
            for _ in 0..u.int_in_range(0..=12)? {
                let (at, written) = access(u, window)?;
                kit.access(at, written);
            }
            Ok(())
        };
        let _ = kit.console.send(u.arbitrary::<&[u8]>()?);
        for _ in 0..4 {
            play(u, &kit)?;
            let (before, was_high) = (kit.state(), kit.line.is_high());
            let mut given = before.clone();
            for _ in 0..u.int_in_range(0..=3)? {
                changed(u, &mut given)?;
            }
            // Whether writes to THR wait in a ring is the ring's to say, and there is none.
            if given.get("posted") == Some(&Value::Bool(true)) {
                continue;
            }
            match kit.device.load(&given) {
                Ok(()) => {
                    assert_eq!(sorted(&kit.state()), sorted(&given));
                }
                Err(fault) => {
                    assert!(matches!(fault, StateFault::Misfit(_)), "{fault}");
                    assert_eq!((kit.state(), kit.line.is_high()), (before, was_high));
                }
            }
            // One that is put back does what this one does.
            let (other, console) = (Kit::new(make, &clock), kit.console.save());
            other.console.load(&console).unwrap();
            other.device.load(&kit.state()).unwrap();
            assert_eq!((other.state(), other.line.is_high()), (kit.state(), kit.line.is_high()));
            for _ in 0..u.int_in_range(0..=12)? {
                let (at, written) = access(u, window)?;
                assert_eq!(kit.access(at, written), other.access(at, written), "{at:?} {written:x?}");
                assert_eq!((kit.state(), kit.line.is_high()), (other.state(), other.line.is_high()));
            }
        }
        Ok(())
    });
}
