//! How often a device's methods were called and how long that took, for `Device.explain` and `Machine.stats`.

use std::sync::Arc;

use hyperpy_core::calls::{Calls as Core, Meter};
use pyo3::prelude::*;

use crate::regfile::RegisterLayout;

/// The meters of one Python object, wherever it is attached.
#[pyclass(frozen, module = "hyperpy._hyperpy")]
pub struct Calls {
    pub(crate) inner: Arc<Core>,
}

/// Calls, how many were timed, how long those took together in nanoseconds, and the longest.
type Reading = (u64, u64, u64, u64);

fn reading(meter: &Meter) -> Reading {
    let reading = meter.reading();
    (reading.calls, reading.timed, reading.ns, reading.worst_ns)
}

#[pymethods]
impl Calls {
    #[new]
    #[pyo3(signature = (layout = None))]
    fn new(layout: Option<&RegisterLayout>) -> Self {
        Self { inner: Arc::new(layout.map(|layout| Core::of(&layout.layout)).unwrap_or_default()) }
    }

    /// Those of `read` and of `write`.
    fn plain(&self) -> (Reading, Reading) {
        (reading(&self.inner.plain.read), reading(&self.inner.plain.write))
    }

    /// Those of what a register has marked for reads and for writes.
    fn of(&self, cell: u32) -> Option<(Reading, Reading)> {
        self.inner.cell(cell).map(|pair| (reading(&pair.read), reading(&pair.write)))
    }
}
