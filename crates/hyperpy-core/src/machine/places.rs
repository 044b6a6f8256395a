//! Where devices are: taking several places off the buses and putting others on, as one change.
//!
//! Each bus's map is replaced once, and both are prepared before either is, so that a change is refused as a whole. An access
//! sees the map before or the one after. Who is in a place that was taken off can be waited for (`devices`). Writes that wait,
//! in the kernel's ring or with their device, are told at the place at which they were made.

use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use super::bells::ring;
use super::{Attachment, Machine};
use crate::arch::x86_64::layout::kernels_at;
use crate::bus::{Bus, Placement, Region, RegionId, Shortcuts, Space, Spot};
use crate::control::Phase;
use crate::error::AttachError;
use crate::posted::Range;
use crate::vcpu::Inside;

/// What was taken off, each with its bus, and the places of what was put on, in order.
type Rearranged = (Vec<(Space, Region)>, Vec<Attachment>);

impl Machine {
    /// Takes places off the buses and puts devices on, also where one was that is taken off. vCPUs may still be in what was taken
    /// off, which is returned with its bus, and with the places of what was put on, in order.
    ///
    /// If a device that is taken off keeps writes, the vCPUs are out of the guest meanwhile, so that it has seen all that were
    /// made; but not inside of a device's callback, nor if one of them does not come out of its device for a second. Then the
    /// caller has the rest served, with [`Self::serve_rest`], when it has noted where devices are.
    ///
    /// # Errors
    /// A range is taken, empty or outside, or the kernel answers there itself; on the mmio bus also when memory is there. Or
    /// one that is to be taken off is not there. Nothing is changed.
    pub fn rearrange(&self, off: &[Attachment], on: &[(Space, Placement)]) -> Result<Rearranged, AttachError> {
        // Before anything is locked that a method may want which a vCPU has to come out of, or which is told now.
        let held = if self.keeps(off) && !Inside::any() { self.control.hold() } else { None };
        self.flush_all(off);
        let placing = self.placing.lock().unwrap_or_else(PoisonError::into_inner);
        if !on.is_empty() {
            self.control.require("attach", &[Phase::Created, Phase::Running, Phase::Paused, Phase::Stopped])?;
        }
        on.iter().try_for_each(|(space, placement)| self.refuse_memory_and_kernel(*space, placement))?;
        let shortcuts: Vec<Shortcuts> = on.iter().map(|(_, it)| it.device.shortcuts().within(0, it.len)).collect();
        let ids = |space| -> Vec<RegionId> {
            off.iter().filter(|each| each.space == space).map(|each| each.region).collect()
        };
        let placements = |space| -> Vec<Placement> {
            on.iter().filter(|(wanted, _)| *wanted == space).map(|(_, placement)| placement.clone()).collect()
        };
        let (pio_on, mmio_on) = (placements(Space::Pio), placements(Space::Mmio));
        let pio = self.pio.prepare(&ids(Space::Pio), &pio_on)?;
        let mmio = self.mmio.prepare(&ids(Space::Mmio), &mmio_on)?;
        // From here on nothing fails. What is not in the ring yet goes to the place that is still there.
        pio.removed().iter().for_each(|region| self.posts.forget(Space::Pio, region.base, region.len));
        mmio.removed().iter().for_each(|region| self.posts.forget(Space::Mmio, region.base, region.len));
        let rung: Vec<_> = off.iter().flat_map(|each| self.control.bells.remove(*each)).collect();
        // Before the guest can write to it.
        let coming = shortcuts.iter().filter(|each| each.late).count();
        self.keepers.fetch_add(coming, Ordering::SeqCst);
        let (pio_removed, pio_added) = pio.publish();
        let (mmio_removed, mmio_added) = mmio.publish();
        for ((space, Placement { base, .. }), Shortcuts { streams, .. }) in on.iter().zip(&shortcuts) {
            for &(offset, len) in streams {
                self.posts.set(Range { space: *space, base: base.saturating_add(offset), len }, true);
            }
        }
        drop(held);
        let pio_removed = pio_removed.into_iter().map(|region| (Space::Pio, region));
        let removed: Vec<_> = pio_removed.chain(mmio_removed.into_iter().map(|region| (Space::Mmio, region))).collect();
        let going = removed.iter().filter(|(_, region)| region.device.shortcuts().late).count();
        self.keepers.fetch_sub(going, Ordering::SeqCst);
        let (mut pio_added, mut mmio_added) = (pio_added.into_iter(), mmio_added.into_iter());
        let attachment = |&(space, _): &(Space, Placement)| {
            let region = if space == Space::Pio { pio_added.next() } else { mmio_added.next() };
            region.map(|region| Attachment { space, region })
        };
        let added: Vec<_> = on.iter().filter_map(attachment).collect();
        for (((space, placement), Shortcuts { bells, .. }), attachment) in on.iter().zip(&shortcuts).zip(&added) {
            if !bells.is_empty() {
                let spot = Spot { machine: self.id, space: *space, base: placement.base };
                self.control.bells.add(bells, spot, attachment.region, &placement.device);
            }
        }
        drop(placing);
        for bell in rung {
            ring(&bell, &self.control);
        }
        Ok((removed, added))
    }

    pub(super) fn bus(&self, space: Space) -> &Bus {
        if space == Space::Pio { &self.pio } else { &self.mmio }
    }

    /// Serves what devices keep that were taken off the buses.
    pub fn serve_rest(&self, removed: &[(Space, Region)]) {
        for (space, region) in removed.iter().filter(|(_, region)| region.device.has_late()) {
            self.flush(region, *space);
        }
    }

    /// Whether one of these places is of a device that keeps writes.
    fn keeps(&self, places: &[Attachment]) -> bool {
        if self.keepers.load(Ordering::SeqCst) == 0 {
            return false;
        }
        places.iter().any(|place| {
            let map = self.bus(place.space).map();
            map.regions().iter().any(|it| it.id == place.region && it.device.shortcuts().late)
        })
    }

    /// Refuses a place where no access would come to a device.
    fn refuse_memory_and_kernel(&self, space: Space, placement: &Placement) -> Result<(), AttachError> {
        let Placement { base, len, .. } = *placement;
        if space == Space::Mmio
            && let Some(region) = self.memory.overlapping(base, len)
        {
            return Err(AttachError::Memory { base, len, other: region.gpa, name: region.name.to_string() });
        }
        match kernels_at(space, base, len, self.config().irqchip) {
            Some(own) => Err(AttachError::Kernel { base, len, other: own.base, name: own.name }),
            None => Ok(()),
        }
    }
}
