//! From one map of a bus to the next: regions are taken off and put on together, so that a vCPU sees all of it or nothing.
//!
//! A change is prepared, which refuses what cannot be, and then published, which cannot fail: what concerns both buses is
//! prepared on both first. The map stays locked in between.

use std::sync::atomic::Ordering;
use std::sync::{Arc, MutexGuard, PoisonError};

use super::{Bus, Device, Map, Region, RegionId, Rung};
use crate::error::BusError;
use crate::kvm::thread::monotonic_ns;
use crate::names::Names;

/// A device and the place where it is to be.
#[derive(Clone)]
pub struct Placement {
    /// First address.
    pub base: u64,
    /// Length in bytes.
    pub len: u64,
    /// Shown in maps, statistics and messages.
    pub name: Arc<str>,
    /// Who answers.
    pub rung: Rung,
    /// The device.
    pub device: Arc<dyn Device>,
}

/// A change that can be: nobody else changes the bus until it is published or dropped.
pub(crate) struct Prepared<'a> {
    bus: &'a Bus,
    map: MutexGuard<'a, Arc<Map>>,
    regions: Vec<Region>,
    removed: Vec<Region>,
    added: Vec<RegionId>,
}

impl Bus {
    /// Puts a device at `base..base + len`.
    ///
    /// # Errors
    /// The range is empty, leaves the bus, or overlaps a region that is there.
    pub fn attach(
        &self,
        base: u64,
        len: u64,
        name: Arc<str>,
        rung: Rung,
        device: Arc<dyn Device>,
    ) -> Result<RegionId, BusError> {
        let on = [Placement { base, len, name, rung, device }];
        let (_, added) = self.prepare(&[], &on)?.publish();
        added.first().copied().ok_or(BusError::NotAttached)
    }

    /// Takes a device off the bus and returns it. vCPUs may still be inside it: see
    /// [`Presence::wait_until_left`](super::Presence::wait_until_left).
    ///
    /// # Errors
    /// No such attachment.
    pub fn detach(&self, id: RegionId) -> Result<Region, BusError> {
        let (removed, _) = self.prepare(&[id], &[])?.publish();
        removed.into_iter().next().ok_or(BusError::NotAttached)
    }

    /// Puts another device into a region that stays the same one, and returns the one that was there. vCPUs may still be inside
    /// that.
    ///
    /// # Errors
    /// No such attachment.
    pub(crate) fn replace(&self, id: RegionId, device: Arc<dyn Device>) -> Result<Arc<dyn Device>, BusError> {
        let mut map = self.map.lock().unwrap_or_else(PoisonError::into_inner);
        let mut regions = map.regions.clone();
        let region = regions.iter_mut().find(|region| region.id == id).ok_or(BusError::NotAttached)?;
        let before = std::mem::replace(&mut region.device, device);
        self.publish(&mut map, regions);
        Ok(before)
    }

    fn publish(&self, map: &mut Arc<Map>, regions: Vec<Region>) {
        let bases = regions.iter().map(|region| region.base).collect();
        *map = Arc::new(Map { bases, regions });
        self.generation.fetch_add(1, Ordering::SeqCst);
    }

    /// Takes regions off and puts others on, also where one was that is taken off.
    ///
    /// # Errors
    /// One to be taken off is not there; or one to be put on is empty, leaves the bus, or overlaps one that stays or another
    /// one. Nothing is changed.
    pub(crate) fn prepare(&self, off: &[RegionId], on: &[Placement]) -> Result<Prepared<'_>, BusError> {
        // Asked where no lock is held.
        let names: Vec<Option<Arc<dyn Names>>> = on.iter().map(|placement| placement.device.names()).collect();
        let map = self.map.lock().unwrap_or_else(PoisonError::into_inner);
        let (removed, mut regions): (Vec<_>, Vec<_>) =
            map.regions.iter().cloned().partition(|region| off.contains(&region.id));
        if removed.len() != off.len() {
            return Err(BusError::NotAttached);
        }
        let mut added = Vec::with_capacity(on.len());
        for (Placement { base, len, name, rung, device }, names) in on.iter().cloned().zip(names) {
            let at = self.room(&regions, base, len)?;
            let id = RegionId(self.next_id.fetch_add(1, Ordering::Relaxed));
            regions.insert(at, Region { id, base, len, name, rung, device, names, since_ns: 0 });
            added.push(id);
        }
        Ok(Prepared { bus: self, map, regions, removed, added })
    }

    /// Where among sorted regions one of this range goes.
    fn room(&self, regions: &[Region], base: u64, len: u64) -> Result<usize, BusError> {
        let last = match len.checked_sub(1).map(|span| base.checked_add(span)) {
            None => return Err(BusError::Empty { base }),
            Some(Some(last)) if last <= self.limit => last,
            Some(_) => return Err(BusError::OutsideBus { base, len, limit: self.limit }),
        };
        let at = regions.partition_point(|other| other.base <= base);
        let before = at.checked_sub(1).and_then(|i| regions.get(i));
        let clash = before
            .filter(|region| region.base + (region.len - 1) >= base)
            .or_else(|| regions.get(at).filter(|region| region.base <= last));
        match clash {
            None => Ok(at),
            Some(it) => Err(BusError::Overlap { base, len, other: it.name.to_string(), other_base: it.base }),
        }
    }
}

impl Prepared<'_> {
    /// Makes it the bus's map. What was taken off, in which vCPUs may still be inside: it is dropped where no lock is held;
    /// and the numbers of what was put on, in order.
    pub(crate) fn publish(self) -> (Vec<Region>, Vec<RegionId>) {
        let Self { bus, mut map, mut regions, removed, added } = self;
        if !removed.is_empty() || !added.is_empty() {
            let now = monotonic_ns();
            let mut past = bus.past.lock().unwrap_or_else(PoisonError::into_inner);
            removed.iter().for_each(|region| past.remember(region, now));
            drop(past);
            regions.iter_mut().filter(|region| added.contains(&region.id)).for_each(|region| region.since_ns = now);
            bus.publish(&mut map, regions);
        }
        (removed, added)
    }
}

#[cfg(test)]
#[path = "change_test.rs"]
mod tests;
