//! What an entry into the guest ends with: an exit that the guest made, or an interruption that it knows nothing of.
//! Both are what every entry returns, and small for that.

use super::AccelError;
use crate::exit::SystemEvent;

/// What a guest did that its accelerator hands on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AccelExit {
    /// One port access, or `count` of them to the same port by a string instruction.
    Pio {
        /// Port.
        port: u16,
        /// Width of each, in bytes: 1, 2 or 4.
        size: u8,
        /// How many.
        count: u32,
        /// Whether they are writes.
        is_write: bool,
    },
    /// An access to memory that has nothing behind it.
    Mmio {
        /// Guest-physical address.
        gpa: u64,
        /// Width in bytes, 1 to 8.
        size: u8,
        /// Whether it is a write.
        is_write: bool,
    },
    /// HLT, on a machine without in-kernel interrupt controllers.
    Halt,
    /// A hypercall.
    Hypercall {
        /// Its number.
        number: u64,
        /// Its arguments.
        arguments: [u64; 6],
    },
    /// A model-specific register.
    Msr {
        /// Its index.
        index: u32,
        /// Whether it is written.
        is_write: bool,
        /// The value written.
        value: u64,
    },
    /// Single step, breakpoint or watchpoint.
    Debug {
        /// Linear address of the next instruction.
        pc: u64,
        /// DR6.
        dr6: u64,
    },
    /// Triple fault.
    Shutdown,
    /// An event of the whole machine.
    SystemEvent(SystemEvent),
    /// The processor refused the guest's state.
    FailEntry {
        /// Hardware's reason.
        reason: u64,
    },
    /// The accelerator could not go on.
    InternalError {
        /// Its sub-error.
        suberror: u32,
        /// Instruction bytes.
        bytes: [u8; 15],
        /// How many of them are valid.
        len: u8,
    },
    /// Nothing for us: enter again.
    Nothing,
    /// Writes wait in the ring. What the guest was left for comes at the next `run`, which does not enter it.
    Posted,
    /// An exit that is unknown here, by KVM's number.
    Unknown {
        /// The number.
        reason: u32,
    },
}

/// Why `run` returned without an exit.
#[derive(Debug)]
pub enum Interruption {
    /// The exit flag was set or a signal came. Any pending access is complete.
    Kicked,
    /// Try again: a secondary processor was just started.
    Again,
    /// The host refused. Boxed, so that what every entry returns is no larger than an exit.
    Failed(Box<AccelError>),
}
