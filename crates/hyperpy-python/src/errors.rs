//! From the core's errors to the classes of `hyperpy.errors`.

use hyperpy_core::accel::AccelError;
use hyperpy_core::debug::DebugError;
use hyperpy_core::error::{AttachError, BootError, MemoryError, RouteError, RunError, StateError, TrapError};
use hyperpy_core::memory::dma::DmaError;
use hyperpy_core::snapshot::{SnapshotError, StateFault};
use pyo3::exceptions::{PyIndexError, PyValueError};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{IntoPyDict, PyDict, PyModule};

/// Something that becomes an instance of a class of `hyperpy.errors`.
pub(crate) struct Raise {
    class: &'static str,
    message: String,
    hint: String,
    fields: Vec<(&'static str, Field)>,
}

enum Field {
    Number(u64),
    Errno(i32),
    Text(&'static str),
}

impl Raise {
    pub(crate) fn new(class: &'static str, message: impl ToString, hint: impl ToString) -> Self {
        Self { class, message: message.to_string(), hint: hint.to_string(), fields: Vec::new() }
    }

    fn with(mut self, name: &'static str, field: Field) -> Self {
        self.fields.push((name, field));
        self
    }

    /// With a number beside the message.
    pub(crate) fn number(self, name: &'static str, value: u64) -> Self {
        self.with(name, Field::Number(value))
    }

    /// What the host said.
    pub(crate) fn errno(self, errno: i32) -> Self {
        self.with("errno", Field::Errno(errno))
    }

    fn instance<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        static MODULE: PyOnceLock<Py<PyModule>> = PyOnceLock::new();
        let module = MODULE.get_or_try_init(py, || py.import("hyperpy.errors").map(Bound::unbind))?.bind(py);
        let options = PyDict::new(py);
        if !self.hint.is_empty() {
            options.set_item("hint", &self.hint)?;
        }
        for (name, field) in &self.fields {
            match field {
                Field::Number(value) => options.set_item(name, value)?,
                Field::Errno(value) => options.set_item(name, value)?,
                Field::Text(value) => options.set_item(name, value)?,
            }
        }
        module.getattr(self.class)?.call((self.message.as_str(),), Some(&options.into_py_dict(py)?))
    }
}

impl From<Raise> for PyErr {
    fn from(raise: Raise) -> Self {
        Python::attach(|py| raise.instance(py).map_or_else(|error| error, PyErr::from_value))
    }
}

/// What KVM means when it processes no more registers of a list: it gives no errno itself.
const EINVAL: i32 = 22;

pub(crate) fn accel(error: &AccelError) -> PyErr {
    let hint = error.hint();
    match error {
        AccelError::Unavailable { source, .. } => {
            Raise::new("KvmUnavailable", error, hint).with("errno", Field::Errno(source.raw_os_error().unwrap_or(0)))
        }
        AccelError::Call { call, source } => Raise::new("KvmError", error, hint)
            .with("errno", Field::Errno(source.raw_os_error().unwrap_or(0)))
            .with("ioctl", Field::Text(call)),
        AccelError::Msr { call, index, .. } => Raise::new("KvmError", error, hint)
            .with("errno", Field::Errno(EINVAL))
            .with("ioctl", Field::Text(call))
            .with("msr", Field::Number((*index).into())),
        AccelError::NoIrqchip { .. } => Raise::new("StateError", error, hint),
        _ => Raise::new("KvmUnavailable", error, hint),
    }
    .into()
}

pub(crate) fn memory(error: &MemoryError) -> PyErr {
    match error {
        MemoryError::Access { gpa, len } => Raise::new("MemoryAccessError", error, error.hint())
            .with("address", Field::Number(*gpa))
            .with("size", Field::Number(*len))
            .into(),
        MemoryError::Host { source, .. } => Raise::new("HostMemoryError", error, error.hint())
            .with("errno", Field::Errno(source.raw_os_error().unwrap_or(0)))
            .into(),
        MemoryError::Trace { .. } => Raise::new("HostMemoryError", error, error.hint()).errno(libc::ENOMEM).into(),
        MemoryError::Accel(error) => accel(error),
        MemoryError::Closed | MemoryError::NotTracked | MemoryError::Busy { .. } | MemoryError::Aliased { .. } => {
            Raise::new("StateError", error, error.hint()).into()
        }
        _ => pyo3::exceptions::PyValueError::new_err(format!("{error}\n\nhint: {}", error.hint())),
    }
}

pub(crate) fn dma(error: DmaError) -> PyErr {
    let (address, size) = match error {
        DmaError::Access { gpa, len } | DmaError::ReadOnly { gpa, len } | DmaError::TooMuch { gpa, len, .. } => {
            (gpa, len)
        }
        DmaError::Short { data, .. } => (0, data),
        _ => return Raise::new("StateError", error, error.hint()).into(),
    };
    let raise = Raise::new("MemoryAccessError", error, error.hint());
    raise.with("address", Field::Number(address)).with("size", Field::Number(size)).into()
}

pub(crate) fn state(error: &StateError) -> PyErr {
    Raise::new("StateError", error, error.hint()).into()
}

/// A device that cannot be saved, or does not take its state. What its own method raised is raised as it is, by the caller.
pub(crate) fn device_state(name: &str, place: &str, fault: &StateFault) -> PyErr {
    let what = match fault {
        StateFault::NotSaved => "cannot be saved".to_owned(),
        StateFault::Unsaved(why) => format!("cannot be saved: {why}"),
        StateFault::Misfit(why) => format!("does not take the state: {why}"),
        _ => "raised".to_owned(),
    };
    Raise::new("SnapshotError", format!("device {name} at {place} {what}"), fault.hint()).into()
}

pub(crate) fn attach(error: &AttachError) -> PyErr {
    match error {
        AttachError::State(error) => state(error),
        _ => Raise::new("DeviceError", error, error.hint()).into(),
    }
}

pub(crate) fn route(error: &RouteError) -> PyErr {
    match error {
        RouteError::Run(error) => run(error),
        _ => PyValueError::new_err(format!("{error}\n\nhint: {}", error.hint())),
    }
}

pub(crate) fn debug(error: &DebugError) -> PyErr {
    match error {
        DebugError::State(error) => state(error),
        DebugError::Full { .. } => Raise::new("StateError", error, error.hint()).into(),
        _ => PyValueError::new_err(format!("{error}\n\nhint: {}", error.hint())),
    }
}

pub(crate) fn boot(error: &BootError) -> PyErr {
    Raise::new("BootError", error, error.hint()).into()
}

pub(crate) fn trap(error: &TrapError) -> PyErr {
    match error {
        TrapError::Run(error) => run(error),
        _ => PyValueError::new_err(format!("{error}\n\nhint: {}", error.hint())),
    }
}

pub(crate) fn snapshot(error: &SnapshotError) -> PyErr {
    match error {
        SnapshotError::Run(error) => run(error),
        SnapshotError::Memory(error) => memory(error),
        SnapshotError::Device { name, place, fault } => device_state(name, place, fault),
        _ => Raise::new("SnapshotError", error, error.hint()).into(),
    }
}

/// All but the two that stand for an exception that Python has already: the caller has looked for it.
pub(crate) fn run(error: &RunError) -> PyErr {
    match error {
        RunError::State(error) => state(error),
        RunError::Accel(error) => accel(error),
        RunError::Memory(error) => memory(error),
        RunError::Panic { .. } | RunError::ControllersPlace { .. } => {
            Raise::new("DeviceError", error, error.hint()).into()
        }
        RunError::Register(invalid) => Raise::new("RegisterError", error, error.hint())
            .with("register", Field::Text(invalid.register))
            .with("value", Field::Number(invalid.value))
            .into(),
        RunError::NoPageTable { cr3 } => Raise::new("RegisterError", error, error.hint())
            .with("register", Field::Text("cr3"))
            .with("value", Field::Number(*cr3))
            .into(),
        RunError::NoVcpu { .. } => PyIndexError::new_err(format!("{error}\n\nhint: {}", error.hint())),
        _ => Raise::new("StateError", error, error.hint()).into(),
    }
}
