//! What a bus asks of a device: accesses, writes that may wait, a state, names.

use std::sync::{Arc, Mutex, PoisonError};

use super::{Shortcuts, Spot};
use crate::exit::StopReason;
use crate::names::Names;
use crate::snapshot::{Saved, State, StateFault};

/// One access of a guest to a device: where, how wide, by whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    /// Bytes from the start of the device's region.
    pub offset: u64,
    /// Width in bytes, 1 to 8. Any width in between can occur: an access across a page comes in two parts.
    pub size: u8,
    /// The vCPU that made the access.
    pub vcpu: u32,
}

impl Access {
    /// All ones of this access's width: what a bus reads where nothing drives it.
    #[must_use]
    pub fn ones(self) -> u64 {
        ones(self.size)
    }
}

/// All ones of a width in bytes; widths above 8 count as 8.
#[must_use]
pub fn ones(size: u8) -> u64 {
    match size {
        0 => 0,
        1..=7 => (1 << (8 * u32::from(size))) - 1,
        _ => u64::MAX,
    }
}

/// What a device asks for after a write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// The guest runs on.
    Continue,
    /// Every vCPU stops and `run()` returns with this reason.
    Stop(StopReason),
    /// The guest asked for a reset of the machine.
    Reset,
}

/// Something that answers accesses at a range of a bus.
///
/// `&self`, because two vCPUs may be in one device at once, and because no lock of hyperpy's is held while a device
/// runs. A device that wants exclusive state is wrapped: see [`Exclusive`].
/// Values are little-endian integers of `size` bytes in the low bits of a `u64`; what a read returns beyond them is cut.
pub trait Device: Send + Sync {
    /// Answers a read.
    fn read(&self, at: Access) -> u64;
    /// Takes a write.
    fn write(&self, at: Access, value: u64) -> Action;
    /// Serves a read if that calls nobody's method: asked first of a device on [`Rung::Declared`], and of no other.
    fn quick_read(&self, at: Access) -> Option<u64> {
        let _ = at;
        None
    }
    /// Serves a write if that calls nobody's method, and says whether it did: as [`Self::quick_read`].
    fn quick_write(&self, at: Access, value: u64) -> bool {
        let _ = (at, value);
        false
    }
    /// Which writes need not be served one by one. Asked when it is attached.
    fn shortcuts(&self) -> Shortcuts {
        Shortcuts::default()
    }
    /// Takes a write that waited in the kernel's ring: at once, or it keeps it for [`Self::flush`]. It must wait for nobody.
    fn defer(&self, at: Access, value: u64) -> Action {
        self.write(at, value)
    }
    /// Takes a write that is a doorbell and was made so many times, which are told as one.
    fn rung(&self, at: Access, value: u64, times: u64) -> Action {
        let _ = times;
        self.write(at, value)
    }
    /// Whether it keeps writes that were made before, or is being told of them.
    fn has_late(&self) -> bool {
        false
    }
    /// Serves up to so many of the writes that it keeps, in order, before anything else of it is called: `spot` says where its
    /// range is that has an offset, `asked` gets what they ask for.
    fn flush(&self, most: usize, spot: &dyn Fn(u64) -> Spot, asked: &dyn Fn(u32, Action)) {
        let _ = (most, spot, asked);
    }
    /// Where in the range of which device this begins: one that keeps writes may be attached window by window, by several values
    /// of this type, and its offsets are those of all of its range.
    fn origin(&self) -> (usize, u64) {
        (std::ptr::from_ref(self).addr(), 0)
    }
    /// Returns to the power-on state.
    fn reset(&self) {}
    /// What a snapshot keeps of it, while no vCPU is in it and nothing waits for it.
    ///
    /// # Errors
    /// It cannot be saved.
    fn save(&self) -> Result<State, StateFault> {
        Err(StateFault::NotSaved)
    }
    /// Whether [`Self::load`] would take a state of another machine's device, as far as that can be told before; changes nothing.
    ///
    /// # Errors
    /// It does not fit.
    fn check(&self, state: &dyn Saved) -> Result<(), StateFault> {
        let _ = state;
        Ok(())
    }
    /// Puts back what [`Self::save`] gave, or the same as plain data; all of it, or nothing of what does not fit.
    ///
    /// # Errors
    /// It does not fit.
    fn load(&self, state: &dyn Saved) -> Result<(), StateFault> {
        let _ = state;
        Err(StateFault::NotSaved)
    }
    /// The same number for what is one device to its owner, though it is attached at several places by several values
    /// of this type; `None`: this value is the device.
    fn identity(&self) -> Option<usize> {
        None
    }
    /// What its registers are called.
    fn names(&self) -> Option<Arc<dyn Names>> {
        None
    }
}

/// The same as [`Device`] for state that one vCPU at a time may touch.
pub trait DeviceMut: Send {
    /// Answers a read.
    fn read(&mut self, at: Access) -> u64;
    /// Takes a write.
    fn write(&mut self, at: Access, value: u64) -> Action;
    /// Returns to the power-on state.
    fn reset(&mut self) {}
    /// As [`Device::save`].
    ///
    /// # Errors
    /// It cannot be saved.
    fn save(&self) -> Result<State, StateFault> {
        Err(StateFault::NotSaved)
    }
    /// As [`Device::check`].
    ///
    /// # Errors
    /// It does not fit.
    fn check(&self, state: &dyn Saved) -> Result<(), StateFault> {
        let _ = state;
        Ok(())
    }
    /// As [`Device::load`].
    ///
    /// # Errors
    /// It does not fit.
    fn load(&mut self, state: &dyn Saved) -> Result<(), StateFault> {
        let _ = state;
        Err(StateFault::NotSaved)
    }
    /// What its registers are called.
    fn names(&self) -> Option<Arc<dyn Names>> {
        None
    }
}

/// Serves a [`DeviceMut`] as a [`Device`] behind a mutex.
///
/// A panic inside the device poisons nothing that others need: the next access finds the state as it was left.
#[derive(Debug)]
pub struct Exclusive<D>(Mutex<D>);

impl<D> Exclusive<D> {
    /// Wraps a device.
    pub fn new(device: D) -> Self {
        Self(Mutex::new(device))
    }

    /// Runs `f` on the device while no vCPU is in it.
    pub fn with<T>(&self, f: impl FnOnce(&mut D) -> T) -> T {
        f(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl<D: DeviceMut> Device for Exclusive<D> {
    fn read(&self, at: Access) -> u64 {
        self.with(|device| device.read(at))
    }
    fn write(&self, at: Access, value: u64) -> Action {
        self.with(|device| device.write(at, value))
    }
    fn reset(&self) {
        self.with(DeviceMut::reset);
    }
    fn save(&self) -> Result<State, StateFault> {
        self.with(|device| device.save())
    }
    fn check(&self, state: &dyn Saved) -> Result<(), StateFault> {
        self.with(|device| device.check(state))
    }
    fn load(&self, state: &dyn Saved) -> Result<(), StateFault> {
        self.with(|device| device.load(state))
    }
    fn names(&self) -> Option<Arc<dyn Names>> {
        self.with(|device| device.names())
    }
}
