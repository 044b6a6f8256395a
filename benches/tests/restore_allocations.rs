//! No allocation when devices, lines, clock and console are put back. A file, and so a process, of its own: the allocator is
//! the process's.
#![allow(clippy::unwrap_used, missing_docs)]

use std::sync::Arc;

use hyperpy_benches::alloc::{Counting, allocations};
use hyperpy_core::bus::{Access, Device, Exclusive};
use hyperpy_core::clock::{Callback, Clock, Fired, Raised, When};
use hyperpy_core::exit::StopReason;
use hyperpy_core::irq::{LineHub, Unconnected};
use hyperpy_core::regfile::{Bits, Cell, Delivery, Kind, Layout, Overflow, RegisterFile, Rule, Tell};
use hyperpy_devices::acpi_pm::{Pm1Control, Pm1Event, PmTimer, ResetRegister};
use hyperpy_devices::clock::HostClock;
use hyperpy_devices::console::Console;
use hyperpy_devices::fw_cfg::FwCfg;
use hyperpy_devices::i8042::I8042;
use hyperpy_devices::rtc::Rtc;
use hyperpy_devices::uart::Uart;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Makes changes and puts back, again and again; what putting back allocates after the first time.
fn of_loading(change: impl Fn(), load: impl Fn()) -> u64 {
    change();
    load();
    let mut all = 0;
    for _ in 0..10 {
        change();
        let before = allocations();
        load();
        all += allocations() - before;
    }
    all
}

#[test]
fn test_stock_devices_put_back_allocate_nothing() {
    let (clock, console) = (Arc::new(HostClock::default()), Arc::<Console>::default());
    let devices: [Arc<dyn Device>; 8] = [
        Uart::new(Unconnected::new(), console.clone()),
        Arc::new(Exclusive::new(Rtc::new(clock.clone(), 1 << 30))),
        I8042::windows().0,
        Arc::new(Pm1Event::new(Unconnected::new())),
        Arc::new(Exclusive::new(Pm1Control::default())),
        Arc::new(PmTimer::new(clock)),
        Arc::new(Exclusive::new(ResetRegister::default())),
        Arc::new(FwCfg::new(1, Vec::new()).unwrap()),
    ];
    for device in devices {
        let play = |value| {
            for offset in 0..4 {
                let at = Access { offset, size: 1, vcpu: 0 };
                let _ = (device.write(at, value), device.read(at));
            }
        };
        let _ = console.send(b"input");
        play(0x13);
        let state = device.save().unwrap();
        let change = || {
            let _ = console.send(b"more input");
            play(0x31);
        };
        assert_eq!(of_loading(change, || device.load(&*state).unwrap()), 0);
    }
}

#[test]
fn test_console_put_back_allocates_nothing() {
    let console = Console::default();
    console.write(b"before");
    let _ = console.send(b"in");
    let kept = console.save();
    let change = || {
        console.write(b"and after");
        let _ = console.send(b"put");
    };
    assert_eq!(of_loading(change, || console.load(&kept).unwrap()), 0);
}

#[test]
fn test_registers_put_back_allocate_nothing() {
    let cell = |offset, kind, sides| Cell {
        offset: Some(offset),
        width: 4,
        kind,
        bits: if kind == Kind::Plain {
            Bits { readable: 0xffff_ffff, stored: 0xffff_ffff, ..Bits::default() }
        } else {
            Bits::default()
        },
        reset: 0,
        big_endian: false,
        sides,
        when: None,
        on_read: false,
        on_write: Tell::Never,
        delivery: Delivery::Now,
    };
    let fifo = Kind::Fifo { depth: 4, guest_takes: false, overflow: Overflow::Overwrite, empty: 0, threshold: 0 };
    let mut cells: Vec<_> = (0..20).map(|at| cell(4 * at, Kind::Plain, (true, true))).collect();
    cells.push(cell(0x80, fifo, (false, true)));
    cells.push(cell(0x90, Kind::Counter { hz: 1000 }, (true, true)));
    cells.push(Cell { width: 1, ..cell(0x100, Kind::Ram { len: 100 }, (true, true)) });
    let file = RegisterFile::new(Arc::new(Layout::new(cells, 0x200, Rule::Split, false).unwrap()));
    let write = |value| {
        for offset in (0..0x164).step_by(4) {
            file.quick_write(Access { offset, size: 4, vcpu: 0 }, value);
        }
    };
    write(1);
    let image = file.save();
    assert_eq!(of_loading(|| write(2), || file.load(&image).unwrap()), 0);
    assert_eq!(file.get(3), Some(1));
}

#[derive(Debug)]
struct Nothing;

impl Callback for Nothing {
    fn fire(&self, _: Fired) -> Result<Option<StopReason>, Raised> {
        Ok(None)
    }
}

#[test]
fn test_clock_and_lines_put_back_allocate_nothing() {
    let clock = Arc::new(Clock::manual());
    let arm = |when| drop(clock.arm(when, 0, Arc::new(Nothing)).unwrap());
    (1..10).for_each(|ns| arm(When::Every(ns)));
    (1..10).for_each(|ns| arm(When::After(ns)));
    let kept = clock.save();
    let change = || {
        clock.step(30).unwrap();
        (1..5).for_each(|ns| arm(When::Every(ns)));
    };
    assert_eq!(of_loading(change, || clock.load(&kept)), 0);
    assert_eq!((clock.now(), clock.timers()), (0, 18));

    let hub = Arc::new(LineHub::default());
    let lines: Vec<_> = (0..20).map(|gsi| hub.line(gsi % 7)).collect();
    lines.iter().step_by(3).for_each(|line| line.set(true));
    let kept = hub.save();
    let change = || lines.iter().step_by(2).for_each(|line| line.set(!line.is_high()));
    assert_eq!(of_loading(change, || hub.load(&kept).unwrap()), 0);
}
