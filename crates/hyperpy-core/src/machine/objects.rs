//! What of a machine exists only once its vCPUs do: KVM's objects, and a slot for each vCPU while nobody drives it.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::Machine;
use crate::accel::{AccelError, Accelerator, Vm};
use crate::boot::Entry;
use crate::control::Phase;
use crate::error::{RunError, StateError};
use crate::trace::Ring;
use crate::vcpu::Vcpu;

/// Where a vCPU is while nobody drives it.
pub(super) struct Slot {
    vcpu: Mutex<Option<Box<Vcpu>>>,
    back: Condvar,
}

/// What exists only once vCPUs do. The VM and each vCPU keep the memory that it maps.
pub(crate) struct Objects {
    slots: Vec<Slot>,
    pub(crate) vm: Arc<dyn Vm>,
}

impl Machine {
    /// KVM's objects, if they are made; none is made or dropped while the result lives.
    pub(crate) fn made(&self) -> MutexGuard<'_, Option<Arc<Objects>>> {
        self.objects.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What makes them, unless the machine is closed.
    pub(super) fn accelerator(&self, verb: &'static str) -> Result<Arc<dyn Accelerator>, StateError> {
        let accel = self.accel.lock().unwrap_or_else(PoisonError::into_inner).clone();
        accel.filter(|_| self.control.phase() != Phase::Closed).ok_or(StateError::new(verb, Phase::Closed))
    }

    /// KVM's objects, made now if they are not.
    pub(super) fn objects(&self) -> Result<Arc<Objects>, RunError> {
        let mut objects = self.made();
        if let Some(objects) = &*objects {
            return Ok(objects.clone());
        }
        let accel = self.accelerator("use the vcpus")?;
        let config = self.config();
        let vm = accel.create_vm(config)?;
        self.traps.apply(&*vm)?;
        self.memory.connect(&vm)?;
        let mut slots = Vec::new();
        let mut shared = Vec::new();
        for id in 0..config.vcpus {
            let timer = |source| AccelError::Call { call: "vcpu seat", source };
            let mut vcpu = Vcpu::new(id, vm.create_vcpu(id)?, self.traced.map(Ring::new)).map_err(timer)?;
            self.edit_cpuid_of(&mut vcpu)?;
            let entry = self.entry.lock().unwrap_or_else(PoisonError::into_inner);
            if let (0, Some(entry)) = (id, &*entry) {
                enter_at(&mut vcpu, entry)?;
            }
            shared.push(vcpu.shared.clone());
            slots.push(Slot { vcpu: Mutex::new(Some(Box::new(vcpu))), back: Condvar::new() });
        }
        let made = Arc::new(Objects { slots, vm: vm.clone() });
        self.lines.connect(&vm)?;
        self.control.install(shared);
        *objects = Some(made.clone());
        Ok(made)
    }
}

/// Runs `f` on a vCPU that is out of its slot, so that no lock is held while it runs; it goes back whatever happens.
/// While another thread has it, `patience` is asked before each wait.
pub(super) fn borrow<T>(
    objects: &Objects,
    id: u32,
    patience: impl Fn() -> Result<(), RunError>,
    f: impl FnOnce(&mut Vcpu) -> T,
) -> Result<T, RunError> {
    let slot = objects.slots.get(id as usize).ok_or(RunError::NoVcpu { vcpu: id })?;
    let mut place = slot.vcpu.lock().unwrap_or_else(PoisonError::into_inner);
    let mut vcpu = loop {
        match place.take() {
            Some(vcpu) => break vcpu,
            None => patience()?,
        }
        place = slot.back.wait(place).unwrap_or_else(PoisonError::into_inner);
    };
    drop(place);
    let result = catch_unwind(AssertUnwindSafe(|| f(&mut vcpu)));
    *slot.vcpu.lock().unwrap_or_else(PoisonError::into_inner) = Some(vcpu);
    slot.back.notify_all();
    Ok(result.unwrap_or_else(|panic| resume_unwind(panic)))
}

/// Puts a vCPU at the beginning of what was loaded.
pub(super) fn enter_at(vcpu: &mut Vcpu, entry: &Entry) -> Result<(), RunError> {
    let mut sregs = vcpu.accel.sregs()?;
    entry.apply(&mut sregs);
    vcpu.accel.set_sregs(&sregs)?;
    Ok(vcpu.accel.set_regs(&entry.regs)?)
}
