//! An accelerator that plays lists of exits back, so that buses, the run loop, stopping and every error path can be
//! tested without KVM, and the cost of dispatch measured without its exits hiding it. It never stands in for KVM where a
//! test is about KVM.
//!
//! Here is what a script can say, and what is written down of its machines. `vm` writes it, `vcpu` plays the script.

mod vcpu;
mod vm;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use vmm_sys_util::eventfd::EventFd;

use self::vm::ScriptedVm;
use crate::accel::{AccelError, AccelExit, Accelerator, MsrRange, Route, Vm, VmConfig};
use crate::arch::x86_64::cpuid::Leaf;
use crate::bells::Doorbell;
use crate::debug::DebugControl;
use crate::posted::{Posted, Range};

/// What a scripted vCPU does at one entry.
#[derive(Clone)]
pub enum Step {
    /// Exits, with the values that the guest writes, if it does.
    Exit(AccelExit, Vec<u64>),
    /// The next part of the access before it: delivered even if the exit flag is set, as KVM does.
    Part(AccelExit, Vec<u64>),
    /// The same exit this many times, without allocation.
    Repeat(AccelExit, u64),
    /// The same access at one address after the other, round and round, without allocation.
    Cycle {
        /// The access; its address is replaced.
        exit: AccelExit,
        /// The addresses.
        addresses: Arc<[u64]>,
        /// Index of the next one.
        next: usize,
        /// How many accesses are left.
        left: u64,
    },
    /// Writes that wait in the ring, found with the exit that is the next step.
    Posted(Vec<Posted>),
    /// Executes instructions until the exit flag is set.
    Spin,
    /// Sleeps in HLT until the exit flag is set, on a machine with interrupt controllers.
    Sleep {
        /// RFLAGS.IF.
        interruptible: bool,
    },
    /// Sleeps in HLT with interrupts off until it was seen so this often; then it is awake, as after an NMI.
    Nap {
        /// How often it is found asleep.
        looks: u32,
    },
    /// Runs between the last look at the exit flag and the entry, then goes on with the next step.
    Before(Arc<dyn Fn() + Send + Sync>),
    /// The call fails with this errno.
    Fail(i32),
}

impl Step {
    /// The next access of a [`Step::Cycle`]; `None` if it has no addresses, or is another step.
    fn turn(&mut self) -> Option<AccelExit> {
        let Self::Cycle { exit, addresses, next, left } = self else { return None };
        let address = *addresses.get(*next)?;
        *left -= 1;
        *next = if *next + 1 < addresses.len() { *next + 1 } else { 0 };
        Some(match *exit {
            AccelExit::Mmio { size, is_write, .. } => AccelExit::Mmio { gpa: address, size, is_write },
            AccelExit::Pio { size, count, is_write, .. } => {
                AccelExit::Pio { port: u16::try_from(address).unwrap_or(u16::MAX), size, count, is_write }
            }
            other => other,
        })
    }
}

/// What happened to the scripted machines of one [`Scripted`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Log {
    /// Values that guests read: (vcpu, value), in order of completion.
    pub reads: Vec<(u32, u64)>,
    /// Interrupt lines driven: (gsi, level).
    pub lines: Vec<(u32, bool)>,
    /// Messages sent: (address, data).
    pub messages: Vec<(u64, u32)>,
    /// Memory slots as they are now: (number, gpa, length).
    pub slots: Vec<(u32, u64, u64)>,
    /// (number, writable, logged) of each slot, as it was mapped, or (number, false, false) when it was taken away.
    pub slot_changes: Vec<(u32, bool, bool)>,
    /// Routes set.
    pub routes: Vec<Route>,
    /// vCPUs whose RDMSR or WRMSR ended in a fault, in order of completion.
    pub faults: Vec<u32>,
    /// Model-specific registers that are trapped.
    pub traps: Vec<MsrRange>,
    /// What vCPUs were told to stop for: (vcpu, control).
    pub debug: Vec<(u32, DebugControl)>,
    /// Ranges whose writes are posted.
    pub posts: Vec<Range>,
}

/// The accelerator: one script for each vCPU.
#[derive(Clone, Default)]
pub struct Scripted {
    scripts: Vec<Vec<Step>>,
    log: Arc<Mutex<Log>>,
    dirty: Arc<Mutex<BTreeMap<u32, Vec<u64>>>>,
    /// The other ends of eventfds that pulse a gsi.
    events: Arc<Mutex<BTreeMap<u32, EventFd>>>,
    /// Doorbells, and the other ends of their eventfds.
    bells: Arc<Mutex<Vec<(Doorbell, EventFd)>>>,
    /// Writes that wait beside those of scripts, which no vCPU comes by.
    ring: Arc<Mutex<Vec<Posted>>>,
    quiet: bool,
    most_slots: Option<u32>,
}

impl Scripted {
    /// Script `n` is vCPU `n`'s; a vCPU without one halts at once.
    #[must_use]
    pub fn new(scripts: Vec<Vec<Step>>) -> Self {
        Self { scripts, ..Self::default() }
    }

    /// Leaves reads out of the log, for measurements.
    #[must_use]
    pub fn without_log(mut self) -> Self {
        self.quiet = true;
        self
    }

    /// Takes only this many slots of memory.
    #[must_use]
    pub fn with_slots(mut self, most: u32) -> Self {
        self.most_slots = Some(most);
        self
    }

    /// Logs the pages of a slot whose bits are set as written by the guest.
    pub fn set_dirty(&self, slot: u32, words: Vec<u64>) {
        self.dirty.lock().unwrap_or_else(PoisonError::into_inner).insert(slot, words);
    }

    /// How often a gsi was pulsed by an eventfd since this was asked last.
    #[must_use]
    pub fn take_pulses(&self, gsi: u32) -> u64 {
        let events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
        events.get(&gsi).and_then(|event| event.read().ok()).unwrap_or(0)
    }

    /// The guest rings the doorbell at an address, with this value if it has one; false if there is none.
    #[must_use]
    pub fn ring(&self, address: u64, value: Option<u64>) -> bool {
        let bells = self.bells.lock().unwrap_or_else(PoisonError::into_inner);
        let bell = bells.iter().find(|(bell, _)| (bell.address, bell.value) == (address, value));
        bell.is_some_and(|(_, event)| event.write(1).is_ok())
    }

    /// A write waits in the ring, which no vCPU empties: only who takes what is in it for the whole machine.
    pub fn wait_in_ring(&self, write: Posted) {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner).push(write);
    }

    /// The doorbells that there are.
    #[must_use]
    pub fn doorbells(&self) -> Vec<Doorbell> {
        self.bells.lock().unwrap_or_else(PoisonError::into_inner).iter().map(|(bell, _)| *bell).collect()
    }

    /// What has happened so far.
    #[must_use]
    pub fn log(&self) -> Log {
        self.log.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Accelerator for Scripted {
    fn create_vm(&self, config: VmConfig) -> Result<Arc<dyn Vm>, AccelError> {
        Ok(Arc::new(ScriptedVm::new(self.clone(), config.irqchip)))
    }

    fn most_slots(&self) -> u32 {
        self.most_slots.unwrap_or(u32::MAX)
    }

    fn msr_indices(&self) -> Result<Vec<u32>, AccelError> {
        Ok(vec![0x10, 0x1b])
    }

    fn cpuid(&self, _config: VmConfig, vcpu: u32) -> Result<Vec<Leaf>, AccelError> {
        Ok(cpuid(vcpu))
    }
}

/// A register that no scripted vCPU has, and no scripted VM can trap.
pub const REFUSED_MSR: u32 = 0xdead;

/// One leaf, with the number of the vCPU in it.
fn cpuid(vcpu: u32) -> Vec<Leaf> {
    vec![Leaf { leaf: 1, ebx: vcpu << 24, ecx: 0xff, ..Leaf::default() }]
}
