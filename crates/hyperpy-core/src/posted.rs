//! Writes that cost no exit: the kernel queues them in a ring, and they are served at the next exit of any vCPU, before
//! that exit, or at its next tick (rung 1 of the ladder; kernel api.rst 4.116, KVM_REGISTER_COALESCED_MMIO).
//!
//! A device in Python keeps them until the ring is free again, since its methods may take any time. Only for what nobody waits for: a device that must answer a write at once may not post it. Where the kernel has no
//! ring, and when it is full, such a write is an exit as any other. Here is which addresses are posted; the ring is the
//! accelerator's.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use crate::accel::{AccelExit, Vm};
use crate::bus::{Access, Action, Bus, Rung, Space};
use crate::machine::Machine;
use crate::vcpu::Shared;

/// Addresses whose writes are posted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// The bus.
    pub space: Space,
    /// First address.
    pub base: u64,
    /// Length in bytes.
    pub len: u32,
}

/// A write that waited in the ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Posted {
    /// The bus.
    pub space: Space,
    /// Address.
    pub address: u64,
    /// Width in bytes, 1 to 8.
    pub size: u8,
    /// What was written.
    pub value: u64,
}

impl Posted {
    /// The exit that it would have been.
    pub(crate) fn as_exit(&self) -> AccelExit {
        let Self { space, address, size, .. } = *self;
        match space {
            Space::Pio => {
                AccelExit::Pio { port: u16::try_from(address).unwrap_or(u16::MAX), size, count: 1, is_write: true }
            }
            Space::Mmio => AccelExit::Mmio { gpa: address, size, is_write: true },
        }
    }
}

/// Which writes of a machine are posted. Devices may say so before KVM's objects exist.
#[derive(Default)]
pub struct Posts {
    state: Mutex<State>,
    /// Writes of the ring that were served on a thread that has no counters.
    served: AtomicU64,
}

#[derive(Default)]
struct State {
    /// Weak: a device that outlives its machine keeps no KVM descriptor open.
    vm: Option<Weak<dyn Vm>>,
    ranges: Vec<Range>,
}

impl Posts {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Posts the writes to a range from now on, or no longer. What is in the ring then is served before what comes later.
    pub fn set(&self, range: Range, on: bool) {
        let mut state = self.state();
        if state.ranges.contains(&range) == on {
            return;
        }
        if on {
            state.ranges.push(range);
        } else {
            state.ranges.retain(|other| *other != range);
        }
        if let Some(vm) = state.vm.as_ref().and_then(Weak::upgrade) {
            // Refused, the writes are exits.
            let _ = vm.post(range, on);
        }
    }

    /// The ranges that are posted now.
    #[must_use]
    pub fn ranges(&self) -> Vec<Range> {
        self.state().ranges.clone()
    }

    /// Nothing that shares an address with this is posted any longer: its device goes. What was, and what is in the ring of
    /// it is all that ever will be.
    pub(crate) fn forget(&self, space: Space, base: u64, len: u64) -> Vec<Range> {
        let last = base.saturating_add(len.saturating_sub(1));
        let shares = |range: &Range| {
            let end = range.base.saturating_add(range.len.saturating_sub(1).into());
            range.space == space && range.base <= last && base <= end
        };
        let gone: Vec<_> = self.ranges().into_iter().filter(shares).collect();
        gone.iter().for_each(|range| self.set(*range, false));
        gone
    }

    /// Takes the writes out of the ring.
    fn take(&self, serve: &mut dyn FnMut(&Posted)) {
        let vm = self.state().vm.as_ref().and_then(Weak::upgrade);
        if let Some(vm) = vm {
            vm.take_posted(serve);
        }
    }

    /// Writes of the ring that no vCPU has counted.
    pub(crate) fn uncounted(&self) -> u64 {
        self.served.swap(0, Ordering::Relaxed)
    }

    /// The VM exists from now on.
    pub(crate) fn connect(&self, vm: &Arc<dyn Vm>) {
        let mut state = self.state();
        for range in &state.ranges {
            let _ = vm.post(*range, true);
        }
        state.vm = Some(Arc::downgrade(vm));
    }

    /// There is no VM until the next [`Self::connect`].
    pub(crate) fn reset(&self) {
        self.state().vm = None;
    }
}

impl std::fmt::Debug for Posts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Posts").field(&self.ranges()).finish()
    }
}

/// Serves one write from the ring on behalf of the vCPU that found it there, which need not be the one that made it.
pub(crate) fn serve(machine: &Machine, shared: &Shared, vcpu: u32, write: &Posted) {
    shared.presence.enter();
    let rung = defer(machine, vcpu, write);
    shared.presence.leave();
    shared.counters.hit(rung);
}

/// Serves what is in the ring on a thread that need not drive a vCPU. Whoever takes a device off its bus empties the ring before,
/// and so waits for this.
pub(crate) fn serve_ring(machine: &Machine) {
    machine.posts.take(&mut |write| {
        if defer(machine, 0, write) == Rung::Kernel {
            machine.posts.served.fetch_add(1, Ordering::Relaxed);
        }
    });
}

/// Hands a write to its device; who that is. One of nobody is dropped.
fn defer(machine: &Machine, vcpu: u32, write: &Posted) -> Rung {
    let Posted { space, address, size, value } = *write;
    let bus: &Bus = if space == Space::Pio { &machine.pio } else { &machine.mmio };
    let map = bus.map();
    let Some(region) = map.region_at(address, size) else { return Rung::Unclaimed };
    let action = region.device.defer(Access { offset: address - region.base, size, vcpu }, value);
    if action != Action::Continue {
        machine.control.device_asks(vcpu, action);
    }
    Rung::Kernel
}

#[cfg(test)]
#[path = "posted_test.rs"]
mod tests;
