//! What the methods of the machine share: refusals before a lock is taken, how verbs wait, and what a round ended with.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use hyperpy_core::bus::ones;
use hyperpy_core::control::{Outcome, Phase};
use hyperpy_core::error::{RunError, StateError};
use hyperpy_core::kvm::affinity::CpuSet;
use hyperpy_core::machine::{Machine as Core, Unclaimed};
use hyperpy_core::vcpu::Refused;
use pyo3::exceptions::{PyBaseException, PyIndexError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyList;

use super::{Machine, lock};
use crate::console::Console;
use crate::device::Report;
use crate::host::PyHost;
use crate::processor::Handlers;
use crate::{convert, errors};

impl Machine {
    /// What Python has of a core that was just made.
    pub(crate) fn around(core: Arc<Core>, console: &Console) -> Self {
        console.belongs_to(&core);
        let console = console.inner.clone();
        core.keep_console(console.clone());
        // Who waits for output wakes up when no more will come.
        let watcher = move |running| if running { console.reopen() } else { console.close() };
        core.control.watch(Box::new(watcher));
        Self {
            core,
            faults: Arc::default(),
            places: Mutex::default(),
            answerer: Mutex::default(),
            board: Mutex::default(),
            handlers: Handlers::default(),
        }
    }

    pub(crate) fn core(&self) -> &Arc<Core> {
        &self.core
    }

    /// Refuses a verb in the child of a fork, before any lock is taken: the thread that holds it may not be there.
    pub(crate) fn ours(&self, verb: &'static str) -> PyResult<()> {
        if self.core.is_forked() { Err(errors::run(&RunError::Forked { verb })) } else { Ok(()) }
    }

    /// Refuses to load where `check` or the state says so; the thread that resets the machine loads it again.
    pub(crate) fn require_load(&self) -> PyResult<()> {
        if !self.core.is_resetting() {
            self.core.check("load").map_err(|error| errors::run(&error))?;
        }
        self.core.require_load().map_err(|error| errors::run(&error))
    }

    /// A verb that waits, detached, and asks the interpreter meanwhile whether a signal has raised.
    pub(crate) fn hosted<T: Send>(
        &self,
        py: Python<'_>,
        verb: impl FnOnce(&PyHost) -> Result<T, RunError> + Send,
    ) -> PyResult<T> {
        let host = PyHost::new(&self.core);
        let done = py.detach(|| verb(&host));
        done.map_err(|error| host.take().unwrap_or_else(|| errors::run(&error)))
    }

    /// What a device's method raised last, for whoever called it.
    pub(crate) fn raised_last(&self) -> Option<Py<PyBaseException>> {
        self.faults.pop()
    }

    /// What devices have raised and nobody was told of.
    pub(crate) fn undelivered(&self) -> Vec<Py<PyBaseException>> {
        self.faults.take()
    }

    pub(crate) fn report(&self) -> Report {
        Report { faults: self.faults.clone(), control: Arc::downgrade(&self.core.control) }
    }

    /// What a round ended with, or what a device or a signal raised during it.
    pub(crate) fn outcome<'py>(&self, py: Python<'py>, outcome: Outcome, host: &PyHost) -> PyResult<Bound<'py, PyAny>> {
        match outcome {
            Ok(exit) => convert::exit(py, &exit),
            Err(RunError::Host) => Err(host.take().unwrap_or_else(|| PyIndexError::new_err("no exception"))),
            Err(RunError::Device) => {
                let raised = self.faults.take();
                if raised.is_empty() {
                    // `close` on another thread was quicker.
                    return Err(errors::state(&StateError::new("run", Phase::Closed)));
                }
                ("raised", PyList::new(py, raised)?).into_pyobject(py).map(Bound::into_any)
            }
            Err(error) => Err(errors::run(&error)),
        }
    }

    /// Drops every reference to Python objects.
    pub(super) fn let_go(&self) {
        let places = std::mem::take(&mut *lock(&self.places));
        places.let_go();
        let answerer = lock(&self.answerer).take();
        self.core.set_unclaimed(Unclaimed::Ones);
        drop(answerer);
        self.handlers.let_go();
        self.core.clock.cancel_all();
        drop(self.faults.take());
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if !self.core.is_forked() {
            // vCPUs that still run leave, their threads end, and the last of them lets go of the core.
            self.core.control.begin_close();
        }
    }
}

pub(crate) fn duration(seconds: Option<f64>) -> PyResult<Option<Duration>> {
    let wrong = |_| {
        PyValueError::new_err(
            "timeout is not a number of seconds from 0 up\n\nhint: seconds, such as 1.5; None waits for ever",
        )
    };
    // Longer than any machine lives is the same as for ever.
    const FOREVER: f64 = 1e9;
    match seconds {
        Some(seconds) if seconds >= FOREVER => Ok(None),
        Some(seconds) => Duration::try_from_secs_f64(seconds).map(Some).map_err(wrong),
        None => Ok(None),
    }
}

/// The processors of these numbers, if this thread may run on all of them.
pub(super) fn cpu_set(cpus: Vec<u32>) -> PyResult<CpuSet> {
    let refused = |error: &dyn std::fmt::Display| PyValueError::new_err(format!("{error}"));
    let wanted = CpuSet::new(cpus.iter().copied());
    let usable = wanted.as_ref().and_then(|set| {
        let _pinned = set.enter().ok()?;
        CpuSet::current().ok()
    });
    match (wanted, usable) {
        (Some(wanted), Some(usable)) if wanted == usable => Ok(wanted),
        _ => {
            let mine = CpuSet::current().map_err(|error| refused(&error))?;
            Err(refused(&format_args!("not processors that this process can use: {cpus:?}\n\nhint: it has {mine:?}")))
        }
    }
}

/// Why an exit was not answered.
pub(super) fn unanswered(refused: Refused, value: u64, size: u8) -> PyErr {
    match refused {
        Refused::Stale => errors::Raise::new(
            "StateError",
            "the vcpu has moved on: the read was answered already",
            "answer an exit before the next run(), and before registers are written",
        )
        .into(),
        Refused::NotRead => PyValueError::new_err("the exit is a write: it needs no answer\n\nhint: run() goes on"),
        _ => PyValueError::new_err(format!(
            "value is too wide for a read of {size} bytes: {value:#x}\n\nhint: at most {:#x}",
            ones(size)
        )),
    }
}
