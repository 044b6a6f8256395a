//! Accesses to declared registers: the cost of dispatch on the `scripted` accelerator, and of real exits against the C floor.

use std::sync::Arc;

use hyperpy_core::accel::AccelExit;
use hyperpy_core::boot::flat::Mode;
use hyperpy_core::bus::{Access, Action, Device, Rung, Space, ones};
use hyperpy_core::machine::Machine;
use hyperpy_core::regfile::{Bits, Cell, Delivery, Kind, Layout, RegisterFile, Rule, Tell};
use hyperpy_core::scripted::Step;

use crate::dispatch::{BASE, WIDTH, run_by, scripted, spread};
use crate::exits::{Countdown, GUESTS, Guest, Hyperpy};
use crate::{Alone, Failure, timed};

/// What is measured: accesses to all registers of a device in a pseudo-random order.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    /// How many the device has.
    pub registers: u64,
    /// What is done to them.
    pub access: Touch,
}

/// An access to a register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Touch {
    /// A read, which changes nothing.
    Read,
    /// A write, which is stored.
    Write,
    /// A write to bits that are stored, cleared by 1s, and only read.
    WriteFields,
}

impl Touch {
    /// What the figures call it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::WriteFields => "fields",
        }
    }

    /// The one that is called so.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        [Self::Read, Self::Write, Self::WriteFields].into_iter().find(|touch| touch.name() == name)
    }
}

/// The cases.
pub const DEVICES: [Case; 6] = [
    Case { registers: 4, access: Touch::Read },
    Case { registers: 4, access: Touch::Write },
    Case { registers: 4, access: Touch::WriteFields },
    Case { registers: 1000, access: Touch::Read },
    Case { registers: 1000, access: Touch::Write },
    Case { registers: 1000, access: Touch::WriteFields },
];

const STORED: Bits = Bits {
    readable: u64::MAX,
    stored: u64::MAX,
    cleared_by_1: 0,
    cleared_by_0: 0,
    set_by_1: 0,
    cleared_by_read: 0,
    set_by_read: 0,
};
const FIELDS: Bits = Bits { stored: 0x0000_00FF, cleared_by_1: 0x0000_FF00, ..STORED };

/// Registers side by side.
fn registers(count: u64, width: u8, bits: Bits) -> Result<RegisterFile, Failure> {
    let cell = |index: u64| Cell {
        offset: Some(index * u64::from(width)),
        width,
        kind: Kind::Plain,
        bits: Bits { readable: ones(width), stored: bits.stored & ones(width), ..bits },
        reset: 0,
        big_endian: false,
        sides: (true, true),
        when: None,
        on_read: false,
        on_write: Tell::Never,
        delivery: Delivery::Now,
    };
    let layout = Layout::new((0..count).map(cell).collect(), count * u64::from(width), Rule::Split, false)?;
    Ok(RegisterFile::new(Arc::new(layout)))
}

/// A device as one in Python is to the bus, as long as it calls no method.
struct Registers(Option<Arc<RegisterFile>>);

impl Device for Registers {
    fn read(&self, _: Access) -> u64 {
        0
    }
    fn write(&self, _: Access, _: u64) -> Action {
        Action::Continue
    }
    fn quick_read(&self, at: Access) -> Option<u64> {
        self.0.as_ref()?.quick_read(at)
    }
    fn quick_write(&self, at: Access, value: u64) -> bool {
        self.0.as_ref().is_some_and(|file| file.quick_write(at, value))
    }
}

/// A machine whose vCPU makes `exits` accesses to the case's device, and then halts.
///
/// # Errors
/// The machine cannot be made.
pub fn machine(case: Case, exits: u64) -> Result<Arc<Machine>, Failure> {
    let exit = AccelExit::Mmio { gpa: BASE, size: WIDTH, is_write: case.access != Touch::Read };
    let machine =
        scripted(Step::Cycle { exit, addresses: spread(case.registers, WIDTH.into()), next: 0, left: exits }, false)?;
    let file = registers(case.registers, WIDTH, if case.access == Touch::WriteFields { FIELDS } else { STORED })?;
    let len = file.layout().size();
    let device = Arc::new(Registers(Some(Arc::new(file))));
    machine.attach(Space::Mmio, BASE, len, "registers", Rung::Declared, device)?;
    machine.regs(0, &Alone)?; // makes the vCPU, so that the first run is only a run
    Ok(machine)
}

/// Runs a machine of [`machine`] to its halt.
///
/// # Errors
/// It ended otherwise, or an access was not served by a declared register.
pub fn run(machine: &Arc<Machine>, exits: u64) -> Result<(), Failure> {
    run_by(machine, exits, Rung::Declared)
}

/// Nanoseconds per exit, over a fresh machine.
///
/// # Errors
/// As for [`run`].
pub fn ns_per_exit(case: Case, exits: u64) -> Result<f64, Failure> {
    let machine = machine(case, exits)?;
    #[allow(clippy::cast_precision_loss)] // far below 2^52
    Ok(timed(|| run(&machine, exits))? / exits as f64)
}

/// Declared registers under a guest; the last access of a run is not theirs.
struct Counted {
    file: RegisterFile,
    countdown: Arc<Countdown>,
}

impl Device for Counted {
    fn read(&self, _: Access) -> u64 {
        self.countdown.end();
        0
    }
    fn write(&self, _: Access, _: u64) -> Action {
        Countdown::stop()
    }
    fn quick_read(&self, at: Access) -> Option<u64> {
        if self.countdown.is_last() { None } else { self.file.quick_read(at) }
    }
    fn quick_write(&self, at: Access, value: u64) -> bool {
        !self.countdown.is_last() && self.file.quick_write(at, value)
    }
}

/// The guests whose accesses declared registers answer: a byte of a port or in mmio.
pub fn guests() -> impl Iterator<Item = &'static Guest> {
    GUESTS.iter().filter(|guest| guest.mode == Mode::Long)
}

/// Nanoseconds per exit of one round.
#[derive(Clone, Copy, Debug)]
pub struct Round {
    /// Answered by a declared register.
    pub declared: f64,
    /// Answered by the C floor.
    pub floor: f64,
}

/// Slices of a round: short ones in turn meet the same disturbances.
const SLICES: u16 = 12;

/// `rounds` rounds of about `exits` exits each, hyperpy and the floor by turns.
///
/// # Errors
/// There is no usable KVM, or a guest did something else.
pub fn compare(guest: &Guest, rounds: usize, exits: u64) -> Result<Vec<Round>, Failure> {
    let file = registers(8, 1, STORED)?;
    let device = |countdown| (Rung::Declared, Arc::new(Counted { file, countdown }) as Arc<dyn Device>);
    let mut hyperpy = Hyperpy::with(guest, 0, device)?;
    let mut floor = hyperpy.floor()?;
    let slice = (exits / u64::from(SLICES)).max(1);
    // Warm-up: page faults of the guest, caches, the processor's clock.
    hyperpy.run(slice)?;
    floor.run(slice)?;
    #[allow(clippy::cast_precision_loss)] // far below 2^52
    let per_exit = 1.0 / (slice as f64 * f64::from(SLICES));
    let mut round = || {
        let mut sum = Round { declared: 0.0, floor: 0.0 };
        for turn in 0..SLICES {
            // Each goes first as often as the other.
            for side in [turn % 2, 1 - turn % 2] {
                if side == 0 {
                    sum.declared += timed(|| hyperpy.run(slice))?;
                } else {
                    sum.floor += timed(|| floor.run(slice))?;
                }
            }
        }
        Ok(Round { declared: sum.declared * per_exit, floor: sum.floor * per_exit })
    };
    (0..rounds).map(|_| round()).collect()
}
