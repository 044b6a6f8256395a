//! The debug-exit port of test kernels, as QEMU's isa-debug-exit: a write of any width ends the machine with the
//! status `value << 1 | 1`, reads give 0.
//!
//! Unlike the crate's other devices it takes a wide write whole. The status has 32 bits and loses the value's top one;
//! a process that ends with it shows the low 8 bits.

use std::sync::Arc;

use hyperpy_core::bus::{Access, Action, Device, ones};
use hyperpy_core::exit::StopReason;
use hyperpy_core::snapshot::{Saved, State, StateFault, Stateless, check};

/// Ports that the device takes, so that a 32-bit write is its own.
pub const PORTS: u64 = 4;

/// The port. It has no state.
#[derive(Clone, Copy, Debug, Default)]
pub struct DebugExit;

impl Device for DebugExit {
    fn read(&self, _at: Access) -> u64 {
        0
    }

    fn write(&self, at: Access, value: u64) -> Action {
        let value = (value & ones(at.size)) as u32;
        Action::Stop(StopReason::DebugExit { status: value << 1 | 1 })
    }

    fn save(&self) -> Result<State, StateFault> {
        Ok(Arc::new(Stateless))
    }

    fn check(&self, state: &dyn Saved) -> Result<(), StateFault> {
        check::<Stateless>(state)
    }

    fn load(&self, state: &dyn Saved) -> Result<(), StateFault> {
        self.check(state)
    }
}

#[cfg(test)]
#[path = "debugexit_test.rs"]
mod tests;
