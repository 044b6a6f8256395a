//! A Python object as a device: its `read` and `write` methods behind the core's `Device` trait.
//!
//! The interpreter is attached for each call alone. What a method raises is kept for `run()` to raise (`report`); the guest reads
//! all ones, or its write is dropped, and the machine pauses (docs/design.md, run loop, rule 6).

mod report;

use std::sync::{Arc, Mutex, PoisonError};

use hyperpy_core::bus::{Access, Action, Device, Shortcuts, Space, Spot, ones};
use hyperpy_core::calls::Calls as Counted;
use hyperpy_core::clock::Clock;
use hyperpy_core::exit::StopReason;
use hyperpy_core::machine::Answerer;
use hyperpy_core::names::Names;
use hyperpy_core::regfile::RegisterFile;
use hyperpy_core::snapshot::{Saved, State, StateFault};
use hyperpy_core::vcpu::{Current, current};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyInt, PyString};

pub(crate) use self::report::{Faults, Report, keep_traceback, note_raised};
use crate::calls::Calls;
use crate::errors::Raise;
use crate::regfile::{Declared, Registers, Served};
use crate::signals::attach;

/// Whether what answers on this thread is the handler of a model-specific register.
fn is_msr() -> bool {
    current().is_some_and(|access| access.space.is_none())
}

/// A Python object with `read(offset, size)` and `write(offset, size, value)`, or with declared registers.
pub(crate) struct PyDevice {
    pub(crate) object: Mutex<Option<Py<PyAny>>>,
    /// The address of its class, to be compared alone: a state that says whose it is keeps that class.
    pub(crate) class: usize,
    pub(crate) name: String,
    pub(crate) report: Report,
    pub(crate) declared: Mutex<Option<Arc<Declared>>>,
    /// The same registers, for what calls no method.
    pub(crate) file: Option<Arc<RegisterFile>>,
    /// Where the windows of its range begin, by descending address, and their names: for messages.
    pub(crate) windows: Vec<(u64, String)>,
    /// How often its methods are called.
    pub(crate) calls: Arc<Counted>,
}

impl PyDevice {
    /// An object with its declared registers, if it has some: they count the time of `clock`; `calls` counts its methods'.
    pub(crate) fn of(
        object: &Bound<'_, PyAny>,
        name: &str,
        report: Report,
        registers: Option<Registers<'_>>,
        windows: Vec<(u64, String)>,
        calls: Option<&Calls>,
        clock: &Arc<Clock>,
    ) -> Arc<Self> {
        let declared = registers.map(|(file, handlers)| Declared::new(file.get(), handlers));
        let file = declared.as_ref().map(|declared| declared.file.clone());
        if let Some(file) = &file {
            file.set_clock(clock.clone());
        }
        let class = object.get_type().as_ptr() as usize;
        let (object, declared) = (Mutex::new(Some(object.clone().unbind())), Mutex::new(declared.map(Arc::new)));
        let calls = calls.map(|calls| calls.inner.clone()).unwrap_or_default();
        Arc::new(Self { object, class, name: name.to_owned(), report, declared, file, windows, calls })
    }

    pub(crate) fn object(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.object.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map(|object| object.clone_ref(py))
    }

    fn declared(&self) -> Option<Arc<Declared>> {
        self.declared.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Lets go of the object and its methods; what to drop, where no lock is held.
    pub(crate) fn let_go(&self) -> impl Sized + use<> {
        let declared = self.declared.lock().unwrap_or_else(PoisonError::into_inner).take();
        (self.object.lock().unwrap_or_else(PoisonError::into_inner).take(), declared)
    }

    pub(crate) fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        // A lock that is held belongs to a thread that is changing it: the collector comes again.
        if let Ok(object) = self.object.try_lock() {
            visit.call(&*object)?;
        }
        self.declared.try_lock().map_or(Ok(()), |it| it.as_ref().map_or(Ok(()), |it| it.traverse(visit)))
    }

    /// Calls its `read`.
    pub(crate) fn call_read(&self, at: Access) -> u64 {
        self.calls.plain.read.time(|| {
            attach(|py| {
                let Some(object) = self.object(py) else { return at.ones() };
                let answer = object
                    .call_method1(py, intern!(py, "read"), (at.offset, at.size))
                    .and_then(|value| number(value.bind(py), at.size, &self.name));
                answer.unwrap_or_else(|error| {
                    self.report.raised(py, error, &self.name, None);
                    at.ones()
                })
            })
        })
    }

    /// Calls its `write`.
    pub(crate) fn call_write(&self, at: Access, value: u64) -> Action {
        self.calls.plain.write.time(|| {
            attach(|py| {
                let Some(object) = self.object(py) else { return Action::Continue };
                let action = object
                    .call_method1(py, intern!(py, "write"), (at.offset, at.size, value))
                    .and_then(|answer| action(answer.bind(py), &self.name));
                action.unwrap_or_else(|error| {
                    self.report.raised(py, error, &self.name, Some(value));
                    Action::Continue
                })
            })
        })
    }

    /// An access that its declaration refuses is an error of the driver's.
    pub(crate) fn refused(&self, at: Access, written: Option<u64>) {
        let what = if written.is_some() { "write" } else { "read" };
        let window = self.windows.iter().find(|(origin, _)| *origin <= at.offset);
        let place = match window {
            Some((origin, name)) => format!("{name}[{:#x}]", at.offset - origin),
            None => format!("{:#x}", at.offset),
        };
        let message = format!("device {}: no register takes this {what}: {place}, {} bytes", self.name, at.size);
        let hint = "its registers are accessed one at a time at their width: `access_rule` is \"refuse\"";
        attach(|py| self.report.raised(py, Raise::new("DeviceError", message, hint).into(), &self.name, written));
    }
}

impl Device for PyDevice {
    fn quick_read(&self, at: Access) -> Option<u64> {
        self.file.as_ref()?.quick_read(at)
    }

    fn quick_write(&self, at: Access, value: u64) -> bool {
        self.file.as_ref().is_some_and(|file| file.quick_write(at, value))
    }

    fn read(&self, at: Access) -> u64 {
        let Some(declared) = self.declared() else { return self.call_read(at) };
        let value = declared.file.read(at, &Served { device: self, declared: &declared });
        dropped(declared);
        value
    }

    fn write(&self, at: Access, value: u64) -> Action {
        let Some(declared) = self.declared() else { return self.call_write(at, value) };
        let action = declared.file.write(at, value, &Served { device: self, declared: &declared });
        dropped(declared);
        action
    }

    fn rung(&self, at: Access, value: u64, times: u64) -> Action {
        let Some(declared) = self.declared() else { return Action::Continue };
        let action = declared.file.ring(at, value, times, &Served { device: self, declared: &declared });
        dropped(declared);
        action
    }

    fn shortcuts(&self) -> Shortcuts {
        self.file.as_ref().map_or_else(Shortcuts::default, |file| file.layout().shortcuts())
    }

    fn defer(&self, at: Access, value: u64) -> Action {
        let Some(file) = &self.file else { return self.write(at, value) };
        file.defer(at, value);
        Action::Continue
    }

    fn has_late(&self) -> bool {
        self.file.as_ref().is_some_and(|file| file.has_late())
    }

    fn flush(&self, most: usize, spot: &dyn Fn(u64) -> Spot, asked: &dyn Fn(u32, Action)) {
        let Some(declared) = self.declared() else { return };
        // Detached, since another thread may be at it.
        if let Some(batch) = declared.file.batch(most) {
            attach(|_| batch.serve(spot, &Served { device: self, declared: &declared }, asked));
        }
        dropped(declared);
    }

    fn reset(&self) {
        if let Some(file) = &self.file {
            file.reset();
        }
        attach(|py| {
            let Some(object) = self.object(py) else { return };
            // A device need not have one.
            let reset = object.bind(py).getattr_opt(intern!(py, "reset"));
            if let Err(error) = reset.and_then(|reset| reset.map(|reset| reset.call0().map(drop)).transpose()) {
                self.report.raised(py, error, &self.name, None);
            }
        });
    }

    fn save(&self) -> Result<State, StateFault> {
        self.save_state()
    }

    fn check(&self, state: &dyn Saved) -> Result<(), StateFault> {
        self.check_state(state)
    }

    fn load(&self, state: &dyn Saved) -> Result<(), StateFault> {
        self.load_state(state)
    }

    fn identity(&self) -> Option<usize> {
        attach(|py| self.object(py).map(|object| object.as_ptr() as usize))
    }

    fn names(&self) -> Option<Arc<dyn Names>> {
        self.file.as_ref().map(|file| file.layout().clone() as Arc<dyn Names>)
    }
}

/// Lets go of a device's methods, of which this may be the last reference.
fn dropped(declared: Arc<Declared>) {
    if let Some(last) = Arc::into_inner(declared) {
        let _ = Python::try_attach(|_| drop(last));
    }
}

impl Drop for PyDevice {
    fn drop(&mut self) {
        let object = self.object.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        let declared = self.declared.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        if object.is_some() || declared.is_some() {
            // The last reference may run any Python code: it is dropped attached. During the interpreter's end there
            // is nothing to attach to, and the reference is left to it.
            let kept = Python::try_attach(|_| drop((object, declared)));
            let _ = kept;
        }
    }
}

/// What a device's `read` returned, as the guest will see it: 0 to all ones of the access's width.
pub(crate) fn number(value: &Bound<'_, PyAny>, size: u8, device: &str) -> PyResult<u64> {
    let py = value.py();
    let index;
    let int = if value.is_instance_of::<PyInt>() {
        value
    } else if value.hasattr(intern!(py, "__index__"))? {
        // Objects with __index__ are numbers too; what they raise is raised.
        index = value.call_method0(intern!(py, "__index__"))?;
        &index
    } else {
        return Err(no_answer(value, size, device));
    };
    match int.extract::<u64>() {
        Ok(number) if number <= ones(size) => Ok(number),
        _ => Err(no_answer(int, size, device)),
    }
}

#[cold]
fn no_answer(value: &Bound<'_, PyAny>, size: u8, device: &str) -> PyErr {
    let hint = format!("a read returns an int from 0 to {:#x} for an access of {size} bytes", ones(size));
    match value.repr() {
        Ok(shown) if is_msr() => {
            Raise::new("DeviceError", format!("msr handler {device}: read returned {shown}"), hint).into()
        }
        Ok(shown) => Raise::new("DeviceError", format!("device {device}: read returned {shown}"), hint).into(),
        Err(error) => error,
    }
}

/// What is asked for by a `Stop("why")`; `None` for anything else.
pub(crate) fn stop(answer: &Bound<'_, PyAny>) -> PyResult<Option<Action>> {
    let py = answer.py();
    let class = py.import(intern!(py, "hyperpy.device"))?.getattr(intern!(py, "Stop"))?;
    if !answer.is_instance(&class)? {
        return Ok(None);
    }
    let reason = answer.getattr(intern!(py, "reason"))?.cast_into::<PyString>()?;
    Ok(Some(Action::Stop(StopReason::Text(reason.to_cow()?.into()))))
}

/// What a device's `write` returned: nothing, or `Stop("why")`.
pub(crate) fn action(answer: &Bound<'_, PyAny>, device: &str) -> PyResult<Action> {
    if answer.is_none() {
        return Ok(Action::Continue);
    }
    if let Some(stop) = stop(answer)? {
        return Ok(stop);
    }
    let what = answer.repr()?;
    let hint = "a write returns None, or Stop(\"why\") to stop the machine";
    let raise = if is_msr() {
        Raise::new("DeviceError", format!("msr handler {device}: write returned {what}"), hint)
    } else {
        Raise::new("DeviceError", format!("device {device}: write returned {what}"), hint)
    };
    Err(raise.into())
}

/// A Python callable that answers what nobody claims.
pub(crate) struct PyAnswerer {
    pub(crate) callable: Py<PyAny>,
    pub(crate) report: Report,
}

impl PyAnswerer {
    const NAME: &str = "unclaimed";

    /// What `made` makes of the answer; `None` if the callable raised.
    fn ask<T>(
        &self,
        access: &Current,
        written: Option<u64>,
        made: impl FnOnce(&Bound<'_, PyAny>) -> PyResult<T>,
    ) -> Option<T> {
        let is_pio = access.space == Some(Space::Pio);
        let value = written.unwrap_or(0);
        attach(|py| {
            let arguments = (is_pio, access.vcpu, access.address, access.size, access.is_write, value);
            let answer = self.callable.bind(py).call1(arguments).and_then(|answer| made(&answer));
            answer.map_err(|error| self.report.raised(py, error, Self::NAME, written)).ok()
        })
    }
}

impl Answerer for PyAnswerer {
    fn read(&self, access: &Current) -> Option<u64> {
        let made = |answer: &Bound<'_, PyAny>| {
            (!answer.is_none()).then(|| number(answer, access.size, Self::NAME)).transpose()
        };
        self.ask(access, None, made).flatten()
    }

    /// Whatever else it returns is for reads.
    fn write(&self, access: &Current, value: u64) -> Action {
        let made = |answer: &Bound<'_, PyAny>| Ok(stop(answer)?.unwrap_or(Action::Continue));
        self.ask(access, Some(value), made).unwrap_or(Action::Continue)
    }
}
