//! What the thread that runs this code is in the middle of: the access that a device answers, and the machines that it drives.

use std::cell::{Cell, RefCell};

use crate::bus::Space;

/// The access that a Python device is answering on this thread, for error notes and for refusing verbs that would
/// wait for themselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Current {
    /// [`Machine::id`](crate::machine::Machine::id).
    pub machine: u64,
    /// The vCPU.
    pub vcpu: u32,
    /// Its instruction pointer: on the instruction for a read, after it for a write.
    pub rip: u64,
    /// The bus; `None` for a model-specific register.
    pub space: Option<Space>,
    /// Address on that bus, or index of the register.
    pub address: u64,
    /// Width in bytes.
    pub size: u8,
    /// Whether it is a write.
    pub is_write: bool,
}

impl Current {
    /// Stands for a machine where there is none: [`crate::bench`]. The address is an offset then.
    pub const NO_MACHINE: u64 = u64::MAX;
    /// Stands for an instruction pointer where there is none: the write was made before, and is served now.
    pub const NO_RIP: u64 = u64::MAX;
    /// Stands for a vCPU where none is known: whoever rang a doorbell.
    pub const NO_VCPU: u32 = u32::MAX;
}

thread_local! {
    pub(super) static CURRENT: Cell<Option<Current>> = const { Cell::new(None) };
}

/// The access that is being answered on this thread, if any.
#[must_use]
pub fn current() -> Option<Current> {
    CURRENT.get()
}

/// Runs what answers an access that no vCPU makes.
pub(crate) fn alone<T>(access: Current, f: impl FnOnce() -> T) -> T {
    struct Back(Option<Current>);
    impl Drop for Back {
        fn drop(&mut self) {
            CURRENT.set(self.0); // also when `f` panics
        }
    }
    let _back = Back(CURRENT.replace(Some(access)));
    f()
}

thread_local! {
    /// Machines that this thread runs, or whose vCPU it holds; more than one when a signal handler runs another.
    static INSIDE: RefCell<Vec<u64>> = const { RefCell::new(Vec::new()) };
}

/// Marks a thread that drives a machine: what would wait for a vCPU there would wait for itself.
pub(crate) struct Inside;

impl Inside {
    /// Until the result is dropped, this thread is inside the machine with this id.
    pub(crate) fn enter(machine: u64) -> Self {
        INSIDE.with_borrow_mut(|machines| machines.push(machine));
        Self
    }

    /// Whether this thread is inside this machine.
    pub(crate) fn machine(id: u64) -> bool {
        INSIDE.with_borrow(|machines| machines.contains(&id))
    }

    /// Whether this thread is inside any machine.
    pub(crate) fn any() -> bool {
        INSIDE.with_borrow(|machines| !machines.is_empty())
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        INSIDE.with_borrow_mut(Vec::pop);
    }
}
