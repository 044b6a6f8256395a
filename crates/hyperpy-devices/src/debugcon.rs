//! The debug console of Bochs and QEMU (isa-debugcon): a byte written to the port goes to a [`Console`], and a read
//! gives 0xe9, by which a guest sees that the port is there.

use std::sync::Arc;

use hyperpy_core::bus::{Access, Action, Device};
use hyperpy_core::snapshot::{Saved, State, StateFault, Stateless, check};

use crate::console::Console;
use crate::{OPEN_BUS, read_bytes, write_bytes};

/// What a read gives.
const PRESENT: u8 = 0xe9;

/// The port.
#[derive(Debug)]
pub struct DebugConsole {
    console: Arc<Console>,
}

impl DebugConsole {
    /// A port that writes to the console.
    #[must_use]
    pub fn new(console: Arc<Console>) -> Self {
        Self { console }
    }
}

impl Device for DebugConsole {
    fn read(&self, at: Access) -> u64 {
        read_bytes(at, |offset| if offset == 0 { PRESENT } else { OPEN_BUS })
    }

    fn write(&self, at: Access, value: u64) -> Action {
        write_bytes(at, value, |offset, byte| {
            if offset == 0 {
                self.console.write(&[byte]);
            }
            Action::Continue
        })
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
#[path = "debugcon_test.rs"]
mod tests;
