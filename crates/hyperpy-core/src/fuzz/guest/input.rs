//! The bytes of an input that a guest does not find in memory but reads from a device, one answer after the other.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::bus::{Access, Action, Device};
use crate::snapshot::{Saved, State, StateFault, Stateless, check};

/// What of an input is for devices, and how much of it was taken. Several may have one in common.
#[derive(Debug, Default)]
pub struct FuzzInput(Mutex<Arc<Mutex<Held>>>);

#[derive(Debug, Default)]
struct Held {
    bytes: Vec<u8>,
    taken: usize,
}

impl FuzzInput {
    fn with<T>(&self, f: impl FnOnce(&mut Held) -> T) -> T {
        f(&mut lock(&lock(&self.0)))
    }

    /// Has the bytes of another one from now on.
    pub fn follow(&self, other: &Self) {
        let others = lock(&other.0).clone();
        *lock(&self.0) = others;
    }

    /// Begins an execution with these bytes.
    pub fn put(&self, bytes: &[u8]) {
        self.with(|held| {
            held.bytes.clear();
            held.bytes.extend_from_slice(bytes);
            held.taken = 0;
        });
    }

    /// The next bytes, as many as there are.
    pub fn take(&self, most: usize) -> Vec<u8> {
        self.with(|held| {
            let taken = held.bytes.get(held.taken..).unwrap_or_default();
            let taken = taken.get(..most).unwrap_or(taken).to_vec();
            held.taken += taken.len();
            taken
        })
    }

    /// The next `size` bytes as a little-endian number; those after the end are `after`.
    pub fn number(&self, size: u8, after: u8) -> u64 {
        self.with(|held| {
            let mut bytes = [0; 8];
            for byte in bytes.iter_mut().take(usize::from(size)) {
                *byte = held.bytes.get(held.taken).copied().unwrap_or(after);
                held.taken = (held.taken + 1).min(held.bytes.len());
            }
            u64::from_le_bytes(bytes)
        })
    }

    /// How many bytes are left.
    #[must_use]
    pub fn left(&self) -> usize {
        self.with(|held| held.bytes.len() - held.taken)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A device whose reads are answered from the input, each with as many bytes as it has. Writes are dropped.
#[derive(Debug)]
pub struct InputDevice {
    /// Where they come from.
    pub input: Arc<FuzzInput>,
    /// What a byte after the input's end is.
    pub after: u8,
}

impl Device for InputDevice {
    fn read(&self, at: Access) -> u64 {
        self.input.number(at.size, self.after)
    }
    fn write(&self, _: Access, _: u64) -> Action {
        Action::Continue
    }
    // How far the input was taken is not of the guest's past: every execution begins at its beginning.
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
#[path = "input_test.rs"]
mod tests;
