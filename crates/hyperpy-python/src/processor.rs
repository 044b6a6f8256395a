//! What makes a vCPU's processor, for Python: vector registers, model-specific registers, CPUID, and what is trapped.
//!
//! Functions over a machine rather than methods, so that each file stays on one subject. `hyperpy.processor` gives the
//! numbers their names.

use std::sync::{Arc, Mutex, PoisonError};

use hyperpy_core::accel::MsrRange;
use hyperpy_core::arch::x86_64::cpuid::{CpuidChange, Leaf};
use hyperpy_core::arch::x86_64::fpu::Wide;
use hyperpy_core::bus::Action;
use hyperpy_core::msr::MsrHandler;
use pyo3::exceptions::PyAttributeError;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;

use crate::device::{Report, action, number};
use crate::errors;
use crate::machine::Machine;
use crate::signals::attach;

/// The x87 and vector registers of a vCPU, each as little-endian bytes.
#[pyfunction]
pub fn fpu(py: Python<'_>, machine: &Machine, index: u32) -> PyResult<Vec<(String, Vec<u8>)>> {
    let fpu = machine.hosted(py, |host| machine.core().fpu(index, host))?;
    let bytes = |name: &str| {
        let (value, width) = fpu.get(name)?;
        Some([value.low.to_le_bytes(), value.high.to_le_bytes()].concat().get(..width)?.to_vec())
    };
    Ok(fpu.names().filter_map(|name| bytes(&name).map(|bytes| (name, bytes))).collect())
}

/// Sets some of them, in order; a name that there is not on this processor changes nothing.
#[pyfunction]
pub fn set_fpu(py: Python<'_>, machine: &Machine, index: u32, values: Vec<(String, Vec<u8>)>) -> PyResult<()> {
    let mut missing = None;
    let change = |fpu: &mut hyperpy_core::arch::x86_64::fpu::Fpu| {
        let before = *fpu;
        missing = values.iter().find(|(name, bytes)| !fpu.set(name, wide(bytes))).map(|(name, _)| name.clone());
        if missing.is_some() {
            *fpu = before;
        }
    };
    machine.hosted(py, |host| machine.core().set_fpu(index, host, change))?;
    missing.map_or(Ok(()), |name| {
        let hint = "the processor has no AVX, or too few registers: `vcpu.fpu.all()` shows those it has";
        Err(PyAttributeError::new_err(format!("no such register: {name}\n\nhint: {hint}")))
    })
}

fn wide(bytes: &[u8]) -> Wide {
    let mut parts = [[0; 16]; 2];
    for (into, from) in parts.iter_mut().flatten().zip(bytes) {
        *into = *from;
    }
    let [low, high] = parts.map(u128::from_le_bytes);
    Wide { low, high }
}

/// Indices of the model-specific registers that hold a vCPU's state.
#[pyfunction]
pub fn msr_indices(py: Python<'_>, machine: &Machine) -> PyResult<Vec<u32>> {
    py.detach(|| machine.core().msr_indices()).map_err(|error| errors::run(&error))
}

/// Model-specific registers of a vCPU, in the order of their indices.
#[pyfunction]
pub fn msrs(py: Python<'_>, machine: &Machine, index: u32, registers: Vec<u32>) -> PyResult<Vec<u64>> {
    machine.hosted(py, |host| machine.core().msrs(index, &registers, host))
}

/// Sets model-specific registers, one after the other.
#[pyfunction]
pub fn set_msrs(py: Python<'_>, machine: &Machine, index: u32, values: Vec<(u32, u64)>) -> PyResult<()> {
    machine.hosted(py, |host| machine.core().set_msrs(index, &values, host))
}

type LeafFields = (u32, u32, bool, u32, u32, u32, u32);

/// The CPUID table of a vCPU: (leaf, subleaf, whether the subleaf matters, eax, ebx, ecx, edx).
#[pyfunction]
pub fn cpuid(py: Python<'_>, machine: &Machine, index: u32) -> PyResult<Vec<LeafFields>> {
    let table = machine.hosted(py, |host| machine.core().cpuid(index, host))?;
    let fields = |leaf: Leaf| (leaf.leaf, leaf.subleaf, leaf.indexed, leaf.eax, leaf.ebx, leaf.ecx, leaf.edx);
    Ok(table.into_iter().map(fields).collect())
}

/// Sets a leaf of it.
#[pyfunction]
pub fn set_cpuid(py: Python<'_>, machine: &Machine, index: u32, leaf: LeafFields) -> PyResult<()> {
    let (leaf, subleaf, indexed, eax, ebx, ecx, edx) = leaf;
    let change = CpuidChange::Set(Leaf { leaf, subleaf, indexed, eax, ebx, ecx, edx });
    machine.hosted(py, |host| machine.core().set_cpuid(index, change, host))
}

/// Takes a leaf out of it.
#[pyfunction]
pub fn remove_cpuid(py: Python<'_>, machine: &Machine, index: u32, leaf: u32, subleaf: u32) -> PyResult<()> {
    let change = CpuidChange::Remove { leaf, subleaf };
    machine.hosted(py, |host| machine.core().set_cpuid(index, change, host))
}

/// Traps model-specific registers; `handler` is called with (vcpu, index, is_write, value).
#[pyfunction]
pub fn trap_msr(
    py: Python<'_>,
    machine: &Machine,
    first: u32,
    count: u32,
    handler: Option<Py<PyAny>>,
    name: &str,
) -> PyResult<()> {
    let callable = |callable| {
        let callable = Mutex::new(Some(callable));
        Arc::new(PyMsrHandler { callable, name: name.to_owned(), report: machine.report() })
    };
    let handler = handler.map(callable);
    let given = handler.clone().map(|handler| handler as Arc<dyn MsrHandler>);
    let range = MsrRange { first, count };
    py.detach(|| machine.core().trap_msr(range, given)).map_err(|error| errors::trap(&error))?;
    machine.handlers.add(handler);
    Ok(())
}

/// Hands on the hypercalls that KVM leaves to its user.
#[pyfunction]
pub fn trap_hypercalls(py: Python<'_>, machine: &Machine) -> PyResult<()> {
    py.detach(|| machine.core().trap_hypercalls()).map_err(|error| errors::run(&error))
}

/// A Python callable that answers RDMSR and WRMSR.
pub(crate) struct PyMsrHandler {
    callable: Mutex<Option<Py<PyAny>>>,
    name: String,
    report: Report,
}

/// Bytes of a model-specific register.
const WIDTH: u8 = 8;

impl PyMsrHandler {
    /// A reference of its own, so that nothing is locked while it is called.
    fn callable(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.callable.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map(|callable| callable.clone_ref(py))
    }

    /// What `read` makes of the answer; `None` if it is NotImplemented, if the callable raised, or if it is gone.
    fn ask<T>(
        &self,
        vcpu: u32,
        index: u32,
        written: Option<u64>,
        read: impl FnOnce(&Bound<'_, PyAny>) -> PyResult<T>,
    ) -> Option<T> {
        attach(|py| {
            let callable = self.callable(py)?;
            let arguments = (vcpu, index, written.is_some(), written.unwrap_or(0));
            let answer = callable.call1(py, arguments).and_then(|answer| {
                let answer = answer.bind(py);
                let refused = answer.is(py.NotImplemented());
                (!refused).then(|| read(answer)).transpose()
            });
            answer.unwrap_or_else(|error| {
                self.report.raised(py, error, &self.name, written);
                None
            })
        })
    }
}

impl MsrHandler for PyMsrHandler {
    fn read(&self, index: u32, vcpu: u32) -> Option<u64> {
        self.ask(vcpu, index, None, |answer| number(answer, WIDTH, &self.name))
    }

    fn write(&self, index: u32, vcpu: u32, value: u64) -> Option<Action> {
        self.ask(vcpu, index, Some(value), |answer| action(answer, &self.name))
    }
}

impl Drop for PyMsrHandler {
    fn drop(&mut self) {
        let callable = self.callable.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        if callable.is_some() {
            // As for a device: dropped attached, or left to the interpreter's end.
            let kept = Python::try_attach(|_| drop(callable));
            let _ = kept;
        }
    }
}

/// The handlers of a machine, for the collector, and so that they go when it closes.
#[derive(Default)]
pub(crate) struct Handlers(Mutex<Vec<Arc<PyMsrHandler>>>);

impl Handlers {
    fn add(&self, handler: Option<Arc<PyMsrHandler>>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend(handler);
    }

    pub(crate) fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        // As for devices: what is locked is being changed, and the collector comes again.
        if let Ok(handlers) = self.0.try_lock() {
            for handler in handlers.iter() {
                if let Ok(callable) = handler.callable.try_lock() {
                    visit.call(&*callable)?;
                }
            }
        }
        Ok(())
    }

    pub(crate) fn let_go(&self) {
        let handlers = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        for handler in handlers {
            let callable = handler.callable.lock().unwrap_or_else(PoisonError::into_inner).take();
            drop(callable);
        }
    }
}
