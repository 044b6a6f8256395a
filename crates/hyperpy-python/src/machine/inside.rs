//! What the methods of the machine share: refusals before a lock is taken, how verbs wait, and what a round ended with.

use std::sync::Arc;
use std::time::Duration;

use hyperpy_core::control::{Outcome, Phase};
use hyperpy_core::error::{AttachError, RunError, StateError};
use hyperpy_core::machine::{Machine as Core, Unclaimed};
use hyperpy_devices::clock::HostClock;
use hyperpy_devices::pc::{Board, Parts};
use pyo3::exceptions::{PyIndexError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyList;

use super::{Machine, lock};
use crate::console::Console;
use crate::device::Report;
use crate::host::PyHost;
use crate::{convert, errors};

/// Why there are no stock devices.
pub(super) enum BoardError {
    Run(RunError),
    Attach(AttachError),
}

impl From<RunError> for BoardError {
    fn from(error: RunError) -> Self {
        Self::Run(error)
    }
}

impl From<AttachError> for BoardError {
    fn from(error: AttachError) -> Self {
        Self::Attach(error)
    }
}

impl Machine {
    pub(crate) fn core(&self) -> &Arc<Core> {
        &self.core
    }

    /// Puts the stock devices of a PC onto the port bus, once. No exception is made while the board is locked: that is Python.
    pub(super) fn make_board(&self, console: &Console) -> Result<(), BoardError> {
        let mut board = lock(&self.board);
        if board.is_some() {
            return Ok(());
        }
        let open = [Phase::Created, Phase::Running, Phase::Paused, Phase::Stopped];
        self.core.control.require("attach", &open).map_err(RunError::from)?;
        let had_irqchip = self.core.config().irqchip;
        self.core.want_irqchip()?;
        let lines = |gsi| self.core.lines.line(gsi);
        let memory_size = self.core.memory.pc_ram();
        let (clock, posts) = (Arc::new(HostClock::default()), self.core.posts.clone());
        let console = console.inner.clone();
        let parts = Parts { lines: &lines, clock, console, memory_size, posts, debug_exit: None };
        let made = Board::attach(&self.core.pio, parts);
        *board = Some(made.map_err(|error| {
            self.core.unwant_irqchip(had_irqchip);
            AttachError::from(error)
        })?);
        Ok(())
    }

    /// Whether the stock devices of a PC are attached.
    pub(crate) fn has_board(&self) -> bool {
        lock(&self.board).is_some()
    }

    /// Whether a stock device of that name is attached: not if a script's own stands there.
    pub(crate) fn has_stock(&self, name: &str) -> bool {
        lock(&self.board).as_ref().is_some_and(|board| board.has(name))
    }

    /// The lines of the stock devices that are attached.
    pub(crate) fn stock_lines(&self) -> Vec<(u32, bool, &'static str)> {
        lock(&self.board).as_ref().map_or_else(Vec::new, |board| board.lines().collect())
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
