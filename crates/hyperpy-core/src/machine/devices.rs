//! What hangs on a machine: devices on its two buses, and its interrupt lines.

use std::sync::{Arc, PoisonError};

use super::{Attachment, Machine};
use crate::accel::Route;
use crate::arch::x86_64::layout::kernels_at;
use crate::bus::{Bus, Device, Map, Place, Region, Rung, Space};
use crate::control::{Host, Phase};
use crate::error::{AttachError, RouteError, RunError};
use crate::irq::{GSIS, Line, check_routes};
use crate::memory::Kind;
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
        self.control.require("attach", &[Phase::Created, Phase::Running, Phase::Paused, Phase::Stopped])?;
        let _placing = self.placing.lock().unwrap_or_else(PoisonError::into_inner);
        if space == Space::Mmio
            && let Some(region) = self.memory.overlapping(base, len)
        {
            return Err(AttachError::Memory { base, len, other: region.gpa, name: region.name.to_string() });
        }
        if let Some(own) = kernels_at(space, base, len, self.config().irqchip) {
            return Err(AttachError::Kernel { base, len, other: own.base, name: own.name });
        }
        let region = self.bus(space).attach(base, len, name.into(), rung, device)?;
        Ok(Attachment { space, region })
    }

    /// Takes a device off its bus. vCPUs may still be in it: see [`Self::wait_until_left`].
    ///
    /// # Errors
    /// It is not attached.
    pub fn detach(&self, attachment: Attachment) -> Result<Region, AttachError> {
        let region = self.bus(attachment.space).detach(attachment.region)?;
        self.posts.forget(attachment.space, region.base, region.len);
        Ok(region)
    }

    /// Puts another device into an attachment, made of the one that is there: one that watches it, or itself again.
    ///
    /// # Errors
    /// It is not attached.
    pub fn replace(
        &self,
        attachment: Attachment,
        with: impl FnOnce(&Arc<dyn Device>) -> Arc<dyn Device>,
    ) -> Result<(), AttachError> {
        Ok(self.bus(attachment.space).replace(attachment.region, with)?)
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
        if self.control.vcpus().iter().all(has_left) { Ok(()) } else { Err(RunError::Host) }
    }

    fn bus(&self, space: Space) -> &Bus {
        match space {
            Space::Pio => &self.pio,
            Space::Mmio => &self.mmio,
        }
    }
}

#[cfg(test)]
#[path = "places_test.rs"]
mod tests;
