//! Interrupts: lines that devices drive, and the table that routes a gsi to the in-kernel interrupt controllers.
//!
//! A device holds a [`Line`], never the machine. Lines are made by `Machine::line`;
//! tests make their own, so that a device can be watched without KVM. Messages are in `message`, what a snapshot has in `levels`.

mod levels;
mod message;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

pub use self::levels::LineLevels;
use self::message::Pulses;
use crate::accel::{AccelError, Route, Vm};
use crate::error::RouteError;
use crate::kvm::thread::fork_generation;

/// An interrupt input as its device sees it.
pub trait Line: Send + Sync {
    /// Drives the line high (`true`, asserted) or low. Level-triggered devices keep it high until they are served.
    fn set(&self, high: bool);

    /// One rising edge: high, then low.
    fn pulse(&self) {
        self.set(true);
        self.set(false);
    }

    /// Whether this line drives it high now; others may share the input.
    fn is_high(&self) -> bool;
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

    fn is_high(&self) -> bool {
        self.high.load(Ordering::SeqCst)
    }
}

/// The lines of a machine and where they lead. Devices may drive them before KVM's objects exist, and they may be led
/// elsewhere before: levels and routes are kept and handed over.
///
/// Several lines may share a gsi. It is high as long as one of them is: KVM has one level for all that this process drives
/// (kernel: KVM_USERSPACE_IRQ_SOURCE_ID), so who is high is kept here.
#[derive(Default)]
pub struct LineHub {
    state: Mutex<HubState>,
    /// `None`: what KVM starts with. Taken before `state`, and held while KVM is told, so that changes come in order.
    routes: Mutex<Option<Vec<Route>>>,
}

#[derive(Default)]
struct HubState {
    /// Weak: a device that outlives its machine keeps no KVM descriptor open.
    vm: Option<Weak<dyn Vm>>,
    /// Every line that is there, in order of creation.
    wires: Vec<Wire>,
    pulses: Pulses,
}

/// A line as its hub knows it.
struct Wire {
    /// Tells it from every other of the process: later ones have larger ones.
    id: u64,
    gsi: u32,
    high: bool,
    /// Before the last snapshot was put back.
    was_high: bool,
}

impl Wire {
    /// Stands for the gsi of a line that sends a message: it has none.
    const MESSAGE: u32 = u32::MAX;
}

impl HubState {
    /// Where a line is.
    fn find(&self, id: u64) -> Option<usize> {
        self.wires.binary_search_by_key(&id, |wire| wire.id).ok()
    }

    fn is_high(&self, gsi: u32) -> bool {
        self.wires.iter().any(|wire| wire.gsi == gsi && wire.high)
    }

    /// Notes a line's level; the level to tell KVM, if any. A high one is told each time: a message is sent by each. A low
    /// one is told when no line is high any more.
    fn drive(&mut self, gsi: u32, line: u64, high: bool) -> Option<bool> {
        let wire = self.find(line).and_then(|at| self.wires.get_mut(at))?;
        wire.high = high;
        (high || !self.is_high(gsi)).then_some(high)
    }
}

impl LineHub {
    /// A line to a gsi, which is low again when the line is dropped.
    #[must_use]
    pub fn line(self: &Arc<Self>, gsi: u32) -> Arc<dyn Line> {
        Arc::new(HubLine { hub: self.clone(), gsi, id: self.add(gsi), forks: fork_generation() })
    }

    /// A new line, which is low; its number.
    fn add(&self, gsi: u32) -> u64 {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let id = NEXT.fetch_add(1, Ordering::Relaxed); // under the lock: they are in order
        state.wires.push(Wire { id, gsi, high: false, was_high: false });
        id
    }

    /// KVM's controllers exist from now on.
    pub(crate) fn connect(&self, vm: &Arc<dyn Vm>) -> Result<(), AccelError> {
        let routes = self.routes.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(routes) = &*routes {
            vm.set_routes(routes)?;
        }
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.vm = Some(Arc::downgrade(vm));
        state.pulses.follow(routes.as_deref().unwrap_or_default()); // those of the start are no messages
        for wire in state.wires.iter().filter(|wire| wire.high && wire.gsi != Wire::MESSAGE) {
            // A gsi that leads nowhere is the guest's to miss, like a wire that is not connected.
            let _ = vm.set_line(wire.gsi, true);
        }
        Ok(())
    }

    /// Where every gsi leads.
    #[must_use]
    pub fn routes(&self) -> Vec<Route> {
        self.routes.lock().unwrap_or_else(PoisonError::into_inner).clone().unwrap_or_else(default_routes)
    }

    /// Changes the table, now or as soon as there are controllers. One that is refused changes nothing.
    pub(crate) fn change_routes(&self, change: impl FnOnce(&mut Vec<Route>)) -> Result<(), AccelError> {
        let mut routes = self.routes.lock().unwrap_or_else(PoisonError::into_inner);
        let mut changed = routes.clone().unwrap_or_else(default_routes);
        change(&mut changed);
        let vm = self.state.lock().unwrap_or_else(PoisonError::into_inner).vm.as_ref().and_then(Weak::upgrade);
        if let Some(vm) = vm {
            vm.set_routes(&changed)?;
        }
        self.state.lock().unwrap_or_else(PoisonError::into_inner).pulses.follow(&changed);
        *routes = Some(changed);
        Ok(())
    }

    /// Leads every gsi to where another machine's does; before there are controllers.
    pub(crate) fn copy_routes(&self, other: &Self) {
        let routes = other.routes.lock().unwrap_or_else(PoisonError::into_inner).clone();
        *self.routes.lock().unwrap_or_else(PoisonError::into_inner) = routes;
    }

    /// There are no controllers until the next [`Self::connect`], and every line is low.
    pub(crate) fn reset(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        (state.vm, state.pulses) = (None, Pulses::default());
        state.wires.iter_mut().for_each(|wire| wire.high = false);
    }

    /// KVM is told under the lock: of two that change levels at once the last one decides, there as here.
    fn set(&self, gsi: u32, line: u64, levels: &[bool]) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let vm = state.vm.as_ref().and_then(Weak::upgrade);
        for &high in levels {
            let told = state.drive(gsi, line, high);
            if let (Some(vm), Some(level)) = (&vm, told) {
                let _ = vm.set_line(gsi, level);
            }
        }
        drop(state); // before the VM, which may be the last reference
    }

    /// One rising edge, by the gsi's eventfd if it has one; no snapshot comes between it and the falling one.
    fn pulse(&self, gsi: u32, line: u64) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let vm = state.vm.as_ref().and_then(Weak::upgrade);
        let is_done = vm.as_ref().is_some_and(|vm| state.pulses.pulse(&**vm, gsi));
        drop(state); // before the VM, which may be the last reference
        if !is_done {
            self.set(gsi, line, &[true, false]);
        }
    }

    fn is_high(&self, line: u64) -> bool {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.find(line).and_then(|at| state.wires.get(at)).is_some_and(|wire| wire.high)
    }

    /// The line is gone, and low.
    fn let_go(&self, gsi: u32, line: u64) {
        if self.is_high(line) && gsi != Wire::MESSAGE {
            self.set(gsi, line, &[false]);
        }
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(at) = state.find(line) {
            state.wires.remove(at);
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
    /// Tells it from the others of its gsi.
    id: u64,
    /// The process that it belongs to.
    forks: u64,
}

impl Line for HubLine {
    fn set(&self, high: bool) {
        self.hub.set(self.gsi, self.id, &[high]);
    }

    fn pulse(&self) {
        self.hub.pulse(self.gsi, self.id);
    }

    fn is_high(&self) -> bool {
        self.hub.is_high(self.id)
    }
}

impl Drop for HubLine {
    fn drop(&mut self) {
        // In the child of a fork nobody may hold the lock any more, and the controllers are the parent's.
        if self.forks == fork_generation() {
            self.hub.let_go(self.gsi, self.id);
        }
    }
}

/// Pins of the I/O APIC.
const IOAPIC_PINS: u32 = 24;
/// Inputs of the two 8259s; input 2 is where the second hangs on the first.
const PIC_INPUTS: u32 = 16;

/// One gsi beyond the largest that KVM routes (kernel: KVM_MAX_IRQ_ROUTES).
pub const GSIS: u32 = 4096;
/// Where a message must be addressed to reach a local APIC: the upper 12 bits of 32 (SDM vol. 3, 11.11.1).
const MESSAGE_BASE: u64 = 0xfee0_0000;
const MESSAGE_MASK: u64 = !0xf_ffff;
/// Vectors below are the processor's own (SDM vol. 3, 11.5.2).
const FIRST_VECTOR: u32 = 0x10;
/// Bits of message data that have a meaning: trigger mode, level, delivery mode, vector (SDM vol. 3, 11.11.2).
const MESSAGE_DATA: u32 = 0xc7ff;
/// The delivery modes that carry a vector: fixed and lowest priority.
const DELIVERS_VECTOR: [u32; 2] = [0, 1];

/// Refuses what one gsi cannot lead to: what does not exist, or KVM would not take.
///
/// # Errors
/// Which of it is wrong.
pub fn check_routes(routes: &[Route]) -> Result<(), RouteError> {
    for (done, route) in routes.iter().enumerate() {
        check_route(route)?;
        let before = routes.get(..done).unwrap_or_default();
        if let Some(other) = before.iter().find(|other| excludes(other, route)) {
            return Err(RouteError::Together { gsi: route.gsi(), one: other.to_string(), other: route.to_string() });
        }
    }
    Ok(())
}

fn check_route(route: &Route) -> Result<(), RouteError> {
    if route.gsi() >= GSIS {
        return Err(RouteError::Gsi { gsi: route.gsi() });
    }
    match *route {
        Route::IoApic { pin, .. } if pin >= IOAPIC_PINS => Err(RouteError::Pin { pin }),
        Route::Pic { input, .. } if input >= PIC_INPUTS => Err(RouteError::Input { input }),
        Route::Msi { address, .. } if address & MESSAGE_MASK != MESSAGE_BASE => Err(RouteError::Address { address }),
        Route::Msi { data, .. } if data & !MESSAGE_DATA != 0 => Err(RouteError::Data { data }),
        Route::Msi { data, .. } if DELIVERS_VECTOR.contains(&(data >> 8 & 7)) && data & 0xff < FIRST_VECTOR => {
            Err(RouteError::Vector { vector: data & 0xff })
        }
        _ => Ok(()),
    }
}

/// Whether KVM takes only one of the two for one gsi: a message stands alone, and a controller has it once; the two
/// 8259s are two controllers.
fn excludes(one: &Route, other: &Route) -> bool {
    match (one, other) {
        (Route::Msi { .. }, _) | (_, Route::Msi { .. }) | (Route::IoApic { .. }, Route::IoApic { .. }) => true,
        (Route::Pic { input, .. }, Route::Pic { input: second, .. }) => input / 8 == second / 8,
        _ => false,
    }
}

/// The table that KVM starts with: gsi n leads to I/O APIC pin n and, below 16, to 8259 input n.
#[must_use]
pub fn default_routes() -> Vec<Route> {
    let pins = (0..IOAPIC_PINS).map(|gsi| Route::IoApic { gsi, pin: gsi });
    let inputs = (0..PIC_INPUTS).map(|gsi| Route::Pic { gsi, input: gsi });
    pins.chain(inputs).collect()
}

#[cfg(any(test, fuzzing))]
#[path = "irq/mod_fuzz.rs"]
pub mod fuzz;
#[cfg(test)]
#[path = "irq_test.rs"]
mod tests;
