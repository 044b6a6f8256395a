//! What devices raise: kept for `run()`, with a note that names the access.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use hyperpy_core::bus::Space;
use hyperpy_core::control::Control;
use hyperpy_core::record;
use hyperpy_core::vcpu::{Current, current};
use pyo3::exceptions::{PyBaseException, PyException};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::intern;
use pyo3::prelude::*;

/// Exceptions that devices of one machine raised, first one first. By way of its traceback each may hold the machine:
/// the collector is shown them.
#[derive(Default)]
pub(crate) struct Faults(Mutex<Vec<Py<PyBaseException>>>);

impl Faults {
    pub(crate) fn len(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    pub(crate) fn take(&self) -> Vec<Py<PyBaseException>> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn pop(&self) -> Option<Py<PyBaseException>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).pop()
    }

    pub(crate) fn push(&self, raised: Py<PyBaseException>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(raised);
    }

    pub(crate) fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        // As for devices: what is locked is being changed, and the collector comes again.
        self.0.try_lock().map_or(Ok(()), |errors| errors.iter().try_for_each(|error| visit.call(error)))
    }
}

/// Where a device's exceptions go.
#[derive(Clone)]
pub(crate) struct Report {
    pub(crate) faults: Arc<Faults>,
    /// Weak: a device must not keep its machine.
    pub(crate) control: Weak<Control>,
}

impl Report {
    pub(crate) fn raised(&self, py: Python<'_>, error: PyErr, device: &str, value: Option<u64>) {
        if error.is_instance_of::<PyException>(py) {
            // A device that is served outside of an access is being reset.
            let note = current().map_or_else(|| format!("device {device}: reset"), |at| note(device, &at, value));
            // An exception that takes no notes is raised without.
            let _ = error.value(py).call_method1(intern!(py, "add_note"), (note,));
        }
        note_raised(py, &error);
        self.keep(py, error);
        if let Some(control) = self.control.upgrade() {
            control.device_failed();
        }
    }

    /// Its `save` or `load` raised: whoever asked for it raises that.
    pub(crate) fn raised_in(&self, py: Python<'_>, error: PyErr, device: &str, verb: &str) {
        if error.is_instance_of::<PyException>(py) {
            // As above.
            let _ = error.value(py).call_method1(intern!(py, "add_note"), (format!("device {device}: {verb}"),));
        }
        self.keep(py, error);
    }

    fn keep(&self, py: Python<'_>, error: PyErr) {
        keep_traceback(py, &error);
        self.faults.push(error.into_value(py));
    }
}

/// Tells whoever records the device.
pub(crate) fn note_raised(py: Python<'_>, error: &PyErr) {
    if let Ok(name) = error.get_type(py).qualname() {
        record::raised(&name.to_string_lossy());
    }
}

/// Kept apart from the exception by the interpreter until it is caught: what `run()` raises shows the device's line.
pub(crate) fn keep_traceback(py: Python<'_>, error: &PyErr) {
    if let Some(traceback) = error.traceback(py) {
        let _ = error.value(py).setattr(intern!(py, "__traceback__"), traceback);
    }
}

fn note(device: &str, access: &Current, value: Option<u64>) -> String {
    let bus = access.space.map_or("msr", Space::word);
    let what = match value {
        Some(value) => format!("write of {value:#x} to"),
        None if access.is_write => "write to".to_owned(),
        None => "read of".to_owned(),
    };
    if access.machine == Current::NO_MACHINE {
        return format!("device {device}: {what} offset {:#x}, {} bytes", access.address, access.size);
    }
    // KVM moves rip past a write to a bus, and past an msr access when it completes it.
    let when = if access.is_write && access.space.is_some() { "after the access" } else { "at the access" };
    if access.vcpu == Current::NO_VCPU {
        return format!("device {device}: {what} {bus} {:#x}, {} bytes, a doorbell", access.address, access.size);
    }
    if access.rip == Current::NO_RIP {
        return format!(
            "device {device}: {what} {bus} {:#x}, {} bytes, vcpu {}, made before and told of later",
            access.address, access.size, access.vcpu
        );
    }
    format!(
        "{} {device}: {what} {bus} {:#x}, {} bytes, vcpu {}, rip {:#x} ({when})",
        kind(access.space),
        access.address,
        access.size,
        access.vcpu,
        access.rip
    )
}

/// What answers an access to a bus, or to a model-specific register.
fn kind(space: Option<Space>) -> &'static str {
    if space.is_some() { "device" } else { "msr handler" }
}
