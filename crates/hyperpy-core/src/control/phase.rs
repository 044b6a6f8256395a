//! What a machine's control shows and asks: its states, and the program around it.

use crate::error::RunError;

/// The states of a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Nothing has run.
    Created,
    /// vCPUs run, or are about to, or are about to stop.
    Running,
    /// Every vCPU is stopped and can run on.
    Paused,
    /// The guest has ended.
    Stopped,
    /// Closed: memory and descriptors are given back.
    Closed,
}

impl Phase {
    /// The word for it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopped => "stopped",
            Self::Closed => "closed",
        }
    }
}

/// What the program around the machine must be asked: Python, in practice.
pub trait Host: Send + Sync {
    /// Looks whether the program wants its thread back (a signal with an exception). True stops the machine. Asked at every
    /// tick while the guest stands still: a look must not wait for anything.
    fn poll(&self) -> bool;

    /// Makes a thread that calls [`Machine::serve`](crate::machine::Machine::serve) for a vCPU.
    ///
    /// # Errors
    /// There can be no more threads.
    fn spawn(&self, vcpu: u32) -> Result<(), RunError>;
    /// Makes a thread that calls [`Machine::serve_timers`](crate::machine::Machine::serve_timers). The default makes none.
    ///
    /// # Errors
    /// There can be no more threads.
    fn spawn_timers(&self) -> Result<(), RunError> {
        Err(RunError::Host)
    }
    /// Makes a thread that calls [`Machine::serve_bells`](crate::machine::Machine::serve_bells). The default makes none.
    ///
    /// # Errors
    /// There can be no more threads.
    fn spawn_ringer(&self) -> Result<(), RunError> {
        Err(RunError::Host)
    }
}
