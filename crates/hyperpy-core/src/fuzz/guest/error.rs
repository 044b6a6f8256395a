//! Why a guest cannot be fuzzed as it was asked for.

use thiserror::Error;

use crate::error::{MemoryError, RunError};
use crate::snapshot::SnapshotError;

/// A guest cannot be fuzzed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum GuestError {
    /// The machine cannot run.
    #[error(transparent)]
    Run(#[from] RunError),
    /// It cannot be put back.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// There is no such memory.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// An address of code where no memory is.
    #[error("no memory behind the code at {gva:#x}")]
    NoCode {
        /// Its linear address.
        gva: u64,
    },
    /// An input is to go where no memory is.
    #[error("no memory for an input of {len} bytes at {at:#x}")]
    NoPlace {
        /// Its address.
        at: u64,
        /// Its length.
        len: u64,
    },
    /// The input is longer than one can be.
    #[error("input is too long: {len}")]
    TooLong {
        /// Its length.
        len: u64,
    },
    /// A window is too small or too large, or is not of whole pages.
    #[error("window of counters at {gpa:#x} does not fit: {len:#x} bytes")]
    Window {
        /// Its address.
        gpa: u64,
        /// Its length.
        len: u64,
    },
    /// KVM does not know the instruction by which the guest is to be stopped.
    #[error("this kvm hands no int3 of this guest over: at {rip:#x}")]
    NoBreakpoints {
        /// Where.
        rip: u64,
    },
    /// Instructions of more than one vCPU are not counted.
    #[error("steps are of one vcpu, and this machine has {vcpus}")]
    ManyVcpus {
        /// How many it has.
        vcpus: u32,
    },
}

impl GuestError {
    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Run(error) => error.hint(),
            Self::Snapshot(error) => error.hint(),
            Self::Memory(_) => "look at `m.map` for what is where",
            Self::NoCode { .. } => "addresses are linear ones, by the page tables that the guest has in the base",
            Self::NoPlace { .. } => {
                "look at `m.map` for what is where; `gva=` goes by the guest's page tables in the base"
            }
            Self::TooLong { .. } => "all that takes of an input may come to 65536 bytes",
            Self::Window { .. } => "whole pages of 4 KiB, at least one and at most 16 MiB",
            Self::NoBreakpoints { .. } => {
                "HLT stops kernel-mode code of a machine without interrupt controllers; else cover by a window or by steps, and end inputs by a write to a port that nobody claims"
            }
            Self::ManyVcpus { .. } => "use breakpoints or a window, and limit(ms=...)",
        }
    }
}
