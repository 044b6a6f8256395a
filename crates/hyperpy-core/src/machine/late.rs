//! Writes that devices keep for later: when they are served, beside the accesses of the same device.
//!
//! A vCPU that is out of the guest sees to those of all devices: at its tick, when it has emptied the kernel's ring, and when
//! it leaves its round. So none waits while the machine stands still.

use std::sync::atomic::Ordering;

use super::Machine;
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

    /// Serves what a device keeps, inside of it.
    #[cold]
    pub(crate) fn flush(&self, region: &Region, space: Space) {
        let spot = Spot { machine: self.id, space, base: region.base };
        region.device.flush(spot, &|vcpu, action| self.control.device_asks(vcpu, action));
    }
}

#[cfg(test)]
#[path = "late_test.rs"]
mod tests;
