//! What hyperpy's hot path costs: dispatch alone, exits against a C floor, allocations, system calls.
//!
//! The binary `hyperpy-bench` measures and prints; `run.py` beside it puts every figure into one table. Figures are
//! taken in turn, A and B, in one process on one processor: these machines are shared, and only ratios hold.

pub mod alloc;
pub mod create;
pub mod declared;
pub mod dispatch;
pub mod exits;
pub mod floor;
pub mod fuzz;
pub mod restore;
pub mod snapshot_file;
pub mod state;

use std::error::Error;

use hyperpy_core::control::Host;
use hyperpy_core::error::RunError;

/// Exits that a traced machine keeps, here as in the documentation.
pub const TRACE: u32 = 256;

/// What a measurement can fail with: whatever stopped it, to be printed.
pub type Failure = Box<dyn Error>;

/// A host without Python; every measurement has one vCPU, on the caller's thread.
#[derive(Debug)]
pub struct Alone;

impl Host for Alone {
    fn poll(&self) -> bool {
        false
    }
    fn spawn(&self, vcpu: u32) -> Result<(), RunError> {
        Err(RunError::NoVcpu { vcpu })
    }
}

/// Nanoseconds of processor time that `f` takes on this thread, in the kernel and the guest too. Nothing that is
/// measured here sleeps, so on an idle machine this is the wall time; on a busy one it leaves out the others' share.
///
/// # Errors
/// Those of `f`.
pub fn timed(f: impl FnOnce() -> Result<(), Failure>) -> Result<f64, Failure> {
    let began = thread_seconds();
    f()?;
    Ok((thread_seconds() - began) * 1e9)
}

fn thread_seconds() -> f64 {
    // SAFETY: a zeroed timespec is valid, and the call writes it; this clock is always there.
    let time = unsafe {
        let mut time: libc::timespec = std::mem::zeroed();
        libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time);
        time
    };
    #[allow(clippy::cast_precision_loss)] // seconds and nanoseconds of a short program
    let seconds = time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9;
    seconds
}

/// Keeps this thread on the processor that it is on, so that two loops are compared on the same one.
///
/// # Errors
/// The host refuses.
pub fn pin() -> Result<(), Failure> {
    // SAFETY: a zeroed cpu_set_t is an empty set, CPU_SET writes within it, and the call only reads it.
    let result = unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(usize::try_from(libc::sched_getcpu())?, &mut set);
        libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set)
    };
    if result == 0 { Ok(()) } else { Err(std::io::Error::last_os_error().into()) }
}
