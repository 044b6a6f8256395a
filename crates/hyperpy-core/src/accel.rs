//! The seam below the machine: what an accelerator does, as one small trait pair. Entry in, exit out.
//!
//! `kvm` implements it for real, `scripted` plays a list of exits back. Nothing above this seam names a KVM constant.
//! An accelerator's vCPU is driven by one thread at a time; only its [`ExitFlag`] is touched by others.

mod error;
mod exit;
mod route;
pub mod state;

use std::sync::Arc;
use std::sync::atomic::AtomicU8;

use vmm_sys_util::eventfd::EventFd;

pub use self::error::{AccelError, hint_for_exhausted};
pub use self::exit::{AccelExit, Interruption};
pub use self::route::Route;
pub use self::state::{Shape, VcpuState, VmState};
use crate::arch::x86_64::cpuid::Leaf;
use crate::arch::x86_64::fpu::Fpu;
use crate::arch::x86_64::{Regs, Sregs};
use crate::bells::Doorbell;
use crate::debug::DebugControl;
use crate::memory::Mapping;
use crate::posted::{Posted, Range};

/// What a machine needs of its accelerator before the first vCPU exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VmConfig {
    /// Number of vCPUs, at least 1.
    pub vcpus: u32,
    /// Whether interrupt controllers and the PIT live in the kernel.
    pub irqchip: bool,
}

/// Makes virtual machines.
pub trait Accelerator: Send + Sync {
    /// Makes an empty VM.
    ///
    /// # Errors
    /// The host refuses, or lacks something that `config` asks for.
    fn create_vm(&self, config: VmConfig) -> Result<Arc<dyn Vm>, AccelError>;

    /// How many slots of memory a VM can have.
    fn most_slots(&self) -> u32;

    /// Most vCPUs of one VM.
    ///
    /// # Errors
    /// The host refuses.
    fn max_vcpus(&self) -> Result<u32, AccelError> {
        Ok(u32::MAX)
    }

    /// Model-specific registers that hold a vCPU's state.
    ///
    /// # Errors
    /// The host refuses.
    fn msr_indices(&self) -> Result<Vec<u32>, AccelError>;

    /// The CPUID table that a vCPU of such a machine is made with.
    ///
    /// # Errors
    /// The host refuses.
    fn cpuid(&self, config: VmConfig, vcpu: u32) -> Result<Vec<Leaf>, AccelError>;
}

/// A region of memory as a guest sees it.
#[derive(Clone, Debug)]
pub struct Slot {
    /// Its number, from 0 to below [`Accelerator::most_slots`].
    pub id: u32,
    /// First guest-physical address.
    pub gpa: u64,
    /// Length in bytes, of whole pages.
    pub len: u64,
    /// What is there. The guest may change it at any moment. Two slots may have the same, or parts that overlap.
    pub mapping: Arc<Mapping>,
    /// Bytes from the beginning of the mapping to that of the slot, of whole pages.
    pub at: usize,
    /// Whether the guest can write it; a write that it cannot do is an exit.
    pub writable: bool,
    /// Whether the guest's writes are logged for [`Vm::mark_written`].
    pub logged: bool,
}

/// A virtual machine: slots of memory, vCPUs and interrupt inputs.
pub trait Vm: Send + Sync {
    /// Shows a region of memory to the guest, or changes whether a slot that is there is logged. The VM keeps the mapping
    /// until it is unmapped, or else until the VM and all its vCPUs are gone.
    ///
    /// # Errors
    /// The host refuses the slot.
    fn map(&self, slot: &Slot) -> Result<(), AccelError>;

    /// Makes a vCPU in its reset state.
    ///
    /// # Errors
    /// The host refuses it.
    fn create_vcpu(&self, id: u32) -> Result<Box<dyn Vcpu>, AccelError>;

    /// Drives an interrupt input of the in-kernel controllers.
    ///
    /// # Errors
    /// There is no controller, or it has no such input.
    fn set_line(&self, gsi: u32, high: bool) -> Result<(), AccelError>;

    /// Replaces the whole table from gsi to controller pin or message.
    ///
    /// # Errors
    /// There is no controller, or a route is refused.
    fn set_routes(&self, routes: &[Route]) -> Result<(), AccelError>;

    /// An eventfd that pulses a gsi at each write. It works for as long as it is kept.
    ///
    /// # Errors
    /// There is no controller, or the host refuses.
    fn pulse_by(&self, gsi: u32) -> Result<EventFd, AccelError>;

    /// Sends a message to the local APICs; whether one of them took it.
    ///
    /// # Errors
    /// There is no controller.
    fn send_message(&self, address: u64, data: u32) -> Result<bool, AccelError>;

    /// Takes a slot away from the guest, and lets go of its mapping. Nothing happens if there is none.
    ///
    /// # Errors
    /// The host refuses; the slot is still there then.
    fn unmap(&self, slot: u32) -> Result<(), AccelError>;

    /// What is to be put back for a guest to go on here: interrupt controllers, PIT, clock. No vCPU runs. The vCPUs' states
    /// are taken after it: their counters of time are of this moment.
    ///
    /// # Errors
    /// The host refuses.
    fn save(&self) -> Result<VmState, AccelError>;

    /// Puts it back, without an allocation. Lines have the levels of then. The vCPUs' states are put back after it.
    ///
    /// # Errors
    /// The host refuses a part, and a second try puts everything right; or the state is of a VM with other controllers, and
    /// nothing is changed.
    fn load(&self, state: &VmState) -> Result<(), AccelError>;

    /// Puts back what sends interrupts by itself, the PIT: after the vCPUs, since what one of them is in the middle of taking would
    /// be overwritten, and KVM's PIT waits for its end.
    ///
    /// # Errors
    /// As for [`Self::load`].
    fn load_timers(&self, state: &VmState) -> Result<(), AccelError>;

    /// Marks, in their mappings, the pages of logged slots that the guest has written since the last call; none of what the
    /// host wrote. Without an allocation.
    ///
    /// # Errors
    /// The host refuses; what was marked before that stays so, and nothing is forgotten.
    fn mark_written(&self) -> Result<(), AccelError>;

    /// Has writes to a range wait in a ring, or no longer. Without a ring nothing happens, and they are exits.
    ///
    /// # Errors
    /// The host refuses.
    fn post(&self, range: Range, on: bool) -> Result<(), AccelError>;

    /// Hands over the writes in the ring, in order, on a thread that need not drive a vCPU: as [`Vcpu::take_posted`].
    fn take_posted(&self, serve: &mut dyn FnMut(&Posted));

    /// Has a write of a guest signal an eventfd in place of an exit, or no longer.
    ///
    /// # Errors
    /// The host refuses.
    fn ring(&self, bell: &Doorbell, event: &EventFd, on: bool) -> Result<(), AccelError>;

    /// Hands RDMSR and WRMSR of these registers on, in place of those asked for before: at most [`MSR_RANGES`] ranges of at
    /// most [`MSR_RANGE_MAX`].
    ///
    /// # Errors
    /// The host lacks it, or refuses a range.
    fn trap_msrs(&self, ranges: &[MsrRange]) -> Result<(), AccelError>;

    /// Hands on those hypercalls that the host leaves to its user.
    ///
    /// # Errors
    /// The host lacks it.
    fn trap_hypercalls(&self) -> Result<(), AccelError>;
}

/// Model-specific registers with consecutive indices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MsrRange {
    /// The first one.
    pub first: u32,
    /// How many.
    pub count: u32,
}

/// Most ranges of one machine.
pub const MSR_RANGES: usize = 16;
/// Most registers of one range.
pub const MSR_RANGE_MAX: u32 = 0x3000;

/// A vCPU: one `run`, and its registers while it does not run.
pub trait Vcpu: Send {
    /// Enters the guest and returns at the next exit. A pending access is completed on the way in.
    ///
    /// # Errors
    /// [`Interruption`]: nothing happened that the guest asked for.
    fn run(&mut self) -> Result<AccelExit, Interruption>;

    /// Hands over the writes in the ring, in order; meanwhile no other vCPU finds it empty. Called after
    /// [`AccelExit::Posted`].
    fn take_posted(&mut self, serve: &mut dyn FnMut(&Posted));

    /// Value `index` of the access that the last exit reported, as a little-endian integer.
    fn io_value(&self, index: u32) -> u64;

    /// Sets what the guest will read as value `index` of the access that the last exit reported.
    fn set_io_value(&mut self, index: u32, value: u64);

    /// The flag that makes the next, or the present, `run` return.
    fn exit_flag(&self) -> Arc<dyn ExitFlag>;

    /// Instruction pointer at the last exit. Costs no system call.
    fn rip(&self) -> u64;

    /// General registers.
    ///
    /// # Errors
    /// The host refuses.
    fn regs(&mut self) -> Result<Regs, AccelError>;

    /// Sets the general registers. No access may be pending.
    ///
    /// # Errors
    /// The host refuses the values.
    fn set_regs(&mut self, regs: &Regs) -> Result<(), AccelError>;

    /// Segment, table and control registers.
    ///
    /// # Errors
    /// The host refuses.
    fn sregs(&mut self) -> Result<Sregs, AccelError>;

    /// Sets them. No access may be pending.
    ///
    /// # Errors
    /// The host refuses the values.
    fn set_sregs(&mut self, sregs: &Sregs) -> Result<(), AccelError>;

    /// What the vCPU is doing, as far as the host can tell while it does not run.
    ///
    /// # Errors
    /// The host refuses.
    fn activity(&mut self) -> Result<Activity, AccelError>;

    /// Whether the guest was entered, or could have been: its CPUID table is fixed then.
    fn has_run(&self) -> bool;

    /// x87, SSE and AVX registers.
    ///
    /// # Errors
    /// The host refuses.
    fn fpu(&mut self) -> Result<Fpu, AccelError>;

    /// Sets them. No access may be pending.
    ///
    /// # Errors
    /// The host refuses the values.
    fn set_fpu(&mut self, fpu: &Fpu) -> Result<(), AccelError>;

    /// Model-specific registers, in the order of `indices`.
    ///
    /// # Errors
    /// [`AccelError::Msr`]: the host refuses one.
    fn msrs(&mut self, indices: &[u32]) -> Result<Vec<u64>, AccelError>;

    /// Sets model-specific registers, one after the other. No access may be pending.
    ///
    /// # Errors
    /// [`AccelError::Msr`]: the host refuses one; those before it are set.
    fn set_msrs(&mut self, values: &[(u32, u64)]) -> Result<(), AccelError>;

    /// The CPUID table.
    ///
    /// # Errors
    /// The host refuses.
    fn cpuid(&mut self) -> Result<Vec<Leaf>, AccelError>;

    /// Replaces the CPUID table of a vCPU that has not run.
    ///
    /// # Errors
    /// The host refuses the table.
    fn set_cpuid(&mut self, table: &[Leaf]) -> Result<(), AccelError>;

    /// Whether the RDMSR or WRMSR that the last exit reported ends in a general-protection fault.
    fn set_msr_fault(&mut self, fault: bool);

    /// What is to be put back for the guest to go on here, taken after the VM's. No access is pending.
    ///
    /// # Errors
    /// The host refuses.
    fn save(&mut self) -> Result<VcpuState, AccelError>;

    /// Puts it back after the VM's, in the order that the host wants, and without an allocation. A CPUID table that differs
    /// is set on a vCPU that has not run. The host may write to guest memory that the state names (a paravirtual clock),
    /// so memory is put back last. No access is pending.
    ///
    /// # Errors
    /// The host refuses a part, and a second try puts everything right; or the state is of another vCPU
    /// ([`state::differences`] tells all of it), and nothing is changed.
    fn load(&mut self, state: &VcpuState) -> Result<(), AccelError>;

    /// What it can be given, for [`state::differences`].
    ///
    /// # Errors
    /// The host refuses.
    fn shape(&mut self) -> Result<Shape, AccelError>;

    /// What the last exit, a system event, told besides its kind.
    fn event_data(&self) -> Vec<u64>;

    /// Told once, when all vCPUs of the VM exist: what depends on the others is set now.
    ///
    /// # Errors
    /// The host refuses.
    fn all_made(&mut self) -> Result<(), AccelError> {
        Ok(())
    }

    /// Sets what `run` returns [`AccelExit::Debug`] for, until it is set again. A step is of the next instruction: it
    /// is set anew for each.
    ///
    /// # Errors
    /// The host refuses.
    fn set_debug(&mut self, control: &DebugControl) -> Result<(), AccelError>;
}

/// The byte that makes a vCPU leave the guest.
pub trait ExitFlag: Send + Sync {
    /// 1 asks for the exit. Only the vCPU's own thread sets it back to 0.
    fn byte(&self) -> &AtomicU8;
}

/// What a vCPU that does not run was doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activity {
    /// Executing instructions, or about to.
    Running,
    /// In HLT; `interruptible` if interrupts are enabled.
    Halted {
        /// RFLAGS.IF.
        interruptible: bool,
    },
    /// A secondary processor that nobody has started.
    NotStarted,
}
