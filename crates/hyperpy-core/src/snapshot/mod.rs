//! Snapshots: what a machine was at one moment, as a value.
//!
//! Plain data is in [`value`], states with a form of their own in [`form`], what tells two states apart in `hash`, files in [`file`] and `store`, what must be alike for a snapshot to be put back in
//! `shape`. Pages of memory are kept by `memory`, what the accelerator knows of vCPUs and interrupt controllers by
//! [`accel::state`](crate::accel::state), what a device keeps by the device; the verbs that put them together are the
//! machine's (`machine/snapshot.rs`).

pub mod file;
pub mod form;
mod hash;
mod plain;
mod shape;
mod store;
pub mod value;

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;

pub use self::form::{Fields, Form, Plain, Stateless, check, misfit, require, with};
pub use self::shape::{Place, Shape};
pub use self::store::{GoesOn, OpenError};
pub use self::value::{Keeper, Saved, State, StateFault, Value};
use crate::accel::{VcpuState, VmConfig, VmState};
use crate::clock;
use crate::control::{Parked, Phase};
use crate::error::{MemoryError, RunError};
use crate::irq::LineLevels;
use crate::memory::{Image, Kind, PAGE_SIZE, RegionInfo};

/// Bytes of a page.
const PAGE: usize = PAGE_SIZE as usize;

/// A machine at one moment. It does not change, and it does not keep the machine.
pub struct Snapshot {
    pub(crate) parts: Parts,
    pub(crate) memory: Arc<Image>,
}

impl Snapshot {
    /// All but memory, as plain data.
    #[must_use]
    pub fn value(&self) -> Value {
        self.parts.value()
    }

    /// How its machine was made, and the state that it was in.
    #[must_use]
    pub fn machine(&self) -> (VmConfig, Phase) {
        (self.parts.shape.config, self.parts.phase)
    }

    /// Bytes of its pages, and of those that only it has.
    #[must_use]
    pub fn bytes(&self) -> (u64, u64) {
        (self.memory.bytes(), self.memory.own_bytes())
    }

    /// The regions of memory, by ascending address.
    #[must_use]
    pub fn regions(&self) -> &[RegionInfo] {
        self.memory.regions()
    }

    /// Whether there was memory at all of these addresses.
    #[must_use]
    pub fn holds(&self, gpa: u64, len: u64) -> bool {
        self.read_with(gpa, len, |_, _, _| {})
    }

    /// Copies memory out as it was; false if there was not memory at all of these addresses.
    #[must_use]
    pub fn read(&self, gpa: u64, into: &mut [u8]) -> bool {
        self.read_with(gpa, into.len() as u64, |done, page, bytes| {
            let Some(into) = into.get_mut(done..done + bytes.len()) else { return };
            match page {
                Some(page) => into.copy_from_slice(page.get(bytes).unwrap_or_default()),
                None => into.fill(0),
            }
        })
    }

    /// Calls `f` with how much was before, a page if it is not zeros, and which bytes of it.
    fn read_with(&self, gpa: u64, len: u64, mut f: impl FnMut(usize, Option<&[u8; PAGE]>, Range<usize>)) -> bool {
        let Some(end) = gpa.checked_add(len) else { return false };
        let (mut at, mut done) = (gpa, 0);
        while at < end {
            let holds = |info: &&RegionInfo| info.gpa <= at && at <= info.last() && info.kind != Kind::Mmio;
            let Some(info) = self.regions().iter().find(holds) else { return false };
            let own = info.alias_of.map_or(at, |of| of + (at - info.gpa));
            let Some(block) = self.memory.blocks().find(|block| block.region.gpa <= own && own <= block.region.last())
            else {
                return false;
            };
            let (page, from) = ((own - block.region.gpa) / PAGE_SIZE, (own % PAGE_SIZE) as usize);
            let last = end.min(info.gpa.saturating_add(info.len));
            let count = (PAGE - from).min(usize::try_from(last - at).unwrap_or(usize::MAX));
            f(done, block.page(usize::try_from(page).unwrap_or(usize::MAX)), from..from + count);
            (at, done) = (at + count as u64, done + count);
        }
        true
    }
}

/// All but memory.
pub(crate) struct Parts {
    /// Of the machine: `Machine::kin`.
    pub(crate) kin: u64,
    pub(crate) shape: Shape,
    /// The state of the machine.
    pub(crate) phase: Phase,
    pub(crate) parked: Parked,
    pub(crate) vcpus: Vec<VcpuPart>,
    pub(crate) vm: VmState,
    /// Its operating system knows of an identifier of the generation: `Machine::renew_generation`.
    pub(crate) has_generation: bool,
    /// One for each region on the port bus and then on the other, in order.
    pub(crate) devices: Vec<Option<State>>,
    pub(crate) lines: LineLevels,
    /// Of the machine's keeper.
    pub(crate) console: Option<State>,
    pub(crate) clock: clock::Kept,
}

/// A vCPU.
pub(crate) struct VcpuPart {
    pub(crate) state: VcpuState,
    /// Halted on a machine without an interrupt controller.
    pub(crate) parked: bool,
}

/// What a restore did, and how long its parts took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Restored {
    /// Pages that were put back.
    pub pages: u64,
    /// Interrupt controllers and lines.
    pub vm: Duration,
    /// Registers.
    pub vcpus: Duration,
    /// Memory.
    pub memory: Duration,
    /// Devices, clock and timers.
    pub devices: Duration,
}

/// A snapshot could not be taken or put back.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SnapshotError {
    /// The machine's state does not allow it, or the accelerator refuses.
    #[error(transparent)]
    Run(#[from] RunError),
    /// Memory.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// A device.
    #[error("device {name} at {place}: {fault}")]
    Device {
        /// Its name.
        name: String,
        /// Where it is.
        place: String,
        /// Why.
        fault: StateFault,
    },
    /// The console.
    #[error("console: {fault}")]
    Console {
        /// Why.
        fault: StateFault,
    },
    /// A device is still being told of what a guest wrote.
    #[error("a device's method does not return: what a guest has written waits for it")]
    Busy,
    /// Interrupt lines and routes.
    #[error("interrupt lines: {fault}")]
    Lines {
        /// Why.
        fault: StateFault,
    },
    /// The machine is not made as the one of the snapshot was.
    #[error("the machine is not as the snapshot's was: {}", .differences.join("; "))]
    Shape {
        /// What differs, a line each.
        differences: Vec<String>,
    },
}

impl SnapshotError {
    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Run(error) => error.hint(),
            Self::Memory(_) => "look at `m.map` for what is where",
            Self::Device { fault, .. } | Self::Lines { fault } | Self::Console { fault } => fault.hint(),
            Self::Busy => "let the method return, then try again",
            Self::Shape { .. } => {
                "make a machine with the same vcpus, memory and devices at the same places; a class that has changed can override `load`"
            }
        }
    }
}
