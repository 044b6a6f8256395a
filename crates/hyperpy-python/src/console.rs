//! The host's side of a serial line, for `hyperpy.console`.

use std::io::Write;
use std::os::fd::RawFd;
use std::sync::Arc;
use std::time::Duration;

use hyperpy_core::error::RunError;
use hyperpy_core::kvm::thread::fork_generation;
use hyperpy_devices::console;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::buffer::{duplicate, takes_writes};
use crate::errors;

/// How long a vCPU waits for a sink that is full, in milliseconds: the bound on stopping holds for it too.
const SINK_PATIENCE: i32 = 50;
/// What a pipe that is ready for writing takes without blocking.
const PIPE_BUF: usize = 4096;

/// Output of a guest by position, and input to it.
#[pyclass(frozen, module = "hyperpy._hyperpy")]
pub struct Console {
    pub(crate) inner: Arc<console::Console>,
    forks: u64,
}

#[pymethods]
impl Console {
    #[new]
    #[pyo3(signature = (capacity = console::DEFAULT_CAPACITY))]
    fn new(capacity: usize) -> Self {
        Self { inner: Arc::new(console::Console::new(capacity)), forks: fork_generation() }
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

    /// Copies output to a file descriptor as it comes; None ends that. The descriptor is duplicated.
    fn set_sink(&self, py: Python<'_>, descriptor: Option<RawFd>) -> PyResult<()> {
        let console = self.ours()?;
        let Some(descriptor) = descriptor else {
            py.detach(|| console.set_tap(None));
            return Ok(());
        };
        let mut file = duplicate(descriptor)?;
        let mut stalled = false;
        let tap = move |chunk: &[u8]| {
            // A sink that is full or gone loses output, but neither holds up the guest nor its end: the buffer still
            // has it. One that did not empty in time is waited for no more until it has.
            for piece in chunk.chunks(PIPE_BUF) {
                stalled = !takes_writes(&file, if stalled { 0 } else { SINK_PATIENCE });
                if !stalled {
                    let _ = file.write_all(piece);
                }
            }
        };
        py.detach(|| console.set_tap(Some(Box::new(tap))));
        Ok(())
    }
}

impl Console {
    /// Refuses in the child of a fork: a lock may be held by a thread that is not there.
    fn ours(&self) -> PyResult<&console::Console> {
        let mine = self.forks == fork_generation();
        if mine { Ok(&self.inner) } else { Err(errors::run(&RunError::Forked { verb: "use the console" })) }
    }
}
