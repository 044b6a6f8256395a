//! Where devices are: taking several places off the buses and putting others on, as one change.
//!
//! Each bus's map is replaced once, and both are prepared before either is, so that a change is refused as a whole. An access
//! sees the map before or the one after. Who is in a place that was taken off can be waited for (`devices`).

use std::sync::PoisonError;

use super::{Attachment, Machine};
use crate::arch::x86_64::layout::kernels_at;
use crate::bus::{Placement, Region, RegionId, Space};
use crate::control::Phase;
use crate::error::AttachError;

impl Machine {
    /// Takes places off the buses and puts devices on, also where one was that is taken off.
    ///
    /// # Errors
    /// A range is taken, empty or outside, or the kernel answers there itself; on the mmio bus also when memory is there. Or
    /// one that is to be taken off is not there. Nothing is changed.
    pub fn rearrange(
        &self,
        off: &[Attachment],
        on: &[(Space, Placement)],
    ) -> Result<(Vec<Region>, Vec<Attachment>), AttachError> {
        let _placing = self.placing.lock().unwrap_or_else(PoisonError::into_inner);
        if !on.is_empty() {
            self.control.require("attach", &[Phase::Created, Phase::Running, Phase::Paused, Phase::Stopped])?;
        }
        on.iter().try_for_each(|(space, placement)| self.refuse_memory_and_kernel(*space, placement))?;
        let ids = |space| -> Vec<RegionId> {
            off.iter().filter(|each| each.space == space).map(|each| each.region).collect()
        };
        let placements = |space| -> Vec<Placement> {
            on.iter().filter(|(wanted, _)| *wanted == space).map(|(_, placement)| placement.clone()).collect()
        };
        let (pio_on, mmio_on) = (placements(Space::Pio), placements(Space::Mmio));
        let pio = self.pio.prepare(&ids(Space::Pio), &pio_on)?;
        let mmio = self.mmio.prepare(&ids(Space::Mmio), &mmio_on)?;
        let (mut removed, pio_added) = pio.publish();
        let (mmio_removed, mmio_added) = mmio.publish();
        removed.iter().for_each(|region| self.posts.forget(Space::Pio, region.base, region.len));
        mmio_removed.iter().for_each(|region| self.posts.forget(Space::Mmio, region.base, region.len));
        removed.extend(mmio_removed);
        let (mut pio_added, mut mmio_added) = (pio_added.into_iter(), mmio_added.into_iter());
        let attachment = |&(space, _): &(Space, Placement)| {
            let region = if space == Space::Pio { pio_added.next() } else { mmio_added.next() };
            region.map(|region| Attachment { space, region })
        };
        let added = on.iter().filter_map(attachment).collect();
        Ok((removed, added))
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
