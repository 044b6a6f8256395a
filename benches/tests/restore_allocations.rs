//! No allocation when devices, lines, clock and console are put back. A file, and so a process, of its own: the allocator is
//! the process's.
#![allow(clippy::unwrap_used, missing_docs)]

use std::sync::Arc;

use hyperpy_benches::Alone;
use hyperpy_benches::alloc::{Counting, allocations};
use hyperpy_core::accel::VmConfig;
use hyperpy_core::boot::flat::{Mode, flat};
use hyperpy_core::bus::{Access, Action, Device, Exclusive, Rung, Space};
use hyperpy_core::clock::{Callback, Clock, Fired, Raised, When};
use hyperpy_core::exit::{Exit, StopReason};
use hyperpy_core::irq::{LineHub, Unconnected};
use hyperpy_core::kvm::Kvm;
use hyperpy_core::machine::Machine;
use hyperpy_core::memory::Memory;
use hyperpy_core::regfile::{Bits, Cell, Delivery, Image, Kind, Layout, Overflow, RegisterFile, Rule, Tell};
use hyperpy_core::snapshot::{Saved, State, StateFault};
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

/// Registers on a bus.
struct Declared(RegisterFile);

impl Device for Declared {
    fn read(&self, at: Access) -> u64 {
        self.0.quick_read(at).unwrap_or(0)
    }
    fn write(&self, at: Access, value: u64) -> Action {
        self.0.quick_write(at, value);
        Action::Continue
    }
    fn save(&self) -> Result<State, StateFault> {
        Ok(Arc::new(self.0.save()))
    }
    fn load(&self, state: &dyn Saved) -> Result<(), StateFault> {
        let any: &dyn std::any::Any = state;
        any.downcast_ref::<Image>().map_or(Err(StateFault::NotSaved), |image| self.0.load(image))
    }
}

/// The whole verb, on KVM: vCPUs, interrupt controllers, memory, lines, timers, and a device that changes with each turn. Of a snapshot of
/// another machine too, once its processors have been looked at.
#[test]
fn test_machine_put_back_allocates_nothing() {
    for irqchip in [false, true] {
        let cell = |at| Cell {
            offset: Some(4 * at),
            width: 4,
            kind: Kind::Plain,
            bits: Bits { readable: 0xffff_ffff, stored: 0xffff_ffff, ..Bits::default() },
            reset: 0,
            big_endian: false,
            sides: (true, true),
            when: None,
            on_read: false,
            on_write: Tell::Never,
            delivery: Delivery::Now,
        };
        let layout = Arc::new(Layout::new((0..20_u64).map(cell).collect(), 0x50, Rule::Split, false).unwrap());
        let make = || {
            let config = VmConfig { vcpus: 1, irqchip };
            let machine =
                Arc::new(Machine::new(Arc::new(Kvm::open().unwrap()), Memory::with_ram(1 << 20).unwrap(), config));
            let device = Arc::new(Declared(RegisterFile::new(layout.clone())));
            machine.attach(Space::Mmio, 0xd000_0000, 0x50, "declared", Rung::Native, device.clone()).unwrap();
            // again: inc word [0x8000]; out 0x99,al; jmp again
            let code = [0xff, 0x06, 0x00, 0x80, 0xe6, 0x99, 0xeb, 0xf8];
            machine.set_entry(flat(&machine.memory, &code, 0x1000, Mode::Real).unwrap(), &Alone).unwrap();
            (machine, device)
        };
        let ((machine, device), (other, _)) = (make(), make());
        let base = machine.snapshot(&Alone).unwrap();
        let line = irqchip.then(|| machine.line(5).unwrap());
        let foreign = other.snapshot(&Alone).unwrap();
        for snapshot in [&base, &foreign] {
            let change = || {
                assert!(matches!(machine.run(None, &Alone), Ok(Exit::Pio(_))));
                device.write(Access { offset: 8, size: 4, vcpu: 0 }, 7);
                line.iter().for_each(|line| line.set(true));
            };
            let load = || {
                machine.restore(snapshot, &[], &Alone).unwrap();
                assert_eq!(device.0.get(2), Some(0));
            };
            assert_eq!(of_loading(change, load), 0, "irqchip: {irqchip}");
        }
    }
}
