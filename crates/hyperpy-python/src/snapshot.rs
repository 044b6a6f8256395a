//! Snapshots for Python: the machine's verbs, and the value that they give. What is in one is the core's.

use std::sync::{Arc, Mutex};

use hyperpy_core::error::RunError;
use hyperpy_core::machine::Machine as Core;
use hyperpy_core::snapshot::{Snapshot as CoreSnapshot, SnapshotError, StateFault};
use pyo3::prelude::*;

use crate::console::Console;
use crate::errors::{self, Raise};
use crate::host::PyHost;
use crate::machine::{Machine, lock};
use crate::signals::attach;

/// A machine at one moment.
#[pyclass(frozen, module = "hyperpy._hyperpy")]
pub struct Snapshot {
    pub(crate) inner: CoreSnapshot,
}

/// Pages that were put back, and seconds for controllers, vCPUs, memory and devices.
type Restored = (u64, f64, f64, f64, f64);

#[pymethods]
impl Machine {
    fn snapshot(&self, py: Python<'_>) -> PyResult<Snapshot> {
        let inner = self.still(py, "snapshot", |host| self.core().snapshot(host))?;
        Ok(Snapshot { inner })
    }

    fn restore(&self, py: Python<'_>, snapshot: &Snapshot) -> PyResult<Restored> {
        let done = self.still(py, "restore", |host| self.core().restore(&snapshot.inner, host))?;
        let [vm, vcpus, memory, devices] = [done.vm, done.vcpus, done.memory, done.devices].map(|it| it.as_secs_f64());
        Ok((done.pages, vm, vcpus, memory, devices))
    }

    /// Makes a copy of the machine with this console. `build` gets it, and gives it its devices; the state is put in after that.
    /// Whether this machine runs: the copy does not.
    fn fork(&self, py: Python<'_>, console: &Console, build: Bound<'_, PyAny>) -> PyResult<bool> {
        let (build, failed) = (build.unbind(), Mutex::new(None));
        let copy = |memory| {
            let core = Arc::new(self.core().sibling(memory)?);
            let built = attach(|py| {
                let child = Py::new(py, Self::around(core.clone(), console))?;
                build.call1(py, (child,)).map(drop)
            });
            built.map_err(|error| {
                *lock(&failed) = Some(error);
                RunError::Host
            })?;
            Ok(((), core))
        };
        let done = self.still(py, "fork", |host| self.core().fork(host, copy));
        match lock(&failed).take() {
            Some(error) => Err(error),
            None => done.map(|((), is_running)| is_running),
        }
    }
}

impl Machine {
    /// A verb on the whole of a machine that stands still, detached.
    fn still<T: Send>(
        &self,
        py: Python<'_>,
        verb: &'static str,
        f: impl FnOnce(&PyHost) -> Result<T, SnapshotError> + Send,
    ) -> PyResult<T> {
        self.ours(verb)?;
        let host = PyHost::new(self.core());
        let before = self.faults.len();
        py.detach(|| f(&host)).map_err(|error| match error {
            SnapshotError::Run(RunError::Host) => host.take().unwrap_or_else(|| errors::run(&RunError::Host)),
            SnapshotError::Device { fault: StateFault::Raised, .. } => self.raised_since(py, before, &error),
            error => errors::snapshot(&error),
        })
    }
}
