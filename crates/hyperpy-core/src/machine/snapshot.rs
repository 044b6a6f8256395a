//! Snapshot, restore and fork: the machine's state taken and put back while it stands still.
//!
//! A snapshot is taken at a consistent point: every vCPU out of the guest, its pending access completed (run loop, rule
//! 7), writes in the kernel's ring and rung doorbells served. What is put back where: memory by `memory`, vCPUs and interrupt controllers by
//! the accelerator, devices by themselves; the order is lines, VM, vCPUs, memory, PIT, clock, devices, so that each finds what it
//! depends on. A restore that fails half-way leaves a stopped machine that can be restored again.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use super::Machine;
use super::objects::{Objects, borrow};
use super::reset::identity;
use crate::accel::{VmConfig, state};
use crate::bus::{Device, Map, Region, Space};
use crate::clock::Kept;
use crate::control::{Before, Host, Parked, Phase};
use crate::error::{MemoryError, RunError};
use crate::memory::{Forked, Memory, Written};
use crate::run;
use crate::snapshot::{Parts, Restored, Shape, Snapshot, SnapshotError, State, StateFault, VcpuPart};
use crate::vcpu::Inside;

impl Machine {
    /// What the machine is now, as a value. One that `start()` set going stands still for a moment and goes on.
    ///
    /// # Errors
    /// A device cannot be saved, the host refuses, or the state does not allow it: nothing has changed then, but that accesses
    /// that were pending are complete.
    pub fn snapshot(&self, host: &dyn Host) -> Result<Snapshot, SnapshotError> {
        let still = self.stand_still("snapshot", true, host)?;
        let parts = self.take_parts(still.before, host)?;
        Ok(Snapshot { parts, memory: self.memory.image()? })
    }

    /// Puts the machine back to where it was when the snapshot was taken, of this machine or of another of the same shape, all but
    /// the `spared` ranges of memory. What was queued is forgotten.
    ///
    /// # Errors
    /// The machine runs; or it has another shape, which tells what differs: nothing has changed then. Or the host or a device
    /// refuses a part: the machine is stopped then, and can be restored again.
    pub fn restore(&self, snapshot: &Snapshot, spared: &[Written], host: &dyn Host) -> Result<Restored, SnapshotError> {
        let mut still = self.stand_still("restore", false, host)?;
        let objects = self.objects_of_still()?;
        let before = self.places();
        self.refuse_other_places(&snapshot.parts, &before)?;
        self.refuse_other_machine(&snapshot.parts, &before, &objects, host)?;
        drop(before);
        self.memory.check_restore(&snapshot.memory, spared).map_err(unfit)?;
        self.quiesce(host)?;
        let places = self.places();
        self.refuse_other_places(&snapshot.parts, &places)?; // a device that was told of something may have moved
        // Until memory is put back nobody adds a region or takes one away. No code of the host's runs meanwhile, and nobody has a
        // vCPU who could want to.
        let memory = self.memory.begin_restore(&snapshot.memory, spared).map_err(unfit)?;
        self.put_lines(&snapshot.parts)?;
        still.begin_change();
        self.forget_rings();
        let memory = || Ok(memory.put()?.pages);
        let restored = self.put_parts(&snapshot.parts, &objects, &places, memory, || Ok(()))?;
        still.end_as(snapshot.parts.phase, snapshot.parts.parked);
        Ok(restored)
    }

    /// The parts of a copy of this machine, and its memory. `copy` makes a machine of them that has the same devices; the state
    /// is put into it before this one goes on. `carry` sets timers on its clock, before its devices have their state.
    ///
    /// # Errors
    /// As for [`Self::snapshot`], and what `copy` fails with.
    pub fn fork<T>(
        &self,
        host: &dyn Host,
        copy: impl FnOnce(Memory) -> Result<(T, Arc<Machine>), SnapshotError>,
        carry: impl FnOnce(&T, &Kept) -> Result<(), SnapshotError>,
    ) -> Result<Copied<T>, SnapshotError> {
        let still = self.stand_still("fork", true, host)?;
        let parts = self.take_parts(still.before, host)?;
        let (memory, forked) = self.memory.fork()?;
        let (copy, child) = copy(memory)?;
        child.become_copy(&parts, host, || carry(&copy, &parts.clock))?;
        let was_running = still.before == Before::Running && parts.phase != Phase::Stopped;
        Ok(Copied { copy, forked, was_running })
    }

    /// A machine without devices that is configured as this one, with other memory.
    ///
    /// # Errors
    /// The machine is closed.
    pub fn sibling(&self, memory: Memory) -> Result<Self, RunError> {
        let accel = self.accelerator("fork")?;
        let mut child = Self::new(accel, memory, self.config()).traced(self.traced.unwrap_or_default());
        child.limits = self.limits.copied();
        child.traps = self.traps.copied();
        child.cpuid = Mutex::new(self.cpuid.lock().unwrap_or_else(PoisonError::into_inner).clone());
        child.kin = AtomicU64::new(self.kin.load(Ordering::SeqCst));
        child.lines.copy_routes(&self.lines);
        Ok(child)
    }

    /// Takes the state of another machine's parts, whose memory it has.
    fn become_copy(
        &self,
        parts: &Parts,
        host: &dyn Host,
        carry: impl FnOnce() -> Result<(), SnapshotError>,
    ) -> Result<(), SnapshotError> {
        let mut still = self.stand_still("fork", false, host)?;
        let objects = self.objects_of_still()?;
        let places = self.places();
        self.refuse_other_places(parts, &places)?;
        self.refuse_other_machine(parts, &places, &objects, host)?;
        self.put_lines(parts)?;
        still.begin_change();
        self.put_parts(parts, &objects, &places, || Ok(0), carry)?;
        still.end_as(parts.phase, parts.parked);
        Ok(())
    }

    fn stand_still(&self, verb: &'static str, from_running: bool, host: &dyn Host) -> Result<Still<'_>, RunError> {
        self.check(verb)?;
        let before = self.control.still(verb, from_running, host)?;
        Ok(Still { machine: self, before, changed: None, _inside: Inside::enter(self.id) })
    }

    fn places(&self) -> Places {
        Places { pio: self.pio.map(), mmio: self.mmio.map() }
    }

    /// All but memory. What can refuse does so before anything is changed.
    fn take_parts(&self, before: Before, host: &dyn Host) -> Result<Parts, SnapshotError> {
        let objects = self.objects_of_still()?;
        if !self.quiesce(host)? {
            return Err(SnapshotError::Busy);
        }
        let places = self.places();
        let devices = self.save_devices(&places)?;
        // Before the vcpus, whose time-stamp counters are of the moment that this sets (`kvm/snapshot/known.rs`).
        let (lines, vm) = self.lines.save_with(|| objects.vm.save());
        let vm = vm.map_err(RunError::from)?;
        let mut vcpus = Vec::new();
        for id in 0..self.config().vcpus {
            let taken = borrow(
                &objects,
                id,
                Some(host),
                || Ok(()),
                |vcpu| vcpu.accel.save().map(|state| VcpuPart { state, parked: vcpu.parked }),
            );
            vcpus.push(taken?.map_err(RunError::from)?);
        }
        Ok(Parts {
            kin: self.kin.load(Ordering::SeqCst),
            shape: places.shape(self.config()),
            phase: self.control.standing(before),
            parked: self.control.parked(),
            vcpus,
            vm,
            has_generation: self.has_generation.load(Ordering::SeqCst),
            devices,
            lines,
            console: self.console.get().map(|console| console.save()),
            clock: self.clock.save(),
        })
    }

    /// Puts the lines back. First: the controllers' own levels follow from what drives them. All of them, or none: the machine
    /// is not changed yet if one does not fit.
    fn put_lines(&self, parts: &Parts) -> Result<(), SnapshotError> {
        self.lines.load(&parts.lines).map_err(|fault| SnapshotError::Lines { fault })
    }

    /// Puts all but lines and memory back, and memory by `put_memory`, which says how many pages that were. No allocation is made
    /// here.
    fn put_parts(
        &self,
        parts: &Parts,
        objects: &Objects,
        places: &Places,
        put_memory: impl FnOnce() -> Result<u64, SnapshotError>,
        set_timers: impl FnOnce() -> Result<(), SnapshotError>,
    ) -> Result<Restored, SnapshotError> {
        let began = Instant::now();
        let mut restored = Restored::default();
        self.kin.store(parts.kin, Ordering::SeqCst);
        objects.vm.load(&parts.vm).map_err(RunError::from)?;
        restored.vm = began.elapsed();
        for (id, part) in (0_u32..).zip(&parts.vcpus) {
            let put = borrow(
                objects,
                id,
                None,
                || Ok(()),
                |vcpu| {
                    vcpu.put(part.parked);
                    vcpu.accel.load(&part.state)
                },
            );
            put?.map_err(RunError::from)?;
        }
        restored.vcpus = began.elapsed() - restored.vm;
        let memory = Instant::now();
        restored.pages = put_memory()?;
        restored.memory = memory.elapsed();
        let timers = Instant::now();
        objects.vm.load_timers(&parts.vm).map_err(RunError::from)?;
        restored.vm += timers.elapsed();
        let devices = Instant::now();
        // Before devices, whose states may name timers.
        self.clock.load(&parts.clock);
        set_timers()?;
        // Before the devices that take its input.
        if let (Some(console), Some(state)) = (self.console.get(), &parts.console) {
            console.load(&**state).map_err(|fault| SnapshotError::Console { fault })?;
        }
        self.load_devices(parts, places)?;
        self.has_generation.store(parts.has_generation, Ordering::SeqCst);
        restored.devices = devices.elapsed();
        Ok(restored)
    }

    /// What each device keeps, one for each region on the buses, in order; a device with several regions is kept once.
    fn save_devices(&self, places: &Places) -> Result<Vec<Option<State>>, SnapshotError> {
        let mut seen = BTreeSet::new();
        let save = |(space, region): (Space, &Region)| {
            let is_new = seen.insert(identity(region));
            is_new.then(|| self.guarded(space, region, |device| device.save())).transpose()
        };
        places.regions().map(save).collect()
    }

    fn load_devices(&self, parts: &Parts, places: &Places) -> Result<(), SnapshotError> {
        for ((space, region), kept) in places.regions().zip(&parts.devices) {
            if let Some(state) = kept {
                self.guarded(space, region, |device| device.load(&**state))?;
            }
        }
        Ok(())
    }

    /// Which devices, and whether the console, would not take what another machine's have saved, a line each.
    fn check_devices(
        &self,
        parts: &Parts,
        places: &Places,
        differences: &mut Vec<String>,
    ) -> Result<(), SnapshotError> {
        for ((space, region), kept) in places.regions().zip(&parts.devices) {
            let Some(state) = kept else { continue };
            match self.guarded(space, region, |device| device.check(&**state)) {
                Err(SnapshotError::Device { name, place, fault }) if fault != StateFault::Raised => {
                    differences.push(format!("{name} at {place}: {fault}"));
                }
                checked => checked?,
            }
        }
        if let (Some(console), Some(state)) = (self.console.get(), &parts.console)
            && let Err(fault) = console.check(&**state)
        {
            differences.push(format!("console: {fault}"));
        }
        Ok(())
    }

    /// Calls a device. A panic in it is an error that names it, and it is not called again.
    fn guarded<T>(
        &self,
        space: Space,
        region: &Region,
        f: impl FnOnce(&dyn Device) -> Result<T, StateFault>,
    ) -> Result<T, SnapshotError> {
        let done = catch_unwind(AssertUnwindSafe(|| f(&*region.device)));
        let done = self.survived(done.map_err(|panic| run::panicked(Some(region.name.clone()), panic.as_ref())))?;
        done.map_err(|fault| {
            let place = format!("{} {:#x}", space.word(), region.base);
            SnapshotError::Device { name: region.name.to_string(), place, fault }
        })
    }

    /// Refuses a snapshot of a machine that was made otherwise.
    fn refuse_other_places(&self, parts: &Parts, places: &Places) -> Result<(), SnapshotError> {
        let config = self.config();
        if !parts.shape.fits(config, &places.pio, &places.mmio) {
            let differences = parts.shape.differences(&places.shape(config));
            return Err(SnapshotError::Shape { differences });
        }
        // A device that has nothing in the snapshot has it at an earlier place.
        let lacks = |(at, kept): (usize, &Option<State>)| kept.is_none() && !places.is_again(at);
        match parts.devices.iter().enumerate().find(|it| lacks(*it)).and_then(|(at, _)| parts.shape.places.get(at)) {
            None => Ok(()),
            Some(place) => {
                Err(SnapshotError::Shape { differences: vec![format!("{place}, of which it has no state")] })
            }
        }
    }

    /// Refuses a snapshot of other processors; a machine that takes it is of that kin from then on.
    fn refuse_other_machine(
        &self,
        parts: &Parts,
        places: &Places,
        objects: &Objects,
        host: &dyn Host,
    ) -> Result<(), SnapshotError> {
        if parts.kin == self.kin.load(Ordering::SeqCst) {
            return Ok(());
        }
        let mut here = Vec::new();
        for id in 0..self.config().vcpus {
            let shape = borrow(objects, id, Some(host), || Ok(()), |vcpu| vcpu.accel.shape())?;
            here.push(shape.map_err(RunError::from)?);
        }
        let states = parts.vcpus.iter().map(|part| &part.state);
        let mut differences = state::differences(&parts.vm, states, &here);
        self.check_devices(parts, places, &mut differences)?;
        if differences.is_empty() { Ok(()) } else { Err(SnapshotError::Shape { differences }) }
    }
}

/// Regions that differ are a shape that does.
fn unfit(error: MemoryError) -> SnapshotError {
    match error {
        MemoryError::OtherLayout { differs } => {
            SnapshotError::Shape { differences: differs.iter().map(ToString::to_string).collect() }
        }
        error => error.into(),
    }
}

/// What is where on both buses, at one moment: others may attach devices meanwhile.
struct Places {
    pio: Arc<Map>,
    mmio: Arc<Map>,
}

impl Places {
    /// Every region, in the order in which a snapshot has them.
    fn regions(&self) -> impl Iterator<Item = (Space, &Region)> {
        let pio = self.pio.regions().iter().map(|region| (Space::Pio, region));
        pio.chain(self.mmio.regions().iter().map(|region| (Space::Mmio, region)))
    }

    fn shape(&self, config: VmConfig) -> Shape {
        Shape::of(config, &self.pio, &self.mmio)
    }

    /// Whether the device of the region of this number is also that of an earlier one.
    fn is_again(&self, at: usize) -> bool {
        let mut before = self.regions().map(|(_, region)| identity(region)).take(at + 1);
        let mine = self.regions().nth(at).map(|(_, region)| identity(region));
        before.position(|it| Some(it) == mine) != Some(at)
    }
}

/// A machine was copied.
pub struct Copied<T> {
    /// The copy.
    pub copy: T,
    /// What that took of memory.
    pub forked: Forked,
    /// The one that was copied runs: the copy can be started.
    pub was_running: bool,
}

/// Has the machine go on as it was, whatever happens, unless it was changed.
struct Still<'a> {
    machine: &'a Machine,
    before: Before,
    /// The state that it is in from the first change on.
    changed: Option<(Phase, Parked)>,
    _inside: Inside,
}

impl Still<'_> {
    /// From here on it is not what it was: until it is something again, no guest runs on it.
    fn begin_change(&mut self) {
        self.changed = Some((Phase::Stopped, Parked::default()));
    }

    /// It is something again.
    fn end_as(mut self, phase: Phase, parked: Parked) {
        self.changed = Some((phase, parked));
    }
}

impl Drop for Still<'_> {
    fn drop(&mut self) {
        match self.changed {
            Some((phase, parked)) => self.machine.control.end_as(phase, parked),
            None => self.machine.control.end_still(self.before),
        }
        self.machine.close_if_forsaken();
    }
}

#[cfg(test)]
#[path = "snapshot_test.rs"]
mod tests;
