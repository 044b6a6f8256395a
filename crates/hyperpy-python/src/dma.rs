//! Guest memory for a device in Python: copies in and out, until the device is detached.
//!
//! Nothing of Python's is held and none of it is called while bytes are copied, so that whoever detaches the device waits
//! for a copy at most.

use hyperpy_core::error::RunError;
use hyperpy_core::kvm::thread::fork_generation;
use hyperpy_core::memory::dma;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::{buffer, errors};

/// Guest memory as one device reaches it.
#[pyclass(frozen, module = "hyperpy._hyperpy")]
pub struct Dma {
    pub(crate) inner: dma::Dma,
    /// The process that it belongs to.
    pub(crate) forks: u64,
}

/// An integer of up to 8 bytes, at an address that lets the copy be one load or store.
#[repr(align(8))]
struct Word([u8; 8]);

#[pymethods]
impl Dma {
    #[getter]
    fn is_usable(&self) -> bool {
        self.forks == fork_generation() && self.inner.is_usable()
    }

    fn read<'py>(&self, py: Python<'py>, gpa: u64, size: u64) -> PyResult<Bound<'py, PyBytes>> {
        self.gathered(py, &[(gpa, size)])
    }

    /// As many bytes as the buffer holds.
    fn read_into(&self, gpa: u64, into: &Bound<'_, PyAny>) -> PyResult<()> {
        self.ours("read memory")?;
        buffer::fill(into, |bytes| self.inner.gather(&[(gpa, bytes.len() as u64)], bytes).map_err(errors::dma))
    }

    fn write(&self, gpa: u64, data: &Bound<'_, PyAny>) -> PyResult<()> {
        self.ours("write memory")?;
        let write = |bytes: &[u8]| self.inner.scatter(&[(gpa, bytes.len() as u64)], bytes);
        buffer::with_bytes(data, buffer::LARGE, write)?.map_err(errors::dma)
    }

    /// 1 to 8 bytes.
    fn read_int(&self, gpa: u64, size: usize, big_endian: bool) -> PyResult<u64> {
        self.ours("read memory")?;
        let mut word = Word([0; 8]);
        let bytes = word.0.get_mut(..size).unwrap_or_default();
        self.inner.gather(&[(gpa, size as u64)], bytes).map_err(errors::dma)?;
        if big_endian {
            bytes.reverse();
        }
        Ok(u64::from_le_bytes(word.0))
    }

    fn write_int(&self, gpa: u64, size: usize, value: u64, big_endian: bool) -> PyResult<()> {
        self.ours("write memory")?;
        let mut word = Word(value.to_le_bytes());
        let bytes = word.0.get_mut(..size).unwrap_or_default();
        if big_endian {
            bytes.reverse();
        }
        self.inner.scatter(&[(gpa, size as u64)], bytes).map_err(errors::dma)
    }

    /// Refuses what could not be read, or written, now: also what is too much to read.
    #[allow(clippy::needless_pass_by_value)]
    fn check(&self, ranges: Vec<dma::Range>, is_write: bool) -> PyResult<()> {
        self.ours("use memory")?;
        let fits = if is_write { Ok(0) } else { self.inner.total(&ranges) };
        fits.and_then(|_| self.inner.check(&ranges, is_write)).map_err(errors::dma)
    }

    /// The bytes of all ranges.
    #[allow(clippy::needless_pass_by_value)]
    fn gather<'py>(&self, py: Python<'py>, ranges: Vec<dma::Range>) -> PyResult<Bound<'py, PyBytes>> {
        self.gathered(py, &ranges)
    }

    /// How many bytes were written: all of the data.
    #[allow(clippy::needless_pass_by_value)]
    fn scatter(&self, ranges: Vec<dma::Range>, data: &Bound<'_, PyAny>) -> PyResult<usize> {
        self.ours("write memory")?;
        let write = |bytes: &[u8]| self.inner.scatter(&ranges, bytes).map(|()| bytes.len());
        buffer::with_bytes(data, buffer::LARGE, write)?.map_err(errors::dma)
    }

    /// Takes the memory away; returns when nothing is copied any more.
    fn revoke(&self, py: Python<'_>) {
        // In the child of a fork a thread that copies may not be there; and it is refused there anyway.
        if self.forks == fork_generation() {
            py.detach(|| self.inner.revoke());
        }
    }
}

impl Dma {
    fn gathered<'py>(&self, py: Python<'py>, ranges: &[dma::Range]) -> PyResult<Bound<'py, PyBytes>> {
        self.ours("read memory")?;
        // Before the bytes are allocated: the guest has chosen how many.
        let size = self.inner.total(ranges).map_err(errors::dma)?;
        self.inner.check(ranges, false).map_err(errors::dma)?;
        buffer::filled(py, size, |into| self.inner.gather(ranges, into).map_err(errors::dma))
    }

    /// Refuses in the child of a fork, before any lock is taken.
    fn ours(&self, verb: &'static str) -> PyResult<()> {
        let mine = self.forks == fork_generation();
        if mine { Ok(()) } else { Err(errors::run(&RunError::Forked { verb })) }
    }
}
