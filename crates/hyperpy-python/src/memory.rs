//! Guest-physical memory for Python.

use std::sync::{Arc, Weak};

use hyperpy_core::error::{MemoryError, RunError};
use hyperpy_core::kvm::thread::fork_generation;
use hyperpy_core::machine::Machine;
use hyperpy_core::memory::{self, Kind, Pages, dma as core};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::buffer::{self, View};
use crate::dma::Dma;
use crate::errors;

/// Guest-physical memory of a machine.
#[pyclass(frozen, module = "hyperpy._hyperpy")]
pub struct Memory {
    pub(crate) inner: Arc<memory::Memory>,
    /// For what concerns devices and vCPUs too. Weak, so that memory that a script keeps does not keep the machine.
    pub(crate) machine: Weak<Machine>,
    /// The process that it belongs to.
    pub(crate) forks: u64,
}

/// A region: (gpa, size, kind, name, writable, huge pages, gpa that it is an alias of).
type Region = (u64, u64, &'static str, String, bool, Option<&'static str>, Option<u64>);

#[pymethods]
impl Memory {
    fn read<'py>(&self, py: Python<'py>, gpa: u64, size: usize) -> PyResult<Bound<'py, PyBytes>> {
        self.ours("read memory")?;
        // Before the bytes are allocated: a wrong size must not become a huge one.
        if !self.inner.holds(gpa, size) {
            return Err(self.refused(MemoryError::Access { gpa, len: size as u64 }));
        }
        buffer::filled(py, size, |into| self.inner.read(gpa, into).map_err(|error| self.refused(error)))
    }

    /// As many bytes as the buffer holds.
    fn read_into(&self, gpa: u64, into: &Bound<'_, PyAny>) -> PyResult<()> {
        self.ours("read memory")?;
        buffer::fill(into, |bytes| self.inner.read(gpa, bytes).map_err(|error| self.refused(error)))
    }

    fn write(&self, gpa: u64, data: &Bound<'_, PyAny>) -> PyResult<()> {
        self.ours("write memory")?;
        buffer::with_bytes(data, buffer::LARGE, |bytes| self.inner.write(gpa, bytes))?
            .map_err(|error| self.refused(error))
    }

    fn view(&self, gpa: u64, size: usize, writable: bool) -> PyResult<View> {
        self.ours("view memory")?;
        let view = self.inner.view(gpa, size, writable).map_err(|error| self.refused(error))?;
        Ok(View { view })
    }

    fn add(
        &self,
        py: Python<'_>,
        gpa: u64,
        size: u64,
        kind: &str,
        name: &str,
        huge_pages: Option<&str>,
    ) -> PyResult<()> {
        let kind = match kind {
            "ram" => Kind::Ram,
            "rom" => Kind::Rom,
            "mmio" => Kind::Mmio,
            _ => {
                return Err(PyValueError::new_err(format!("unknown kind of memory: {kind}\n\nhint: ram, rom or mmio")));
            }
        };
        let pages = pages(huge_pages)?;
        let machine = self.machine()?;
        py.detach(|| machine.add_memory(gpa, size, kind, name, pages)).map_err(|error| errors::run(&error))
    }

    fn alias(&self, py: Python<'_>, gpa: u64, of: u64, size: u64, name: &str) -> PyResult<()> {
        let machine = self.machine()?;
        py.detach(|| machine.alias_memory(gpa, of, size, name)).map_err(|error| errors::run(&error))
    }

    fn remove(&self, py: Python<'_>, gpa: u64) -> PyResult<()> {
        let machine = self.machine()?;
        py.detach(|| machine.remove_memory(gpa)).map_err(|error| errors::run(&error))
    }

    fn protect(&self, py: Python<'_>, gpa: u64, writable: bool) -> PyResult<()> {
        let machine = self.machine()?;
        py.detach(|| machine.protect_memory(gpa, writable)).map_err(|error| errors::run(&error))
    }

    /// Begins or ends tracking; returns whether it was on before.
    fn track(&self, py: Python<'_>, on: bool) -> PyResult<bool> {
        let machine = self.machine()?;
        py.detach(|| machine.track_memory(on)).map_err(|error| errors::run(&error))
    }

    /// (gpa, size) of every range written since the last call that cleared.
    fn dirty(&self, py: Python<'_>, clear: bool) -> PyResult<Vec<(u64, u64)>> {
        let machine = self.machine()?;
        py.detach(|| machine.dirty_memory(clear)).map_err(|error| errors::run(&error))
    }

    /// Every region by ascending gpa.
    fn regions(&self) -> Vec<Region> {
        let kind = |kind| match kind {
            Kind::Ram => "ram",
            Kind::Rom => "rom",
            Kind::Mmio => "mmio",
        };
        let row = |r: memory::RegionInfo| {
            (r.gpa, r.len, kind(r.kind), r.name.to_string(), r.writable, pages_word(r.pages), r.alias_of)
        };
        self.inner.regions().into_iter().map(row).collect()
    }

    /// It for a device that reads at most so many bytes at once.
    fn dma(&self, most: u64) -> Dma {
        Dma { inner: core::Dma::new(&self.inner, most), forks: self.forks }
    }

    /// Bytes of host memory that are in use for it.
    fn committed(&self) -> u64 {
        self.inner.committed()
    }
}

impl Memory {
    fn machine(&self) -> PyResult<Arc<Machine>> {
        self.machine.upgrade().ok_or_else(|| errors::memory(&MemoryError::Closed))
    }

    /// Refuses in the child of a fork: the memory is the one that the parent's guest runs in.
    fn ours(&self, verb: &'static str) -> PyResult<()> {
        let mine = self.forks == fork_generation();
        if mine { Ok(()) } else { Err(errors::run(&RunError::Forked { verb })) }
    }

    /// A closed machine has no memory at all: that is why, then.
    fn refused(&self, error: MemoryError) -> PyErr {
        errors::memory(&if self.inner.is_closed() { MemoryError::Closed } else { error })
    }
}

/// From the words that Python uses.
pub(crate) fn pages(word: Option<&str>) -> PyResult<Pages> {
    match word {
        None => Ok(Pages::Small),
        Some("2M") => Ok(Pages::Huge2M),
        Some("1G") => Ok(Pages::Huge1G),
        Some("transparent") => Ok(Pages::Transparent),
        Some(other) => Err(PyValueError::new_err(format!(
            "unknown huge pages: {other}\n\nhint: \"2M\", \"1G\", \"transparent\", or None"
        ))),
    }
}

fn pages_word(pages: Pages) -> Option<&'static str> {
    match pages {
        Pages::Small => None,
        Pages::Transparent => Some("transparent"),
        Pages::Huge2M => Some("2M"),
        Pages::Huge1G => Some("1G"),
    }
}
