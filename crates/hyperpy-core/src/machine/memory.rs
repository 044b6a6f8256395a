//! Verbs on the memory of a machine that concern more than the memory: devices that lie there, and vCPUs that run.

use std::sync::PoisonError;

use super::Machine;
use crate::arch::x86_64::layout::{FIRMWARE_END, FIRMWARE_MOST, kernels_at};
use crate::boot::{Entry, firmware};
use crate::bus::{Region, Space};
use crate::error::{BootError, MemoryError, RunError};
use crate::memory::{Kind, Memory, Pages, Written};

impl Machine {
    /// Adds a region of memory, in any state but closed.
    ///
    /// # Errors
    /// As for [`Memory::add`](crate::memory::Memory::add); or a device lies there, or something of the kernel's.
    pub fn add_memory(&self, gpa: u64, len: u64, kind: Kind, name: &str, pages: Pages) -> Result<(), RunError> {
        self.check_memory("add memory")?;
        let _placing = self.placing.lock().unwrap_or_else(PoisonError::into_inner);
        if kind != Kind::Mmio {
            Memory::check(gpa, len, kind, pages)?;
            self.refuse_taken(gpa, len)?;
        }
        Ok(self.memory.add_in(gpa, len, kind, name, pages)?)
    }

    /// Adds a second place for memory.
    ///
    /// # Errors
    /// As for [`Memory::alias`](crate::memory::Memory::alias); or a device lies there, or something of the kernel's.
    pub fn alias_memory(&self, gpa: u64, of: u64, len: u64, name: &str) -> Result<(), RunError> {
        self.check_memory("add memory")?;
        let _placing = self.placing.lock().unwrap_or_else(PoisonError::into_inner);
        self.refuse_taken(gpa, len)?;
        Ok(self.memory.alias(gpa, of, len, name)?)
    }

    /// Puts a firmware image into memory.
    ///
    /// # Errors
    /// As for [`firmware::firmware`]; or a device lies where it must go. Memory is then unchanged.
    pub fn load_firmware(&self, image: &[u8]) -> Result<Entry, BootError> {
        let _placing = self.placing.lock().unwrap_or_else(PoisonError::into_inner);
        let len = image.len() as u64;
        if let Some(gpa) = FIRMWARE_END.checked_sub(len).filter(|_| (1..=FIRMWARE_MOST).contains(&len)) {
            self.refuse_taken(gpa, len)?;
        }
        firmware::firmware(&self.memory, image)
    }

    /// Takes the region that begins at `gpa` away, in any state.
    ///
    /// # Errors
    /// As for [`Memory::remove`](crate::memory::Memory::remove).
    pub fn remove_memory(&self, gpa: u64) -> Result<(), RunError> {
        self.check_memory("remove memory")?;
        Ok(self.memory.remove(gpa)?)
    }

    /// Makes the region that begins at `gpa` read-only for the guest, or writable. While the machine runs, every vCPU
    /// leaves the guest for as long as it takes.
    ///
    /// # Errors
    /// There is no memory, this is inside a device or on a thread that runs the machine, or a vCPU does not come out of a
    /// device.
    pub fn protect_memory(&self, gpa: u64, writable: bool) -> Result<(), RunError> {
        let verb = "protect memory";
        self.check(verb)?;
        let _held = self.control.hold().ok_or(MemoryError::Busy { verb })?;
        Ok(self.memory.protect(gpa, writable)?)
    }

    /// Begins or ends the tracking of written pages; whether it was on before.
    ///
    /// # Errors
    /// As for [`Memory::track`](crate::memory::Memory::track).
    pub fn track_memory(&self, on: bool) -> Result<bool, RunError> {
        self.check_memory("track dirty pages")?;
        Ok(self.memory.track(on)?)
    }

    /// The pages written since the last call that cleared.
    ///
    /// # Errors
    /// As for [`Memory::dirty`](crate::memory::Memory::dirty).
    pub fn dirty_memory(&self, clear: bool) -> Result<Vec<Written>, RunError> {
        self.check_memory("ask for dirty pages")?;
        Ok(self.memory.dirty(clear)?)
    }

    /// The slots of a VM belong to the process that made it (KVM answers EIO to another).
    fn check_memory(&self, verb: &'static str) -> Result<(), RunError> {
        if self.is_forked() { Err(RunError::Forked { verb }) } else { Ok(()) }
    }

    /// Refuses memory where a device lies, or what the kernel has for itself.
    fn refuse_taken(&self, gpa: u64, len: u64) -> Result<(), MemoryError> {
        if let Some(own) = kernels_at(Space::Mmio, gpa, len, self.config().irqchip) {
            return Err(MemoryError::Kernel { gpa, len, other: own.base, name: own.name });
        }
        let last = gpa.saturating_add(len.saturating_sub(1));
        let over = |region: &&Region| region.base <= last && gpa <= region.base + (region.len - 1);
        match self.mmio.map().regions().iter().find(over) {
            Some(device) => Err(MemoryError::Device { gpa, len, other: device.base, name: device.name.to_string() }),
            None => Ok(()),
        }
    }
}
