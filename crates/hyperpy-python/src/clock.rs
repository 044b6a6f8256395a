//! A machine's clock and its timers for Python, and what a timer calls.
//!
//! The callbacks of a machine's timers belong to the native machine, which shows them to the collector; those of a manual
//! clock to the one object that stands for it. A timer's handle holds none.

use std::any::Any;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use hyperpy_core::bus::Action;
use hyperpy_core::clock::{self, Callback, Carried, Fired, Raised, When};
use hyperpy_core::control::Phase;
use hyperpy_core::error::{RunError, StateError};
use hyperpy_core::exit::StopReason;
use hyperpy_core::kvm::thread::fork_generation;
use hyperpy_core::machine::Machine as Core;
use hyperpy_core::record::Recorder as CoreRecorder;
use pyo3::exceptions::{PyException, PyValueError};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::intern;
use pyo3::prelude::*;

use crate::device::{Faults, keep_traceback, note_raised, stop};
use crate::errors;
use crate::host::PyHost;
use crate::record::Recorder;
use crate::signals::attach;

/// Whose timers they are.
struct Owner {
    /// Tells it from every other.
    id: u64,
    /// Its name, if it is a device.
    device: Option<String>,
    /// The machine that fires them and what its devices have raised; `None`: whoever steps the clock.
    machine: Option<(Weak<Core>, Arc<Faults>)>,
    /// The process that the machine belongs to.
    forks: u64,
    /// What ended a step.
    raised: Mutex<Option<PyErr>>,
    recorder: Mutex<Option<Arc<CoreRecorder>>>,
}

/// A clock, and by its means the timers of one owner.
#[pyclass(frozen, module = "hyperpy._hyperpy")]
pub struct Clock {
    clock: Arc<clock::Clock>,
    owner: Arc<Owner>,
}

impl Clock {
    pub(crate) fn of_machine(core: &Arc<Core>, faults: &Arc<Faults>, device: Option<String>) -> Self {
        Self::made(core.clock.clone(), device, Some((Arc::downgrade(core), faults.clone())))
    }

    fn made(clock: Arc<clock::Clock>, device: Option<String>, machine: Option<(Weak<Core>, Arc<Faults>)>) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        let (forks, raised, recorder) = (fork_generation(), Mutex::default(), Mutex::default());
        Self { clock, owner: Arc::new(Owner { id, device, machine, forks, raised, recorder }) }
    }

    /// The time itself.
    pub(crate) fn core(&self) -> &Arc<clock::Clock> {
        &self.clock
    }

    /// Whether it is a machine's, and not one that only steps move.
    pub(crate) fn is_of_a_machine(&self) -> bool {
        self.owner.machine.is_some()
    }

    /// Refuses in the child of a fork, before any lock is taken. A manual clock belongs to nobody else.
    fn ours(&self, verb: &'static str) -> PyResult<()> {
        let mine = self.owner.machine.is_none() || self.owner.forks == fork_generation();
        if mine { Ok(()) } else { Err(errors::run(&RunError::Forked { verb })) }
    }

    /// What a callback raised.
    pub(crate) fn failed(&self, Raised: Raised) -> PyErr {
        let raised = self.owner.raised.lock().unwrap_or_else(PoisonError::into_inner).take();
        raised.unwrap_or_else(|| {
            PyException::new_err("a timer failed on another thread\n\nhint: `run` or `wait` raises what it met")
        })
    }

    /// The machine whose clock it is, while it is there.
    fn machine(&self) -> Option<Arc<Core>> {
        self.owner.machine.as_ref().and_then(|(machine, _)| machine.upgrade())
    }
}

#[pymethods]
impl Clock {
    /// One that stands still until it is stepped.
    #[staticmethod]
    fn manual() -> Self {
        Self::made(Arc::new(clock::Clock::manual()), None, None)
    }

    #[getter]
    fn is_manual(&self) -> bool {
        self.clock.is_manual()
    }

    #[getter]
    fn now(&self) -> PyResult<u64> {
        self.ours("read the clock")?;
        Ok(self.clock.now())
    }

    fn step(&self, ns: u64) -> PyResult<()> {
        self.ours("step the clock")?;
        self.clock.step(ns).map_err(|failed| self.failed(failed))
    }

    /// Moves a manual clock to a time, and fires nothing.
    fn move_to(&self, ns: u64) {
        self.clock.move_to(ns);
    }

    /// When the first timer is due.
    fn first_deadline(&self) -> Option<u64> {
        self.clock.first_deadline()
    }

    /// Fires the first timer of a manual clock, if it is due; whether it was.
    fn fire_first(&self) -> PyResult<bool> {
        self.clock.fire_first().map_err(|failed| self.failed(failed))
    }

    /// Tells a recorder of this owner's timers from now on, or nobody.
    fn record(&self, recorder: Option<&Recorder>) {
        if self.ours("record").is_err() {
            return;
        }
        let recorder = recorder.map(|recorder| recorder.core.clone());
        *self.owner.recorder.lock().unwrap_or_else(PoisonError::into_inner) = recorder;
    }

    #[getter]
    fn scale(&self) -> PyResult<f64> {
        self.ours("read the clock")?;
        Ok(self.clock.scale())
    }

    #[setter]
    fn set_scale(&self, scale: f64) -> PyResult<()> {
        self.ours("scale the clock")?;
        if self.clock.set_scale(scale) {
            return Ok(());
        }
        let hint = "a number from 0: 0 stops it, 1.0 is the host's pace";
        Err(PyValueError::new_err(format!("scale of a clock is out of range: {scale}\n\nhint: {hint}")))
    }

    /// Sets a timer: "after" so many nanoseconds, "every" so many, or "at" a time.
    fn arm(slf: &Bound<'_, Self>, when: &str, ns: u64, callback: &Bound<'_, PyAny>) -> PyResult<Timer> {
        let this = slf.get();
        let verb = "set a timer";
        this.ours(verb)?;
        let when = match when {
            "after" => When::After(ns),
            "every" => When::Every(ns),
            _ => When::At(ns),
        };
        let callback = Arc::new(PyCallback { object: Some(callback.clone().unbind()), owner: this.owner.clone() });
        let closed = || errors::state(&StateError::new(verb, Phase::Closed));
        let timer = match (this.machine(), &this.owner.machine) {
            (Some(core), _) => {
                let host = PyHost::new(&core);
                let armed = core.arm(when, this.owner.id, callback, &host);
                armed.map_err(|error| host.take().unwrap_or_else(|| errors::run(&error)))?
            }
            (None, Some(_)) => return Err(closed()),
            (None, None) => this.clock.arm(when, this.owner.id, callback).ok_or_else(closed)?,
        };
        Ok(Timer { timer, clock: slf.clone().unbind() })
    }

    /// A timer by its number.
    fn timer(slf: &Bound<'_, Self>, id: u64) -> PyResult<Timer> {
        slf.get().ours("find a timer")?;
        Ok(Timer { timer: slf.get().clock.timer(id), clock: slf.clone().unbind() })
    }

    /// Takes off every timer that was set by this object, and returns when none of their callbacks runs.
    fn disarm(&self, py: Python<'_>) -> PyResult<()> {
        self.ours("take timers off")?;
        let Some(core) = self.machine() else {
            self.clock.cancel_of(self.owner.id);
            return Ok(());
        };
        let host = PyHost::new(&core);
        let done = py.detach(|| core.disarm(self.owner.id, &host));
        done.map_err(|error| host.take().unwrap_or_else(|| errors::run(&error)))
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        if self.owner.machine.is_none() { traverse(&self.clock, &visit) } else { Ok(()) }
    }

    fn __clear__(&self) {
        if self.owner.machine.is_none() {
            self.clock.cancel_all();
        }
    }
}

/// A timer whose callback is a method of a device: what it is in plain data, so that it can be set on another machine's clock.
#[derive(Clone, Debug)]
pub(crate) struct NamedTimer {
    pub(crate) timer: Carried,
    /// Which of the devices, in their order.
    pub(crate) device: usize,
    pub(crate) method: String,
}

/// The timers of a snapshot by the methods that they call, of these devices; and what the others call.
pub(crate) fn named_timers(
    py: Python<'_>,
    kept: &clock::Kept,
    devices: &[Bound<'_, PyAny>],
) -> PyResult<(Vec<NamedTimer>, Vec<String>)> {
    let (mut named, mut others) = (Vec::new(), Vec::new());
    for timer in kept.timers() {
        let object = |any: &dyn Any| Some(any.downcast_ref::<PyCallback>()?.object.as_ref()?.clone_ref(py));
        let Some(callable) = kept.with_callback(timer, object).flatten() else {
            others.push(format!("timer due at {} ns", timer.deadline));
            continue;
        };
        let callable = callable.bind(py);
        let owner = callable.getattr_opt(intern!(py, "__self__"))?;
        let device = devices.iter().position(|device| owner.as_ref().is_some_and(|it| it.is(device)));
        let method = callable.getattr_opt(intern!(py, "__name__"))?.and_then(|name| name.extract::<String>().ok());
        let carried = Carried { id: timer.id, deadline: timer.deadline, period: timer.period };
        match (device, method) {
            (Some(device), Some(method)) => named.push(NamedTimer { timer: carried, device, method }),
            _ => others.push(format!("timer {}, due at {} ns", name_of(callable), timer.deadline)),
        }
    }
    Ok((named, others))
}

/// Sets timers of a snapshot on the clock of another machine, for its devices in the same order.
pub(crate) fn carry_timers(timers: &[NamedTimer], devices: &[Bound<'_, PyAny>]) -> PyResult<()> {
    for NamedTimer { timer, device, method } in timers {
        let Some(device) = devices.get(*device) else { continue };
        let py = device.py();
        let native = device.getattr(intern!(py, "clock"))?.getattr(intern!(py, "_native"))?.cast_into::<Clock>()?;
        native.get().carry(*timer, &device.getattr(method.as_str())?)?;
    }
    Ok(())
}

/// What a callback is called.
fn name_of(callable: &Bound<'_, PyAny>) -> String {
    let name = callable.getattr(intern!(callable.py(), "__qualname__"));
    let name = name.or_else(|_| callable.get_type().qualname().map(Bound::into_any));
    name.map_or_else(|_| "?".to_owned(), |name| name.to_string())
}

impl Clock {
    fn carry(&self, timer: Carried, callback: &Bound<'_, PyAny>) -> PyResult<()> {
        let closed = || errors::state(&StateError::new("set a timer", Phase::Closed));
        let callback = Arc::new(PyCallback { object: Some(callback.clone().unbind()), owner: self.owner.clone() });
        if self.owner.machine.is_none() {
            self.clock.carry(timer, self.owner.id, callback).ok_or_else(closed)?;
            return Ok(());
        }
        let core = self.machine().ok_or_else(closed)?;
        let host = PyHost::new(&core);
        let done = core.carry(timer, self.owner.id, callback, &host);
        done.map(drop).map_err(|error| host.take().unwrap_or_else(|| errors::run(&error)))
    }
}

/// A timer that was set.
#[pyclass(frozen, module = "hyperpy._hyperpy")]
pub struct Timer {
    timer: clock::Timer,
    clock: Py<Clock>,
}

impl Timer {
    /// Tells it from every other of the process.
    pub(crate) fn id(&self) -> u64 {
        self.timer.id()
    }
}

#[pymethods]
impl Timer {
    /// Tells it from every other of the process.
    #[getter]
    fn number(&self) -> u64 {
        self.timer.id()
    }

    #[getter]
    fn deadline(&self) -> u64 {
        self.timer.deadline()
    }

    #[getter]
    fn active(&self) -> bool {
        self.timer.is_active()
    }

    /// Takes it off; whether it was to fire.
    fn cancel(&self) -> PyResult<bool> {
        let clock = self.clock.get();
        clock.ours("cancel a timer")?;
        Ok(clock.clock.cancel(&self.timer))
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.clock)
    }
}

/// Shows the collector what the timers of a clock call.
pub(crate) fn traverse(clock: &clock::Clock, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
    let mut result = Ok(());
    clock.visit(&mut |callback: &dyn Any| {
        if let (Some(callback), Ok(())) = (callback.downcast_ref::<PyCallback>(), &result) {
            result = visit.call(&callback.object);
        }
    });
    result
}

/// A Python callable as what a timer calls.
struct PyCallback {
    /// There until it is dropped.
    object: Option<Py<PyAny>>,
    owner: Arc<Owner>,
}

impl Callback for PyCallback {
    /// Whatever it returns but `Stop("why")` is nobody's concern.
    fn fire(&self, fired: Fired) -> Result<Option<StopReason>, Raised> {
        attach(|py| {
            let Some(callable) = self.object.as_ref().map(|it| it.clone_ref(py)) else { return Ok(None) };
            let recorder = self.owner.recorder.lock().unwrap_or_else(PoisonError::into_inner).clone();
            let serving = recorder.as_ref().and_then(|recorder| recorder.timer(fired));
            let called = callable.bind(py).call0();
            let action = called.and_then(|answer| if answer.is_none() { Ok(None) } else { stop(&answer) });
            if let Err(error) = &action {
                note_raised(py, error);
            }
            if let Some(serving) = serving {
                serving.end(action.as_ref().ok().cloned().flatten());
            }
            match action {
                Ok(Some(Action::Stop(reason))) => Ok(Some(reason)),
                Ok(_) => Ok(None),
                Err(error) => {
                    self.owner.keep(error, callable.bind(py), fired.deadline);
                    Err(Raised)
                }
            }
        })
    }
}

impl Owner {
    /// Keeps what a callback raised for `run()`, or for the step.
    fn keep(&self, error: PyErr, callable: &Bound<'_, PyAny>, deadline: u64) {
        let py = callable.py();
        if error.is_instance_of::<PyException>(py) {
            let name = name_of(callable);
            let device = self.device.as_ref().map(|device| format!("device {device}: ")).unwrap_or_default();
            let note = format!("{device}timer {name}, due at {deadline} ns");
            // An exception that takes no notes is raised without.
            let _ = error.value(py).call_method1(intern!(py, "add_note"), (note,));
        }
        match &self.machine {
            Some((_, faults)) => {
                keep_traceback(py, &error);
                faults.push(error.into_value(py));
            }
            None => *self.raised.lock().unwrap_or_else(PoisonError::into_inner) = Some(error),
        }
    }
}

impl Drop for PyCallback {
    fn drop(&mut self) {
        let object = self.object.take();
        if object.is_some() {
            // As for a device: the last reference may run any Python code.
            let kept = Python::try_attach(|_| drop(object));
            let _ = kept;
        }
    }
}
