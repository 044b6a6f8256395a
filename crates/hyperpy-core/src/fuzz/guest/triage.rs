//! Which crashes are one: those that end in the same way, at the same instruction, called from the same places.
//!
//! Who called is read from the stack: what lies after a call instruction counts as an address to return to. So it works for code without
//! frame pointers and without symbols. Stack and code are the guest's, and may be anything.

use super::vectors::{self, Frame};
use super::view::View;
use crate::arch::x86_64::Regs;
use crate::exit::{Exit, SystemEvent};
use crate::fuzz::rng::mixed;

/// Words of a stack that are looked at, and callers that are told.
const WORDS: u64 = 64;
const CALLERS: usize = 8;
/// Bytes of the longest near call.
const LONGEST_CALL: u64 = 7;

/// How an execution ended that is a finding.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum What {
    /// One of these exceptions was taken.
    Exception(Box<[u8]>),
    /// It came to an address that it should not come to.
    Address,
    /// It did not end.
    Hang,
    /// KVM returned this.
    Exit(ExitKind),
}

macro_rules! exit_kinds {
    ($($kind:ident),*) => {
        /// Exits by which an execution can end.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        #[allow(missing_docs)] // those of `Exit`
        pub enum ExitKind { $($kind),* }

        impl ExitKind {
            /// The one of a name.
            #[must_use]
            pub fn named(name: &str) -> Option<Self> {
                match name {
                    $(stringify!($kind) => Some(Self::$kind),)*
                    _ => None,
                }
            }

            /// Its name.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(Self::$kind => stringify!($kind)),* }
            }
        }
    };
}
exit_kinds!(Halt, Mmio, Pio, Hypercall, Msr, Debug, Shutdown, SystemEvent, Stopped, Timeout, FailEntry, InternalError);

impl ExitKind {
    /// The kind of an exit.
    #[must_use]
    pub fn of(exit: &Exit) -> Self {
        match exit {
            Exit::Halt { .. } => Self::Halt,
            Exit::Mmio(_) => Self::Mmio,
            Exit::Pio(_) => Self::Pio,
            Exit::Hypercall { .. } => Self::Hypercall,
            Exit::Msr { .. } => Self::Msr,
            Exit::Debug { .. } => Self::Debug,
            Exit::Shutdown { .. } => Self::Shutdown,
            Exit::SystemEvent { .. } => Self::SystemEvent,
            Exit::Stopped { .. } => Self::Stopped,
            Exit::Timeout => Self::Timeout,
            Exit::FailEntry { .. } => Self::FailEntry,
            Exit::InternalError { .. } => Self::InternalError,
        }
    }
}

/// A finding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// How it ended.
    pub what: What,
    /// The vCPU whose registers it is told by.
    pub vcpu: u32,
    /// What was accessed and nobody claimed, or what the exit tells besides.
    pub detail: u64,
    /// The instruction: of an exception the one that raised it.
    pub rip: u64,
    /// The error code of an exception.
    pub error_code: Option<u64>,
    /// The address of the last page fault.
    pub cr2: u64,
    /// Where the functions that are under way were called, the innermost first.
    pub callers: Vec<u64>,
}

/// What tells findings apart.
pub type Key = (What, u64, u64);

impl Finding {
    /// Looks at a vCPU that has just ended.
    #[must_use]
    pub fn look(what: What, exit: Option<&Exit>, vcpu: u32, view: &View<'_>, regs: &Regs) -> Self {
        let is_exception = matches!(what, What::Exception(_));
        let frame = if is_exception { vectors::frame(view, regs) } else { None };
        let here =
            || Frame { rip: view.sregs.linear_rip(regs.rip), error_code: None, stack: vectors::stack_of(view, regs) };
        let Frame { rip, error_code, stack } = frame.unwrap_or_else(here);
        let detail = match exit {
            Some(Exit::Mmio(io) | Exit::Pio(io)) => io.address,
            Some(Exit::Hypercall { number, .. }) => *number,
            Some(Exit::Msr { index, .. }) => (*index).into(),
            Some(Exit::SystemEvent { kind: SystemEvent::Other(kind), .. }) => (*kind).into(),
            Some(Exit::InternalError { suberror, .. }) => (*suberror).into(),
            Some(Exit::FailEntry { reason, .. }) => *reason,
            _ => 0,
        };
        Self { what, vcpu, detail, rip, error_code, cr2: view.sregs.cr2, callers: callers(view, stack) }
    }

    /// What tells it from others. An endless loop is left at any of its instructions: there who has called it is what counts.
    #[must_use]
    pub fn key(&self) -> Key {
        let rip = if self.what == What::Hang { 0 } else { self.rip };
        (self.what.clone(), rip, self.stack_hash())
    }

    /// A number of the places from which it was called.
    #[must_use]
    pub fn stack_hash(&self) -> u64 {
        self.callers.iter().fold(0, |hash, &caller| mixed(hash.rotate_left(7) ^ caller.wrapping_add(1)))
    }
}

/// Addresses after calls that lie on a stack.
fn callers(view: &View<'_>, stack: u64) -> Vec<u64> {
    let width = match view.sregs.code_bits() {
        64 => 8,
        32 => 4,
        _ => 2,
    };
    let mut found = Vec::new();
    for index in 0..WORDS {
        let Some(word) = stack.checked_add(index * width as u64).and_then(|at| view.number(at, width)) else { break };
        let address = if width == 8 { word } else { view.sregs.linear_rip(word) };
        if follows_a_call(view, address, width) {
            found.push(address);
            if found.len() == CALLERS {
                break;
            }
        }
    }
    found
}

/// Whether a near call ends at an address.
fn follows_a_call(view: &View<'_>, address: u64, width: usize) -> bool {
    let Some(first) = address.checked_sub(LONGEST_CALL) else { return false };
    let mut code = [0; LONGEST_CALL as usize];
    if view.read(first, &mut code) != code.len() {
        return false;
    }
    let direct = if width == 2 { 3 } else { 5 };
    let at = |back: usize| code.len().checked_sub(back).and_then(|at| code.get(at)).copied();
    if at(direct) == Some(0xe8) {
        return true;
    }
    // CALL r/m: FF /2.
    (2..=code.len()).any(|back| at(back) == Some(0xff) && at(back - 1).is_some_and(|modrm| modrm >> 3 & 7 == 2))
}

#[cfg(test)]
#[path = "triage_test.rs"]
mod tests;
