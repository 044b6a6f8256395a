//! A virtual machine: memory, two buses, vCPUs, interrupt lines, and the verbs on the whole of them.
//!
//! KVM's objects are made late, when registers or a run first need them: the interrupt controllers must exist before
//! the first vCPU, and devices that want one are attached before (`objects`). Verbs on one vCPU that stands still are
//! in `registers`, how vCPUs start and stop together in `control`, what one does between exits in `run`.

mod objects;
mod registers;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use self::objects::{Objects, borrow, enter_at};
use crate::accel::{Accelerator, Route, VmConfig};
use crate::boot::Entry;
use crate::bus::{Bus, Device, Region, RegionId, Rung, Space};
use crate::control::{Control, Host, Leave, Outcome, Phase, Turn};
use crate::error::{AttachError, RunError};
use crate::exit::StopReason;
use crate::irq::{Line, LineHub};
use crate::kvm::thread::{block_signals, fork_generation};
use crate::memory::Memory;
use crate::run::{self, Watch};
use crate::vcpu::{Current, Inside, current};

/// Answers what no device claims.
pub trait Answerer: Send + Sync {
    /// Takes a write, or answers a read; `None` reads as all ones.
    fn answer(&self, access: &Current, value: u64) -> Option<u64>;
}

/// What becomes of an access that no device claims.
#[derive(Clone, Default)]
pub enum Unclaimed {
    /// `run()` returns it.
    #[default]
    Exit,
    /// Reads are all ones, writes are dropped: what a PC's bus does.
    Ones,
    /// Someone else is asked.
    Answerer(Arc<dyn Answerer>),
}

/// Where a device is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Attachment {
    /// The bus.
    pub space: Space,
    /// The region on it.
    pub region: RegionId,
}

/// A virtual machine.
pub struct Machine {
    /// Tells this machine from every other of the process.
    pub id: u64,
    /// Guest-physical memory.
    pub memory: Arc<Memory>,
    /// Port I/O.
    pub pio: Bus,
    /// Memory-mapped I/O.
    pub mmio: Bus,
    /// Starting and stopping.
    pub control: Arc<Control>,
    /// Gone once the machine is closed: it holds a descriptor.
    accel: Mutex<Option<Arc<dyn Accelerator>>>,
    config: Mutex<VmConfig>,
    unclaimed: Mutex<Unclaimed>,
    entry: Mutex<Option<Entry>>,
    objects: Mutex<Option<Arc<Objects>>>,
    /// Interrupt lines.
    pub lines: Arc<LineHub>,
    forks: u64,
}

/// Last port.
const LAST_PORT: u64 = 0xffff;

impl Machine {
    /// A machine that has run nothing yet. No KVM object is made.
    #[must_use]
    pub fn new(accel: Arc<dyn Accelerator>, memory: Memory, config: VmConfig) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        // More than one vCPU cannot be started without a local APIC.
        let config = VmConfig { irqchip: config.irqchip || config.vcpus > 1, vcpus: config.vcpus.max(1) };
        Self {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            memory: Arc::new(memory),
            pio: Bus::new(LAST_PORT),
            mmio: Bus::new(u64::MAX),
            control: Arc::default(),
            accel: Mutex::new(Some(accel)),
            config: Mutex::new(config),
            unclaimed: Mutex::default(),
            entry: Mutex::default(),
            objects: Mutex::default(),
            lines: Arc::default(),
            forks: fork_generation(),
        }
    }

    /// Number of vCPUs and whether there is an in-kernel interrupt controller.
    #[must_use]
    pub fn config(&self) -> VmConfig {
        *self.config.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The policy for accesses that nobody claims.
    #[must_use]
    pub fn unclaimed(&self) -> Unclaimed {
        self.unclaimed.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Sets that policy.
    pub fn set_unclaimed(&self, policy: Unclaimed) {
        // The old one may be the last reference to a Python object: dropped after the lock is.
        let old = std::mem::replace(&mut *self.unclaimed.lock().unwrap_or_else(PoisonError::into_inner), policy);
        drop(old);
    }

    /// Refuses a verb in a forked child, inside a device callback of any machine, and on a thread that is running this
    /// machine (a signal handler, a finalizer): it would wait for itself.
    ///
    /// # Errors
    /// It is one of them.
    pub fn check(&self, verb: &'static str) -> Result<(), RunError> {
        if self.is_forked() {
            Err(RunError::Forked { verb })
        } else if current().is_some() {
            Err(RunError::InCallback { verb })
        } else if Inside::machine(self.id) {
            Err(RunError::WhileRunning { verb })
        } else {
            Ok(())
        }
    }

    /// Whether this process inherited the machine by fork: nothing of it may be touched then.
    #[must_use]
    pub fn is_forked(&self) -> bool {
        self.forks != fork_generation()
    }

    /// Asks for the in-kernel interrupt controllers and timer.
    ///
    /// # Errors
    /// The vCPUs exist already, without.
    pub fn want_irqchip(&self) -> Result<(), RunError> {
        let objects = self.objects.lock().unwrap_or_else(PoisonError::into_inner);
        let mut config = self.config.lock().unwrap_or_else(PoisonError::into_inner);
        if objects.is_some() && !config.irqchip {
            return Err(RunError::TooLate { verb: "add an interrupt controller" });
        }
        config.irqchip = true;
        Ok(())
    }

    /// An interrupt input. It can be driven at any time; before the controllers exist the level is kept for them.
    ///
    /// # Errors
    /// As for [`Self::want_irqchip`].
    pub fn line(&self, gsi: u32) -> Result<Arc<dyn Line>, RunError> {
        self.want_irqchip()?;
        Ok(self.lines.line(gsi))
    }

    /// Replaces the table from gsi to controller pin or message.
    ///
    /// # Errors
    /// The accelerator refuses it.
    pub fn set_routes(&self, routes: &[Route]) -> Result<(), RunError> {
        self.check("set interrupt routes")?;
        self.want_irqchip()?;
        Ok(self.objects()?.vm.set_routes(routes)?)
    }

    /// Puts a device on a bus.
    ///
    /// # Errors
    /// The range is taken, empty or outside; on the mmio bus also when memory is there.
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
        if space == Space::Mmio
            && let Some(region) = self.memory.overlapping(base, len)
        {
            return Err(AttachError::Memory { base, len, other: region.gpa, name: region.name.to_string() });
        }
        let region = self.bus(space).attach(base, len, name.into(), rung, device)?;
        Ok(Attachment { space, region })
    }

    /// Takes a device off its bus. Returns after every vCPU has left it; inside a device callback it does not wait.
    ///
    /// # Errors
    /// It is not attached.
    pub fn detach(&self, attachment: Attachment) -> Result<Region, AttachError> {
        let region = self.bus(attachment.space).detach(attachment.region)?;
        // A thread that drives a vCPU could be waited for by those that it waits for, or by itself: it leaves the
        // device's end to the map, which lives until the last vCPU has let go of it.
        if !Inside::any() {
            self.control.vcpus().iter().for_each(|vcpu| vcpu.presence.wait_until_outside());
        }
        Ok(region)
    }

    fn bus(&self, space: Space) -> &Bus {
        match space {
            Space::Pio => &self.pio,
            Space::Mmio => &self.mmio,
        }
    }

    /// Where vCPU 0 begins. Takes effect when the vCPUs are made, or now if they are.
    ///
    /// # Errors
    /// The accelerator refuses the state, or the machine runs.
    pub fn set_entry(&self, entry: Entry) -> Result<(), RunError> {
        self.control.require("load", &[Phase::Created, Phase::Paused])?;
        let objects = self.objects.lock().unwrap_or_else(PoisonError::into_inner);
        if objects.is_none() {
            // Under the lock of the objects: who makes them next reads it.
            *self.entry.lock().unwrap_or_else(PoisonError::into_inner) = Some(entry);
            return Ok(());
        }
        drop(objects);
        self.with_vcpu(0, "load", true, |vcpu| enter_at(vcpu, &entry))?
    }

    /// Runs until something happens that the caller must know, or for `timeout`. vCPU 0 runs on this thread.
    ///
    /// # Errors
    /// See [`RunError`]. The machine can run on after all but a panic.
    pub fn run(self: &Arc<Self>, timeout: Option<Duration>, host: &dyn Host) -> Outcome {
        self.check("run")?;
        let _inside = Inside::enter(self.id);
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        let mut turn = loop {
            if let Some(outcome) = self.control.queued() {
                return self.ended(outcome);
            }
            self.control.require("run", &[Phase::Created, Phase::Paused])?;
            self.objects()?;
            self.spawn(1, host)?;
            if let Some(turn) = self.control.begin("run", 1)? {
                break turn;
            }
        };
        let watch = Watch { host: Some(host), deadline };
        loop {
            let leave = self.round(0, turn, &watch);
            let interrupted = matches!(leave, Leave::Host);
            self.control.leave(0, leave);
            match self.control.wait_round(interrupted, host, deadline) {
                Ok(outcome) => return self.ended(outcome),
                Err(again) => turn = again,
            }
        }
    }

    /// A device that panicked is not entered again: the machine closes.
    fn ended<T>(&self, result: Result<T, RunError>) -> Result<T, RunError> {
        if matches!(result, Err(RunError::Panic { .. })) {
            self.close_now();
        }
        result
    }

    /// Starts every vCPU on a thread of its own and returns. If an earlier round left an outcome, nothing runs before
    /// `wait()` has returned it.
    ///
    /// # Errors
    /// As for [`Self::run`].
    pub fn start(self: &Arc<Self>, host: &dyn Host) -> Result<(), RunError> {
        self.check("start")?;
        self.control.require("start", &[Phase::Created, Phase::Paused])?;
        self.objects()?;
        self.spawn(0, host)?;
        self.control.begin("start", 0)?;
        Ok(())
    }

    /// Waits for a started machine to stop. After `timeout` it returns [`Exit::Timeout`](crate::exit::Exit::Timeout)
    /// and the guest runs on.
    ///
    /// # Errors
    /// Nothing was started, or what stopped the machine was an error.
    pub fn wait(&self, timeout: Option<Duration>, host: &dyn Host) -> Outcome {
        self.check("wait")?;
        self.ended(self.control.wait(timeout.and_then(|timeout| Instant::now().checked_add(timeout)), host))
    }

    fn spawn(&self, first: u32, host: &dyn Host) -> Result<(), RunError> {
        let missing = self.control.claim_threads(first);
        for (done, &id) in missing.iter().enumerate() {
            if let Err(error) = host.spawn(id) {
                // Neither this one nor those after it have a thread.
                missing.iter().skip(done).for_each(|&id| self.control.thread_gone(id));
                return Err(error);
            }
        }
        Ok(())
    }

    /// The life of a vCPU's thread: one round after the other until the machine closes. Holds no strong reference to
    /// the machine between rounds.
    pub fn serve(machine: Weak<Self>, control: &Control, vcpu: u32) {
        block_signals();
        let mut epoch = 0;
        while let Some(turn) = control.wait_turn(vcpu, epoch) {
            epoch = turn.epoch;
            let Some(machine) = machine.upgrade() else { break };
            let leave = machine.round(vcpu, turn, &Watch { host: None, deadline: None });
            drop(machine);
            control.leave(vcpu, leave);
        }
        drop(machine);
        control.thread_gone(vcpu);
    }

    /// One vCPU's part in a round. Nothing unwinds out of it: the others would wait for this vCPU for ever.
    fn round(&self, vcpu: u32, turn: Turn, watch: &Watch<'_>) -> Leave {
        let driven = catch_unwind(AssertUnwindSafe(|| {
            let _inside = Inside::enter(self.id);
            let objects = self.objects()?;
            borrow(&objects, vcpu, || Ok(()), |vcpu| run::drive(vcpu, self, turn, watch))
        }));
        let driven = driven.unwrap_or_else(|panic| Err(run::panicked(None, panic.as_ref())));
        driven.unwrap_or_else(|error| Leave::Outcome(Err(error)))
    }

    /// Asks every vCPU to stop for good, from anywhere, device callbacks included. Does not wait.
    ///
    /// # Errors
    /// The machine is closed, or belongs to the parent of a forked process.
    pub fn stop(&self, reason: StopReason) -> Result<(), RunError> {
        let verb = "stop";
        if self.is_forked() {
            return Err(RunError::Forked { verb });
        }
        self.control.require(verb, &[Phase::Created, Phase::Running, Phase::Paused, Phase::Stopped])?;
        self.control.stop(reason);
        Ok(())
    }

    /// Stops every vCPU, waits for threads to end, and gives memory and descriptors back. Twice is fine.
    ///
    /// # Errors
    /// Called inside a device callback.
    pub fn close(&self) -> Result<(), RunError> {
        if self.is_forked() {
            return Ok(()); // the parent's: nothing of it is touched
        }
        self.check("close")?;
        self.close_now();
        Ok(())
    }

    fn close_now(&self) {
        self.control.begin_close();
        self.control.wait_closed();
        let objects = self.objects.lock().unwrap_or_else(PoisonError::into_inner).take();
        drop(objects);
        drop(self.accel.lock().unwrap_or_else(PoisonError::into_inner).take());
        self.memory.clear();
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if self.forks != fork_generation() {
            // The child of a fork has the descriptors but none of the threads: it lets go without locks or joins.
            let objects = self.objects.get_mut().unwrap_or_else(PoisonError::into_inner).take();
            std::mem::forget(objects);
        } else {
            // Threads that wait for a round end.
            self.control.begin_close();
        }
    }
}

impl std::fmt::Debug for Machine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Machine({}, {})", self.id, self.control.phase().name())
    }
}

#[cfg(test)]
#[path = "machine_test.rs"]
mod tests;
