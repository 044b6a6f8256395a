//! Guest memory of a device that is fuzzed: what it reads first comes from the input.
//!
//! It has the methods of `Dma`, and no machine behind it.

use std::sync::{Mutex, MutexGuard, PoisonError};

use hyperpy_core::fuzz::memory::{Memory, Refused};
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::buffer;
use crate::errors::Raise;

type Range = (u64, u64);

/// Guest memory of one execution.
#[pyclass(frozen, module = "hyperpy._hyperpy")]
pub struct FuzzMemory {
    inner: Mutex<Memory>,
    /// Most bytes that are read at once.
    limit: u64,
}

#[pymethods]
impl FuzzMemory {
    #[new]
    fn new(size: u64, limit: u64, double_fetch: bool) -> Self {
        Self { inner: Mutex::new(Memory::new(size, double_fetch)), limit }
    }

    #[getter]
    fn is_usable(&self) -> bool {
        true
    }

    fn read<'py>(&self, py: Python<'py>, gpa: u64, size: u64) -> PyResult<Bound<'py, PyBytes>> {
        self.gathered(py, &[(gpa, size)])
    }

    fn read_into(&self, gpa: u64, into: &Bound<'_, PyAny>) -> PyResult<()> {
        buffer::fill(into, |bytes| self.copy_out(gpa, bytes))
    }

    fn write(&self, gpa: u64, data: &Bound<'_, PyAny>) -> PyResult<()> {
        buffer::with_bytes(data, buffer::LARGE, |bytes| self.copy_in(gpa, bytes))?
    }

    fn read_int(&self, gpa: u64, size: usize, big_endian: bool) -> PyResult<u64> {
        let mut word = [0; 8];
        let bytes = word.get_mut(..size).unwrap_or_default();
        self.copy_out(gpa, bytes)?;
        if big_endian {
            bytes.reverse();
        }
        Ok(u64::from_le_bytes(word))
    }

    fn write_int(&self, gpa: u64, size: usize, value: u64, big_endian: bool) -> PyResult<()> {
        let mut word = value.to_le_bytes();
        let bytes = word.get_mut(..size).unwrap_or_default();
        if big_endian {
            bytes.reverse();
        }
        self.copy_in(gpa, bytes)
    }

    #[allow(clippy::needless_pass_by_value)]
    fn check(&self, ranges: Vec<Range>, is_write: bool) -> PyResult<()> {
        self.total(&ranges, is_write).map(drop)
    }

    #[allow(clippy::needless_pass_by_value)]
    fn gather<'py>(&self, py: Python<'py>, ranges: Vec<Range>) -> PyResult<Bound<'py, PyBytes>> {
        self.gathered(py, &ranges)
    }

    #[allow(clippy::needless_pass_by_value)]
    fn scatter(&self, ranges: Vec<Range>, data: &Bound<'_, PyAny>) -> PyResult<usize> {
        let room = self.total(&ranges, true)?;
        buffer::with_bytes(data, buffer::LARGE, |bytes| {
            if bytes.len() as u64 > room {
                let (gpa, size) = ranges.last().copied().unwrap_or_default();
                return Err(refused(gpa, size, "the scatter list has not room for the data"));
            }
            let mut rest = bytes;
            for &(gpa, size) in &ranges {
                let (part, after) = rest.split_at(usize::try_from(size).unwrap_or(usize::MAX).min(rest.len()));
                self.copy_in(gpa, part)?;
                rest = after;
            }
            Ok(bytes.len())
        })?
    }

    fn revoke(&self) {}

    /// Where bytes of the input were read, in order.
    fn given(&self) -> Vec<(u64, u8)> {
        self.lock().given().to_vec()
    }

    /// Forgets all.
    fn clear(&self) {
        self.begin();
    }

    /// The guest leaves bytes where the device will look.
    fn leave(&self, data: &[u8]) {
        self.feed(data);
    }
}

impl FuzzMemory {
    fn lock(&self) -> MutexGuard<'_, Memory> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An input begins.
    pub(super) fn begin(&self) {
        self.lock().clear();
    }

    /// What it takes of the process's memory, in bytes.
    pub(super) fn footprint(&self) -> u64 {
        self.lock().footprint() as u64
    }

    pub(super) fn feed(&self, bytes: &[u8]) {
        self.lock().feed(bytes);
    }

    fn copy_out(&self, gpa: u64, into: &mut [u8]) -> PyResult<()> {
        let done = self.lock().read(gpa, into);
        done.map_err(|Refused| refused(gpa, into.len() as u64, OUTSIDE))
    }

    fn copy_in(&self, gpa: u64, bytes: &[u8]) -> PyResult<()> {
        let done = self.lock().write(gpa, bytes);
        done.map_err(|Refused| refused(gpa, bytes.len() as u64, OUTSIDE))
    }

    /// How many bytes ranges are, all of which are memory.
    fn total(&self, ranges: &[Range], is_write: bool) -> PyResult<u64> {
        let mut total = 0_u64;
        for &(gpa, size) in ranges {
            if !self.lock().holds(gpa, size) {
                return Err(refused(gpa, size, OUTSIDE));
            }
            total = total.saturating_add(size);
            if !is_write && total > self.limit {
                return Err(refused(gpa, size, "it is more than `dma_limit` at once"));
            }
        }
        Ok(total)
    }

    fn gathered<'py>(&self, py: Python<'py>, ranges: &[Range]) -> PyResult<Bound<'py, PyBytes>> {
        let total = self.total(ranges, false)?;
        let total = usize::try_from(total).map_err(|_| refused(0, total, OUTSIDE))?;
        buffer::filled(py, total, |into| {
            let mut rest = into;
            for &(gpa, size) in ranges {
                let length = usize::try_from(size).unwrap_or(usize::MAX).min(rest.len());
                let (part, after) = rest.split_at_mut(length);
                self.copy_out(gpa, part)?;
                rest = after;
            }
            Ok(())
        })
    }
}

const OUTSIDE: &str = "guest memory ends before, or the input has touched too much of it";

fn refused(gpa: u64, size: u64, hint: &str) -> PyErr {
    let message = format!("dma reaches no memory at {gpa:#x} for {size:#x} bytes");
    Raise::new("MemoryAccessError", message, hint).number("address", gpa).number("size", size).into()
}
