//! Writes that devices keep for later: when they are served, beside the accesses of the same device.
//!
//! A vCPU that is out of the guest sees to those of all devices: at its tick, when it has emptied the kernel's ring, and when
//! it leaves its round. So none waits while the machine stands still.

use std::sync::atomic::Ordering;

use super::Machine;
use crate::bells::Bell;
use crate::bus::{Bus, Place, Region, Rung, Space, Spot};
use crate::posted;
use crate::vcpu::{Shared, bump};

impl Machine {
    /// What a vCPU sees to when it leaves its round: nothing waits while the machine stands still.
    pub(crate) fn serve_all(&self, shared: &Shared) {
        self.serve_late(shared);
        self.serve_rung(shared);
        if let Some(hits) = shared.counters.hits.get(Rung::Kernel as usize) {
            bump(hits, self.posts.uncounted());
        }
    }

    /// Serves what devices keep, on the thread of a vCPU that is out of the guest.
    pub(crate) fn serve_late(&self, shared: &Shared) {
        // Attached before the guest could write to it.
        if self.keepers.load(Ordering::SeqCst) > 0 {
            self.serve_late_of(&self.pio, Space::Pio, shared);
            self.serve_late_of(&self.mmio, Space::Mmio, shared);
        }
    }

    #[cold]
    fn serve_late_of(&self, bus: &Bus, space: Space, shared: &Shared) {
        shared.presence.enter();
        for region in bus.map().regions() {
            if region.device.has_late() {
                shared.presence.go_to(Place::of(space, region.id));
                self.flush(region, space);
                shared.presence.back();
            }
        }
        shared.presence.leave();
    }

    /// Serves what a device keeps, inside of it: reached by one of its windows, and made by way of any.
    #[cold]
    pub(crate) fn flush(&self, region: &Region, space: Space) {
        let (whose, _) = region.device.origin();
        let here = Spot::of(self.id, space, region);
        let find = |bus: &Bus, space, offset| {
            let map = bus.map();
            let window = map.regions().iter().find(|other| other.shows(whose, offset));
            window.map(|window| Spot::of(self.id, space, window))
        };
        let spot = |offset| {
            let elsewhere = || find(&self.pio, Space::Pio, offset).or_else(|| find(&self.mmio, Space::Mmio, offset));
            if region.shows(whose, offset) { here } else { elsewhere().unwrap_or(here) }
        };
        region.device.flush(usize::MAX, &spot, &|vcpu, action| self.control.device_asks(vcpu, action));
    }

    /// Serves what was written to a device before one of its doorbells rang: what is in the kernel's ring, and what it keeps.
    pub(super) fn serve_before(&self, bell: &Bell) {
        if self.keepers.load(Ordering::SeqCst) == 0 {
            return;
        }
        posted::serve_ring(self);
        let place = bell.place();
        match self.bus(place.space).map().regions().iter().find(|it| it.id == place.region) {
            Some(region) if region.device.has_late() => self.flush(region, place.space),
            Some(_) => {}
            None => bell.flush(&|vcpu, action| self.control.device_asks(vcpu, action)), // just taken off
        }
    }
}

#[cfg(test)]
#[path = "late_test.rs"]
mod tests;
