//! A virtual machine: memory, two buses, vCPUs, interrupt lines, and the verbs on the whole of them.
//!
//! KVM's objects are made late, when registers or a run first need them: the interrupt controllers must exist before
//! the first vCPU, and devices that want one are attached before (`objects`). Devices and lines are in `devices`, where
//! devices are in `places`, the verbs that change the state in `lifecycle`, those on one vCPU that stands still in `registers`
//! and `processor`, how vCPUs start and stop together in `control`, what one does between exits in `run`.

mod bells;
mod devices;
mod generation;
mod late;
mod lifecycle;
mod memory;
mod objects;
mod places;
mod processor;
mod quiet;
mod registers;
mod reset;
mod snapshot;
mod timers;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use self::objects::{Objects, enter_at};
pub use self::places::Removed;
use crate::accel::{Accelerator, VmConfig};
use crate::arch::x86_64::cpuid::CpuidEdits;
use crate::boot::Entry;
use crate::bus::{Action, Bus, RegionId, Space};
use crate::clock::{Clock, is_firing};
use crate::control::{Control, Host};
use crate::debug::DebugRegisters;
use crate::error::RunError;
use crate::irq::LineHub;
use crate::kvm::thread::fork_generation;
use crate::limits::Limits;
use crate::memory::Memory;
use crate::msr::Traps;
use crate::posted::Posts;
use crate::snapshot::Keeper;
use crate::vcpu::{Current, Inside, current};

/// Answers what no device claims.
pub trait Answerer: Send + Sync {
    /// Answers a read; `None` reads as all ones.
    fn read(&self, access: &Current) -> Option<u64>;
    /// Takes a write: what the machine shall do.
    fn write(&self, access: &Current, value: u64) -> Action;
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
    /// Its time: goes by while it runs, and is 0 again after a reset.
    pub clock: Arc<Clock>,
    /// What it may use of the host's processors.
    pub limits: Limits,
    /// Gone once the machine is closed: it holds a descriptor.
    accel: Mutex<Option<Arc<dyn Accelerator>>>,
    config: Mutex<VmConfig>,
    unclaimed: Mutex<Unclaimed>,
    entry: Mutex<Option<Entry>>,
    objects: Mutex<Option<Arc<Objects>>>,
    /// Held while a device or memory takes a place, so that neither comes to lie over the other.
    placing: Mutex<()>,
    pub(crate) traps: Traps,
    /// What scripts changed of CPUID, by vCPU: it outlives KVM's objects.
    cpuid: Mutex<BTreeMap<u32, CpuidEdits>>,
    /// Interrupt lines.
    pub lines: Arc<LineHub>,
    /// Writes that cost no exit.
    pub posts: Arc<Posts>,
    /// Attached devices that keep writes for later.
    keepers: AtomicUsize,
    /// The same for machines with the same processors: this one and its copies, as long as nobody changes their CPUID tables.
    pub(crate) kin: AtomicU64,
    /// Its console, for snapshots.
    pub(crate) console: OnceLock<Arc<dyn Keeper>>,
    /// Its operating system knows of its generation's identifier.
    has_generation: AtomicBool,
    forks: u64,
    traced: Option<u32>,
    pub(crate) debug: DebugRegisters,
}

/// A number that no machine of this process has.
pub(crate) fn next_id() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// Last port.
const LAST_PORT: u64 = 0xffff;

impl Machine {
    /// A machine that has run nothing yet. No KVM object is made.
    #[must_use]
    pub fn new(accel: Arc<dyn Accelerator>, memory: Memory, config: VmConfig) -> Self {
        let id = next_id();
        // More than one vCPU cannot be started without a local APIC.
        let config = VmConfig { irqchip: config.irqchip || config.vcpus > 1, vcpus: config.vcpus.max(1) };
        memory.limit_slots(accel.most_slots());
        let control: Arc<Control> = Arc::default();
        Self {
            id,
            kin: AtomicU64::new(id),
            memory: Arc::new(memory),
            pio: Bus::new(LAST_PORT),
            mmio: Bus::new(u64::MAX),
            clock: control.clock.clone(),
            control,
            limits: Limits::default(),
            accel: Mutex::new(Some(accel)),
            config: Mutex::new(config),
            unclaimed: Mutex::default(),
            entry: Mutex::default(),
            objects: Mutex::default(),
            placing: Mutex::default(),
            traps: Traps::default(),
            cpuid: Mutex::default(),
            lines: Arc::default(),
            posts: Arc::default(),
            keepers: AtomicUsize::new(0),
            console: OnceLock::new(),
            has_generation: AtomicBool::new(false),
            forks: fork_generation(),
            traced: None,
            debug: DebugRegisters::default(),
        }
    }

    /// The same machine with its last `exits` of each vCPU recorded; 0 records none.
    #[must_use]
    pub fn traced(mut self, exits: u32) -> Self {
        self.traced = (exits > 0).then_some(exits);
        self
    }

    /// Has snapshots keep a console. The first one stays.
    pub fn keep_console(&self, console: Arc<dyn Keeper>) {
        let _ = self.console.set(console);
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

    /// Refuses a verb in a forked child, inside a device or timer callback of any machine, and on a thread that is running this
    /// machine (a signal handler, a finalizer): it would wait for itself.
    ///
    /// # Errors
    /// It is one of them.
    pub fn check(&self, verb: &'static str) -> Result<(), RunError> {
        if self.is_forked() {
            Err(RunError::Forked { verb })
        } else if current().is_some() || is_firing() {
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

    /// Tells the process that it belongs to, from [`fork_generation`].
    #[must_use]
    pub fn forks(&self) -> u64 {
        self.forks
    }

    /// Where vCPU 0 begins. Takes effect when the vCPUs are made, or now if they are.
    ///
    /// # Errors
    /// The accelerator refuses the state, the machine runs, or as for [`Self::with_vcpu`].
    pub fn set_entry(&self, entry: Entry, host: &dyn Host) -> Result<(), RunError> {
        self.require_load()?;
        let objects = self.objects.lock().unwrap_or_else(PoisonError::into_inner);
        if objects.is_none() {
            // Under the lock of the objects: who makes them next reads it.
            *self.entry.lock().unwrap_or_else(PoisonError::into_inner) = Some(entry);
            return Ok(());
        }
        drop(objects);
        self.with_vcpu(0, "load", true, host, |vcpu| enter_at(vcpu, &entry))?
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
            self.clock.cancel_all();
        }
    }
}

impl std::fmt::Debug for Machine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Machine({}, {})", self.id, self.control.phase().name())
    }
}

#[cfg(any(test, fuzzing))]
#[path = "machine/machine_fuzz.rs"]
pub mod fuzz;
#[cfg(test)]
#[path = "machine_test.rs"]
mod tests;
