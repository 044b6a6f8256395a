//! Writes that devices keep for later: when they are served, beside the accesses of the same device.
//!
//! A vCPU that is out of the guest sees to those of all devices: at its tick, when it has emptied the kernel's ring, and when
//! it leaves its round. So none waits while the machine stands still.

use std::sync::atomic::Ordering;

use super::{Attachment, Machine};
use crate::bus::{Bus, Place, Region, Space, Spot};
use crate::vcpu::Shared;

impl Machine {
    /// What a vCPU sees to when it leaves its round: nothing waits while the machine stands still.
    pub(crate) fn serve_all(&self, shared: &Shared) {
        self.serve_late(shared);
        self.serve_rung(shared);
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

    /// Serves what devices keep in the places that are taken off the buses, before they are.
    pub(super) fn flush_all(&self, off: &[Attachment]) {
        for &Attachment { space, region } in off {
            let map = self.bus(space).map();
            if let Some(region) = map.regions().iter().find(|it| it.id == region && it.device.has_late()) {
                self.flush(region, space);
            }
        }
    }
}

#[cfg(test)]
#[path = "late_test.rs"]
mod tests;
