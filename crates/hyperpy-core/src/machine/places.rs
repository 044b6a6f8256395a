//! Where devices are: taking several places off the buses and putting others on, as one change.
//!
//! Each bus's map is replaced once, and both are prepared before either is, so that a change is refused as a whole. An access
//! sees the map before or the one after. Who is in a place that was taken off can be waited for (`devices`). Writes that wait,
//! in the kernel's ring or with their device, are told at the place at which they were made.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use super::bells::ring;
use super::{Attachment, Machine};
use crate::arch::x86_64::layout::kernels_at;
use crate::bells::Bell;
use crate::bus::{Bus, Placement, Region, RegionId, Shortcuts, Space, Spot};
use crate::control::Phase;
use crate::error::AttachError;
use crate::posted::{self, Range};

/// What was taken off the buses. vCPUs may still be in it, and it may have to be told of what was written before:
/// [`Machine::serve_rest`].
#[derive(Default)]
pub struct Removed {
    /// Each with its bus.
    pub regions: Vec<(Space, Region)>,
    /// Its doorbells.
    rung: Vec<Arc<Bell>>,
}

impl Machine {
    /// Takes places off the buses and puts devices on, also where one was that is taken off. Gives what was taken off, and the
    /// places of what was put on, in order.
    ///
    /// What the kernel's ring has for a place that is taken off is with its device then. The caller has it told with
    /// [`Self::serve_rest`], when it has noted where devices are.
    ///
    /// # Errors
    /// A range is taken, empty or outside, or the kernel answers there itself; on the mmio bus also when memory is there. Or
    /// one that is to be taken off is not there. Nothing is changed.
    pub fn rearrange(
        &self,
        off: &[Attachment],
        on: &[(Space, Placement)],
    ) -> Result<(Removed, Vec<Attachment>), AttachError> {
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
        // Before the maps are locked: whoever empties the ring looks devices up.
        let withdrawn = self.withdraw(off);
        let pio = self.pio.prepare(&ids(Space::Pio), &pio_on);
        let both = pio.and_then(|pio| Ok((pio, self.mmio.prepare(&ids(Space::Mmio), &mmio_on)?)));
        let (pio, mmio) = both.inspect_err(|_| withdrawn.iter().for_each(|range| self.posts.set(*range, true)))?;
        // From here on nothing fails.
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
        let pio_removed = pio_removed.into_iter().map(|region| (Space::Pio, region));
        let regions: Vec<_> = pio_removed.chain(mmio_removed.into_iter().map(|region| (Space::Mmio, region))).collect();
        let going = regions.iter().filter(|(_, region)| region.device.shortcuts().late).count();
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
        Ok((Removed { regions, rung }, added))
    }

    /// Has no more writes to these places wait in the kernel's ring, and hands those that do to the devices that are still there.
    /// The ranges that were posted.
    fn withdraw(&self, off: &[Attachment]) -> Vec<Range> {
        let mut ranges = Vec::new();
        for place in off {
            let map = self.bus(place.space).map();
            if let Some(region) = map.regions().iter().find(|it| it.id == place.region) {
                ranges.extend(self.posts.forget(place.space, region.base, region.len));
            }
        }
        if !off.is_empty() {
            posted::serve_ring(self);
        }
        ranges
    }

    pub(super) fn bus(&self, space: Space) -> &Bus {
        if space == Space::Pio { &self.pio } else { &self.mmio }
    }

    /// Tells devices that were taken off the buses what was written to them before: what they keep, and doorbells. Best once
    /// all vCPUs have left them ([`Self::wait_until_left`]), and with nothing held that a device's method wants.
    pub fn serve_rest(&self, removed: &Removed) {
        for (space, region) in removed.regions.iter().filter(|(_, region)| region.device.has_late()) {
            self.flush(region, *space);
        }
        for bell in &removed.rung {
            ring(bell, &self.control, || ());
        }
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
