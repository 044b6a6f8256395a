//! Devices and the two buses on which they sit: port I/O and memory-mapped I/O.
//!
//! A [`Bus`] is an immutable sorted [`Map`] that is swapped whole when a device is attached or detached. A vCPU
//! looks an address up through its own [`Cursor`], which remembers the map and the region it hit last, so that the
//! exit path takes no lock and makes no allocation. [`Presence`] (`presence`) says whether a vCPU is inside a device, so that
//! `detach` can return after the last one has left.
//!
//! What a device is to a bus is in `device`, how a map becomes the next one in `change`. Not here: what a device does (crate `hyperpy-devices`), and what happens
//! when nobody answers (`run`).

mod change;
mod device;
mod presence;
mod shortcut;

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

pub use self::change::Placement;
pub use self::device::{Access, Action, Device, DeviceMut, Exclusive, ones};
pub use self::presence::{Place, Presence};
pub use self::shortcut::{BellAt, Shortcuts, Spot};
use crate::names::{Known, Names, Past};

/// Which of the two buses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Space {
    /// Port I/O.
    Pio,
    /// Memory-mapped I/O.
    Mmio,
}

impl Space {
    /// As data has it: `pio` or `mmio`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Pio => "pio",
            Self::Mmio => "mmio",
        }
    }

    /// The bus of this name.
    #[must_use]
    pub fn of_name(name: &str) -> Option<Self> {
        [Self::Pio, Self::Mmio].into_iter().find(|space| space.name() == name)
    }

    /// Before an address in a message: `port` or `mmio`.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Pio => "port",
            Self::Mmio => "mmio",
        }
    }
}

/// The step of the dispatch ladder that answers a region's accesses (docs/design.md, "The dispatch ladder").
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Rung {
    /// A device written in Rust, through a ring of the kernel's: no exit.
    Kernel = 1,
    /// A device written in Rust.
    Native = 2,
    /// A Python device's declared register, served in Rust. What of such a device needs a method counts as one.
    Declared = 3,
    /// A Python method.
    Method = 4,
    /// Nobody: the unclaimed policy.
    Unclaimed = 5,
}

/// How many rungs there are, counting from 0. Of what the kernel answers itself nothing is seen here.
pub const RUNGS: usize = 6;

/// Names one attachment, for `detach`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RegionId(pub u64);

/// A device at a place.
#[derive(Clone)]
pub struct Region {
    /// Names this attachment.
    pub id: RegionId,
    /// First address.
    pub base: u64,
    /// Length in bytes, at least 1.
    pub len: u64,
    /// Shown in maps, statistics and messages.
    pub name: Arc<str>,
    /// Who answers.
    pub rung: Rung,
    /// The device.
    pub device: Arc<dyn Device>,
    /// What its registers are called.
    pub names: Option<Arc<dyn Names>>,
    /// Since when it is there, CLOCK_MONOTONIC in nanoseconds.
    pub since_ns: u64,
}

impl fmt::Debug for Region {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {:#x}..={:#x}", self.name, self.base, self.base + (self.len - 1))
    }
}

/// The regions of a bus at one moment, sorted by base, without overlap.
#[derive(Debug, Default)]
pub struct Map {
    bases: Vec<u64>,
    regions: Vec<Region>,
}

impl Map {
    /// The regions by ascending base.
    #[must_use]
    pub fn regions(&self) -> &[Region] {
        &self.regions
    }

    /// The region that holds the whole access.
    pub(crate) fn region_at(&self, address: u64, size: u8) -> Option<&Region> {
        self.regions.get(self.find(address, size)?)
    }

    /// Whether one region has every address of a range.
    #[must_use]
    pub fn is_one_region(&self, base: u64, len: u64) -> bool {
        // Written without sums, so that no address can wrap.
        let within = |region: &Region| region.base <= base && region.len.saturating_sub(base - region.base) >= len;
        self.regions.iter().any(within)
    }

    /// Index of the region that holds the whole access. An access that leaves its region belongs to nobody.
    fn find(&self, address: u64, size: u8) -> Option<usize> {
        let index = self.bases.partition_point(|&base| base <= address).checked_sub(1)?;
        self.regions.get(index).filter(|region| holds(region, address, size)).map(|_| index)
    }
}

fn holds(region: &Region, address: u64, size: u8) -> bool {
    // Written without sums, so that no address can wrap.
    address >= region.base && region.len.saturating_sub(address - region.base) >= u64::from(size)
}

/// One of a machine's two address spaces for devices.
#[derive(Debug)]
pub struct Bus {
    limit: u64,
    next_id: AtomicU64,
    /// Counts changes of `map`; a cursor whose generation is older fetches the map again.
    generation: AtomicU64,
    map: Mutex<Arc<Map>>,
    /// What was on it. Locked after `map`.
    past: Mutex<Past>,
}

impl Bus {
    /// An empty bus whose last address is `limit`: 0xffff for ports.
    #[must_use]
    pub fn new(limit: u64) -> Self {
        Self {
            limit,
            next_id: AtomicU64::new(1),
            generation: AtomicU64::new(1),
            map: Mutex::default(),
            past: Mutex::default(),
        }
    }

    /// The map as it is now.
    #[must_use]
    pub fn map(&self) -> Arc<Map> {
        self.map.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What is on it, and was.
    pub(crate) fn known(&self) -> Known {
        let map = self.map.lock().unwrap_or_else(PoisonError::into_inner);
        let past = self.past.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Known { map: map.clone(), past }
    }
}

/// One vCPU's way into a bus: the map it last saw and the region it last hit.
#[derive(Debug)]
pub struct Cursor {
    map: Arc<Map>,
    generation: u64,
    last: usize,
}

impl Default for Cursor {
    /// Without a map. All share the empty one, so that letting go allocates nothing.
    fn default() -> Self {
        static EMPTY: LazyLock<Arc<Map>> = LazyLock::new(Arc::default);
        Self { map: EMPTY.clone(), generation: 0, last: 0 }
    }
}

impl Cursor {
    /// The region that holds the whole access, or `None`. Call it only between [`Presence::enter`] and
    /// [`Presence::leave`]: that is what lets `detach` know when the region is out of use.
    #[inline]
    pub fn find(&mut self, bus: &Bus, address: u64, size: u8) -> Option<&Region> {
        let generation = bus.generation.load(Ordering::SeqCst);
        if generation != self.generation {
            self.refresh(bus, generation);
        }
        let map: &Map = &self.map;
        match map.regions.get(self.last) {
            Some(region) if holds(region, address, size) => Some(region),
            _ => {
                self.last = map.find(address, size)?;
                map.regions.get(self.last)
            }
        }
    }

    #[cold]
    fn refresh(&mut self, bus: &Bus, generation: u64) {
        // The generation was read before the map: a map newer than it is fetched once more, never missed.
        self.map = bus.map();
        self.generation = generation;
        self.last = 0;
    }

    /// Name of the region that was hit last.
    #[must_use]
    pub fn last_name(&self) -> Option<Arc<str>> {
        self.map.regions.get(self.last).map(|region| region.name.clone())
    }

    /// Lets go of the map, so that a stopped vCPU keeps no detached device alive.
    pub fn release(&mut self) {
        *self = Self::default();
    }
}

#[cfg(any(test, fuzzing))]
#[path = "bus_fuzz.rs"]
pub mod fuzz;
#[cfg(test)]
#[path = "bus_test.rs"]
mod tests;
