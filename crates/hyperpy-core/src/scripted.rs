//! An accelerator that plays lists of exits back, so that buses, the run loop, stopping and every error path can be
//! tested without KVM, and the cost of dispatch measured without its exits hiding it.
//!
//! It keeps KVM's contract: a pending access is completed at the next entry, further parts of it come before the exit
//! flag is looked at, and the flag makes an entry return [`Interruption::Kicked`]. It never stands in for KVM where a
//! test is about KVM.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::accel::{
    AccelError, AccelExit, Accelerator, Activity, ExitFlag, Interruption, MsrRange, Route, Slot, Vcpu, Vm, VmConfig,
};
use crate::arch::x86_64::cpuid::Leaf;
use crate::arch::x86_64::fpu::Fpu;
use crate::arch::x86_64::{Regs, Sregs};
use crate::bus::ones;
use crate::debug::DebugControl;
use crate::memory::Mapping;
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
        /// Calls of [`Vcpu::activity`] that find it asleep.
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

    /// What has happened so far.
    #[must_use]
    pub fn log(&self) -> Log {
        self.log.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Accelerator for Scripted {
    fn create_vm(&self, config: VmConfig) -> Result<Arc<dyn Vm>, AccelError> {
        Ok(Arc::new(ScriptedVm { script: self.clone(), irqchip: config.irqchip, kept: Mutex::default() }))
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

struct ScriptedVm {
    script: Scripted,
    irqchip: bool,
    kept: Mutex<BTreeMap<u32, Arc<Mapping>>>,
}

impl ScriptedVm {
    fn note(&self, f: impl FnOnce(&mut Log)) {
        f(&mut self.script.log.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

impl Vm for ScriptedVm {
    fn map(&self, slot: &Slot) -> Result<(), AccelError> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let there = kept.insert(slot.id, slot.mapping.clone()).is_some();
        drop(kept);
        self.note(|log| {
            if !there {
                log.slots.push((slot.id, slot.gpa, slot.mapping.len()));
            }
            log.slot_changes.push((slot.id, slot.writable, slot.logged));
        });
        Ok(())
    }

    fn create_vcpu(&self, id: u32) -> Result<Box<dyn Vcpu>, AccelError> {
        let mut steps = self.script.scripts.get(id as usize).cloned().unwrap_or_default();
        steps.reverse();
        Ok(Box::new(ScriptedVcpu {
            id,
            steps,
            flag: Arc::default(),
            log: (!self.script.quiet).then(|| self.script.log.clone()),
            irqchip: self.irqchip,
            values: [0; VALUES],
            size: 0,
            reading: 0,
            asleep: None,
            regs: Regs::default(),
            sregs: Sregs::default(),
            calls: 0,
            fpu: Fpu::default(),
            msrs: BTreeMap::new(),
            cpuid: cpuid(id),
        }))
    }

    fn set_line(&self, gsi: u32, high: bool) -> Result<(), AccelError> {
        if !self.irqchip {
            return Err(AccelError::NoIrqchip { gsi });
        }
        self.note(|log| log.lines.push((gsi, high)));
        Ok(())
    }

    fn set_routes(&self, routes: &[Route]) -> Result<(), AccelError> {
        self.note(|log| log.routes = routes.to_vec());
        Ok(())
    }

    fn unmap(&self, slot: u32) -> Result<(), AccelError> {
        let gone = self.kept.lock().unwrap_or_else(PoisonError::into_inner).remove(&slot);
        self.note(|log| {
            log.slots.retain(|(id, ..)| *id != slot);
            log.slot_changes.push((slot, false, false));
        });
        drop(gone);
        Ok(())
    }

    fn take_dirty(&self, slot: u32, words: &mut [u64]) -> Result<(), AccelError> {
        let mut dirty = self.script.dirty.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(logged) = dirty.remove(&slot) else { return Ok(()) };
        for (into, from) in words.iter_mut().zip(logged) {
            *into |= from;
        }
        Ok(())
    }

    fn post(&self, range: Range, on: bool) -> Result<(), AccelError> {
        self.note(|log| {
            log.posts.retain(|other| *other != range);
            log.posts.extend(on.then_some(range));
        });
        Ok(())
    }

    fn trap_msrs(&self, ranges: &[MsrRange]) -> Result<(), AccelError> {
        if ranges.iter().any(|range| range.first == REFUSED_MSR) {
            return Err(AccelError::Missing { capability: "KVM_CAP_X86_MSR_FILTER" });
        }
        self.note(|log| log.traps = ranges.to_vec());
        Ok(())
    }

    fn trap_hypercalls(&self) -> Result<(), AccelError> {
        Err(AccelError::Missing { capability: "KVM_CAP_EXIT_HYPERCALL" })
    }
}

/// A register that no scripted vCPU has, and no scripted VM can trap.
pub const REFUSED_MSR: u32 = 0xdead;

/// One leaf, with the number of the vCPU in it.
fn cpuid(vcpu: u32) -> Vec<Leaf> {
    vec![Leaf { leaf: 1, ebx: vcpu << 24, ecx: 0xff, ..Leaf::default() }]
}

/// Most values of one scripted string instruction.
const VALUES: usize = 64;

#[derive(Debug, Default)]
struct Flag(AtomicU8);

impl ExitFlag for Flag {
    fn byte(&self) -> &AtomicU8 {
        &self.0
    }
}

struct ScriptedVcpu {
    id: u32,
    /// Last first.
    steps: Vec<Step>,
    flag: Arc<Flag>,
    log: Option<Arc<Mutex<Log>>>,
    irqchip: bool,
    values: [u64; VALUES],
    /// Width of each, in bytes.
    size: u8,
    /// Values of a read that the guest will see at the next entry.
    reading: u32,
    asleep: Option<bool>,
    regs: Regs,
    sregs: Sregs,
    calls: u64,
    fpu: Fpu,
    msrs: BTreeMap<u32, u64>,
    cpuid: Vec<Leaf>,
}

/// Size and number of what an exit that is no access to a bus moves, and whether the guest writes it.
#[cold]
fn moved(exit: &AccelExit) -> (u8, u32, bool) {
    match *exit {
        AccelExit::Msr { is_write, .. } => (8, 1, is_write),
        AccelExit::Hypercall { .. } => (8, 1, false),
        _ => (0, 0, true),
    }
}

/// In place of a number of values that are read: the RDMSR or WRMSR that is pending faults.
const FAULTS: u32 = u32::MAX;

impl ScriptedVcpu {
    fn exit(&mut self, exit: AccelExit, values: &[u64]) -> AccelExit {
        let (size, count, is_write) = match exit {
            AccelExit::Pio { size, count, is_write, .. } => (size, count, is_write),
            AccelExit::Mmio { size, is_write, .. } => (size, 1, is_write),
            ref other => moved(other),
        };
        self.size = size;
        for (into, from) in self.values.iter_mut().zip(values) {
            *into = *from;
        }
        self.reading = if is_write { 0 } else { count };
        exit
    }

    fn complete(&mut self) {
        if let (Some(log), 1..) = (&self.log, self.reading) {
            let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
            match self.reading {
                FAULTS => log.faults.push(self.id),
                count => log.reads.extend(self.values.iter().take(count as usize).map(|value| (self.id, *value))),
            }
        }
        self.reading = 0;
    }

    fn kicked(&self) -> bool {
        self.flag.0.load(Ordering::SeqCst) != 0
    }
}

impl Vcpu for ScriptedVcpu {
    fn run(&mut self) -> Result<AccelExit, Interruption> {
        self.calls += 1;
        self.complete();
        loop {
            match self.steps.last() {
                Some(Step::Before(_)) => {
                    if let Some(Step::Before(hook)) = self.steps.pop() {
                        hook();
                    }
                }
                Some(Step::Part(..)) => {
                    if let Some(Step::Part(exit, values)) = self.steps.pop() {
                        return Ok(self.exit(exit, &values));
                    }
                }
                Some(Step::Posted(_)) => return Ok(AccelExit::Posted),
                _ if self.kicked() => return Err(Interruption::Kicked),
                Some(Step::Exit(..)) => {
                    if let Some(Step::Exit(exit, values)) = self.steps.pop() {
                        self.regs.rip += 1;
                        return Ok(self.exit(exit, &values));
                    }
                }
                Some(&Step::Repeat(exit, left)) => {
                    match self.steps.last_mut() {
                        Some(Step::Repeat(_, count)) if left > 1 => *count -= 1,
                        _ => drop(self.steps.pop()),
                    }
                    return Ok(self.exit(exit, &[]));
                }
                Some(Step::Cycle { left: 0, .. }) => drop(self.steps.pop()),
                Some(Step::Cycle { .. }) => {
                    if let Some(exit) = self.steps.last_mut().and_then(Step::turn) {
                        return Ok(self.exit(exit, &[]));
                    }
                    self.steps.pop();
                }
                Some(Step::Spin) => {
                    while !self.kicked() {
                        std::hint::spin_loop();
                    }
                    self.steps.pop();
                    return Err(Interruption::Kicked);
                }
                Some(&Step::Sleep { interruptible }) => {
                    self.asleep = Some(interruptible);
                    while !self.kicked() {
                        std::thread::yield_now();
                    }
                    return Err(Interruption::Kicked);
                }
                Some(Step::Nap { looks: 0 }) => {
                    self.asleep = None;
                    self.steps.pop();
                }
                Some(Step::Nap { .. }) => {
                    self.asleep = Some(false);
                    while !self.kicked() {
                        std::thread::yield_now();
                    }
                    return Err(Interruption::Kicked);
                }
                Some(&Step::Fail(errno)) => {
                    self.steps.pop();
                    let source = io::Error::from_raw_os_error(errno);
                    return Err(match errno {
                        libc::EAGAIN => Interruption::Again,
                        libc::EINTR => Interruption::Kicked,
                        _ => Interruption::Failed(Box::new(AccelError::Call { call: "KVM_RUN", source })),
                    });
                }
                None if self.irqchip => self.steps.push(Step::Sleep { interruptible: false }),
                None => return Ok(AccelExit::Halt),
            }
        }
    }

    fn take_posted(&mut self, serve: &mut dyn FnMut(&Posted)) {
        if let Some(Step::Posted(writes)) = self.steps.last_mut() {
            let writes = std::mem::take(writes);
            self.steps.pop();
            writes.iter().for_each(serve);
            // What the guest was left for comes whatever the flag says.
            if let Some(Step::Exit(exit, values)) = self.steps.last_mut() {
                let part = Step::Part(*exit, std::mem::take(values));
                self.steps.pop();
                self.steps.push(part);
                self.regs.rip += 1;
            }
        }
    }

    fn io_value(&self, index: u32) -> u64 {
        self.values.get(index as usize).map_or(0, |value| value & ones(self.size))
    }

    fn set_io_value(&mut self, index: u32, value: u64) {
        if let Some(slot) = self.values.get_mut(index as usize) {
            *slot = value & ones(self.size);
        }
    }

    fn exit_flag(&self) -> Arc<dyn ExitFlag> {
        self.flag.clone()
    }

    fn rip(&self) -> u64 {
        self.regs.rip
    }

    fn regs(&mut self) -> Result<Regs, AccelError> {
        Ok(self.regs)
    }

    fn set_regs(&mut self, regs: &Regs) -> Result<(), AccelError> {
        self.regs = *regs;
        Ok(())
    }

    fn sregs(&mut self) -> Result<Sregs, AccelError> {
        Ok(self.sregs)
    }

    fn set_sregs(&mut self, sregs: &Sregs) -> Result<(), AccelError> {
        self.sregs = *sregs;
        Ok(())
    }

    fn activity(&mut self) -> Result<Activity, AccelError> {
        if let Some(Step::Nap { looks }) = self.steps.last_mut() {
            let Some(left) = looks.checked_sub(1) else { return Ok(Activity::Running) };
            *looks = left;
        }
        Ok(match self.asleep {
            Some(interruptible) => Activity::Halted { interruptible },
            None => Activity::Running,
        })
    }

    fn calls(&self) -> u64 {
        self.calls
    }

    fn fpu(&mut self) -> Result<Fpu, AccelError> {
        Ok(self.fpu)
    }

    fn set_fpu(&mut self, fpu: &Fpu) -> Result<(), AccelError> {
        self.fpu = *fpu;
        Ok(())
    }

    fn msrs(&mut self, indices: &[u32]) -> Result<Vec<u64>, AccelError> {
        let read = |&index: &u32| match index {
            REFUSED_MSR => Err(AccelError::Msr { call: "KVM_GET_MSRS", index, value: None }),
            _ => Ok(self.msrs.get(&index).copied().unwrap_or(0)),
        };
        indices.iter().map(read).collect()
    }

    fn set_msrs(&mut self, values: &[(u32, u64)]) -> Result<(), AccelError> {
        for &(index, value) in values {
            if index == REFUSED_MSR {
                return Err(AccelError::Msr { call: "KVM_SET_MSRS", index, value: Some(value) });
            }
            self.msrs.insert(index, value);
        }
        Ok(())
    }

    fn cpuid(&mut self) -> Result<Vec<Leaf>, AccelError> {
        Ok(self.cpuid.clone())
    }

    fn set_cpuid(&mut self, table: &[Leaf]) -> Result<(), AccelError> {
        self.cpuid = table.to_vec();
        Ok(())
    }

    fn set_msr_fault(&mut self, fault: bool) {
        self.reading = match self.reading {
            _ if fault => FAULTS,
            FAULTS => 1,
            count => count,
        };
    }

    fn event_data(&self) -> Vec<u64> {
        Vec::new()
    }

    fn set_debug(&mut self, control: &DebugControl) -> Result<(), AccelError> {
        if let Some(log) = &self.log {
            log.lock().unwrap_or_else(PoisonError::into_inner).debug.push((self.id, *control));
        }
        Ok(())
    }
}
