//! What hangs on a machine: devices on its two buses, and its interrupt lines.

use std::sync::{Arc, PoisonError};

use super::{Attachment, Machine};
use crate::accel::Route;
use crate::arch::x86_64::layout::kernels_at;
use crate::bus::{Device, Map, Place, Placement, Region, Rung, Space};
use crate::control::{Host, Phase};
use crate::error::{AttachError, BusError, RouteError, RunError};
use crate::irq::{GSIS, Line, check_routes};
use crate::memory::Kind;
use crate::names::History;
use crate::vcpu::{Inside, Shared};

impl Machine {
    /// Asks for the in-kernel interrupt controllers and timer.
    ///
    /// # Errors
    /// The vCPUs exist already, without; or a device or memory lies where they would answer.
    pub fn want_irqchip(&self) -> Result<(), RunError> {
        let _placing = self.placing.lock().unwrap_or_else(PoisonError::into_inner);
        let objects = self.objects.lock().unwrap_or_else(PoisonError::into_inner);
        let mut config = self.config.lock().unwrap_or_else(PoisonError::into_inner);
        if objects.is_some() && !config.irqchip {
            return Err(RunError::TooLate { verb: "add an interrupt controller" });
        }
        if !config.irqchip {
            self.refuse_controllers()?;
        }
        config.irqchip = true;
        Ok(())
    }

    /// Takes the wish of [`Self::want_irqchip`] back: `before` is what the configuration said. Once the vCPUs exist it is too
    /// late, and nothing changes.
    pub fn unwant_irqchip(&self, before: bool) {
        let objects = self.objects.lock().unwrap_or_else(PoisonError::into_inner);
        if objects.is_none() {
            self.config.lock().unwrap_or_else(PoisonError::into_inner).irqchip = before;
        }
    }

    /// Refuses interrupt controllers where something else lies.
    fn refuse_controllers(&self) -> Result<(), RunError> {
        let clash = |space, name: &str, base, len| {
            let own = kernels_at(space, base, len, true).filter(|own| own.with_irqchip)?;
            Some(RunError::ControllersPlace { name: name.to_owned(), base, other: own.name })
        };
        let (pio, mmio) = (self.pio.map(), self.mmio.map());
        let of = |space, map: &Map| map.regions().iter().find_map(|it| clash(space, &it.name, it.base, it.len));
        let in_memory = || {
            let backed = self.memory.regions().into_iter().filter(|region| region.kind != Kind::Mmio);
            backed.into_iter().find_map(|it| clash(Space::Mmio, &it.name, it.gpa, it.len))
        };
        let found = of(Space::Pio, &pio).or_else(|| of(Space::Mmio, &mmio)).or_else(in_memory);
        found.map_or(Ok(()), Err)
    }

    /// An interrupt input. It can be driven at any time; before the controllers exist the level is kept for them.
    ///
    /// # Errors
    /// As for [`Self::want_irqchip`].
    pub fn line(&self, gsi: u32) -> Result<Arc<dyn Line>, RunError> {
        self.want_irqchip()?;
        Ok(self.lines.line(gsi))
    }

    /// A line that sends a message whenever it is driven high.
    ///
    /// # Errors
    /// No local APIC gets such a message; and as for [`Self::want_irqchip`].
    pub fn message_line(&self, address: u64, data: u32) -> Result<Arc<dyn Line>, RouteError> {
        check_routes(&[Route::Msi { gsi: 0, address, data }])?;
        self.want_irqchip()?;
        Ok(self.lines.message_line(address, data))
    }

    /// Replaces the table from gsi to controller pin or message: now, or when there are controllers.
    ///
    /// # Errors
    /// As for [`Self::want_irqchip`]; the machine is closed; or the accelerator refuses it.
    pub fn set_routes(&self, routes: &[Route]) -> Result<(), RunError> {
        self.change_routes(|all| *all = routes.to_vec())
    }

    /// Leads one gsi to these targets and to no others; none: nowhere.
    ///
    /// # Errors
    /// A target does not exist, or they exclude each other; and as for [`Self::set_routes`].
    pub fn route(&self, gsi: u32, targets: &[Route]) -> Result<(), RouteError> {
        if gsi >= GSIS {
            return Err(RouteError::Gsi { gsi });
        }
        check_routes(targets)?;
        let change = |all: &mut Vec<Route>| {
            all.retain(|route| route.gsi() != gsi);
            all.extend_from_slice(targets);
        };
        Ok(self.change_routes(change)?)
    }

    fn change_routes(&self, change: impl FnOnce(&mut Vec<Route>)) -> Result<(), RunError> {
        let verb = "set interrupt routes";
        self.check(verb)?;
        self.control.require(verb, &[Phase::Created, Phase::Running, Phase::Paused, Phase::Stopped])?;
        self.want_irqchip()?;
        Ok(self.lines.change_routes(change)?)
    }

    /// Puts a device on a bus.
    ///
    /// # Errors
    /// The range is taken, empty or outside, or the kernel answers there itself; on the mmio bus also when memory is there.
    pub fn attach(
        &self,
        space: Space,
        base: u64,
        len: u64,
        name: &str,
        rung: Rung,
        device: Arc<dyn Device>,
    ) -> Result<Attachment, AttachError> {
        let placement = Placement { base, len, name: name.into(), rung, device };
        let (_, added) = self.rearrange(&[], &[(space, placement)])?;
        Ok(added.first().copied().ok_or(BusError::NotAttached)?)
    }

    /// Takes a device off its bus. vCPUs may still be in it: see [`Self::wait_until_left`]. It is told of the
    /// writes that it keeps, also of those in the kernel's ring, and of doorbells that have rung.
    ///
    /// # Errors
    /// It is not attached.
    pub fn detach(&self, attachment: Attachment) -> Result<Region, AttachError> {
        let (removed, _) = self.rearrange(&[attachment], &[])?;
        self.serve_rest(&removed);
        Ok(removed.regions.into_iter().next().map(|(_, region)| region).ok_or(BusError::NotAttached)?)
    }

    /// Puts into an attachment what watches its device, or the device itself again, and returns what was there. Who waits for
    /// the vCPUs to leave the attachment waits for those in either.
    ///
    /// # Errors
    /// It is not attached.
    pub fn replace(&self, attachment: Attachment, device: Arc<dyn Device>) -> Result<Arc<dyn Device>, AttachError> {
        let bus = if attachment.space == Space::Pio { &self.pio } else { &self.mmio };
        let before = bus.replace(attachment.region, device.clone())?;
        self.control.bells.replace(attachment, &device);
        Ok(before)
    }

    /// Waits until every vCPU has left a device that is detached; inside a device callback it does not wait.
    ///
    /// # Errors
    /// [`RunError::Host`]: the host wants its thread back.
    pub fn wait_until_left(&self, detached: Attachment, host: &dyn Host) -> Result<(), RunError> {
        // A thread that drives a vCPU could be waited for by those that it waits for, or by itself: it leaves the
        // device's end to the map, which lives until the last vCPU has let go of it.
        if Inside::any() {
            return Ok(());
        }
        let place = Place::of(detached.space, detached.region);
        let has_left = |vcpu: &Arc<Shared>| vcpu.presence.wait_until_left(place, || host.poll());
        let is_left = self.control.vcpus().iter().all(has_left);
        let is_left = is_left && self.control.bells.wait_until_left(detached, || host.poll());
        if is_left { Ok(()) } else { Err(RunError::Host) }
    }

    /// Which devices are and were where.
    #[must_use]
    pub fn history(&self) -> History {
        History { pio: self.pio.known(), mmio: self.mmio.known() }
    }
}

#[cfg(test)]
#[path = "places_test.rs"]
mod tests;
