//! Interrupts: lines that devices drive, and the table that routes a gsi to the in-kernel interrupt controllers.
//!
//! A device holds a [`Line`], never the machine. Lines are made by `Machine::line`;
//! tests make their own, so that a device can be watched without KVM.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use crate::accel::{Route, Vm};

/// An interrupt input as its device sees it.
pub trait Line: Send + Sync {
    /// Drives the line high (`true`, asserted) or low. Level-triggered devices keep it high until they are served.
    fn set(&self, high: bool);

    /// One rising edge: high, then low.
    fn pulse(&self) {
        self.set(true);
        self.set(false);
    }
}

/// A line that leads nowhere, for a machine without an interrupt controller, and for tests: it remembers what was
/// driven onto it.
#[derive(Debug, Default)]
pub struct Unconnected {
    high: AtomicBool,
    edges: AtomicU64,
}

impl Unconnected {
    /// A line that is low.
    #[must_use]
    pub fn new() -> Arc<Self> {
        Arc::new(Self::default())
    }
    /// Whether it is high now.
    #[must_use]
    pub fn is_high(&self) -> bool {
        self.high.load(Ordering::SeqCst)
    }
    /// How many times it rose.
    #[must_use]
    pub fn edges(&self) -> u64 {
        self.edges.load(Ordering::SeqCst)
    }
}

impl Line for Unconnected {
    fn set(&self, high: bool) {
        if !self.high.swap(high, Ordering::SeqCst) && high {
            self.edges.fetch_add(1, Ordering::SeqCst);
        }
    }
}

/// The lines of a machine. Devices may drive them before KVM's objects exist: levels are kept and handed over.
#[derive(Default)]
pub struct LineHub {
    state: Mutex<HubState>,
}

#[derive(Default)]
struct HubState {
    /// Weak: a device that outlives its machine keeps no KVM descriptor open.
    vm: Option<Weak<dyn Vm>>,
    /// Lines driven high before there was a VM.
    early: BTreeMap<u32, bool>,
}

impl LineHub {
    /// The line of a gsi.
    #[must_use]
    pub fn line(self: &Arc<Self>, gsi: u32) -> Arc<dyn Line> {
        Arc::new(HubLine { hub: self.clone(), gsi })
    }

    /// KVM's controllers exist from now on.
    pub(crate) fn connect(&self, vm: &Arc<dyn Vm>) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.vm = Some(Arc::downgrade(vm));
        for (gsi, high) in std::mem::take(&mut state.early) {
            // A gsi that leads nowhere is the guest's to miss, like a wire that is not connected.
            let _ = vm.set_line(gsi, high);
        }
    }

    /// There are no controllers until the next [`Self::connect`], and every line is low.
    pub(crate) fn reset(&self) {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = HubState::default();
    }

    fn set(&self, gsi: u32, high: bool) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let vm = match &state.vm {
            None => {
                state.early.insert(gsi, high);
                return;
            }
            Some(vm) => vm.upgrade(),
        };
        drop(state);
        if let Some(vm) = vm {
            let _ = vm.set_line(gsi, high);
        }
    }
}

impl std::fmt::Debug for LineHub {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("LineHub")
    }
}

struct HubLine {
    hub: Arc<LineHub>,
    gsi: u32,
}

impl Line for HubLine {
    fn set(&self, high: bool) {
        self.hub.set(self.gsi, high);
    }
}

/// Pins of the I/O APIC.
const IOAPIC_PINS: u32 = 24;
/// Inputs of the two 8259s; input 2 is where the second hangs on the first.
const PIC_INPUTS: u32 = 16;

/// The table that KVM starts with: gsi n leads to I/O APIC pin n and, below 16, to 8259 input n.
#[must_use]
pub fn default_routes() -> Vec<Route> {
    let pins = (0..IOAPIC_PINS).map(|gsi| Route::IoApic { gsi, pin: gsi });
    let inputs = (0..PIC_INPUTS).map(|gsi| Route::Pic { gsi, input: gsi });
    pins.chain(inputs).collect()
}

#[cfg(test)]
#[path = "irq_test.rs"]
mod tests;
