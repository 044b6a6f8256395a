//! The scripted vCPU. It keeps KVM's contract: a pending access is completed at the next entry, further parts of it come
//! before the exit flag is looked at, and the flag makes an entry return [`Interruption::Kicked`].

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::{Log, REFUSED_MSR, Step, cpuid};
use crate::accel::state::same_cpuid;
use crate::accel::{AccelError, AccelExit, Activity, ExitFlag, Interruption, Shape, Vcpu, VcpuState};
use crate::arch::x86_64::cpuid::Leaf;
use crate::arch::x86_64::fpu::Fpu;
use crate::arch::x86_64::{Regs, Sregs};
use crate::bus::ones;
use crate::debug::DebugControl;
use crate::posted::Posted;

/// Bytes of its XSAVE area: the legacy region and the header (SDM vol. 1, 13.4).
const XSAVE: usize = 576;
/// Most values of one scripted string instruction.
const VALUES: usize = 64;

#[derive(Debug, Default)]
struct Flag(AtomicU8);

impl ExitFlag for Flag {
    fn byte(&self) -> &AtomicU8 {
        &self.0
    }
}

pub(super) struct ScriptedVcpu {
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
    has_run: bool,
    fpu: Fpu,
    msrs: BTreeMap<u32, u64>,
    cpuid: Arc<[Leaf]>,
    /// What was put back and has no place here.
    kept: VcpuState,
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
    /// Plays `steps`, last first.
    pub(super) fn new(id: u32, steps: Vec<Step>, log: Option<Arc<Mutex<Log>>>, irqchip: bool) -> Self {
        Self {
            id,
            steps,
            flag: Arc::default(),
            log,
            irqchip,
            values: [0; VALUES],
            size: 0,
            reading: 0,
            asleep: None,
            regs: Regs::default(),
            sregs: Sregs::default(),
            has_run: false,
            fpu: Fpu::default(),
            msrs: BTreeMap::new(),
            cpuid: cpuid(id).into(),
            kept: VcpuState::default(),
        }
    }

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
        self.has_run = true;
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

    fn has_run(&self) -> bool {
        self.has_run
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
        Ok(self.cpuid.to_vec())
    }

    fn set_cpuid(&mut self, table: &[Leaf]) -> Result<(), AccelError> {
        self.cpuid = table.into();
        Ok(())
    }

    fn save(&mut self) -> Result<VcpuState, AccelError> {
        let mut xsave = vec![0; XSAVE].into_boxed_slice();
        self.fpu.into_area(&mut xsave, None);
        Ok(VcpuState {
            regs: self.regs,
            sregs: self.sregs,
            xsave,
            msrs: self.msrs.iter().map(|(&index, &value)| (index, value)).collect(),
            cpuid: self.cpuid.clone(),
            lapic: self.irqchip.then(|| self.kept.lapic.clone().unwrap_or_else(|| Box::new([0; _]))),
            ..self.kept.clone()
        })
    }

    fn load(&mut self, state: &VcpuState) -> Result<(), AccelError> {
        if state.xsave.len() != XSAVE {
            return Err(AccelError::State { part: "xsave area", why: "has another size" });
        }
        if !same_cpuid(&self.cpuid, &state.cpuid) {
            if self.has_run {
                return Err(AccelError::State { part: "cpuid", why: "is another one, and the vcpu has run" });
            }
            self.cpuid = state.cpuid.clone();
        }
        if let Some(&(index, value)) = state.msrs.iter().find(|(index, _)| *index == REFUSED_MSR) {
            return Err(AccelError::Msr { call: "KVM_SET_MSRS", index, value: Some(value) });
        }
        (self.regs, self.sregs) = (state.regs, state.sregs);
        self.fpu = Fpu::from_area(&state.xsave, None);
        self.msrs.retain(|index, _| state.msr(*index).is_some());
        self.msrs.extend(state.msrs.iter().copied());
        (self.kept.pdptrs, self.kept.xcr0, self.kept.events) = (state.pdptrs, state.xcr0, state.events);
        (self.kept.debug, self.kept.mp_state, self.kept.tsc_khz) = (state.debug, state.mp_state, state.tsc_khz);
        self.kept.lapic.clone_from(&state.lapic);
        self.reading = 0;
        Ok(())
    }

    fn shape(&mut self) -> Result<Shape, AccelError> {
        Ok(Shape {
            cpuid: self.cpuid.clone(),
            has_run: self.has_run,
            xsave: XSAVE,
            msrs: self.msrs.keys().copied().collect(),
            irqchip: self.irqchip,
            ..Shape::default()
        })
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
