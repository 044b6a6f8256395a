//! The host's side of a serial line, for `hyperpy.console`.

use std::os::fd::RawFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use hyperpy_core::clock::is_firing;
use hyperpy_core::error::RunError;
use hyperpy_core::kvm::thread::fork_generation;
use hyperpy_core::machine::Machine;
use hyperpy_core::vcpu::current;
use hyperpy_devices::console;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::errors;
use crate::sink::Sink;

/// Output of a guest by position, and input to it.
#[pyclass(frozen, module = "hyperpy._hyperpy")]
pub struct Console {
    pub(crate) inner: Arc<console::Console>,
    /// Bytes that sinks have not got.
    lost: Arc<AtomicU64>,
    forks: u64,
    /// The machine that it was made for.
    machine: OnceLock<Weak<Machine>>,
}

#[pymethods]
impl Console {
    #[new]
    #[pyo3(signature = (capacity = console::DEFAULT_CAPACITY))]
    fn new(capacity: usize) -> Self {
        let inner = Arc::new(console::Console::new(capacity));
        Self { inner, lost: Arc::default(), forks: fork_generation(), machine: OnceLock::new() }
    }

    /// Position after the last byte of output.
    fn end(&self) -> PyResult<u64> {
        Ok(self.ours()?.end())
    }

    /// Bytes that were dropped because the buffer was full.
    fn dropped(&self) -> PyResult<u64> {
        Ok(self.ours()?.dropped())
    }

    /// Output from a position on: where it really begins, and the bytes.
    fn read_from<'py>(&self, py: Python<'py>, position: u64) -> PyResult<(u64, Bound<'py, PyBytes>)> {
        let console = self.ours()?;
        let (start, bytes) = py.detach(|| console.read_from(position));
        Ok((start, PyBytes::new(py, &bytes)))
    }

    /// Refuses to wait for output where it would wait for itself: inside a device, and on a thread that runs the machine.
    fn may_wait(&self, to_interact: bool) -> PyResult<()> {
        self.ours()?;
        let verb = if to_interact { "interact" } else { "expect" };
        let checked = match self.machine.get().and_then(Weak::upgrade) {
            Some(machine) => machine.check(verb),
            None if current().is_some() || is_firing() => Err(RunError::InCallback { verb }),
            None => Ok(()),
        };
        checked.map_err(|error| errors::run(&error))
    }

    /// Waits until there is output past a position; False after `seconds`, or when the line is closed.
    fn wait_past(&self, py: Python<'_>, position: u64, seconds: f64) -> PyResult<bool> {
        let console = self.ours()?;
        let timeout = Duration::try_from_secs_f64(seconds).unwrap_or(Duration::ZERO);
        Ok(py.detach(|| console.wait_past(position, timeout)))
    }

    /// Input for the guest; returns how many bytes were taken.
    fn send(&self, py: Python<'_>, bytes: &[u8]) -> PyResult<usize> {
        let console = self.ours()?;
        Ok(py.detach(|| console.send(bytes)))
    }

    /// Output from a position on, no more than `max` bytes.
    fn read_some<'py>(&self, py: Python<'py>, position: u64, max: usize) -> PyResult<(u64, Bound<'py, PyBytes>)> {
        let console = self.ours()?;
        let (start, bytes) = py.detach(|| console.read_some(position, max));
        Ok((start, PyBytes::new(py, &bytes)))
    }

    /// How many times `wake` was called.
    fn wakes(&self) -> PyResult<u64> {
        Ok(self.ours()?.wakes())
    }

    /// Waits until there is output for who follows, or `wake` was called since `wakes` gave this number.
    fn follow(&self, py: Python<'_>, follower: u64, wakes: u64) -> PyResult<bool> {
        let console = self.ours()?;
        Ok(py.detach(|| console.follow(follower, wakes)))
    }

    /// Someone gets all output from now on: their number.
    fn begin_follow(&self) -> PyResult<u64> {
        Ok(self.ours()?.begin_follow())
    }

    /// They follow no more.
    fn end_follow(&self, follower: u64) -> PyResult<()> {
        self.ours()?.end_follow(follower);
        Ok(())
    }

    /// The next output for who follows, no more than `max` bytes, and how many were dropped before it.
    fn told<'py>(&self, py: Python<'py>, follower: u64, max: usize) -> PyResult<(u64, Bound<'py, PyBytes>)> {
        let console = self.ours()?;
        let (lost, bytes) = py.detach(|| console.told(follower, max));
        Ok((lost, PyBytes::new(py, &bytes)))
    }

    /// Position up to which the script has read.
    #[getter]
    fn unread(&self) -> PyResult<u64> {
        Ok(self.ours()?.unread())
    }

    #[setter]
    fn set_unread(&self, position: u64) -> PyResult<()> {
        self.ours()?.set_unread(position);
        Ok(())
    }

    /// Ends every `follow`.
    fn wake(&self) -> PyResult<()> {
        self.ours()?.wake();
        Ok(())
    }

    /// Copies output to a file descriptor as it comes; None ends that. The descriptor is duplicated.
    fn set_sink(&self, py: Python<'_>, descriptor: Option<RawFd>) -> PyResult<()> {
        let console = self.ours()?;
        let Some(descriptor) = descriptor else {
            py.detach(|| console.set_tap(None));
            return Ok(());
        };
        let mut sink = Sink::open(descriptor, self.lost.clone())?;
        py.detach(|| console.set_tap(Some(Box::new(move |chunk| sink.take(chunk)))));
        Ok(())
    }

    /// Bytes that sinks of descriptors have not got.
    fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }
}

impl Console {
    pub(crate) fn belongs_to(&self, machine: &Arc<Machine>) {
        self.machine.get_or_init(|| Arc::downgrade(machine));
    }

    /// Refuses in the child of a fork: a lock may be held by a thread that is not there.
    fn ours(&self) -> PyResult<&console::Console> {
        let mine = self.forks == fork_generation();
        if mine { Ok(&self.inner) } else { Err(errors::run(&RunError::Forked { verb: "use the console" })) }
    }
}
