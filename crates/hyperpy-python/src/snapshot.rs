//! Snapshots for Python: the machine's verbs, and the value that they give. What is in one is the core's.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use hyperpy_core::clock::Kept;
use hyperpy_core::error::{MemoryError, RunError};
use hyperpy_core::memory::{RegionInfo, Written};
use hyperpy_core::snapshot::file::Compress;
use hyperpy_core::snapshot::{OpenError, Snapshot as CoreSnapshot, SnapshotError, StateFault};
use pyo3::exceptions::PyBaseException;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::buffer::filled;
use crate::clock::{carry_timers, named_timers};
use crate::console::Console;
use crate::errors::{self, Raise};
use crate::host::PyHost;
use crate::machine::{Machine, lock};
use crate::signals::{Watch, attach};
use crate::snapshot_file::{Difference, difference, load_error, save_error};
use crate::snapshot_value::to_python;

/// A machine at one moment.
#[pyclass(frozen, module = "hyperpy._hyperpy")]
pub struct Snapshot {
    pub(crate) inner: CoreSnapshot,
}

#[pymethods]
impl Snapshot {
    /// Writes it to a file, at once or not at all.
    fn save(&self, py: Python<'_>, path: PathBuf, compress: bool) -> PyResult<()> {
        let compress = if compress { Compress::Zstd } else { Compress::No };
        let made_by = concat!("hyperpy ", env!("CARGO_PKG_VERSION"));
        let watch = Watch::default();
        let saved = py.detach(|| self.inner.save(&path, compress, made_by, &|| watch.goes_on()));
        saved.map_err(|error| watch.raised().unwrap_or_else(|| save_error(py, &path, &error)))
    }

    /// Reads one from a file.
    #[staticmethod]
    fn open(py: Python<'_>, path: PathBuf) -> PyResult<Self> {
        let watch = Watch::default();
        let opened = py.detach(|| CoreSnapshot::open(&path, &|| watch.goes_on()));
        let inner = opened.map_err(|error| match (&error, watch.raised()) {
            (_, Some(raised)) => raised,
            (OpenError::File(error), None) => load_error(py, &path, error),
            (error, None) => Raise::new("SnapshotError", format!("{error}: {}", path.display()), error.hint()).into(),
        })?;
        Ok(Self { inner })
    }

    /// In what another differs, as `SnapshotFile.diff` has it.
    fn diff<'py>(&self, py: Python<'py>, other: &Self) -> PyResult<Difference<'py>> {
        let found = py.detach(|| self.inner.diff(&other.inner));
        difference(py, found)
    }

    /// (kind, gpa, bytes, name) of each region of memory; vCPUs, and whether there are interrupt controllers; the state of the machine.
    #[allow(clippy::type_complexity)]
    fn about(&self) -> (Vec<(u64, u64, String)>, u32, bool, &'static str) {
        let of = |region: &RegionInfo| (region.gpa, region.len, region.name.to_string());
        let (config, phase) = self.inner.machine();
        (self.inner.regions().iter().map(of).collect(), config.vcpus, config.irqchip, phase.name())
    }

    /// Bytes of its pages, and of those that only it has.
    fn bytes(&self, py: Python<'_>) -> (u64, u64) {
        py.detach(|| self.inner.bytes())
    }

    /// Bytes of memory at that moment.
    fn read<'py>(&self, py: Python<'py>, gpa: u64, len: u64) -> PyResult<Bound<'py, PyBytes>> {
        let outside = || errors::memory(&MemoryError::Access { gpa, len });
        let size = usize::try_from(len).map_err(|_| outside())?;
        if !self.inner.holds(gpa, len) {
            return Err(outside());
        }
        filled(py, size, |into| if self.inner.read(gpa, into) { Ok(()) } else { Err(outside()) })
    }

    /// All but memory, as plain data.
    fn state<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        to_python(py, &self.inner.value())
    }

    /// 64 bits that are the same for the same state, which is of what time alone moves too, or not.
    fn hash(&self, py: Python<'_>, clocks: bool) -> u64 {
        py.detach(|| if clocks { self.inner.hash_with_clocks() } else { self.inner.hash() })
    }
}

/// What the machine is now.
#[pyfunction]
pub fn take_snapshot(py: Python<'_>, machine: &Machine) -> PyResult<Snapshot> {
    let inner = still(py, machine, "snapshot", || None, |host| machine.core().snapshot(host))?;
    Ok(Snapshot { inner })
}

/// Pages, seconds for each part, and exceptions.
type Restored = (u64, f64, f64, f64, f64, Vec<Py<PyBaseException>>);

/// Puts it back to what it was, but for the spared ranges: pages that were put back, and seconds for controllers, vCPUs, memory
/// and devices. And what devices had raised that no `run()` will raise any more.
#[allow(clippy::type_complexity)] // a tuple for Python
#[pyfunction]
pub fn restore(py: Python<'_>, machine: &Machine, snapshot: &Snapshot, spared: Vec<Written>) -> PyResult<Restored> {
    let done = still(py, machine, "restore", || None, |host| machine.core().restore(&snapshot.inner, &spared, host))?;
    let [vm, vcpus, memory, devices] = [done.vm, done.vcpus, done.memory, done.devices].map(|it| it.as_secs_f64());
    Ok((done.pages, vm, vcpus, memory, devices, machine.undelivered()))
}

/// Makes a copy of the machine with this console. `build` gets its native half, gives it copies of `devices`, and returns these in
/// the same order; the state is put in after that. Whether the machine runs, which the copy does not; pages that were copied for it;
/// and timers that it has not, since they call something else than a device.
#[pyfunction]
pub fn fork(
    py: Python<'_>,
    machine: &Machine,
    console: &Console,
    devices: Vec<Bound<'_, PyAny>>,
    build: Bound<'_, PyAny>,
) -> PyResult<(bool, u64, Vec<String>)> {
    let (build, failed, child) = (build.unbind(), Mutex::new(None), Mutex::new(None));
    let devices: Vec<_> = devices.into_iter().map(Bound::unbind).collect();
    let mut left = Vec::new();
    let fail = |error| {
        *lock(&failed) = Some(error);
        SnapshotError::from(RunError::Host)
    };
    let copy = |memory| {
        let core = Arc::new(machine.core().sibling(memory)?);
        let built = attach(|py| {
            let made = Py::new(py, Machine::around(core.clone(), console))?;
            *lock(&child) = Some(made.clone_ref(py));
            build.call1(py, (made,))?.extract::<Vec<Py<PyAny>>>(py)
        });
        Ok((built.map_err(fail)?, core))
    };
    let carry = |copies: &Vec<Py<PyAny>>, kept: &Kept| {
        let carried = attach(|py| {
            let (named, others) = named_timers(py, kept, &bound(py, &devices))?;
            left = others;
            carry_timers(&named, &bound(py, copies))
        });
        carried.map_err(fail)
    };
    let done = still(
        py,
        machine,
        "fork",
        || lock(&child).as_ref().and_then(|child| child.get().raised_last()),
        |host| machine.core().fork(host, copy, carry),
    );
    match lock(&failed).take() {
        Some(error) => Err(error),
        None => done.map(|done| (done.was_running, done.forked.pages, left)),
    }
}

fn bound<'py>(py: Python<'py>, objects: &[Py<PyAny>]) -> Vec<Bound<'py, PyAny>> {
    objects.iter().map(|object| object.bind(py).clone()).collect()
}

/// A verb on the whole of a machine that stands still, detached; `raised` is what a device's own method has raised.
fn still<T: Send>(
    py: Python<'_>,
    machine: &Machine,
    verb: &'static str,
    raised: impl FnOnce() -> Option<Py<PyBaseException>>,
    f: impl FnOnce(&PyHost) -> Result<T, SnapshotError> + Send,
) -> PyResult<T> {
    machine.ours(verb)?;
    let host = PyHost::new(machine.core());
    py.detach(|| f(&host)).map_err(|error| match error {
        SnapshotError::Run(RunError::Host) => host.take().unwrap_or_else(|| errors::run(&RunError::Host)),
        // It is raised as it is.
        SnapshotError::Device { fault: StateFault::Raised, .. } => match machine.raised_last().or_else(raised) {
            Some(raised) => PyErr::from_value(raised.into_bound(py).into_any()),
            None => errors::snapshot(&error),
        },
        error => errors::snapshot(&error),
    })
}
