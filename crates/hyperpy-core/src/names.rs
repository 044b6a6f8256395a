//! Names for the accesses that a trace shows: which device was at an address at a moment, and which register of it.
//!
//! The exit path knows nothing of this. An exit is recorded with its time, a region knows since when it is there, and a
//! bus remembers its last regions that went: so the map as it was at an exit is found when somebody reads. What a device
//! calls its registers it says itself, as [`Names`].

use std::collections::VecDeque;
use std::sync::Arc;

use crate::bus::{Map, Region, Space};

/// So many regions that were detached are remembered by a bus.
const REMEMBERED: usize = 64;

/// What a device's registers are called.
pub trait Names: Send + Sync {
    /// The registers that an access of `size` bytes touches: several are joined by `+`, those of which the device's
    /// state says which one it is by `|`.
    fn register(&self, offset: u64, size: u8, is_write: bool) -> Option<String>;
}

/// Names that do not change: offset and length in bytes, what it is called when it is read, and when it is written.
#[derive(Clone, Copy, Debug)]
pub struct Fixed(pub &'static [(u64, u64, &'static str, &'static str)]);

impl Names for Fixed {
    fn register(&self, offset: u64, size: u8, is_write: bool) -> Option<String> {
        let end = offset.saturating_add(size.into());
        let touched = self.0.iter().filter(|(base, len, ..)| *base < end && offset < base + len);
        let names: Vec<_> = touched.map(|(_, _, read, write)| if is_write { *write } else { *read }).collect();
        (!names.is_empty()).then(|| names.join("+"))
    }
}

/// A region that was on a bus until a moment.
#[derive(Clone)]
struct Gone {
    region: Where,
    until_ns: u64,
}

/// What is remembered of a region: not its device.
#[derive(Clone)]
struct Where {
    base: u64,
    len: u64,
    name: Arc<str>,
    names: Option<Arc<dyn Names>>,
    since_ns: u64,
}

impl Where {
    fn of(region: &Region) -> Self {
        let Region { base, len, name, names, since_ns, .. } = region;
        Self { base: *base, len: *len, name: name.clone(), names: names.clone(), since_ns: *since_ns }
    }

    fn holds(&self, address: u64, size: u8) -> bool {
        address >= self.base && self.len.saturating_sub(address - self.base) >= u64::from(size)
    }
}

/// The last regions that went, oldest first.
#[derive(Clone, Default)]
pub(crate) struct Past(VecDeque<Gone>);

impl Past {
    /// A region is taken off its bus.
    pub(crate) fn remember(&mut self, region: &Region, now_ns: u64) {
        if self.0.len() == REMEMBERED {
            self.0.pop_front();
        }
        self.0.push_back(Gone { region: Where::of(region), until_ns: now_ns });
    }
}

impl std::fmt::Debug for Past {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.0.iter().map(|gone| &gone.region.name)).finish()
    }
}

/// A bus as it was and is.
pub(crate) struct Known {
    pub(crate) map: Arc<Map>,
    pub(crate) past: Past,
}

/// Both buses of a machine as they were and are.
pub struct History {
    pub(crate) pio: Known,
    pub(crate) mmio: Known,
}

/// Who was at an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The device's name.
    pub device: Arc<str>,
    /// Its registers, where it names them.
    pub register: Option<String>,
}

impl History {
    /// Who was there at `ns`, CLOCK_MONOTONIC; `None` for nobody, and for who went too long ago.
    #[must_use]
    pub fn find(&self, space: Space, address: u64, size: u8, is_write: bool, ns: u64) -> Option<Found> {
        let Known { map, past } = if space == Space::Pio { &self.pio } else { &self.mmio };
        let now = map.region_at(address, size).filter(|region| region.since_ns <= ns).map(Where::of);
        let was =
            |gone: &&Gone| gone.region.holds(address, size) && (gone.region.since_ns..gone.until_ns).contains(&ns);
        let region = now.or_else(|| past.0.iter().rev().find(was).map(|gone| gone.region.clone()))?;
        let names = region.names.as_ref();
        let register = names.and_then(|names| names.register(address - region.base, size, is_write));
        Some(Found { device: region.name, register })
    }
}

#[cfg(test)]
#[path = "names_test.rs"]
mod tests;
