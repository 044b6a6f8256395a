//! The cost of dispatch alone: accesses played by the `scripted` accelerator, answered by a device in Rust.
//!
//! Everything from one entry to the next is in it: the scripted exit, the look-up, the device, the counters.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use hyperpy_core::accel::{AccelExit, VmConfig};
use hyperpy_core::bus::{Access, Action, Device, Rung, Space};
use hyperpy_core::exit::Exit;
use hyperpy_core::machine::Machine;
use hyperpy_core::memory::Memory;
use hyperpy_core::scripted::{Scripted, Step};

use crate::{Alone, Failure, TRACE, timed};

/// Where the first region is, and how far apart they are.
pub(crate) const BASE: u64 = 0xd000_0000;
const STRIDE: u64 = 0x1000;
pub(crate) const WIDTH: u8 = 4;
/// Addresses of one turn through the regions: enough that a branch predictor does not learn the turn by heart.
const TURN: usize = 4096;

/// Which regions of the bus the accesses go to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Always the same one, in the middle.
    Same,
    /// All, in a pseudo-random order.
    Spread,
}

/// What is measured.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    /// Regions on the bus, one device each.
    pub regions: u64,
    /// Which of them are accessed.
    pub order: Order,
    /// Whether the machine keeps a trace of its exits.
    pub traced: bool,
}

/// The cases, each without and with a trace.
pub const CASES: [Case; 6] = [
    Case { regions: 1, order: Order::Same, traced: false },
    Case { regions: 256, order: Order::Same, traced: false },
    Case { regions: 256, order: Order::Spread, traced: false },
    Case { regions: 1, order: Order::Same, traced: true },
    Case { regions: 256, order: Order::Same, traced: true },
    Case { regions: 256, order: Order::Spread, traced: true },
];

/// The cheapest device that is not optimised away.
#[derive(Default)]
struct Latch(AtomicU64);

impl Device for Latch {
    fn read(&self, _: Access) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
    fn write(&self, _: Access, value: u64) -> Action {
        self.0.store(value, Ordering::Relaxed);
        Action::Continue
    }
}

/// A machine whose vCPU makes `exits` accesses to the case's devices, and then halts.
///
/// # Errors
/// The machine cannot be made.
pub fn machine(case: Case, exits: u64) -> Result<Arc<Machine>, Failure> {
    let Case { regions, order, traced } = case;
    let middle = BASE + regions / 2 * STRIDE;
    let exit = AccelExit::Mmio { gpa: middle, size: WIDTH, is_write: true };
    let step = match order {
        Order::Same => Step::Repeat(exit, exits),
        Order::Spread => Step::Cycle { exit, addresses: spread(regions, STRIDE), next: 0, left: exits },
    };
    let machine = scripted(step, traced)?;
    for region in 0..regions {
        let device = Arc::new(Latch::default());
        machine.attach(Space::Mmio, BASE + region * STRIDE, STRIDE, "latch", Rung::Native, device)?;
    }
    machine.regs(0, &Alone)?; // makes the vCPU, so that the first run is only a run
    Ok(machine)
}

/// A machine without devices whose vCPU does what the step says.
pub(crate) fn scripted(step: Step, traced: bool) -> Result<Arc<Machine>, Failure> {
    let scripted = Scripted::new(vec![vec![step]]).without_log();
    let config = VmConfig { vcpus: 1, irqchip: false };
    let machine = Machine::new(Arc::new(scripted), Memory::with_ram(1 << 20)?, config);
    Ok(Arc::new(machine.traced(if traced { TRACE } else { 0 })))
}

/// One turn of addresses, `stride` bytes apart, by a linear congruential generator (Knuth, MMIX).
pub(crate) fn spread(places: u64, stride: u64) -> Arc<[u64]> {
    let mut state = 1_u64;
    let address = |_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        BASE + (state >> 33) % places * stride
    };
    (0..TURN).map(address).collect()
}

/// Runs a machine of [`machine`] to its halt.
///
/// # Errors
/// It ended otherwise, or an access went past the devices.
pub fn run(machine: &Arc<Machine>, exits: u64) -> Result<(), Failure> {
    run_by(machine, exits, Rung::Native)
}

/// The same of a machine whose accesses are answered by another rung.
pub(crate) fn run_by(machine: &Arc<Machine>, exits: u64, rung: Rung) -> Result<(), Failure> {
    let end = machine.run(None, &Alone)?;
    if end != (Exit::Halt { vcpu: 0 }) {
        return Err(format!("the scripted machine ended by {end:?}").into());
    }
    let hits = machine.control.vcpus().first().map(|vcpu| vcpu.readings().hits);
    match hits.and_then(|hits| hits.get(rung as usize).copied()) {
        Some(served) if served == exits => Ok(()),
        served => Err(format!("{exits} accesses were played, {served:?} served").into()),
    }
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
