//! What the core asks of Python: whether a signal has raised an exception, and threads for vCPUs, timers and doorbells.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use hyperpy_core::control::{Control, Host};
use hyperpy_core::error::RunError;
use hyperpy_core::machine::Machine;
use pyo3::PyTypeInfo;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::signals::Signals;

/// Python itself has looked for signals so shortly before: a verb that has just begun need not. What interrupts it after
/// that may be a signal.
const FRESH: Duration = Duration::from_millis(1);

/// The Python thread that called a verb.
pub(crate) struct PyHost {
    machine: Weak<Machine>,
    control: Arc<Control>,
    raised: Mutex<Option<PyErr>>,
    made: Instant,
    was_asked: AtomicBool,
    signals: Signals,
    /// When it wants its thread back, whatever comes.
    until: Option<Instant>,
}

impl PyHost {
    pub(crate) fn new(machine: &Arc<Machine>) -> Self {
        let (machine, control) = (Arc::downgrade(machine), machine.control.clone());
        let (raised, was_asked, signals) = (Mutex::default(), AtomicBool::default(), Signals::default());
        Self { machine, control, raised, made: Instant::now(), was_asked, signals, until: None }
    }

    pub(crate) fn until(self, until: Instant) -> Self {
        Self { until: Some(until), ..self }
    }

    /// The exception behind [`RunError::Host`].
    pub(crate) fn take(&self) -> Option<PyErr> {
        self.raised.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn keep(&self, error: PyErr) {
        *self.raised.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
    }
}

impl Host for PyHost {
    fn poll(&self) -> bool {
        if self.until.is_some_and(|until| until <= Instant::now()) {
            return true;
        }
        let is_due = self.was_asked.swap(true, Ordering::Relaxed) || self.made.elapsed() >= FRESH;
        is_due && self.signals.look().map_err(|error| self.keep(error)).is_err()
    }

    fn spawn(&self, vcpu: u32) -> Result<(), RunError> {
        let target = VcpuThread { machine: self.machine.clone(), control: self.control.clone(), vcpu };
        self.thread(&format!("hyperpy-vcpu{vcpu}"), |py| Py::new(py, target))
    }

    fn spawn_timers(&self) -> Result<(), RunError> {
        let Some(id) = self.machine.upgrade().map(|machine| machine.id) else { return Err(RunError::Host) };
        let target = TimerThread { machine: self.machine.clone(), control: self.control.clone(), id };
        self.thread("hyperpy-timers", |py| Py::new(py, target))
    }

    fn spawn_ringer(&self) -> Result<(), RunError> {
        let Some(id) = self.machine.upgrade().map(|machine| machine.id) else { return Err(RunError::Host) };
        let target = BellThread { machine: self.machine.clone(), control: self.control.clone(), id };
        self.thread("hyperpy-doorbells", |py| Py::new(py, target))
    }
}

impl PyHost {
    /// A daemon thread of Python's that calls what `target` makes.
    fn thread<T: PyTypeInfo>(
        &self,
        name: &str,
        target: impl FnOnce(Python<'_>) -> PyResult<Py<T>>,
    ) -> Result<(), RunError> {
        let spawned = Python::attach(|py| {
            let options = PyDict::new(py);
            options.set_item("target", target(py)?)?;
            options.set_item("name", name)?;
            options.set_item("daemon", true)?;
            py.import("threading")?.getattr("Thread")?.call((), Some(&options))?.call_method0("start").map(drop)
        });
        spawned.map_err(|error| {
            self.keep(error);
            RunError::Host
        })
    }
}

/// The body of the thread that fires a machine's timers. It holds no strong reference to its machine.
#[pyclass(frozen, module = "hyperpy._hyperpy")]
pub struct TimerThread {
    machine: Weak<Machine>,
    control: Arc<Control>,
    id: u64,
}

#[pymethods]
impl TimerThread {
    fn __call__(&self, py: Python<'_>) {
        py.detach(|| Machine::serve_timers(&self.machine, self.id, &self.control));
    }
}

/// The body of the thread that serves a machine's doorbells. It holds no strong reference to its machine.
#[pyclass(frozen, module = "hyperpy._hyperpy")]
pub struct BellThread {
    machine: Weak<Machine>,
    control: Arc<Control>,
    id: u64,
}

#[pymethods]
impl BellThread {
    fn __call__(&self, py: Python<'_>) {
        py.detach(|| Machine::serve_bells(&self.machine, self.id, &self.control));
    }
}

/// The body of a vCPU's thread. It holds no strong reference to its machine while the machine stands still, so that an
/// abandoned machine can be collected.
#[pyclass(frozen, module = "hyperpy._hyperpy")]
pub struct VcpuThread {
    machine: Weak<Machine>,
    control: Arc<Control>,
    vcpu: u32,
}

#[pymethods]
impl VcpuThread {
    fn __call__(&self, py: Python<'_>) {
        // One detach for the thread's life: attaches inside find its lasting thread state and are cheap.
        py.detach(|| Machine::serve(self.machine.clone(), &self.control, self.vcpu));
    }
}
