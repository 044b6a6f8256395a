//! What of a machine exists only once its vCPUs do: KVM's objects, and a slot for each vCPU while nobody drives it.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::Machine;
use crate::accel::{AccelError, Accelerator, Vm};
use crate::boot::Entry;
use crate::condvar::Condvar;
use crate::control::{Host, POLL, Phase};
use crate::error::{RunError, StateError};
use crate::trace::Ring;
use crate::vcpu::Vcpu;

/// Where a vCPU is while nobody drives it.
pub(super) struct Slot {
    vcpu: Mutex<Place>,
    back: Condvar,
}

impl Slot {
    fn lock(&self) -> MutexGuard<'_, Place> {
        self.vcpu.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sleeps until whoever has the vCPU gives it back, or until the host is to be asked, which is done unlocked.
    ///
    /// # Errors
    /// [`RunError::Host`]: it wants its thread back.
    fn sleep<'a>(
        &'a self,
        place: MutexGuard<'a, Place>,
        host: Option<&dyn Host>,
    ) -> Result<MutexGuard<'a, Place>, RunError> {
        drop(self.back.wait_timeout(place, POLL).unwrap_or_else(PoisonError::into_inner));
        if host.is_some_and(Host::poll) { Err(RunError::Host) } else { Ok(self.lock()) }
    }
}

enum Place {
    Here(Box<Vcpu>),
    /// Someone has it.
    Away,
    /// A reset has dropped it.
    Gone,
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
        // Nothing runs without them: a machine that does is being reset.
        if let phase @ (Phase::Running | Phase::Closed) = self.control.phase() {
            return Err(StateError::new("use the vcpus", phase).into());
        }
        self.make(&mut objects)
    }

    /// The same for a caller that has the machine stand still, for whom it counts as running.
    pub(super) fn objects_of_still(&self) -> Result<Arc<Objects>, RunError> {
        let mut objects = self.made();
        objects.clone().map_or_else(|| self.make(&mut objects), Ok)
    }

    fn make(&self, objects: &mut Option<Arc<Objects>>) -> Result<Arc<Objects>, RunError> {
        let accel = self.accelerator("use the vcpus")?;
        let config = self.config();
        let vm = accel.create_vm(config)?;
        self.traps.apply(&*vm)?;
        self.memory.connect(&vm)?;
        let mut vcpus = Vec::new();
        for id in 0..config.vcpus {
            let seat = |source| AccelError::Call { call: "vcpu seat", source };
            let accel = vm.create_vcpu(id)?;
            // After a reset each goes on with the half that others know.
            let vcpu = match self.control.vcpus().get(id as usize) {
                Some(shared) => Vcpu::again(id, accel, shared),
                None => Vcpu::new(id, accel, self.traced.map(Ring::new).transpose()?).map_err(seat)?,
            };
            vcpus.push(vcpu);
        }
        for vcpu in &mut vcpus {
            self.prepare(vcpu)?;
        }
        let shared = vcpus.iter().map(|vcpu| vcpu.shared.clone()).collect();
        let slot = |vcpu| Slot { vcpu: Mutex::new(Place::Here(Box::new(vcpu))), back: Condvar::default() };
        let slots = vcpus.into_iter().map(slot).collect();
        let made = Arc::new(Objects { slots, vm: vm.clone() });
        self.lines.connect(&vm)?;
        self.posts.connect(&vm);
        self.control.bells.connect(&vm);
        self.control.install(shared);
        *objects = Some(made.clone());
        Ok(made)
    }

    /// Brings a fresh vCPU to where the machine begins, once all exist: at the first use and again after each reset. What
    /// belongs to a machine's configuration is set here.
    fn prepare(&self, vcpu: &mut Vcpu) -> Result<(), RunError> {
        vcpu.accel.all_made()?;
        self.edit_cpuid_of(vcpu)?;
        let entry = self.entry.lock().unwrap_or_else(PoisonError::into_inner);
        match (vcpu.id(), &*entry) {
            (0, Some(entry)) => enter_at(vcpu, entry),
            _ => Ok(()),
        }
    }

    /// Drops KVM's objects, when nobody has a vCPU any more. If the host wants its thread back meanwhile, nothing is
    /// dropped. Only while the machine is being reset: nobody can make new ones then.
    pub(super) fn drop_objects(&self, host: &dyn Host) -> Result<(), RunError> {
        let objects = self.objects.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let Some(objects) = objects else { return Ok(()) };
        for slot in &objects.slots {
            let mut place = slot.lock();
            while matches!(*place, Place::Away) {
                place = slot.sleep(place, Some(host))?;
            }
        }
        // None can go away again: `with_vcpu` looks at the state while it has the slot.
        for slot in &objects.slots {
            let vcpu = std::mem::replace(&mut *slot.lock(), Place::Gone);
            slot.back.notify_all();
            // Outside the lock: it may hold the last reference to a Python device.
            drop(vcpu);
        }
        *self.objects.lock().unwrap_or_else(PoisonError::into_inner) = None;
        Ok(())
    }
}

/// Runs `f` on a vCPU that is out of its slot, so that no lock is held while it runs; it goes back whatever happens.
/// `allowed` is asked before it is taken, and before each wait for another thread that has it; a host that wants its thread
/// back ends that.
pub(super) fn borrow<T>(
    objects: &Objects,
    id: u32,
    host: Option<&dyn Host>,
    allowed: impl Fn() -> Result<(), RunError>,
    f: impl FnOnce(&mut Vcpu) -> T,
) -> Result<T, RunError> {
    let slot = objects.slots.get(id as usize).ok_or(RunError::NoVcpu { vcpu: id })?;
    let mut place = slot.lock();
    let mut vcpu = loop {
        allowed()?;
        match std::mem::replace(&mut *place, Place::Away) {
            Place::Here(vcpu) => break vcpu,
            Place::Away => {}
            Place::Gone => {
                *place = Place::Gone;
                return Err(StateError::new("use the vcpus", Phase::Running).into());
            }
        }
        place = slot.sleep(place, host)?;
    };
    drop(place);
    let result = catch_unwind(AssertUnwindSafe(|| f(&mut vcpu)));
    *slot.lock() = Place::Here(vcpu);
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
