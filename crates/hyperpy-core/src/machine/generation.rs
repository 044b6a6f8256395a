//! A machine whose operating system was told where its generation's identifier is: a new one for a copy (`boot/generation.rs`).

use std::sync::atomic::Ordering;

use super::Machine;
use crate::arch::x86_64::layout::GENERATION_GSI;
use crate::boot::generation;
use crate::error::RunError;

impl Machine {
    /// The operating system that was loaded knows of the identifier.
    pub fn tells_generation(&self) {
        self.has_generation.store(true, Ordering::SeqCst);
    }

    /// Gives the machine an identifier that none has had, and tells its operating system. Nothing happens on a machine without one.
    ///
    /// # Errors
    /// Its memory is no longer there, or the state does not allow it.
    pub fn renew_generation(&self, id: u128) -> Result<(), RunError> {
        self.check("renew its generation")?;
        if self.has_generation.load(Ordering::SeqCst) {
            generation::set(&self.memory, id)?;
            self.line(GENERATION_GSI)?.pulse();
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "generation_test.rs"]
mod tests;
