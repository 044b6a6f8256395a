//! The half of a vCPU that other threads may touch while it runs, and that outlives a reset: its kick, whether it is in a
//! device, its counters and its trace.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::accel;
use crate::bus::{Presence, RUNGS, Rung};
use crate::kvm::thread::Kick;
use crate::trace::Ring;

/// Counters that only the vCPU's thread writes and anyone may read.
#[derive(Debug, Default)]
pub struct Counters {
    pub(crate) hits: [AtomicU64; RUNGS],
    pub(super) exits: AtomicU64,
    capped_ns: AtomicU64,
}

impl Counters {
    /// Counts an access that a rung has answered.
    #[inline]
    pub(crate) fn hit(&self, rung: Rung) {
        if let Some(hits) = self.hits.get(rung as usize) {
            bump(hits, 1);
        }
    }

    pub(crate) fn add_capped(&self, time: Duration) {
        bump(&self.capped_ns, u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
    }
}

/// Adds to a counter that has one writer: no locked instruction is needed.
#[inline]
pub(crate) fn bump(counter: &AtomicU64, by: u64) {
    counter.store(counter.load(Ordering::Relaxed).wrapping_add(by), Ordering::Relaxed);
}

/// A reading of a vCPU's counters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Readings {
    /// Accesses answered, by [`Rung`](crate::bus::Rung).
    pub hits: [u64; RUNGS],
    /// Exits to this process. Each return from an entry is one exit, and each entry one KVM_RUN (run loop, rule 1).
    pub exits: u64,
    /// Processor time of the thread while it drove the vCPU, in nanoseconds.
    pub cpu_ns: u64,
    /// Time that it rested because the machine had used its share of processor time, in nanoseconds.
    pub capped_ns: u64,
}

/// The part of a vCPU that other threads may touch while it runs.
#[derive(Debug)]
pub struct Shared {
    pub(crate) kick: Kick,
    pub(crate) presence: Presence,
    pub(crate) counters: Counters,
    /// Processor time of the rounds that are over, in nanoseconds. Locked where a round begins and ends, so that a reader
    /// sees each round once.
    cpu_ns: Mutex<u64>,
    /// Seen halted with interrupts off, or never started, at its last tick.
    pub(crate) quiet: AtomicBool,
    /// Its last exits, on a machine that is traced.
    pub(crate) trace: Option<Ring>,
}

impl Shared {
    pub(super) fn new(accel: &dyn accel::Vcpu, trace: Option<Ring>) -> io::Result<Self> {
        Ok(Self {
            kick: Kick::new(&accel.exit_flag())?,
            presence: Presence::default(),
            counters: Counters::default(),
            cpu_ns: Mutex::default(),
            quiet: AtomicBool::new(false),
            trace,
        })
    }

    /// Goes on with a fresh accelerator half.
    pub(super) fn renew(&self, accel: &dyn accel::Vcpu) {
        self.kick.rebind(&accel.exit_flag());
        self.quiet.store(false, Ordering::SeqCst);
    }

    /// Runs `f` on the processor time so far while no reader looks.
    pub(crate) fn timed<T>(&self, f: impl FnOnce(&mut u64) -> T) -> T {
        f(&mut self.cpu_ns.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Its last exits, if the machine is traced.
    #[must_use]
    pub fn trace(&self) -> Option<&Ring> {
        self.trace.as_ref()
    }

    /// What the vCPU has done so far, up to this moment.
    #[must_use]
    pub fn readings(&self) -> Readings {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let mut hits = [0; RUNGS];
        for (into, from) in hits.iter_mut().zip(&self.counters.hits) {
            *into = load(from);
        }
        let exits = load(&self.counters.exits);
        let capped_ns = load(&self.counters.capped_ns);
        self.timed(|total| Readings { hits, exits, capped_ns, cpu_ns: *total + self.kick.elapsed() })
    }
}
