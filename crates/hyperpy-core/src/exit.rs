//! Why a guest stopped: the closed set that `run()` and `wait()` return.
//!
//! Python has one small final class for each variant (`hyperpy.Exit`). What the accelerator reports on the way is
//! `accel::AccelExit`; most of those never leave the run loop.

use std::sync::Arc;

/// Who asked for a stop, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StopReason {
    /// A device or `stop()` gave a reason in words.
    Text(Arc<str>),
    /// The debug-exit port was written; the status is `value << 1 | 1`.
    DebugExit {
        /// The process status that the guest asked for.
        status: u32,
    },
    /// The guest switched the machine off.
    PowerOff,
}

/// Why `run()` or `wait()` returned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Every started vCPU has halted and nothing can wake one.
    Halt {
        /// The vCPU that halted last.
        vcpu: u32,
    },
    /// An access to memory that nobody claimed.
    Mmio(IoExit),
    /// An access to a port that nobody claimed.
    Pio(IoExit),
    /// A hypercall that KVM handed on (KVM_EXIT_HYPERCALL).
    Hypercall {
        /// The vCPU.
        vcpu: u32,
        /// Hypercall number.
        number: u64,
        /// Its arguments.
        arguments: [u64; 6],
        /// Tells it from every other exit of its vCPU that can be answered.
        ticket: u64,
    },
    /// An access to a model-specific register that KVM handed on.
    Msr {
        /// The vCPU.
        vcpu: u32,
        /// Register index.
        index: u32,
        /// Whether it was WRMSR.
        is_write: bool,
        /// The value written, 0 for a read.
        value: u64,
        /// Tells it from every other exit of its vCPU that can be answered.
        ticket: u64,
    },
    /// A debug event: single step, breakpoint or watchpoint.
    Debug {
        /// The vCPU.
        vcpu: u32,
        /// Linear address of the next instruction.
        pc: u64,
        /// DR6 as the processor would have set it.
        dr6: u64,
    },
    /// Triple fault.
    Shutdown {
        /// The vCPU.
        vcpu: u32,
    },
    /// The guest switched the machine off, asked for a reset, or KVM reported such an event.
    SystemEvent {
        /// The vCPU.
        vcpu: u32,
        /// What was asked for.
        kind: SystemEvent,
        /// What KVM told besides.
        data: Vec<u64>,
    },
    /// A device or `stop()` asked for a stop.
    Stopped {
        /// The vCPU whose access asked for it, if one did.
        vcpu: Option<u32>,
        /// The reason given.
        reason: StopReason,
    },
    /// The time given to `run()` or `wait()` is over; the guest can run on.
    Timeout,
    /// The processor refused the guest's state (KVM_EXIT_FAIL_ENTRY).
    FailEntry {
        /// The vCPU.
        vcpu: u32,
        /// Reason as the hardware gave it.
        reason: u64,
    },
    /// KVM could not go on (KVM_EXIT_INTERNAL_ERROR) or reported an exit that is unknown here.
    InternalError {
        /// The vCPU.
        vcpu: u32,
        /// Sub-error; 1 is an instruction that KVM's emulator cannot carry out.
        suberror: u32,
        /// Exit reason as KVM numbered it, for one that is unknown here.
        reason: u32,
        /// Bytes of the instruction, where KVM gave them.
        bytes: Vec<u8>,
        /// Width of the code that they are, 16, 32 or 64.
        bits: u32,
    },
}

/// What a guest or KVM asked of the whole machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SystemEvent {
    /// Switch the power off.
    PowerOff,
    /// Start again.
    Reset,
    /// The guest says that it crashed.
    Crash,
    /// Another event, by KVM's number.
    Other(u32),
}

/// An access that nobody claimed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IoExit {
    /// The vCPU that made it.
    pub vcpu: u32,
    /// Guest-physical address or port.
    pub address: u64,
    /// Width in bytes, 1 to 8.
    pub size: u8,
    /// Whether it was a write.
    pub is_write: bool,
    /// The value written, 0 for a read.
    pub value: u64,
    /// Tells this access from every other of the process, so that an answer can reach no other.
    pub ticket: u64,
}

impl Exit {
    /// The vCPU that it is of, if it is of one.
    #[must_use]
    pub fn vcpu(&self) -> Option<u32> {
        match *self {
            Self::Mmio(io) | Self::Pio(io) => Some(io.vcpu),
            Self::Stopped { vcpu, .. } => vcpu,
            Self::Timeout => None,
            Self::Halt { vcpu }
            | Self::Hypercall { vcpu, .. }
            | Self::Msr { vcpu, .. }
            | Self::Debug { vcpu, .. }
            | Self::Shutdown { vcpu }
            | Self::SystemEvent { vcpu, .. }
            | Self::FailEntry { vcpu, .. }
            | Self::InternalError { vcpu, .. } => Some(vcpu),
        }
    }

    /// Whether the guest has ended: nothing but a reset or a restore can make it run again.
    #[must_use]
    pub fn is_final(&self) -> bool {
        matches!(
            self,
            Self::Shutdown { .. } | Self::SystemEvent { kind: SystemEvent::PowerOff | SystemEvent::Reset, .. }
        )
    }
}
