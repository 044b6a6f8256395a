//! Interrupts that are messages: they name the local APIC and the vector themselves (SDM vol. 3, 11.11).
//!
//! A device sends what it likes by [`LineHub::send`]; a line can always send the same one; and a line whose gsi leads to a
//! message alone is pulsed by an eventfd: one write, where driving a level up and down is two calls. Only there: KVM's
//! irqfd ends with the level low, whoever else holds it high, and a message has no level.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError, Weak};

use vmm_sys_util::eventfd::EventFd;

use super::{Line, LineHub, check_route, next_id};
use crate::accel::{Route, Vm};
use crate::kvm::thread::fork_generation;

/// Which gsis lead to a message alone, and the eventfds that pulse them, made when they are first wanted.
#[derive(Default)]
pub(super) struct Pulses {
    messages: BTreeSet<u32>,
    /// `None`: the host refuses one.
    events: BTreeMap<u32, Option<EventFd>>,
}

impl Pulses {
    /// Knows the routes from now on. What is registered stays: KVM follows its routes, and a gsi that leads elsewhere is not
    /// pulsed by it.
    pub(super) fn follow(&mut self, routes: &[Route]) {
        // Nothing else is beside a message.
        let is_message = |route: &&Route| matches!(route, Route::Msi { .. });
        self.messages = routes.iter().filter(is_message).map(Route::gsi).collect();
    }

    /// Pulses a gsi by its eventfd; false if it has none.
    pub(super) fn pulse(&mut self, vm: &dyn Vm, gsi: u32) -> bool {
        if !self.messages.contains(&gsi) {
            return false;
        }
        let event = self.events.entry(gsi).or_insert_with(|| vm.pulse_by(gsi).ok());
        event.as_ref().is_some_and(|event| event.write(1).is_ok())
    }
}

impl LineHub {
    /// Sends a message; whether a local APIC took it. A guest may have chosen it: what reaches nobody is the guest's to miss.
    #[must_use]
    pub fn send(&self, address: u64, data: u32) -> bool {
        if check_route(&Route::Msi { gsi: 0, address, data }).is_err() {
            return false;
        }
        let vm = self.state.lock().unwrap_or_else(PoisonError::into_inner).vm.as_ref().and_then(Weak::upgrade);
        vm.is_some_and(|vm| vm.send_message(address, data).unwrap_or(false))
    }

    /// A line that sends this message whenever it is driven high.
    #[must_use]
    pub fn message_line(self: &Arc<Self>, address: u64, data: u32) -> Arc<dyn Line> {
        Arc::new(MessageLine { hub: self.clone(), address, data, id: next_id(), forks: fork_generation() })
    }
}

struct MessageLine {
    hub: Arc<LineHub>,
    address: u64,
    data: u32,
    /// As for a line of a gsi.
    id: u64,
    forks: u64,
}

impl Line for MessageLine {
    fn set(&self, high: bool) {
        let mut state = self.hub.state.lock().unwrap_or_else(PoisonError::into_inner);
        if high {
            state.high_messages.insert(self.id);
        } else {
            state.high_messages.remove(&self.id);
        }
        drop(state);
        if high {
            let _ = self.hub.send(self.address, self.data);
        }
    }

    fn is_high(&self) -> bool {
        self.hub.state.lock().unwrap_or_else(PoisonError::into_inner).high_messages.contains(&self.id)
    }
}

impl Drop for MessageLine {
    fn drop(&mut self) {
        // As a line of a gsi.
        if self.forks == fork_generation() {
            self.hub.state.lock().unwrap_or_else(PoisonError::into_inner).high_messages.remove(&self.id);
        }
    }
}

#[cfg(test)]
#[path = "message_test.rs"]
mod tests;
