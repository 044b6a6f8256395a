//! Exits as tuples that `hyperpy.exits` makes into its classes.

use hyperpy_core::exit::{Exit, IoExit, StopReason, SystemEvent};
use pyo3::IntoPyObjectExt;
use pyo3::prelude::*;
use pyo3::types::PyTuple;

type Object<'py> = PyResult<Bound<'py, PyAny>>;

/// (class name, arguments).
pub(crate) fn exit<'py>(py: Python<'py>, exit: &Exit) -> Object<'py> {
    match exit {
        Exit::Halt { vcpu } => ("Halt", (*vcpu,)).into_bound_py_any(py),
        Exit::Mmio(io) => ("Mmio", io_fields(io)).into_bound_py_any(py),
        Exit::Pio(io) => ("Pio", io_fields(io)).into_bound_py_any(py),
        Exit::Hypercall { vcpu, number, arguments, ticket } => {
            let [a, b, c, d, e, f] = *arguments;
            ("Hypercall", (*vcpu, *number, (a, b, c, d, e, f), *ticket)).into_bound_py_any(py)
        }
        Exit::Msr { vcpu, index, is_write, value, ticket } => {
            ("Msr", (*vcpu, *index, *is_write, *value, *ticket)).into_bound_py_any(py)
        }
        Exit::Debug { vcpu, pc, dr6 } => ("Debug", (*vcpu, *pc, *dr6)).into_bound_py_any(py),
        Exit::Shutdown { vcpu } => ("Shutdown", (*vcpu,)).into_bound_py_any(py),
        Exit::SystemEvent { vcpu, kind, data } => {
            let (kind, number) = match kind {
                SystemEvent::PowerOff => ("power-off", 1),
                SystemEvent::Reset => ("reset", 2),
                SystemEvent::Crash => ("crash", 3),
                SystemEvent::Other(number) => ("other", *number),
            };
            ("SystemEvent", (*vcpu, kind, number, PyTuple::new(py, data)?)).into_bound_py_any(py)
        }
        Exit::Stopped { vcpu, reason } => {
            let (text, status) = match reason {
                StopReason::Text(text) => (text.to_string(), None),
                StopReason::DebugExit { status } => ("debug exit".to_owned(), Some(*status)),
                StopReason::PowerOff => ("power off".to_owned(), None),
            };
            ("Stopped", (*vcpu, text, status)).into_bound_py_any(py)
        }
        Exit::Timeout => ("Timeout", ()).into_bound_py_any(py),
        Exit::FailEntry { vcpu, reason } => ("FailEntry", (*vcpu, *reason)).into_bound_py_any(py),
        Exit::InternalError { vcpu, suberror, reason, bytes, bits } => {
            ("InternalError", (*vcpu, *suberror, *reason, pyo3::types::PyBytes::new(py, bytes), *bits))
                .into_bound_py_any(py)
        }
    }
}

type IoFields = (u32, u64, u8, bool, u64, u64);

fn io_fields(io: &IoExit) -> IoFields {
    (io.vcpu, io.address, io.size, io.is_write, io.value, io.ticket)
}

pub(crate) fn io_from_fields(fields: IoFields) -> IoExit {
    let (vcpu, address, size, is_write, value, ticket) = fields;
    IoExit { vcpu, address, size, is_write, value, ticket }
}
