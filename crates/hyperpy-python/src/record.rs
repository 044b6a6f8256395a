//! What keeps a device's traffic, for `hyperpy.testing.record`.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use hyperpy_core::bus::Device;
use hyperpy_core::error::{AttachError, RunError};
use hyperpy_core::kvm::thread::fork_generation;
use hyperpy_core::machine::{Attachment, Machine as Core};
use hyperpy_core::record::{Event, Recorded, Recorder as CoreRecorder, What};
use pyo3::prelude::*;

use crate::bench::asked;
use crate::clock::Clock;
use crate::errors;

/// Where a device is recorded.
struct Place {
    machine: Weak<Core>,
    attachment: Attachment,
    /// Lives as long as it is on the bus.
    recorded: Weak<Recorded>,
}

/// Keeps what happens to a device.
#[pyclass(frozen, module = "hyperpy._hyperpy")]
pub struct Recorder {
    pub(crate) core: Arc<CoreRecorder>,
    places: Mutex<Vec<Place>>,
    /// The process that it belongs to.
    forks: u64,
}

/// What it was; nanoseconds; vcpu; offset, size and value; how the line changed; the reason of a stop; what was raised.
type Told = (&'static str, u64, u32, (u64, u8, u64), Vec<bool>, Option<String>, Option<String>);

#[pymethods]
impl Recorder {
    #[new]
    fn new(clock: &Clock, limit: usize, high: bool) -> Self {
        Self {
            core: CoreRecorder::new(clock.core().clone(), limit, high),
            places: Mutex::default(),
            forks: fork_generation(),
        }
    }

    /// The interrupt line of a bench is driven.
    fn line(&self, high: bool) {
        self.core.line(high);
    }

    /// What was kept, and how many events were not.
    fn events(&self, py: Python<'_>) -> PyResult<(Vec<Told>, u64)> {
        if self.is_the_parents() {
            return Err(errors::run(&RunError::Forked { verb: "read a recording" }));
        }
        let (events, lost) = py.detach(|| self.core.events());
        Ok((events.iter().map(told).collect(), lost))
    }

    /// Keeps nothing from now on, and lets go of the device.
    fn stop(&self) {
        if self.is_the_parents() {
            return;
        }
        self.core.stop();
        for place in std::mem::take(&mut *self.places.lock().unwrap_or_else(PoisonError::into_inner)) {
            if let (Some(machine), Some(recorded)) = (place.machine.upgrade(), place.recorded.upgrade()) {
                // One that was detached meanwhile is nowhere any more.
                let _ = machine.replace(place.attachment, |_| recorded.inner.clone());
            }
        }
    }
}

impl Recorder {
    /// In the child of a fork, a machine's: a thread that is not there any more may hold its locks.
    fn is_the_parents(&self) -> bool {
        let is_of_a_machine = self.places.try_lock().map_or(true, |places| !places.is_empty());
        self.forks != fork_generation() && is_of_a_machine
    }

    /// Watches a device where it is attached.
    pub(crate) fn watch(&self, machine: &Arc<Core>, attachment: Attachment) -> Result<(), AttachError> {
        let mut recorded = Weak::new();
        machine.replace(attachment, |device| {
            let put = self.before(device);
            recorded = Arc::downgrade(&put);
            put
        })?;
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        places.push(Place { machine: Arc::downgrade(machine), attachment, recorded });
        Ok(())
    }

    /// What stands for a device that is recorded.
    pub(crate) fn before(&self, device: &Arc<dyn Device>) -> Arc<Recorded> {
        Arc::new(Recorded { inner: device.clone(), recorder: self.core.clone() })
    }
}

fn told(event: &Event) -> Told {
    let (kind, access) = match event.what {
        What::Read { offset, size, value } => ("read", (offset, size, value)),
        What::Write { offset, size, value } => ("write", (offset, size, value)),
        What::Timer { deadline } => ("timer", (0, 0, deadline)),
        What::Line { high } => ("line", (0, 0, high.into())),
        What::Reset => ("reset", (0, 0, 0)),
    };
    let (stop, raised) = (event.asked().and_then(asked), event.raised().map(str::to_owned));
    (kind, event.ns, event.vcpu, access, event.lines().to_vec(), stop, raised)
}
