//! Nothing in flight: what guests have done and devices do not know yet is done, before a machine is saved, or is forgotten, when it is
//! put back to before.

use super::Machine;
use crate::bus::Bus;
use crate::control::Host;
use crate::error::RunError;
use crate::posted;
use crate::vcpu::Vcpu;

impl Machine {
    /// Completes the access of each vCPU, and has devices served what the kernel's ring, their own queues and doorbells have of them.
    /// For a thread that holds the machine while it stands still. False: another thread is still telling a device, and does not
    /// come to an end.
    ///
    /// # Errors
    /// As for [`Self::with_vcpu`]; a device failed, or panicked.
    pub fn quiesce(&self, verb: &'static str, host: &dyn Host) -> Result<bool, RunError> {
        if self.made().is_some() {
            for id in 0..self.config().vcpus {
                self.with_vcpu(id, verb, true, host, |_| ())?;
            }
            self.with_vcpu(0, verb, false, host, |vcpu| vcpu.quiesce(self))??;
        }
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
        let done = crate::run::guarded(self, |vcpu| {
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
