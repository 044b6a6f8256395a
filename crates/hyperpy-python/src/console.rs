//! The host's side of a serial line, for `hyperpy.console`.

use std::io::Write;
use std::os::fd::RawFd;
use std::sync::Arc;
use std::time::Duration;

use hyperpy_devices::console;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::buffer::duplicate;

/// Output of a guest by position, and input to it.
#[pyclass(frozen, module = "hyperpy._hyperpy")]
pub struct Console {
    pub(crate) inner: Arc<console::Console>,
}

#[pymethods]
impl Console {
    #[new]
    #[pyo3(signature = (capacity = console::DEFAULT_CAPACITY))]
    fn new(capacity: usize) -> Self {
        Self { inner: Arc::new(console::Console::new(capacity)) }
    }

    /// Position after the last byte of output.
    fn end(&self) -> u64 {
        self.inner.end()
    }

    /// Bytes that were dropped because the buffer was full.
    fn dropped(&self) -> u64 {
        self.inner.dropped()
    }

    /// Output from a position on: where it really begins, and the bytes.
    fn read_from<'py>(&self, py: Python<'py>, position: u64) -> (u64, Bound<'py, PyBytes>) {
        let (start, bytes) = py.detach(|| self.inner.read_from(position));
        (start, PyBytes::new(py, &bytes))
    }

    /// Waits until there is output past a position; False after `seconds`, or when the line is closed.
    fn wait_past(&self, py: Python<'_>, position: u64, seconds: f64) -> bool {
        let timeout = Duration::try_from_secs_f64(seconds).unwrap_or(Duration::ZERO);
        py.detach(|| self.inner.wait_past(position, timeout))
    }

    fn is_closed(&self) -> bool {
        self.inner.is_closed()
    }

    /// No more output comes: wakes those who wait.
    fn close(&self) {
        self.inner.close();
    }

    fn reopen(&self) {
        self.inner.reopen();
    }

    /// Input for the guest; returns how many bytes were taken.
    fn send(&self, py: Python<'_>, bytes: &[u8]) -> usize {
        py.detach(|| self.inner.send(bytes))
    }

    /// Copies output to a file descriptor as it comes; None ends that. The descriptor is duplicated.
    fn set_sink(&self, py: Python<'_>, descriptor: Option<RawFd>) -> PyResult<()> {
        let Some(descriptor) = descriptor else {
            py.detach(|| self.inner.set_tap(None));
            return Ok(());
        };
        let mut file = duplicate(descriptor)?;
        let tap = move |chunk: &[u8]| {
            // A sink that is gone loses output, but not the guest: the buffer still has it.
            let _ = file.write_all(chunk);
        };
        py.detach(|| self.inner.set_tap(Some(Box::new(tap))));
        Ok(())
    }
}
