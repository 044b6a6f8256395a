//! Nothing in flight: what guests have done and devices do not know yet is done, before a machine is saved, or is forgotten, when it is
//! put back to before.

use super::Machine;
use super::objects::borrow;
use crate::bus::Bus;
use crate::control::Host;
use crate::error::RunError;
use crate::vcpu::Vcpu;
use crate::{posted, run};

impl Machine {
    /// Completes the access of each vCPU, and has devices served what the kernel's ring, their own queues and doorbells have of them.
    /// For a thread that holds the machine while it stands still. False: another thread is still telling a device, and does not
    /// come to an end.
    ///
    /// # Errors
    /// A device failed, or panicked. [`RunError::Host`]: the host wants its thread back.
    pub fn quiesce(&self, host: &dyn Host) -> Result<bool, RunError> {
        let objects = self.objects_of_still()?;
        let goes_on = || if host.poll() { Err(RunError::Host) } else { Ok(()) };
        let on = |id, f: &dyn Fn(&mut Vcpu) -> Result<(), RunError>| {
            self.survived(borrow(&objects, id, Some(host), || Ok(()), f).flatten())
        };
        for id in 0..self.config().vcpus {
            on(id, &|vcpu| run::complete(vcpu, self, &goes_on))?;
        }
        on(0, &|vcpu| vcpu.quiesce(self))?;
        let waits = |bus: &Bus| bus.map().regions().iter().any(|region| region.device.has_late());
        Ok(!waits(&self.pio) && !waits(&self.mmio))
    }

    /// Forgets doorbells that have rung and nobody was told of. What else could be in flight goes with the state of its device.
    pub fn forget_rings(&self) {
        self.control.bells.forget();
    }
}

impl Vcpu {
    fn quiesce(&mut self, machine: &Machine) -> Result<(), RunError> {
        let (shared, id) = (self.shared.clone(), self.id());
        let done = run::guarded(self, |vcpu| {
            vcpu.accel.take_posted(&mut |write| posted::serve(machine, &shared, id, write));
            machine.serve_all(&shared);
        });
        self.release_maps();
        done
    }
}

#[cfg(test)]
#[path = "quiet_test.rs"]
mod tests;
