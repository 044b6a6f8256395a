//! The accelerator's side of memory: the slots that regions have there, and whether what is written is logged. Its lock is the one
//! under which layout and slots change.

use std::sync::{Arc, Weak};

use crate::accel::Vm;
use crate::error::MemoryError;

/// The accelerator's side: slots, and whether it logs writes.
#[derive(Debug)]
pub(super) struct Link {
    /// Weak: a script may hold its memory for longer than the machine.
    pub(super) vm: Option<Weak<dyn Vm>>,
    pub(super) most: u32,
    pub(super) next: u32,
    pub(super) free: Vec<u32>,
    /// The user wants to know which pages are written.
    pub(super) tracking: bool,
    /// There has been an image, which written pages are put back to.
    pub(super) keeping: bool,
}

impl Default for Link {
    fn default() -> Self {
        Self { vm: None, most: u32::MAX, next: 0, free: Vec::new(), tracking: false, keeping: false }
    }
}

impl Link {
    /// Whether the accelerator logs what the guest writes.
    pub(super) fn logs(&self) -> bool {
        self.tracking || self.keeping
    }

    pub(super) fn vm(&self) -> Option<Arc<dyn Vm>> {
        self.vm.as_ref().and_then(Weak::upgrade)
    }

    pub(super) fn take_slot(&mut self, gpa: u64, len: u64) -> Result<u32, MemoryError> {
        if let Some(id) = self.free.pop() {
            return Ok(id);
        }
        if self.next >= self.most {
            return Err(MemoryError::TooManySlots { gpa, len, most: self.most });
        }
        self.next += 1;
        Ok(self.next - 1)
    }
}
