//! x86-64 as a guest sees it: register files, CPUID, and the fixed places of the PC platform.
//!
//! Names follow the Intel SDM, volume 3. Nothing here touches KVM: `kvm` converts these types to and from its own.

pub mod cpuid;
pub mod disassemble;
pub mod fpu;
pub mod layout;
pub mod msrs;
pub mod paging;
mod regs;
pub mod valid;

pub use regs::{DescriptorTable, Regs, Segment, Sregs};

#[cfg(any(test, fuzzing))]
#[path = "mod_fuzz.rs"]
pub mod fuzz;
