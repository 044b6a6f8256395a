//! What keeps a device's traffic, for `hyperpy.testing.record`. Who puts it before the device is `bench`, or `places`.

use std::sync::Arc;

use hyperpy_core::bus::Device;
use hyperpy_core::error::RunError;
use hyperpy_core::kvm::thread::fork_generation;
use hyperpy_core::record::{Event, Recorded, Recorder as CoreRecorder, What};
use pyo3::prelude::*;

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

/// What it was; nanoseconds; vcpu; offset, size and value; how the line changed; the reason of a stop; what was raised.
type Told = (&'static str, u64, u32, (u64, u8, u64), Vec<bool>, Option<String>, Option<String>);

#[pymethods]
impl Recorder {
    #[new]
    fn new(clock: &Clock, limit: usize, high: bool) -> Self {
        let forks = clock.is_of_a_machine().then(fork_generation);
        Self { core: CoreRecorder::new(clock.core().clone(), limit, high), forks }
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
