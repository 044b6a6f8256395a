//! One device without a machine, for `hyperpy.testing.DeviceBench`.

use std::sync::Arc;

use hyperpy_core::bench::{Answer, Bench as Core, BenchState as CoreState, Play};
use hyperpy_core::bus::{Action, Device, ones};
use hyperpy_core::exit::StopReason;
use hyperpy_core::fuzz::device::Around;
use hyperpy_core::regfile::RegisterFile;
use pyo3::exceptions::{PyBaseException, PyValueError};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyList;

use crate::calls::Calls;
use crate::clock::{Clock, carry_timers, named_timers};
use crate::device::{Faults, PyDevice, Report};
use crate::errors;
use crate::plain::object_of;
use crate::record::Recorder;
use crate::regfile::Registers;
use crate::stock_device::StockDevice;

/// Accesses that have been checked against a device's range.
#[pyclass(frozen, module = "hyperpy._hyperpy")]
pub struct Batch {
    plays: Vec<Play>,
    reads: usize,
    size: u64,
}

/// What the device of a bench and its time were.
#[pyclass(frozen, module = "hyperpy._hyperpy")]
pub struct BenchState {
    core: CoreState,
}

#[pymethods]
impl BenchState {
    /// The device's, as plain data.
    fn device<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        object_of(py, &self.core.state.value(), None)
    }
}

/// A device, its range, and its time.
#[pyclass(frozen, module = "hyperpy._hyperpy")]
pub struct Bench {
    pub(crate) core: Core,
    /// Of a device in Python.
    device: Option<Arc<PyDevice>>,
    faults: Arc<Faults>,
    /// Of a stock device that something is around.
    pub(crate) around: Option<Arc<dyn Around + Send + Sync>>,
    /// Another one is kept that has all of Python's, and shows it to the collector.
    is_second: bool,
}

/// Offset, size in bytes, what is written.
type Access = (u64, u64, Option<u64>);

/// After this many accesses of a batch it is seen whether a signal wants the thread.
const SIGNALS_EVERY: usize = 1 << 16;

#[pymethods]
impl Bench {
    #[new]
    #[pyo3(signature = (object, size, name, clock, registers = None, calls = None))]
    fn new(
        object: &Bound<'_, PyAny>,
        size: u64,
        name: &str,
        clock: &Clock,
        registers: Option<Registers<'_>>,
        calls: Option<&Calls>,
    ) -> Self {
        let faults = Arc::<Faults>::default();
        let mut around = None;
        let (device, python): (Arc<dyn Device>, _) = if let Ok(stock) = object.cast::<StockDevice>() {
            let stock = stock.get();
            if let Some(time) = &stock.time {
                time.follow(clock.core());
            }
            around.clone_from(&stock.around);
            (stock.device.clone(), None)
        } else {
            let report = Report { faults: faults.clone(), control: std::sync::Weak::new() };
            let device = PyDevice::of(object, name, report, registers, Vec::new(), calls, clock.core());
            (device.clone(), Some(device))
        };
        let core = Core::new(device, name, size, clock.core().clone());
        Self { core, device: python, faults, around, is_second: false }
    }

    /// A bench of the same device whose accesses are recorded. This one must be kept as long.
    fn recorded(&self, recorder: &Recorder) -> Self {
        let core = self.core.with(|device| recorder.before(device));
        Self { core, device: None, faults: self.faults.clone(), around: None, is_second: true }
    }

    /// What a read gives.
    fn read(&self, py: Python<'_>, offset: u64, size: u64) -> PyResult<u64> {
        match self.play(py, self.checked((offset, size, None))?)? {
            Answer::Value(value) => Ok(value),
            Answer::Asked(_) => Ok(0),
        }
    }

    /// The reason of the stop that a write asks for.
    fn write(&self, py: Python<'_>, offset: u64, size: u64, value: u64) -> PyResult<Option<String>> {
        match self.play(py, self.checked((offset, size, Some(value)))?)? {
            Answer::Value(_) => Ok(None),
            Answer::Asked(action) => Ok(asked(&action)),
        }
    }

    /// Makes a write of which the device is told by `tell`; False: it keeps none, and nothing is done.
    fn defer(&self, offset: u64, size: u64, value: u64) -> PyResult<bool> {
        Ok(self.core.defer(self.checked((offset, size, Some(value)))?))
    }

    /// The reason of the stop that the first write that is kept asks for, when the device is told of it.
    fn tell(&self, py: Python<'_>) -> PyResult<Option<String>> {
        let action = self.core.tell();
        self.raise(py)?;
        action.map(|action| asked(&action)).map_err(|error| errors::run(&error))
    }

    fn reset(&self, py: Python<'_>) -> PyResult<()> {
        let done = self.core.reset();
        self.raise(py)?;
        done.map_err(|error| errors::run(&error))
    }

    fn compile(&self, accesses: Vec<Access>) -> PyResult<Batch> {
        let plays: Vec<_> = accesses.into_iter().map(|access| self.checked(access)).collect::<PyResult<_>>()?;
        let reads = plays.iter().filter(|play| play.written.is_none()).count();
        Ok(Batch { plays, reads, size: self.core.size() })
    }

    /// What the device and the time are now.
    fn snapshot(&self, py: Python<'_>) -> PyResult<BenchState> {
        let saved = self.core.save();
        self.raise(py)?;
        let saved = saved.map_err(|error| errors::run(&error))?;
        Ok(BenchState { core: saved.map_err(|fault| errors::device_state(self.core.name(), "bench", &fault))? })
    }

    /// Puts them back; on the bench of a copy the timers that call methods of the device, by those of the copy. What the others
    /// call.
    #[pyo3(signature = (state, device = None, copy = None))]
    fn restore(
        &self,
        py: Python<'_>,
        state: &BenchState,
        device: Option<Bound<'_, PyAny>>,
        copy: Option<Bound<'_, PyAny>>,
    ) -> PyResult<Vec<String>> {
        self.core.clock().load(&state.core.kept);
        let mut others = Vec::new();
        if let (Some(device), Some(copy)) = (device, copy) {
            let (named, rest) = named_timers(py, &state.core.kept, &[device])?;
            carry_timers(&named, &[copy])?;
            others = rest;
        }
        let loaded = self.core.load(&state.core);
        self.raise(py)?;
        let loaded = loaded.map_err(|error| errors::run(&error))?;
        loaded.map_err(|fault| errors::device_state(self.core.name(), "bench", &fault))?;
        Ok(others)
    }

    /// What the reads of a batch gave, and the last reason of a stop.
    fn run<'py>(&self, py: Python<'py>, batch: &Batch) -> PyResult<(Bound<'py, PyList>, Option<String>)> {
        if batch.size > self.core.size() {
            return Err(PyValueError::new_err("batch is of a larger device\n\nhint: compile it on this bench"));
        }
        let (mut values, mut stop) = (Vec::with_capacity(batch.reads), None);
        for (index, play) in batch.plays.iter().enumerate() {
            if index % SIGNALS_EVERY == SIGNALS_EVERY - 1 {
                py.check_signals()?;
            }
            match self.play(py, *play).map_err(|error| with_note(py, error, index))? {
                Answer::Value(value) => values.push(value),
                Answer::Asked(Action::Continue) => {}
                Answer::Asked(action) => stop = asked(&action),
            }
        }
        Ok((PyList::new(py, values)?, stop))
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        if self.is_second {
            return Ok(());
        }
        self.device.as_ref().map_or(Ok(()), |device| device.traverse(&visit))?;
        self.faults.traverse(&visit)
    }

    fn __clear__(&self) {
        if self.is_second {
            return;
        }
        drop(self.device.as_ref().map(|device| device.let_go()));
        drop(self.faults.take());
    }
}

impl Bench {
    /// The registers that the device declares.
    pub(crate) fn registers(&self) -> Option<&Arc<RegisterFile>> {
        self.device.as_ref().and_then(|device| device.file.as_ref())
    }

    /// Whether the device has raised something.
    pub(crate) fn has_raised(&self) -> bool {
        self.faults.len() != 0
    }

    fn checked(&self, (offset, size, written): Access) -> PyResult<Play> {
        let width = u8::try_from(size).unwrap_or(0);
        if !self.core.holds(offset, width) {
            let message = format!("access leaves the device: {offset:#x}, {size} bytes");
            let hint = format!("it has {:#x} bytes; an access has 1 to 8", self.core.size());
            return Err(PyValueError::new_err(format!("{message}\n\nhint: {hint}")));
        }
        if let Some(value) = written.filter(|&value| value > ones(width)) {
            let hint = "give a larger size, or fewer bits";
            return Err(PyValueError::new_err(format!(
                "value is too wide for {size} bytes: {value:#x}\n\nhint: {hint}"
            )));
        }
        Ok(Play { offset, size: width, written })
    }

    /// What the device raises is raised here.
    #[inline]
    fn play(&self, py: Python<'_>, play: Play) -> PyResult<Answer> {
        if let Some(answer) = self.core.quick(play) {
            return Ok(answer);
        }
        let answer = self.core.call(play);
        self.raise(py)?;
        answer.map_err(|error| errors::run(&error))
    }

    /// Raises what the device has raised.
    pub(crate) fn raise(&self, py: Python<'_>) -> PyResult<()> {
        if self.faults.len() == 0 {
            return Ok(());
        }
        let mut raised = self.faults.take().into_iter();
        let Some(first) = raised.next() else { return Ok(()) };
        // A wide access may be of several registers, whose methods all raise.
        for other in raised {
            let shown = other.bind(py).repr()?;
            first.bind(py).call_method1(intern!(py, "add_note"), (format!("also raised: {shown}"),))?;
        }
        Err(PyErr::from_value(first.into_bound(py).into_any()))
    }
}

fn with_note(py: Python<'_>, error: PyErr, index: usize) -> PyErr {
    let value: &Bound<'_, PyBaseException> = error.value(py);
    // One that takes no notes is raised without.
    let _ = value.call_method1(intern!(py, "add_note"), (format!("access {index} of the batch"),));
    error
}

/// What a write asks for, as the reason of a stop.
pub(crate) fn asked(action: &Action) -> Option<String> {
    match action {
        Action::Continue => None,
        Action::Reset => Some("reset".to_owned()),
        Action::Stop(StopReason::Text(text)) => Some(text.to_string()),
        Action::Stop(StopReason::DebugExit { status }) => Some(format!("debug exit, status {status}")),
        Action::Stop(StopReason::PowerOff) => Some("power off".to_owned()),
    }
}
