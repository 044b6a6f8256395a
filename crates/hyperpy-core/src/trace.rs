//! The last exits of a vCPU, for whoever asks why a guest does what it does. Off unless a machine is made with it.
//!
//! One ring for each vCPU, written by the thread that drives it and read by anyone at any time, without a lock: each
//! entry is guarded by a sequence number that is odd while it is written (a seqlock; H. Boehm, "Can seqlocks get along
//! with programming language memory models?", MSPC 2012), and tells which entry it is, so that a reader neither mixes
//! two entries nor takes a new one for an old one. The run loop that records is another instance of the one that does
//! not (`run::rounds`), so that tracing costs nothing where it is off.

use std::sync::atomic::{AtomicU64, Ordering, fence};

use crate::accel::AccelExit;
use crate::error::MemoryError;
use crate::exit::SystemEvent;
use crate::kvm::thread::monotonic_ns;

/// How often a reader looks again at an entry that is being written, before it leaves it out.
const PATIENCE: u32 = 1_000;

/// One exit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// When the guest was left, CLOCK_MONOTONIC in nanoseconds.
    pub ns: u64,
    /// Why.
    pub reason: Reason,
    /// Gpa or port; index of a model-specific register; number of a hypercall; linear address of a debug event.
    pub address: u64,
    /// What was written, or what a read was answered; DR6, hardware's reason, sub-error, number of an event.
    pub value: u64,
    /// Width of the access in bytes, 0 for other exits.
    pub size: u8,
    /// Accesses of one string instruction, 1 otherwise; the value is the first one's.
    pub count: u32,
    /// Whether it is a write.
    pub is_write: bool,
    /// Instruction pointer: on the instruction for a read, after it for a write.
    pub rip: u64,
}

macro_rules! reasons {
    ($($name:ident $word:literal),* $(,)?) => {
        /// Kinds of exits, as [`AccelExit`] has them.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[allow(missing_docs)] // the names say it
        #[repr(u8)]
        pub enum Reason {
            $($name),*
        }

        impl Reason {
            const ALL: &[Self] = &[$(Self::$name),*];

            /// The name of the class in `hyperpy.Exit`, in lower case.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$name => $word),*
                }
            }
        }
    };
}
reasons!(
    Pio "pio", Mmio "mmio", Halt "halt", Hypercall "hypercall", Msr "msr", Debug "debug", Shutdown "shutdown",
    SystemEvent "system-event", FailEntry "fail-entry", InternalError "internal-error", Unknown "unknown",
);

/// Words of an entry: ns, address, value, rip, and the rest in one.
type Words = [u64; 5];
/// Which of them is the value.
const VALUE: usize = 2;

impl Entry {
    fn words(&self) -> Words {
        let rest = u64::from(self.count) << 32
            | u64::from(self.is_write) << 16
            | u64::from(self.size) << 8
            | self.reason as u64;
        [self.ns, self.address, self.value, self.rip, rest]
    }

    fn from_words([ns, address, value, rip, rest]: Words) -> Option<Self> {
        let [reason, size, is_write, _, count @ ..] = rest.to_le_bytes();
        let reason = *Reason::ALL.get(usize::from(reason))?;
        let count = u32::from_le_bytes(count);
        Some(Self { ns, reason, address, value, size, count, is_write: is_write != 0, rip })
    }
}

#[derive(Debug, Default)]
struct Slot {
    /// 2n + 1 while entry n is written, 2n + 2 when it is there; 0 before the first.
    sequence: AtomicU64,
    words: [AtomicU64; 5],
}

/// The last exits of one vCPU.
#[derive(Debug)]
pub struct Ring {
    /// A power of two of them, so that no division finds one.
    slots: Box<[Slot]>,
    /// How many are shown.
    len: u64,
    /// Entries so far. Only the vCPU's thread writes it.
    written: AtomicU64,
}

impl Ring {
    /// A ring of the last `len` exits, at least 1.
    ///
    /// # Errors
    /// The host has no memory for it: a long one takes some 50 MiB.
    pub fn new(len: u32) -> Result<Self, MemoryError> {
        let len = len.max(1);
        let count = len.next_power_of_two() as usize;
        let mut slots = Vec::new();
        slots.try_reserve_exact(count).map_err(|_| MemoryError::Trace { exits: len })?;
        slots.resize_with(count, Slot::default);
        Ok(Self { slots: slots.into(), len: len.into(), written: AtomicU64::new(0) })
    }

    fn slot(&self, n: u64) -> Option<&Slot> {
        #[allow(clippy::cast_possible_truncation)] // the mask is that of a length in memory
        self.slots.get(n as usize & (self.slots.len() - 1))
    }

    /// Records an exit. Called by the vCPU's thread alone.
    #[inline]
    pub(crate) fn record(&self, exit: &AccelExit, value: u64, rip: u64) {
        let Some(mut entry) = entry(exit, value) else { return };
        entry.rip = rip;
        entry.ns = monotonic_ns();
        let n = self.written.load(Ordering::Relaxed);
        self.change(n, |slot| {
            for (into, word) in slot.words.iter().zip(entry.words()) {
                into.store(word, Ordering::Relaxed);
            }
        });
        self.written.store(n + 1, Ordering::Release);
    }

    /// Notes what the last access, a read, was answered. Called by the vCPU's thread alone.
    #[inline]
    pub(crate) fn answered(&self, value: u64) {
        if let Some(n) = self.written.load(Ordering::Relaxed).checked_sub(1) {
            self.change(n, |slot| {
                if let Some(word) = slot.words.get(VALUE) {
                    word.store(value, Ordering::Relaxed);
                }
            });
        }
    }

    #[inline]
    fn change(&self, n: u64, f: impl FnOnce(&Slot)) {
        if let Some(slot) = self.slot(n) {
            slot.sequence.store(2 * n + 1, Ordering::Relaxed);
            fence(Ordering::Release);
            f(slot);
            slot.sequence.store(2 * n + 2, Ordering::Release);
        }
    }

    /// The last exits, oldest first. One that is overwritten meanwhile is left out.
    #[must_use]
    pub fn entries(&self) -> Vec<Entry> {
        self.entries_from(0, false).0
    }

    /// Those of the last exits whose number is `first` or more, and the number of the next one. `is_open`: the last one is
    /// left for the next time, since it may be a read that is still to be answered.
    #[must_use]
    pub fn entries_from(&self, first: u64, is_open: bool) -> (Vec<Entry>, u64) {
        let written = self.written.load(Ordering::Acquire);
        let end = written.saturating_sub(is_open.into());
        let entries = (written.saturating_sub(self.len).max(first)..end).filter_map(|n| self.read(n)).collect();
        (entries, end.max(first))
    }

    fn read(&self, n: u64) -> Option<Entry> {
        let slot = self.slot(n)?;
        for _ in 0..PATIENCE {
            let before = slot.sequence.load(Ordering::Acquire);
            if before > 2 * n + 2 {
                return None;
            }
            let mut words = [0; 5];
            for (into, word) in words.iter_mut().zip(&slot.words) {
                *into = word.load(Ordering::Relaxed);
            }
            fence(Ordering::Acquire);
            if before == 2 * n + 2 && slot.sequence.load(Ordering::Relaxed) == before {
                return Entry::from_words(words);
            }
            std::hint::spin_loop();
        }
        None
    }
}

/// What an exit is in a trace; nothing for one that is nobody's doing.
#[inline]
fn entry(exit: &AccelExit, written: u64) -> Option<Entry> {
    let of =
        |reason, address, value| Entry { ns: 0, reason, address, value, size: 0, count: 1, is_write: false, rip: 0 };
    Some(match *exit {
        AccelExit::Pio { port, size, count, is_write } => {
            Entry { size, count, is_write, ..of(Reason::Pio, port.into(), written) }
        }
        AccelExit::Mmio { gpa, size, is_write } => Entry { size, is_write, ..of(Reason::Mmio, gpa, written) },
        AccelExit::Halt => of(Reason::Halt, 0, 0),
        AccelExit::Hypercall { number, .. } => of(Reason::Hypercall, number, 0),
        AccelExit::Msr { index, is_write, value } => Entry { is_write, ..of(Reason::Msr, index.into(), value) },
        AccelExit::Debug { pc, dr6 } => of(Reason::Debug, pc, dr6),
        AccelExit::Shutdown => of(Reason::Shutdown, 0, 0),
        AccelExit::SystemEvent(kind) => {
            let number = match kind {
                SystemEvent::PowerOff => 1,
                SystemEvent::Reset => 2,
                SystemEvent::Crash => 3,
                SystemEvent::Other(number) => number,
            };
            of(Reason::SystemEvent, 0, number.into())
        }
        AccelExit::FailEntry { reason } => of(Reason::FailEntry, 0, reason),
        AccelExit::InternalError { suberror, .. } => of(Reason::InternalError, 0, suberror.into()),
        AccelExit::Unknown { reason } => of(Reason::Unknown, 0, reason.into()),
        AccelExit::Nothing | AccelExit::Posted => return None,
    })
}

#[cfg(test)]
#[path = "trace_test.rs"]
mod tests;
