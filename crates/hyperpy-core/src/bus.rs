//! Devices and the two buses on which they sit: port I/O and memory-mapped I/O.
//!
//! A [`Bus`] is an immutable sorted [`Map`] that is swapped whole when a device is attached or detached. A vCPU
//! looks an address up through its own [`Cursor`], which remembers the map and the region it hit last, so that the
//! exit path takes no lock and makes no allocation. [`Presence`] (`presence`) says whether a vCPU is inside a device, so that
//! `detach` can return after the last one has left.
//!
//! How a map becomes the next one is in `change`. Not here: what a device does (crate `hyperpy-devices`), and what happens
//! when nobody answers (`run`).

mod change;
mod presence;
mod shortcut;

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

pub use self::change::Placement;
pub use self::presence::{Place, Presence};
pub use self::shortcut::{BellAt, Shortcuts, Spot};
use crate::exit::StopReason;
use crate::names::{Known, Names, Past};
use crate::snapshot::{Saved, State, StateFault};

/// Which of the two buses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Space {
    /// Port I/O.
    Pio,
    /// Memory-mapped I/O.
    Mmio,
}

/// One access of a guest to a device: where, how wide, by whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    /// Bytes from the start of the device's region.
    pub offset: u64,
    /// Width in bytes, 1 to 8. Any width in between can occur: an access across a page comes in two parts.
    pub size: u8,
    /// The vCPU that made the access.
    pub vcpu: u32,
}

impl Access {
    /// All ones of this access's width: what a bus reads where nothing drives it.
    #[must_use]
    pub fn ones(self) -> u64 {
        ones(self.size)
    }
}

/// All ones of a width in bytes; widths above 8 count as 8.
#[must_use]
pub fn ones(size: u8) -> u64 {
    match size {
        0 => 0,
        1..=7 => (1 << (8 * u32::from(size))) - 1,
        _ => u64::MAX,
    }
}

/// What a device asks for after a write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// The guest runs on.
    Continue,
    /// Every vCPU stops and `run()` returns with this reason.
    Stop(StopReason),
    /// The guest asked for a reset of the machine.
    Reset,
}

/// Something that answers accesses at a range of a bus.
///
/// `&self`, because two vCPUs may be in one device at once, and because no lock of hyperpy's is held while a device
/// runs. A device that wants exclusive state is wrapped: see [`Exclusive`].
/// Values are little-endian integers of `size` bytes in the low bits of a `u64`; what a read returns beyond them is cut.
pub trait Device: Send + Sync {
    /// Answers a read.
    fn read(&self, at: Access) -> u64;
    /// Takes a write.
    fn write(&self, at: Access, value: u64) -> Action;
    /// Serves a read if that calls nobody's method: asked first of a device on [`Rung::Declared`], and of no other.
    fn quick_read(&self, at: Access) -> Option<u64> {
        let _ = at;
        None
    }
    /// Serves a write if that calls nobody's method, and says whether it did: as [`Self::quick_read`].
    fn quick_write(&self, at: Access, value: u64) -> bool {
        let _ = (at, value);
        false
    }
    /// Which writes need not be served one by one. Asked when it is attached.
    fn shortcuts(&self) -> Shortcuts {
        Shortcuts::default()
    }
    /// Takes a write that waited in the kernel's ring: at once, or it keeps it for [`Self::flush`]. It must wait for nobody.
    fn defer(&self, at: Access, value: u64) -> Action {
        self.write(at, value)
    }
    /// Takes a write that is a doorbell and was made so many times, which are told as one.
    fn rung(&self, at: Access, value: u64, times: u64) -> Action {
        let _ = times;
        self.write(at, value)
    }
    /// Whether it keeps writes that were made before, or is being told of them.
    fn has_late(&self) -> bool {
        false
    }
    /// Serves up to so many of the writes that it keeps, in order, before anything else of it is called: `spot` says where its
    /// range is that has an offset, `asked` gets what they ask for.
    fn flush(&self, most: usize, spot: &dyn Fn(u64) -> Spot, asked: &dyn Fn(u32, Action)) {
        let _ = (most, spot, asked);
    }
    /// Where in the range of which device this begins: one that keeps writes may be attached window by window, by several values
    /// of this type, and its offsets are those of all of its range.
    fn origin(&self) -> (usize, u64) {
        (std::ptr::from_ref(self).addr(), 0)
    }
    /// Returns to the power-on state.
    fn reset(&self) {}
    /// What a snapshot keeps of it, while no vCPU is in it and nothing waits for it.
    ///
    /// # Errors
    /// It cannot be saved.
    fn save(&self) -> Result<State, StateFault> {
        Err(StateFault::NotSaved)
    }
    /// Whether [`Self::load`] would take a state of another machine's device, as far as that can be told before; changes nothing.
    ///
    /// # Errors
    /// It does not fit.
    fn check(&self, state: &dyn Saved) -> Result<(), StateFault> {
        let _ = state;
        Ok(())
    }
    /// Puts back what [`Self::save`] gave, or the same as plain data; all of it, or nothing of what does not fit.
    ///
    /// # Errors
    /// It does not fit.
    fn load(&self, state: &dyn Saved) -> Result<(), StateFault> {
        let _ = state;
        Err(StateFault::NotSaved)
    }
    /// The same number for what is one device to its owner, though it is attached at several places by several values
    /// of this type; `None`: this value is the device.
    fn identity(&self) -> Option<usize> {
        None
    }
    /// What its registers are called.
    fn names(&self) -> Option<Arc<dyn Names>> {
        None
    }
}

/// The same as [`Device`] for state that one vCPU at a time may touch.
pub trait DeviceMut: Send {
    /// Answers a read.
    fn read(&mut self, at: Access) -> u64;
    /// Takes a write.
    fn write(&mut self, at: Access, value: u64) -> Action;
    /// Returns to the power-on state.
    fn reset(&mut self) {}
    /// As [`Device::save`].
    ///
    /// # Errors
    /// It cannot be saved.
    fn save(&self) -> Result<State, StateFault> {
        Err(StateFault::NotSaved)
    }
    /// As [`Device::check`].
    ///
    /// # Errors
    /// It does not fit.
    fn check(&self, state: &dyn Saved) -> Result<(), StateFault> {
        let _ = state;
        Ok(())
    }
    /// As [`Device::load`].
    ///
    /// # Errors
    /// It does not fit.
    fn load(&mut self, state: &dyn Saved) -> Result<(), StateFault> {
        let _ = state;
        Err(StateFault::NotSaved)
    }
    /// What its registers are called.
    fn names(&self) -> Option<Arc<dyn Names>> {
        None
    }
}

/// Serves a [`DeviceMut`] as a [`Device`] behind a mutex.
///
/// A panic inside the device poisons nothing that others need: the next access finds the state as it was left.
#[derive(Debug)]
pub struct Exclusive<D>(Mutex<D>);

impl<D> Exclusive<D> {
    /// Wraps a device.
    pub fn new(device: D) -> Self {
        Self(Mutex::new(device))
    }

    /// Runs `f` on the device while no vCPU is in it.
    pub fn with<T>(&self, f: impl FnOnce(&mut D) -> T) -> T {
        f(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl<D: DeviceMut> Device for Exclusive<D> {
    fn read(&self, at: Access) -> u64 {
        self.with(|device| device.read(at))
    }
    fn write(&self, at: Access, value: u64) -> Action {
        self.with(|device| device.write(at, value))
    }
    fn reset(&self) {
        self.with(DeviceMut::reset);
    }
    fn save(&self) -> Result<State, StateFault> {
        self.with(|device| device.save())
    }
    fn check(&self, state: &dyn Saved) -> Result<(), StateFault> {
        self.with(|device| device.check(state))
    }
    fn load(&self, state: &dyn Saved) -> Result<(), StateFault> {
        self.with(|device| device.load(state))
    }
    fn names(&self) -> Option<Arc<dyn Names>> {
        self.with(|device| device.names())
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

#[cfg(test)]
#[path = "bus_test.rs"]
mod tests;
