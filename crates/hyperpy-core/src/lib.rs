//! The hot half of hyperpy: what runs between two vCPU exits.
//!
//! Four nouns carry it: [`Machine`](machine::Machine), [`Memory`](memory::Memory), [`Vcpu`](vcpu::Vcpu) and
//! [`Device`](bus::Device). Around them: [`bus`] finds the device of an access, [`run`] drives a vCPU from exit
//! to exit, [`control`] starts and stops vCPUs together, [`irq`] carries interrupts, [`boot`] puts a kernel into
//! memory, [`arch`] names the processor's registers. [`accel`] is the seam below all of it: `kvm` is the one
//! module that knows KVM, [`scripted`] plays a list of exits back for tests that need none. [`bench`] tests one device, and
//! [`record`] keeps what happens to one; [`fuzz`] looks for a way to break one.
//!
//! What is not here: stock devices (crate `hyperpy-devices`) and anything that knows Python (crate `hyperpy-python`).

pub mod accel;
pub mod arch;
pub mod bells;
pub mod bench;
pub mod boot;
pub mod bus;
pub mod calls;
pub mod clock;
mod condvar;
pub mod control;
pub mod debug;
pub mod error;
pub mod exit;
pub mod fuzz;
pub mod irq;
pub mod kvm;
pub mod limits;
pub mod machine;
pub mod memory;
pub mod msr;
pub mod names;
pub mod posted;
pub mod record;
pub mod regfile;
pub mod run;
pub mod scripted;
pub mod snapshot;
#[cfg(any(test, fuzzing))]
pub mod targets;
#[cfg(any(test, fuzzing))]
#[cfg_attr(not(test), allow(dead_code))]
#[allow(clippy::unwrap_used, clippy::panic)]
mod testing;
pub mod trace;
pub mod vcpu;
