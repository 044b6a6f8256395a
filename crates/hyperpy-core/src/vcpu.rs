//! A vCPU as the machine sees it: its accelerator half, the access that is pending on it, and its way into the buses.
//!
//! A pending access is completed before anything else is done to the vCPU: KVM finishes the instruction only at the
//! next entry, and loses register writes made in between (docs/design.md, run loop, rule 7). What other threads may look
//! at while the vCPU runs is in `shared`, what a thread is in the middle of in `current`, how a vCPU is driven in `run`, exits that are no access to a bus in `special`, calls of methods in `method`.

mod current;
mod method;
mod shared;
mod special;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use self::current::CURRENT;
pub use self::current::{Current, current};
pub(crate) use self::current::{Inside, alone};
use self::method::{by_method, called};
pub(crate) use self::shared::bump;
pub use self::shared::{Counters, Readings, Shared};
use crate::accel::{self, AccelExit, Interruption};
use crate::bus::{Access, Action, Cursor, Place, Rung, Space, ones};
use crate::debug::DebugControl;
use crate::exit::{Exit, IoExit};
use crate::machine::{Machine, Unclaimed};
use crate::posted;
use crate::trace::Ring;

/// An access that the guest waits for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pending {
    pub(crate) space: Space,
    pub(crate) address: u64,
    pub(crate) size: u8,
    pub(crate) is_write: bool,
    /// Values that a string instruction moves; 1 otherwise.
    pub(crate) count: u32,
    /// The first value that nobody has served yet.
    pub(crate) next: u32,
}

/// The next ticket. One count for the process: an exit of another machine is never taken for one of this.
fn next_ticket() -> u64 {
    static TICKETS: AtomicU64 = AtomicU64::new(1);
    TICKETS.fetch_add(1, Ordering::Relaxed)
}

/// A read that was handed to the caller of `run()` and can still be answered.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Open {
    ticket: u64,
    index: u32,
    size: u8,
    /// It is an RDMSR, which faults until it is answered.
    is_msr: bool,
}

/// Why not all of an access was served.
#[derive(Debug)]
pub(crate) enum Unserved {
    /// Nobody claims a value of it.
    Exit(Exit),
    /// Someone wants something of the vCPU, and the device takes its time. The rest is pending.
    Rest,
}

/// One byte, since it is stored on the path of every access.
#[derive(Clone, Copy, Debug)]
enum Serving {
    Device(Space),
    Unclaimed,
    /// Writes from the ring.
    Posted,
    Msr,
}

/// Why an answer to an unclaimed read was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// The vCPU has moved on.
    Stale,
    /// The exit was a write.
    NotRead,
    /// The value does not fit.
    TooWide,
}

/// A vCPU.
pub struct Vcpu {
    id: u32,
    pub(crate) accel: Box<dyn accel::Vcpu>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) pending: Option<Pending>,
    /// An access was served, and the accelerator has not been entered since.
    pub(crate) unfinished: bool,
    /// Halted on a machine without an interrupt controller.
    pub(crate) parked: bool,
    /// Closed again when the guest is entered.
    pub(crate) open: Option<Open>,
    /// What the accelerator was told to stop for.
    pub(crate) debug: DebugControl,
    /// Where a debug event was reported and the guest has not moved from since.
    pub(crate) reported: Option<u64>,
    /// Processor time of this sitting that the machine's limit has been charged for, in nanoseconds.
    pub(crate) charged_ns: u64,
    /// What is being served, to name it after a panic.
    serving: Serving,
    /// What was served last may have taken any time: it was Python's.
    slow: bool,
    pio: Cursor,
    mmio: Cursor,
}

impl Vcpu {
    pub(crate) fn new(id: u32, accel: Box<dyn accel::Vcpu>, trace: Option<Ring>) -> io::Result<Self> {
        let shared = Arc::new(Shared::new(&*accel, trace)?);
        Ok(Self::with(id, accel, shared))
    }

    /// A fresh one after a reset, that goes on with the shared half of the one before.
    pub(crate) fn again(id: u32, accel: Box<dyn accel::Vcpu>, shared: &Arc<Shared>) -> Self {
        shared.renew(&*accel);
        Self::with(id, accel, shared.clone())
    }

    fn with(id: u32, accel: Box<dyn accel::Vcpu>, shared: Arc<Shared>) -> Self {
        Self {
            id,
            accel,
            shared,
            pending: None,
            unfinished: false,
            parked: false,
            open: None,
            debug: DebugControl::default(),
            reported: None,
            charged_ns: 0,
            serving: Serving::Unclaimed,
            slow: false,
            pio: Cursor::default(),
            mmio: Cursor::default(),
        }
    }

    /// Number of this vCPU, from 0.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.id
    }

    pub(crate) fn count_exit(&self) {
        bump(&self.shared.counters.exits, 1);
    }

    /// Serves the writes that waited in the ring. They are no exits: the one that they came with is still to come.
    #[cold]
    #[inline(never)]
    pub(crate) fn serve_posted(&mut self, machine: &Machine) {
        let (shared, vcpu, rip) = (self.shared.clone(), self.id, self.accel.rip());
        bump(&shared.counters.exits, u64::MAX);
        self.serving = Serving::Posted;
        self.accel.take_posted(&mut |write| {
            if let Some(ring) = &shared.trace {
                ring.record(&write.as_exit(), write.value, rip);
            }
            posted::serve(machine, &shared, vcpu, write);
        });
        // What devices in Python kept of them, now that no lock is held.
        machine.serve_late(&shared);
    }

    /// Records an exit, on a machine that is traced.
    #[inline]
    pub(crate) fn record_exit(&self, result: &Result<AccelExit, Interruption>) {
        if let (Some(ring), Ok(exit)) = (&self.shared.trace, result) {
            let is_written =
                matches!(exit, AccelExit::Pio { is_write, .. } | AccelExit::Mmio { is_write, .. } if *is_write);
            ring.record(exit, if is_written { self.accel.io_value(0) } else { 0 }, self.accel.rip());
        }
    }

    /// Records what a read that was recorded was answered.
    #[inline]
    pub(crate) fn record_answer(&self, access: &Pending, is_answered: bool) {
        if let (Some(ring), false, true) = (&self.shared.trace, access.is_write, is_answered) {
            ring.answered(self.accel.io_value(0));
        }
    }

    /// Serves what is left of an access, as far as it comes; the rest is pending then. Python may take any time for a value:
    /// after one of its the exit flag is looked at, so that a string instruction of a thousand values keeps nobody waiting.
    /// Boxed: an exit is large, and nearly always there is none.
    #[inline]
    pub(crate) fn serve(&mut self, machine: &Machine, mut pending: Pending) -> Option<Box<Unserved>> {
        self.unfinished = true;
        self.serving = Serving::Device(pending.space);
        while pending.next < pending.count {
            let index = pending.next;
            pending.next += 1;
            if let Some(io) = self.serve_one(machine, &pending, index) {
                self.pending = (pending.next < pending.count).then_some(pending);
                return Some(Box::new(Unserved::Exit(match pending.space {
                    Space::Pio => Exit::Pio(io),
                    Space::Mmio => Exit::Mmio(io),
                })));
            }
            if pending.next < pending.count && std::mem::take(&mut self.slow) && self.shared.kick.is_set() {
                self.pending = Some(pending);
                return Some(Box::new(Unserved::Rest));
            }
        }
        None
    }

    #[inline]
    fn serve_one(&mut self, machine: &Machine, access: &Pending, index: u32) -> Option<IoExit> {
        let Pending { space, address, size, is_write, .. } = *access;
        let (bus, cursor) = match space {
            Space::Pio => (&machine.pio, &mut self.pio),
            Space::Mmio => (&machine.mmio, &mut self.mmio),
        };
        self.shared.presence.enter();
        let Some(region) = cursor.find(bus, address, size) else {
            self.shared.presence.leave();
            return self.unclaimed(machine, access, index);
        };
        let at = Access { offset: address - region.base, size, vcpu: self.id };
        if region.rung == Rung::Declared {
            let is_served = if is_write {
                region.device.quick_write(at, self.accel.io_value(index))
            } else {
                let value = region.device.quick_read(at);
                value.inspect(|&value| self.accel.set_io_value(index, value)).is_some()
            };
            if is_served {
                self.shared.presence.leave();
                self.shared.counters.hit(Rung::Declared);
                return None;
            }
        }
        if region.rung >= Rung::Declared {
            self.slow = true;
            by_method(&mut *self.accel, &self.shared, machine, region, at, access, index);
            return None;
        }
        self.shared.counters.hit(Rung::Native);
        let action = called(&mut *self.accel, region, at, is_write, index);
        self.shared.presence.leave();
        if action != Action::Continue {
            machine.control.device_asks(self.id, action);
        }
        None
    }

    #[cold]
    fn unclaimed(&mut self, machine: &Machine, access: &Pending, index: u32) -> Option<IoExit> {
        if let Some(hits) = self.shared.counters.hits.get(Rung::Unclaimed as usize) {
            bump(hits, 1);
        }
        let Pending { space, address, size, is_write, .. } = *access;
        let value = if is_write { self.accel.io_value(index) } else { 0 };
        let policy = machine.unclaimed();
        // Whatever comes of it, a read that gets no answer is all ones.
        if !is_write {
            self.accel.set_io_value(index, ones(size));
        }
        match policy {
            Unclaimed::Ones => None,
            Unclaimed::Exit => {
                let ticket = next_ticket();
                self.open = (!is_write).then_some(Open { ticket, index, size, is_msr: false });
                Some(IoExit { vcpu: self.id, address, size, is_write, value, ticket })
            }
            Unclaimed::Answerer(answerer) => {
                let (machine_id, vcpu, rip) = (machine.id, self.id, self.accel.rip());
                let current = Current { machine: machine_id, vcpu, rip, space: Some(space), address, size, is_write };
                let before = CURRENT.replace(Some(current));
                self.serving = Serving::Unclaimed;
                self.slow = true;
                self.shared.presence.enter();
                self.shared.presence.go_to(Place::ELSEWHERE);
                let action = if is_write {
                    answerer.write(&current, value)
                } else {
                    if let Some(answer) = answerer.read(&current) {
                        self.accel.set_io_value(index, answer);
                    }
                    Action::Continue
                };
                self.shared.presence.back();
                self.shared.presence.leave();
                self.serving = Serving::Device(space);
                CURRENT.set(before);
                if action != Action::Continue {
                    machine.control.device_asks(self.id, action);
                }
                None
            }
        }
    }

    /// Answers an unclaimed read that `run()` returned.
    pub(crate) fn answer(&mut self, exit: &IoExit, value: u64) -> Result<(), Refused> {
        if exit.is_write {
            return Err(Refused::NotRead);
        }
        if value > ones(exit.size) {
            return Err(Refused::TooWide);
        }
        match self.open {
            Some(open) if open.ticket == exit.ticket && open.size == exit.size => {
                self.accel.set_io_value(open.index, value);
                if open.is_msr {
                    self.accel.set_msr_fault(false);
                }
                if let (Some(ring), 0) = (&self.shared.trace, open.index) {
                    ring.answered(value);
                }
                Ok(())
            }
            _ => Err(Refused::Stale),
        }
    }

    /// After a panic inside a device: the region it was in, and the vCPU outside of it again.
    pub(crate) fn escape(&mut self) -> Option<Arc<str>> {
        let access = CURRENT.take();
        self.shared.presence.back();
        self.shared.presence.leave();
        match self.serving {
            Serving::Device(Space::Pio) => self.pio.last_name(),
            Serving::Device(Space::Mmio) => self.mmio.last_name(),
            Serving::Posted => Some("ring of posted writes".into()),
            Serving::Unclaimed => Some("answerer of unclaimed accesses".into()),
            Serving::Msr => access.map(|access| format!("handler of msr {:#x}", access.address).into()),
        }
    }

    pub(crate) fn release_maps(&mut self) {
        self.pio.release();
        self.mmio.release();
    }
}

impl std::fmt::Debug for Vcpu {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Vcpu").field("id", &self.id).field("pending", &self.pending).finish_non_exhaustive()
    }
}

#[cfg(test)]
#[path = "vcpu_test.rs"]
mod tests;
