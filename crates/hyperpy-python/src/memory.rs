//! Guest-physical memory for Python.

use std::sync::Arc;

use hyperpy_core::control::Phase;
use hyperpy_core::error::{MemoryError, StateError};
use hyperpy_core::memory::{self, Kind};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::buffer::{self, View};
use crate::errors;

/// Guest-physical memory of a machine.
#[pyclass(frozen, module = "hyperpy._hyperpy")]
pub struct Memory {
    pub(crate) inner: Arc<memory::Memory>,
}

#[pymethods]
impl Memory {
    fn read<'py>(&self, py: Python<'py>, gpa: u64, size: usize) -> PyResult<Bound<'py, PyBytes>> {
        // Before the bytes are allocated: a wrong size must not become a huge one.
        if !self.inner.holds(gpa, size) {
            return Err(self.refused(&MemoryError::Access { gpa, len: size as u64 }));
        }
        PyBytes::new_with(py, size, |into| self.inner.read(gpa, into).map_err(|error| self.refused(&error)))
    }

    fn write(&self, gpa: u64, data: &Bound<'_, PyAny>) -> PyResult<()> {
        buffer::with_bytes(data, |bytes| self.inner.write(gpa, bytes))?.map_err(|error| self.refused(&error))
    }

    fn view(&self, gpa: u64, size: usize, writable: bool) -> PyResult<View> {
        let view = self.inner.view(gpa, size).map_err(|error| self.refused(&error))?;
        Ok(View { view, writable })
    }

    fn add(&self, gpa: u64, size: u64, kind: &str, name: &str) -> PyResult<()> {
        let kind = match kind {
            "ram" => Kind::Ram,
            "rom" => Kind::Rom,
            "mmio" => Kind::Mmio,
            _ => {
                return Err(PyValueError::new_err(format!("unknown kind of memory: {kind}\n\nhint: ram, rom or mmio")));
            }
        };
        self.inner.add(gpa, size, kind, name).map_err(|error| self.refused(&error))
    }

    /// (gpa, size, kind, name) by ascending gpa.
    fn regions(&self) -> Vec<(u64, u64, &'static str, String)> {
        let word = |kind| match kind {
            Kind::Ram => "ram",
            Kind::Rom => "rom",
            Kind::Mmio => "mmio",
        };
        self.inner.regions().into_iter().map(|r| (r.gpa, r.len, word(r.kind), r.name.to_string())).collect()
    }

    /// Bytes of host memory that are in use for it.
    fn committed(&self) -> u64 {
        self.inner.committed()
    }
}

impl Memory {
    /// Only a closed machine has no region at all: its memory was given back.
    fn refused(&self, error: &MemoryError) -> PyErr {
        if self.inner.regions().is_empty() {
            return errors::state(&StateError::new("use the memory", Phase::Closed));
        }
        errors::memory(error)
    }
}
