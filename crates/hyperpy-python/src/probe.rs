//! What this host's KVM offers, for `hyperpy.doctor`.

use hyperpy_core::kvm;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::errors;

/// Facts about /dev/kvm.
#[pyfunction]
pub fn capabilities(py: Python<'_>) -> PyResult<Bound<'_, PyDict>> {
    let found = kvm::capabilities().map_err(|error| errors::accel(&error))?;
    let dict = PyDict::new(py);
    dict.set_item("api_version", found.api_version)?;
    dict.set_item("recommended_vcpus", found.recommended_vcpus)?;
    dict.set_item("max_vcpus", found.max_vcpus)?;
    dict.set_item("memory_slots", found.memory_slots)?;
    let capabilities = PyDict::new(py);
    for (name, value) in found.capabilities {
        capabilities.set_item(name, value)?;
    }
    dict.set_item("capabilities", capabilities)?;
    Ok(dict)
}
