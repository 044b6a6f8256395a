//! What keeps a device's traffic, for `hyperpy.testing.record`. Who puts it before the device is `bench`, or `places`; what the
//! device does itself, its lines tell, and in Python what stands before its memory.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use hyperpy_core::bus::Device;
use hyperpy_core::error::RunError;
use hyperpy_core::kvm::thread::fork_generation;
use hyperpy_core::memory::dma::Range;
use hyperpy_core::record::{Deed, Event, Moved, Recorded, Recorder as CoreRecorder, What, Wire};
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::bench::asked;
use crate::clock::Clock;
use crate::errors;

/// Keeps what happens to a device.
#[pyclass(frozen, module = "hyperpy._hyperpy")]
pub struct Recorder {
    pub(crate) core: Arc<CoreRecorder>,
    /// The process that it belongs to, if it is of a machine's device: there a thread may hold its lock.
    forks: Option<u64>,
}

/// What was done: "line", "message", "read" or "write"; which line; whether it is high, or the message taken; address and data of
/// a message; which memory; what was in it; why it was refused, and where.
type Done = (&'static str, usize, bool, u64, u64, Vec<Range>, Py<PyBytes>, Option<(String, u64, u64)>);
/// What it was; nanoseconds; vcpu; offset, size and value; what the device did; the reason of a stop; what was raised; whether
/// it is told later.
type Told = (&'static str, u64, u32, (u64, u8, u64), Vec<Done>, Option<String>, Option<String>, bool);

#[pymethods]
impl Recorder {
    /// Of each line whether it is high, and the message that it sends.
    #[new]
    fn new(clock: &Clock, limit: usize, lines: Vec<(bool, Option<(u64, u32)>)>) -> Self {
        let forks = clock.is_of_a_machine().then(fork_generation);
        let wires = lines.into_iter().map(|(is_high, message)| Wire { is_high, message }).collect();
        Self { core: CoreRecorder::new(clock.core().clone(), limit, wires), forks }
    }

    /// A line of a bench is driven.
    fn line(&self, number: usize, high: bool) {
        self.core.line(number, high);
    }

    /// A message is sent on a bench.
    fn message(&self, number: usize, address: u64, data: u64, taken: bool) {
        self.core.did(Deed::Message { wire: number, address, data, is_taken: taken });
    }

    /// Guest memory is read or written. In the child of a fork there is none of a machine's.
    fn memory(&self, is_write: bool, ranges: Vec<Range>, data: &[u8], refused: Option<(String, u64, u64)>) {
        if self.is_the_parents() {
            return;
        }
        let moved = |data| Deed::Memory(Arc::new(Moved { is_write, ranges, data, refused }));
        let mut copy = Vec::new();
        // One that the host has no memory for is more than can be kept.
        match copy.try_reserve_exact(data.len()) {
            Ok(()) => {
                copy.extend_from_slice(data);
                self.core.did(moved(copy));
            }
            Err(_) => self.core.end_full(),
        }
    }

    /// What was kept, from the event of this number on, and how many events were not.
    fn events(&self, py: Python<'_>, begin: usize) -> PyResult<(Vec<Told>, u64)> {
        if self.is_the_parents() {
            return Err(errors::run(&RunError::Forked { verb: "read a recording" }));
        }
        let (events, lost) = py.detach(|| self.core.events(begin));
        Ok((events.iter().map(|event| told(py, event)).collect(), lost))
    }

    /// Keeps nothing from now on.
    fn stop(&self) {
        if !self.is_the_parents() {
            self.core.stop();
        }
    }
}

impl Recorder {
    /// In the child of a fork, of a machine's device.
    fn is_the_parents(&self) -> bool {
        self.forks.is_some_and(|mine| mine != fork_generation())
    }

    /// What stands for a device that is recorded.
    pub(crate) fn before(&self, device: &Arc<dyn Device>) -> Arc<Recorded> {
        Arc::new(Recorded { inner: device.clone(), recorder: self.core.clone() })
    }
}

/// Who wants to know what a device does by something that it holds: nobody, mostly.
#[derive(Default)]
pub(crate) struct Tap {
    /// So that it costs one look then.
    is_on: AtomicBool,
    recorder: Mutex<Option<(Arc<CoreRecorder>, usize)>>,
}

impl Tap {
    /// Tells a recorder from now on, under this number, or nobody.
    pub(crate) fn set(&self, recorder: Option<&Recorder>, number: usize) {
        let mut held = self.recorder.lock().unwrap_or_else(PoisonError::into_inner);
        *held = recorder.map(|recorder| (recorder.core.clone(), number));
        self.is_on.store(held.is_some(), Ordering::Release);
    }

    pub(crate) fn tell(&self, f: impl FnOnce(&CoreRecorder, usize)) {
        if !self.is_on.load(Ordering::Acquire) {
            return;
        }
        let held = self.recorder.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some((recorder, number)) = held {
            f(&recorder, number);
        }
    }
}

fn told(py: Python<'_>, event: &Event) -> Told {
    let deeds: Vec<_> = event.deeds().iter().map(|deed| done(py, deed)).collect();
    let (kind, access, waits) = match event.what {
        What::Read { offset, size, value } => ("read", (offset, size, value), false),
        What::Write { offset, size, value, waits } => ("write", (offset, size, value), waits),
        What::Told { offset, size, value } => ("told", (offset, size, value), false),
        What::Timer { deadline } => ("timer", (0, 0, deadline), false),
        What::Deed => ("deed", (0, 0, 0), false),
        What::Reset => ("reset", (0, 0, 0), false),
    };
    let (stop, raised) = (event.asked().and_then(asked), event.raised().map(str::to_owned));
    (kind, event.ns, event.vcpu, access, deeds, stop, raised, waits)
}

fn done(py: Python<'_>, deed: &Deed) -> Done {
    let nothing = || PyBytes::new(py, &[]).unbind();
    match deed {
        Deed::Line { wire, high } => ("line", *wire, *high, 0, 0, Vec::new(), nothing(), None),
        Deed::Message { wire, address, data, is_taken } => {
            ("message", *wire, *is_taken, *address, *data, Vec::new(), nothing(), None)
        }
        Deed::Memory(moved) => {
            let kind = if moved.is_write { "write" } else { "read" };
            let data = PyBytes::new(py, &moved.data).unbind();
            (kind, 0, false, 0, 0, moved.ranges.clone(), data, moved.refused.clone())
        }
    }
}
