//! The C floor (`python/hyperpy/_floor.c`), called from the thread that runs hyperpy's loop.

use std::ffi::c_int;
use std::io;
use std::ptr::NonNull;

use hyperpy_core::arch::x86_64::{Regs, Sregs};

use crate::Failure;

/// `struct start` of _floor.h.
#[repr(C)]
struct Start {
    rip: u64,
    rsp: u64,
    cr0: u64,
    cr3: u64,
    cr4: u64,
    efer: u64,
    gdt_base: u64,
    gdt_limit: u16,
    code: u16,
    data: u16,
}

#[repr(C)]
struct Raw {
    _private: [u8; 0],
}

// SAFETY: the three functions have these signatures in _floor.h, which build.rs compiles into this crate.
unsafe extern "C" {
    fn floor_open(image: *const u8, len: usize, start: *const Start) -> *mut Raw;
    fn floor_run(floor: *mut Raw, exits: u64) -> c_int;
    fn floor_close(floor: *mut Raw);
}

/// A guest that the C loop runs.
#[derive(Debug)]
pub struct Floor(NonNull<Raw>);

impl Floor {
    /// A guest with a copy of `image` as its memory, from the same registers as hyperpy's.
    ///
    /// # Errors
    /// KVM refuses something.
    pub fn open(image: &[u8], regs: &Regs, sregs: &Sregs) -> Result<Self, Failure> {
        let start = Start {
            rip: regs.rip,
            rsp: regs.rsp,
            cr0: sregs.cr0,
            cr3: sregs.cr3,
            cr4: sregs.cr4,
            efer: sregs.efer,
            gdt_base: sregs.gdt.base,
            gdt_limit: sregs.gdt.limit,
            code: sregs.cs.selector,
            data: sregs.ds.selector,
        };
        // SAFETY: `image` and `start` are valid for reads for the call, and only read.
        let raw = unsafe { floor_open(image.as_ptr(), image.len(), &raw const start) };
        Ok(Self(NonNull::new(raw).ok_or_else(io::Error::last_os_error)?))
    }

    /// Answers `exits` accesses.
    ///
    /// # Errors
    /// The guest made another exit, or KVM_RUN failed.
    pub fn run(&mut self, exits: u64) -> Result<(), Failure> {
        // SAFETY: the pointer came from floor_open and is closed only in drop; `&mut` keeps other calls out.
        match unsafe { floor_run(self.0.as_ptr(), exits) } {
            0 => Ok(()),
            reason @ 1.. => Err(format!("the floor's guest made an exit of KVM's number {reason}").into()),
            _ => Err(io::Error::last_os_error().into()),
        }
    }
}

impl Drop for Floor {
    fn drop(&mut self) {
        // SAFETY: opened once, closed once, here.
        unsafe { floor_close(self.0.as_ptr()) }
    }
}
