//! The scripted virtual machine: it writes down what is asked of it.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use vmm_sys_util::eventfd::EventFd;

use super::vcpu::ScriptedVcpu;
use super::{Log, REFUSED_MSR, Scripted};
use crate::accel::{AccelError, MsrRange, Route, Slot, Vcpu, Vm, VmState};
use crate::bells::Doorbell;
use crate::memory::PAGE_SIZE;
use crate::posted::{Posted, Range};

pub(super) struct ScriptedVm {
    script: Scripted,
    irqchip: bool,
    kept: Mutex<BTreeMap<u32, Slot>>,
    state: Mutex<VmState>,
}

impl ScriptedVm {
    pub(super) fn new(script: Scripted, irqchip: bool) -> Self {
        let state = VmState { irqchip: irqchip.then(Box::default), clock_ns: Some(0) };
        Self { script, irqchip, kept: Mutex::default(), state: Mutex::new(state) }
    }

    fn note(&self, f: impl FnOnce(&mut Log)) {
        f(&mut self.script.log.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

impl Vm for ScriptedVm {
    fn map(&self, slot: &Slot) -> Result<(), AccelError> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let there = kept.insert(slot.id, slot.clone()).is_some();
        drop(kept);
        self.note(|log| {
            if !there {
                log.slots.push((slot.id, slot.gpa, slot.len));
            }
            log.slot_changes.push((slot.id, slot.writable, slot.logged));
        });
        Ok(())
    }

    fn create_vcpu(&self, id: u32) -> Result<Box<dyn Vcpu>, AccelError> {
        let mut steps = self.script.scripts.get(id as usize).cloned().unwrap_or_default();
        steps.reverse();
        let log = (!self.script.quiet).then(|| self.script.log.clone());
        Ok(Box::new(ScriptedVcpu::new(id, steps, log, self.irqchip)))
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

    fn pulse_by(&self, gsi: u32) -> Result<EventFd, AccelError> {
        if !self.irqchip {
            return Err(AccelError::NoIrqchip { gsi });
        }
        let refused = |source| AccelError::Call { call: "eventfd", source };
        let event = EventFd::new(libc::EFD_CLOEXEC | libc::EFD_NONBLOCK).map_err(refused)?;
        let ours = event.try_clone().map_err(refused)?;
        self.script.events.lock().unwrap_or_else(PoisonError::into_inner).insert(gsi, ours);
        Ok(event)
    }

    fn send_message(&self, address: u64, data: u32) -> Result<bool, AccelError> {
        if !self.irqchip {
            return Err(AccelError::NoIrqchip { gsi: 0 });
        }
        self.note(|log| log.messages.push((address, data)));
        Ok(true)
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

    fn save(&self) -> Result<VmState, AccelError> {
        Ok(self.state.lock().unwrap_or_else(PoisonError::into_inner).clone())
    }

    fn load(&self, state: &VmState) -> Result<(), AccelError> {
        if state.irqchip.is_some() != self.irqchip {
            let why = "are only in one of the two machines";
            return Err(AccelError::State { part: "interrupt controllers", why });
        }
        let mut ours = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let (Some(ours), Some(theirs)) = (&mut ours.irqchip, &state.irqchip) {
            ours.clone_from(theirs);
        }
        ours.clock_ns = state.clock_ns;
        Ok(())
    }

    fn load_timers(&self, _: &VmState) -> Result<(), AccelError> {
        Ok(())
    }

    fn mark_written(&self) -> Result<(), AccelError> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let dirty = std::mem::take(&mut *self.script.dirty.lock().unwrap_or_else(PoisonError::into_inner));
        for (id, words) in dirty {
            let Some(slot) = kept.get(&id).filter(|slot| slot.logged) else { continue };
            let page = |bytes: u64| usize::try_from(bytes / PAGE_SIZE).unwrap_or(usize::MAX);
            slot.mapping.mark_words(page(slot.at as u64), page(slot.len), &words);
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

    fn take_posted(&self, serve: &mut dyn FnMut(&Posted)) {
        let writes = std::mem::take(&mut *self.script.ring.lock().unwrap_or_else(PoisonError::into_inner));
        writes.iter().for_each(serve);
    }

    fn ring(&self, bell: &Doorbell, event: &EventFd, on: bool) -> Result<(), AccelError> {
        let ours = event.try_clone().map_err(|source| AccelError::Call { call: "eventfd", source })?;
        let mut bells = self.script.bells.lock().unwrap_or_else(PoisonError::into_inner);
        bells.retain(|(other, _)| other != bell);
        bells.extend(on.then_some((*bell, ours)));
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
