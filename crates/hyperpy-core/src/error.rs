//! What can go wrong, one enum per operation.
//!
//! Every message is lower case with the value after a colon; `hint()` says what to do. The Python crate maps each
//! enum to one exception class.

use thiserror::Error;

use crate::accel::AccelError;
use crate::arch::x86_64::valid::Invalid;
pub use crate::boot::error::BootError;
use crate::control::Phase;
pub use crate::memory::error::MemoryError;

/// A device could not be attached or detached.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum BusError {
    /// A region of no bytes.
    #[error("device region is empty: {base:#x}")]
    Empty {
        /// Its base.
        base: u64,
    },
    /// A region that does not fit on the bus.
    #[error("device region leaves the bus: {base:#x} + {len:#x} is above {limit:#x}")]
    OutsideBus {
        /// Its base.
        base: u64,
        /// Its length.
        len: u64,
        /// Last address of the bus.
        limit: u64,
    },
    /// Two regions at one place.
    #[error("device region overlaps {other} at {other_base:#x}: {base:#x} + {len:#x}")]
    Overlap {
        /// Its base.
        base: u64,
        /// Its length.
        len: u64,
        /// Name of the region that is there.
        other: String,
        /// Base of the region that is there.
        other_base: u64,
    },
    /// Detach of something that is not attached.
    #[error("device is not attached to this machine")]
    NotAttached,
}

/// A device could not be attached to a machine, or detached.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum AttachError {
    /// The machine's state does not allow it.
    #[error(transparent)]
    State(#[from] StateError),
    /// The bus refused.
    #[error(transparent)]
    Bus(#[from] BusError),
    /// Memory is there: the guest would never reach the device.
    #[error("device region lies over memory {name} at {other:#x}: {base:#x} + {len:#x}")]
    Memory {
        /// Its base.
        base: u64,
        /// Its length.
        len: u64,
        /// Base of the memory region.
        other: u64,
        /// Name of the memory region.
        name: String,
    },
    /// The kernel answers there itself: no access would come to the device.
    #[error("device region lies over {name} at {other:#x}: {base:#x} + {len:#x}")]
    Kernel {
        /// Its base.
        base: u64,
        /// Its length.
        len: u64,
        /// Base of what the kernel has there.
        other: u64,
        /// What that is.
        name: &'static str,
    },
}

impl AttachError {
    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match self {
            Self::State(error) => error.hint(),
            Self::Kernel { .. } => "no access to it would come to the device: attach it elsewhere",
            _ => "look at `m.map` for what is where",
        }
    }
}

/// A verb that the machine's state does not allow.
#[derive(Debug, Error)]
#[error("cannot {verb}: the machine is {}", .phase.name())]
pub struct StateError {
    /// The verb.
    pub verb: &'static str,
    /// The state.
    pub phase: Phase,
}

impl StateError {
    /// A refusal of `verb` in `phase`.
    #[must_use]
    pub fn new(verb: &'static str, phase: Phase) -> Self {
        Self { verb, phase }
    }

    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match self.phase {
            Phase::Running if self.verb == "reset" => "pause() it first",
            Phase::Created => "run() or start() the machine first",
            Phase::Running => "it runs: wait() for it, pause() it, or stop() it",
            Phase::Paused => "the machine is already standing still",
            Phase::Stopped => "the guest has ended: reset() the machine, or make a new one",
            Phase::Closed => "make a new machine; `with Machine(...)` closes it at the end of the block",
        }
    }
}

/// Model-specific registers could not be trapped.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum TrapError {
    /// The machine's state does not allow it, or the accelerator refuses.
    #[error(transparent)]
    Run(#[from] RunError),
    /// A range that there is not, or that is too long.
    #[error("no such range of msrs: {first:#x} + {count:#x}")]
    Range {
        /// Its first register.
        first: u32,
        /// How many.
        count: u32,
    },
    /// Registers of the x2APIC.
    #[error("msrs of the x2APIC cannot be trapped: {first:#x} + {count:#x}")]
    X2apic {
        /// Its first register.
        first: u32,
        /// How many.
        count: u32,
    },
    /// Two ranges at one place.
    #[error("msrs are trapped already by {other:#x} + {others:#x}: {first:#x} + {count:#x}")]
    Overlap {
        /// Its first register.
        first: u32,
        /// How many.
        count: u32,
        /// First register of the range that is there.
        other: u32,
        /// How many it has.
        others: u32,
    },
    /// More ranges than KVM takes.
    #[error("too many ranges of msrs are trapped: {first:#x} + {count:#x}")]
    TooMany {
        /// Its first register.
        first: u32,
        /// How many.
        count: u32,
    },
}

impl TrapError {
    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Run(error) => error.hint(),
            Self::Range { .. } => "from 1 to 0x3000 registers, below 2**32",
            Self::X2apic { .. } => "KVM serves 0x800 to 0x8ff itself",
            Self::Overlap { .. } => "a register has one handler: let it look at access.index",
            Self::TooMany { .. } => "KVM takes 16 ranges: trap neighbours together, with a count",
        }
    }
}

/// A run, or something else that needs the vCPUs, failed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum RunError {
    /// The state does not allow it.
    #[error(transparent)]
    State(#[from] StateError),
    /// The accelerator failed.
    #[error(transparent)]
    Accel(#[from] AccelError),
    /// A Python device raised; the bindings keep what it raised.
    #[error("a device raised an exception")]
    Device,
    /// A device panicked: a bug in it. The machine cannot go on.
    #[error("device {device} panicked: {message}")]
    Panic {
        /// Its name.
        device: String,
        /// What it said.
        message: String,
    },
    /// The program around the machine wants its thread back; the bindings keep why.
    #[error("interrupted")]
    Host,
    /// Called from inside a device, where it would wait for itself.
    #[error("cannot {verb} inside a device callback")]
    InCallback {
        /// The verb.
        verb: &'static str,
    },
    /// Called on a thread that is running the machine, where it would wait for itself: from a signal handler or a
    /// finalizer.
    #[error("cannot {verb}: this thread is running the machine")]
    WhileRunning {
        /// The verb.
        verb: &'static str,
    },
    /// The machine belongs to the parent of a forked process.
    #[error("cannot {verb}: the machine belongs to the process that was forked")]
    Forked {
        /// The verb.
        verb: &'static str,
    },
    /// There is no such vCPU.
    #[error("no such vcpu: {vcpu}")]
    NoVcpu {
        /// Its number.
        vcpu: u32,
    },
    /// Asked for after the vCPUs were made.
    #[error("cannot {verb}: the machine's vcpus already exist")]
    TooLate {
        /// What was asked for.
        verb: &'static str,
    },
    /// Interrupt controllers were asked for, and something else is where they would answer.
    #[error("cannot add an interrupt controller: {name} at {base:#x} lies over {other}")]
    ControllersPlace {
        /// What is there.
        name: String,
        /// Its base.
        base: u64,
        /// What would answer there.
        other: &'static str,
    },
    /// A pending access could not be completed.
    #[error("the pending access could not be completed: {exit}")]
    Completion {
        /// What happened instead.
        exit: String,
    },
    /// The machine was asked to stop while an access of many values was completed; what is left of it is still pending.
    #[error("cannot {verb}: the machine was asked to stop while an access was completed")]
    Asked {
        /// The verb.
        verb: &'static str,
    },
    /// A register cannot have the value.
    #[error(transparent)]
    Register(#[from] Invalid),
    /// CR3 was set to where no memory is.
    #[error("cr3 cannot be set: {cr3:#x}, no memory is there")]
    NoPageTable {
        /// Its value.
        cr3: u64,
    },
    /// CPUID was changed of a vCPU that has run.
    #[error("cannot change cpuid: vcpu {vcpu} has run")]
    CpuidFixed {
        /// Its number.
        vcpu: u32,
    },
    /// Guest memory.
    #[error(transparent)]
    Memory(#[from] MemoryError),
}

impl RunError {
    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match self {
            Self::State(error) => error.hint(),
            Self::Accel(error) => error.hint(),
            Self::Device | Self::Host => "",
            Self::Panic { .. } => {
                "this is a bug in the device: report it; the machine is closed, others are not affected"
            }
            Self::InCallback { .. } => "return Stop(\"why\") from the device, and do it after run() has returned",
            Self::WhileRunning { .. } => "stop() it, and do it after run() has returned",
            Self::Forked { .. } => "make the machine in the child process",
            Self::NoVcpu { .. } => "vcpus are numbered from 0",
            Self::TooLate { .. } => "do it before the first run and before registers are read or written",
            Self::ControllersPlace { .. } => {
                "attach it elsewhere; `irq=`, an operating system and a PC's devices want interrupt controllers"
            }
            Self::Asked { .. } => "run() returns what it was asked for; then try again",
            Self::Completion { .. } => "run the machine on, then try again",
            Self::Register(invalid) => invalid.rule,
            Self::NoPageTable { .. } => "paging is on: put page tables into memory, or set cr3 and cr0 in one update()",
            Self::CpuidFixed { .. } => "change it before the first run",
            // The bindings show a memory error by its own hint, which can name numbers.
            Self::Memory(_) => "look at `m.map` for what is where",
        }
    }
}

/// A gsi could not be led somewhere.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum RouteError {
    /// The machine or the accelerator refused.
    #[error(transparent)]
    Run(#[from] RunError),
    /// There is no such gsi.
    #[error("no such gsi: {gsi}")]
    Gsi {
        /// Its number.
        gsi: u32,
    },
    /// The I/O APIC has no such pin.
    #[error("no such pin of the I/O APIC: {pin}")]
    Pin {
        /// Its number.
        pin: u32,
    },
    /// The 8259s have no such input.
    #[error("no such input of the 8259s: {input}")]
    Input {
        /// Its number.
        input: u32,
    },
    /// A message that no local APIC gets.
    #[error("message reaches no local APIC: {address:#x}")]
    Address {
        /// Its address.
        address: u64,
    },
    /// Message data with bits that are reserved.
    #[error("message data has reserved bits: {data:#x}")]
    Data {
        /// The data.
        data: u32,
    },
    /// A vector that no interrupt can have.
    #[error("message has a vector below 0x10: {vector:#x}")]
    Vector {
        /// The vector.
        vector: u32,
    },
    /// Two targets that one gsi cannot have.
    #[error("gsi {gsi} cannot lead to both: {one}, {other}")]
    Together {
        /// The gsi.
        gsi: u32,
        /// One target.
        one: String,
        /// The other.
        other: String,
    },
}

impl RouteError {
    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Run(error) => error.hint(),
            Self::Gsi { .. } => "gsi 0 to 4095",
            Self::Pin { .. } => "pins 0 to 23",
            Self::Input { .. } => "inputs 0 to 15",
            Self::Address { .. } => "0xfee00000 | apic_id << 12 (SDM vol. 3, 11.11.1)",
            Self::Data { .. } | Self::Vector { .. } => {
                "vector | delivery mode << 8 | level << 14 | trigger mode << 15 (SDM vol. 3, 11.11.2)"
            }
            Self::Together { .. } => "a message alone, or at most one pin of the I/O APIC and one input of each 8259",
        }
    }
}
