//! Exits of real guests into a device in Rust, by hyperpy's run loop, traced and not, and by the C floor in turn.
//!
//! The guests are the shortest that make one access for ever: nothing of the guest hides the loop.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use hyperpy_core::accel::VmConfig;
use hyperpy_core::arch::x86_64::{Regs, Sregs};
use hyperpy_core::boot::flat::{Mode, flat};
use hyperpy_core::bus::{Access, Action, Device, Rung, Space};
use hyperpy_core::control::Control;
use hyperpy_core::error::RunError;
use hyperpy_core::exit::{Exit, StopReason};
use hyperpy_core::kvm::Kvm;
use hyperpy_core::machine::Machine;
use hyperpy_core::memory::Memory;

use crate::floor::Floor;
use crate::{Alone, Failure, TRACE, timed};

/// Bytes of RAM: the code, a stack, and the page tables of long mode.
const RAM: usize = 0x1_0000;
const CODE: u64 = 0x1000;
const PORT: u64 = 0x500;
/// Above RAM, and where real mode reaches.
const GPA: u64 = 0x2_0000;

/// A guest that makes the same access for ever.
#[derive(Clone, Copy, Debug)]
pub struct Guest {
    /// What the figures call it.
    pub name: &'static str,
    pub(crate) mode: Mode,
    space: Space,
    code: &'static [u8],
}

/// The guests that are measured.
pub const GUESTS: [Guest; 8] = [
    // mov dx,0x500; l: out dx,al; jmp l
    Guest { name: "pio write, real", mode: Mode::Real, space: Space::Pio, code: &[0xba, 0, 5, 0xee, 0xeb, 0xfd] },
    // mov dx,0x500; l: in al,dx; jmp l
    Guest { name: "pio read, real", mode: Mode::Real, space: Space::Pio, code: &[0xba, 0, 5, 0xec, 0xeb, 0xfd] },
    // mov ax,0x2000; mov ds,ax; l: mov [0],al; jmp l
    Guest {
        name: "mmio write, real",
        mode: Mode::Real,
        space: Space::Mmio,
        code: &[0xb8, 0, 0x20, 0x8e, 0xd8, 0xa2, 0, 0, 0xeb, 0xfb],
    },
    // mov ax,0x2000; mov ds,ax; l: mov al,[0]; jmp l
    Guest {
        name: "mmio read, real",
        mode: Mode::Real,
        space: Space::Mmio,
        code: &[0xb8, 0, 0x20, 0x8e, 0xd8, 0xa0, 0, 0, 0xeb, 0xfb],
    },
    // mov dx,0x500; l: out dx,al; jmp l
    Guest { name: "pio write, long", mode: Mode::Long, space: Space::Pio, code: &[0x66, 0xba, 0, 5, 0xee, 0xeb, 0xfd] },
    // mov dx,0x500; l: in al,dx; jmp l
    Guest { name: "pio read, long", mode: Mode::Long, space: Space::Pio, code: &[0x66, 0xba, 0, 5, 0xec, 0xeb, 0xfd] },
    // mov ebx,0x20000; l: mov [rbx],al; jmp l
    Guest {
        name: "mmio write, long",
        mode: Mode::Long,
        space: Space::Mmio,
        code: &[0xbb, 0, 0, 2, 0, 0x88, 0x03, 0xeb, 0xfc],
    },
    // mov ebx,0x20000; l: mov al,[rbx]; jmp l
    Guest {
        name: "mmio read, long",
        mode: Mode::Long,
        space: Space::Mmio,
        code: &[0xbb, 0, 0, 2, 0, 0x8a, 0x03, 0xeb, 0xfc],
    },
];

/// Counts accesses down, and pauses the machine at the last.
pub(crate) struct Countdown {
    left: AtomicU64,
    control: Arc<Control>,
}

impl Countdown {
    pub(crate) fn is_last(&self) -> bool {
        // One vCPU: nobody else counts in between.
        let left = self.left.load(Ordering::Relaxed).wrapping_sub(1);
        self.left.store(left, Ordering::Relaxed);
        left == 0
    }

    /// Ends the run after a read, which has no other way to do it; the guest gets its value and can run on.
    pub(crate) fn end(&self) {
        self.control.device_failed();
    }

    /// What a write answers to end the run.
    pub(crate) fn stop() -> Action {
        Action::Stop(StopReason::Text("enough".into()))
    }
}

impl Device for Countdown {
    fn read(&self, _: Access) -> u64 {
        if self.is_last() {
            self.end();
        }
        0
    }
    fn write(&self, _: Access, _: u64) -> Action {
        if self.is_last() { Self::stop() } else { Action::Continue }
    }
}

/// A guest under hyperpy.
pub struct Hyperpy {
    machine: Arc<Machine>,
    countdown: Arc<Countdown>,
}

impl Hyperpy {
    /// Loads the guest and attaches its device.
    ///
    /// # Errors
    /// There is no usable KVM.
    pub fn open(guest: &Guest) -> Result<Self, Failure> {
        Self::with(guest, 0, |countdown| (Rung::Native, countdown))
    }

    /// The same, with a trace of the last exits.
    ///
    /// # Errors
    /// There is no usable KVM.
    pub fn traced(guest: &Guest) -> Result<Self, Failure> {
        Self::with(guest, TRACE, |countdown| (Rung::Native, countdown))
    }

    /// A machine that keeps `exits` exits, with a device made of the countdown.
    pub(crate) fn with(
        guest: &Guest,
        exits: u32,
        device: impl FnOnce(Arc<Countdown>) -> (Rung, Arc<dyn Device>),
    ) -> Result<Self, Failure> {
        let config = VmConfig { vcpus: 1, irqchip: false };
        let machine = Machine::new(Arc::new(Kvm::open()?), Memory::with_ram(RAM as u64)?, config);
        let machine = Arc::new(machine.traced(exits));
        machine.set_entry(flat(&machine.memory, guest.code, CODE, guest.mode)?, &Alone)?;
        let countdown = Arc::new(Countdown { left: AtomicU64::new(0), control: machine.control.clone() });
        let base = if guest.space == Space::Pio { PORT } else { GPA };
        let (rung, device) = device(countdown.clone());
        machine.attach(guest.space, base, 8, "countdown", rung, device)?;
        Ok(Self { machine, countdown })
    }

    /// Runs until the device has answered `exits` accesses.
    ///
    /// # Errors
    /// The guest did something else.
    pub fn run(&mut self, exits: u64) -> Result<(), Failure> {
        self.countdown.left.store(exits, Ordering::Relaxed);
        match self.machine.run(None, &Alone) {
            Ok(Exit::Stopped { reason: StopReason::Text(_), .. }) | Err(RunError::Device) => Ok(()),
            Ok(other) => Err(format!("hyperpy's guest ended by {other:?}").into()),
            Err(error) => Err(error.into()),
        }
    }

    /// Exits so far.
    #[must_use]
    pub fn exits(&self) -> u64 {
        self.machine.control.vcpus().first().map_or(0, |vcpu| vcpu.readings().exits)
    }

    /// Stops the guest and gives everything back.
    ///
    /// # Errors
    /// It is called where that cannot be.
    pub fn close(self) -> Result<(), Failure> {
        Ok(self.machine.close(None)?)
    }

    /// Memory and registers from which the guest begins.
    ///
    /// # Errors
    /// KVM refuses something.
    pub fn start(&self) -> Result<(Vec<u8>, Regs, Sregs), Failure> {
        let mut image = vec![0; RAM];
        self.machine.memory.read(0, &mut image)?;
        Ok((image, self.machine.regs(0, &Alone)?, self.machine.sregs(0, &Alone)?))
    }

    pub(crate) fn floor(&self) -> Result<Floor, Failure> {
        let (image, regs, sregs) = self.start()?;
        Floor::open(&image, &regs, &sregs)
    }
}

/// Nanoseconds per exit of one round.
#[derive(Clone, Copy, Debug)]
pub struct Round {
    /// hyperpy's run loop.
    pub hyperpy: f64,
    /// The same, on a machine that keeps a trace of its exits.
    pub traced: f64,
    /// The C floor.
    pub floor: f64,
}

/// The orders in which a slice has its three sides: whatever one leaves behind meets each of the others as often.
const ORDERS: [[usize; 3]; 6] = [[0, 1, 2], [2, 1, 0], [1, 2, 0], [0, 2, 1], [2, 0, 1], [1, 0, 2]];
/// Slices of a round, each order twice: short ones in turn meet the same disturbances.
const SLICES: u16 = 12;

/// `rounds` rounds of about `exits` exits each; hyperpy, hyperpy traced and the floor by turns.
///
/// # Errors
/// There is no usable KVM, or a guest did something else.
pub fn compare(guest: &Guest, rounds: usize, exits: u64) -> Result<Vec<Round>, Failure> {
    let mut hyperpy = Hyperpy::open(guest)?;
    let mut traced = Hyperpy::traced(guest)?;
    let mut floor = hyperpy.floor()?;
    let slice = (exits / u64::from(SLICES)).max(1);
    let mut run = |side| match side {
        0 => timed(|| hyperpy.run(slice)),
        1 => timed(|| traced.run(slice)),
        _ => timed(|| floor.run(slice)),
    };
    // Warm-up: page faults of the guest, caches, the processor's clock.
    for side in 0..3 {
        run(side)?;
    }
    #[allow(clippy::cast_precision_loss)] // far below 2^52
    let per_exit = 1.0 / (slice as f64 * f64::from(SLICES));
    let mut round = || {
        let mut sum = [0.0; 3];
        for order in ORDERS.iter().cycle().take(SLICES.into()) {
            #[allow(clippy::indexing_slicing)] // 0 to 2
            for &side in order {
                sum[side] += run(side)?;
            }
        }
        let [hyperpy, traced, floor] = sum.map(|ns| ns * per_exit);
        Ok(Round { hyperpy, traced, floor })
    };
    (0..rounds).map(|_| round()).collect()
}
