//! One device without a machine: accesses to it as a vCPU's dispatch makes them, for tests of devices.
//!
//! There is no bus: an access is an offset in the device's range, and who makes it keeps to that range. The thread that
//! calls is the vCPU, number 0; its time is a manual clock. A panic of a device becomes an error that names it, as in a
//! run.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};

use crate::bus::{Access, Action, Device, Space, Spot, ones};
use crate::clock::{Clock, Kept};
use crate::error::RunError;
use crate::run::panicked;
use crate::snapshot::{State, StateFault};
use crate::vcpu::{Current, alone};

/// An access to be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Play {
    /// Bytes from the start of the device's range.
    pub offset: u64,
    /// Width in bytes, 1 to 8.
    pub size: u8,
    /// What is written; `None` for a read.
    pub written: Option<u64>,
}

/// What an access gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// A read's value.
    Value(u64),
    /// What a write asks for.
    Asked(Action),
}

/// What a device and its time were.
pub struct BenchState {
    /// The device's.
    pub state: State,
    /// The clock's.
    pub kept: Kept,
}

/// A device, and what it sees of the world.
pub struct Bench {
    device: Arc<dyn Device>,
    name: Arc<str>,
    size: u64,
    clock: Arc<Clock>,
    /// It keeps writes for later, where a guest runs: here each is served at once.
    keeps: bool,
}

impl Bench {
    /// For a device with a range of `size` bytes. Whether it counts this clock is up to who made it.
    #[must_use]
    pub fn new(device: Arc<dyn Device>, name: &str, size: u64, clock: Arc<Clock>) -> Self {
        let keeps = device.shortcuts().late;
        Self { device, name: name.into(), size, clock, keeps }
    }

    /// The same bench with another device, made of the one that is on it.
    #[must_use]
    pub fn with<D: Device + 'static>(&self, other: impl FnOnce(&Arc<dyn Device>) -> Arc<D>) -> Self {
        let device = other(&self.device);
        Self { device, name: self.name.clone(), size: self.size, clock: self.clock.clone(), keeps: self.keeps }
    }

    /// Whether a guest could make such an access: 1 to 8 bytes, in the range.
    #[must_use]
    pub fn holds(&self, offset: u64, size: u8) -> bool {
        (1..=8).contains(&size) && self.size.checked_sub(size.into()).is_some_and(|last| offset <= last)
    }

    /// Bytes of the device's range.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// What the device is called.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The bench's time.
    #[must_use]
    pub fn clock(&self) -> &Arc<Clock> {
        &self.clock
    }

    /// Makes an access if no device's code runs for it: nothing can go wrong then.
    #[inline]
    #[must_use]
    pub fn quick(&self, play: Play) -> Option<Answer> {
        let at = Access { offset: play.offset, size: play.size, vcpu: 0 };
        match play.written {
            None => self.device.quick_read(at).map(|value| Answer::Value(value & at.ones())),
            Some(_) if self.keeps => None,
            Some(value) => self.device.quick_write(at, value & at.ones()).then_some(Answer::Asked(Action::Continue)),
        }
    }

    /// Makes an access.
    ///
    /// # Errors
    /// The device panicked.
    pub fn play(&self, play: Play) -> Result<Answer, RunError> {
        self.quick(play).map_or_else(|| self.call(play), Ok)
    }

    /// Makes an access that [`Self::quick`] did not.
    ///
    /// # Errors
    /// The device panicked.
    pub fn call(&self, Play { offset, size, written }: Play) -> Result<Answer, RunError> {
        let at = Access { offset, size, vcpu: 0 };
        let current = Current {
            machine: Current::NO_MACHINE,
            vcpu: at.vcpu,
            rip: 0,
            space: Some(Space::Mmio),
            address: at.offset,
            size: at.size,
            is_write: written.is_some(),
        };
        let answer = || match written {
            None => Answer::Value(self.device.read(at) & at.ones()),
            Some(value) => Answer::Asked(self.device.write(at, value & ones(at.size))),
        };
        self.guarded(|| alone(current, answer))
    }

    /// Makes a write of which the device's methods are told later, by [`Self::tell`]; false: it is a device that keeps none,
    /// and nothing is done.
    #[must_use]
    pub fn defer(&self, Play { offset, size, written }: Play) -> bool {
        if self.keeps {
            let at = Access { offset, size, vcpu: 0 };
            self.device.defer(at, written.unwrap_or_default() & at.ones());
        }
        self.keeps
    }

    /// Tells the device of the first write that it keeps; what that asks for.
    ///
    /// # Errors
    /// The device panicked.
    pub fn tell(&self) -> Result<Action, RunError> {
        let asked = Mutex::new(Action::Continue);
        let spot = |_| Spot { machine: Current::NO_MACHINE, space: Space::Mmio, base: 0 };
        let note = |_, action| *asked.lock().unwrap_or_else(PoisonError::into_inner) = action;
        self.guarded(|| self.device.flush(1, &spot, &note))?;
        Ok(asked.into_inner().unwrap_or_else(PoisonError::into_inner))
    }

    /// The machine's reset as this device sees it: its power-on state, and time from 0.
    ///
    /// # Errors
    /// The device panicked.
    pub fn reset(&self) -> Result<(), RunError> {
        self.clock.reset();
        self.guarded(|| self.device.reset())
    }

    /// What the device and the time are now.
    ///
    /// # Errors
    /// The device panicked, or cannot be saved.
    pub fn save(&self) -> Result<Result<BenchState, StateFault>, RunError> {
        let state = self.guarded(|| self.device.save())?;
        Ok(state.map(|state| BenchState { state, kept: self.clock.save() }))
    }

    /// Puts the device back, whose clock has been.
    ///
    /// # Errors
    /// The device panicked, or the state does not fit.
    pub fn load(&self, state: &BenchState) -> Result<Result<(), StateFault>, RunError> {
        self.guarded(|| self.device.load(&*state.state))
    }

    /// Runs something in which the device may panic.
    pub(crate) fn guarded<T>(&self, f: impl FnOnce() -> T) -> Result<T, RunError> {
        catch_unwind(AssertUnwindSafe(f)).map_err(|panic| panicked(Some(self.name.clone()), panic.as_ref()))
    }
}

#[cfg(test)]
#[path = "bench_test.rs"]
mod tests;
