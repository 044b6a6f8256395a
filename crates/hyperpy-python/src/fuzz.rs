//! The device fuzzer for Python: the core's loop over a bench, with what Python does around it.
//!
//! The loop runs detached; Python is entered for a device's methods, and through a *host* (`python/hyperpy/_fuzz_host.py`) to put the device
//! back, for the host's events and at an input's end. A stock device without invariants needs none of it.

mod dma;
mod small;
mod stock;
mod subject;
mod trail;

use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use hyperpy_core::bench::{Answer, BenchState};
use hyperpy_core::fuzz::coverage::Counters;
use hyperpy_core::fuzz::device::{Compared, Covered, DeviceLoop, Execution, OnBench, Subject, Trouble, execute};
use hyperpy_core::fuzz::havoc::Words;
use hyperpy_core::fuzz::ops::{Op, Ops};
use hyperpy_core::fuzz::shape::{Need, Shape, Target, undeclared};
use hyperpy_core::fuzz::slot::Noted;
use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList};

pub use self::dma::FuzzMemory;
use self::small::Trial;
pub(crate) use self::stock::{BenchTime, Stock};
use self::subject::{Growth, OnHost};
pub use self::trail::{Trail, TrailOfCode};
use crate::bench::Bench;
use crate::errors;

/// So often it is seen whether a signal wants the thread.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// What tells which code of stock devices ran, in a build that has counters there.
#[cfg(feature = "fuzz-coverage")]
const COVERED: Option<Covered> = Some(crate::buffer::sancov::take);
#[cfg(not(feature = "fuzz-coverage"))]
const COVERED: Option<Covered> = None;

/// What tells what their code has compared.
#[cfg(feature = "fuzz-coverage")]
const COMPARED: Option<Compared> = Some(crate::buffer::sancov::compared);
#[cfg(not(feature = "fuzz-coverage"))]
const COMPARED: Option<Compared> = None;

/// A target as Python describes it.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
struct Description {
    offset: u64,
    length: u64,
    is_window: bool,
    reads: bool,
    writes: bool,
    bits: u64,
    reset: u64,
    fields: Vec<u64>,
    enums: Vec<(u64, Vec<u64>)>,
    needs: Vec<(u64, u8, u64, u64)>,
}

impl From<Description> for Target {
    fn from(it: Description) -> Self {
        let need = |(offset, size, mask, value)| Need { offset, size, mask, value };
        Self {
            offset: it.offset,
            length: it.length.max(1),
            is_window: it.is_window,
            reads: it.reads,
            writes: it.writes,
            bits: it.bits,
            reset: it.reset,
            fields: it.fields,
            enums: it.enums,
            needs: it.needs.into_iter().map(need).collect(),
        }
    }
}

/// An operation as Python has it: what, two numbers, a value, bytes.
type Plain = (String, u64, u64, u64, Vec<u8>);

/// A campaign on one device.
#[pyclass(frozen, module = "hyperpy._hyperpy")]
pub struct DeviceFuzzer {
    inner: Mutex<DeviceLoop>,
    shape: Arc<Shape>,
    /// What a device in Rust was when it was first looked at.
    base: OnceLock<Option<Arc<BenchState>>>,
}

/// What was found: the input, operations that were begun, and what was raised.
type Found = (Py<PyBytes>, usize, PyErr);

#[pymethods]
impl DeviceFuzzer {
    /// `targets`: what the device declares; none: its bytes.
    #[new]
    #[pyo3(signature = (size, targets, events, has_memory, most, longest_step, seed, texts, numbers))]
    #[allow(clippy::too_many_arguments, reason = "called once, from Python")]
    fn new(
        size: u64,
        targets: Vec<Description>,
        events: Vec<u32>,
        has_memory: bool,
        most: usize,
        longest_step: u64,
        seed: u64,
        texts: Vec<Vec<u8>>,
        numbers: Vec<u64>,
    ) -> Self {
        let targets: Vec<_> = targets.into_iter().map(Target::from).collect();
        let mut shape = Shape::new(size, if targets.is_empty() { undeclared(size) } else { targets });
        (shape.events, shape.has_memory, shape.most, shape.longest_step) = (events, has_memory, most, longest_step);
        let shape = Arc::new(shape);
        Self {
            inner: Mutex::new(DeviceLoop::new(shape.clone(), seed, Words::new(texts, numbers))),
            shape,
            base: OnceLock::new(),
        }
    }

    /// How many counters the code of stock devices has: some in a build for fuzzing.
    #[staticmethod]
    fn code_counters() -> usize {
        #[cfg(feature = "fuzz-coverage")]
        return crate::buffer::sancov::count();
        #[cfg(not(feature = "fuzz-coverage"))]
        0
    }

    /// Executes inputs until so many were, the time is up, or one fails: that one.
    fn run(&self, py: Python<'_>, host: &Bound<'_, PyAny>, executions: u64, seconds: f64) -> PyResult<Option<Found>> {
        let mut guard = self.lock()?;
        let inner = &mut *guard;
        let until = Duration::try_from_secs_f64(seconds).ok().and_then(|it| Instant::now().checked_add(it));
        let mut device = Device::of(host, &self.base)?;
        let turn = device.with(|subject| py.detach(|| turns(inner, subject, executions, until)));
        let Some((operations, trouble)) = turn? else { return Ok(None) };
        let error = device.error();
        match trouble {
            Trouble::Ended => Err(error),
            Trouble::Found => Ok(Some((PyBytes::new(py, inner.input()).unbind(), operations, error))),
        }
    }

    /// Executes one input, and tells the engine nothing: what each read gave, operations that were begun, what was raised.
    fn replay(
        &self,
        py: Python<'_>,
        host: &Bound<'_, PyAny>,
        input: &[u8],
    ) -> PyResult<(Vec<u64>, usize, Option<PyErr>)> {
        let _noted = Noted::new(input);
        let mut ops = Ops::default();
        self.shape.decode(input, &mut ops);
        let mut device = Device::of(host, &self.base)?;
        let (reads, execution) = device.execute(py, &self.shape, &ops);
        match execution.trouble {
            Some(Trouble::Ended) => Err(device.error()),
            Some(Trouble::Found) => Ok((reads, execution.operations, Some(device.error()))),
            None => Ok((reads, execution.operations, None)),
        }
    }

    /// The fewest and simplest operations that raise something of which `same` says yes, as an input; and what ended the search before its end.
    ///
    /// `progress` is told executions and operations that are left, several times a second.
    #[allow(clippy::too_many_arguments, reason = "called once, from Python")]
    fn minimize<'py>(
        &self,
        py: Python<'py>,
        host: &Bound<'py, PyAny>,
        input: &[u8],
        same: &Bound<'py, PyAny>,
        budget: usize,
        seconds: f64,
        progress: &Bound<'py, PyAny>,
    ) -> PyResult<(Bound<'py, PyBytes>, Option<PyErr>)> {
        let _noted = Noted::new(input);
        let until = Duration::try_from_secs_f64(seconds).ok().and_then(|it| Instant::now().checked_add(it));
        let mut ops = Ops::default();
        self.shape.decode(input, &mut ops);
        let (small, ended) =
            Trial::new(py, &self.shape, Device::of(host, &self.base)?, same, progress, until).minimized(ops, budget);
        let mut bytes = Vec::new();
        self.shape.encode(&small, &mut bytes);
        Ok((PyBytes::new(py, &bytes), ended))
    }

    /// Has inputs tried as they are, in order.
    fn give(&self, mut inputs: Vec<Vec<u8>>) -> PyResult<()> {
        inputs.reverse();
        self.lock()?.engine().give(inputs);
        Ok(())
    }

    /// Executions, operations, counters that were counted, inputs in the corpus; what it takes to put the device back, in µs.
    fn statistics(&self) -> PyResult<(u64, u64, usize, usize, Option<f64>)> {
        let inner = self.lock()?;
        let it = inner.statistics();
        Ok((it.executions, it.operations, it.coverage, it.corpus, inner.reset().map(|it| it.as_secs_f64() * 1e6)))
    }

    /// The inputs of the corpus from one on.
    fn corpus<'py>(&self, py: Python<'py>, start: usize) -> PyResult<Bound<'py, PyList>> {
        let mut inner = self.lock()?;
        let entries = inner.engine().corpus().entries().get(start..).unwrap_or_default();
        PyList::new(py, entries.iter().map(|entry| PyBytes::new(py, &entry.input)))
    }

    /// How many of them stay as they are.
    fn settled(&self) -> PyResult<usize> {
        Ok(self.lock()?.engine().settled())
    }

    /// Keeps only what covers all that is covered.
    fn minimize_corpus(&self) -> PyResult<()> {
        self.lock()?.engine().minimize();
        Ok(())
    }

    /// The operations that an input is.
    fn decode(&self, input: &[u8]) -> Vec<Plain> {
        let mut ops = Ops::default();
        self.shape.decode(input, &mut ops);
        let plain = |op: &Op| match *op {
            Op::Read { offset, size } => ("read".to_owned(), offset, size.into(), 0, Vec::new()),
            Op::Write { offset, size, value } => ("write".to_owned(), offset, size.into(), value, Vec::new()),
            Op::Step { ns } => ("step".to_owned(), ns, 0, 0, Vec::new()),
            Op::Reset => ("reset".to_owned(), 0, 0, 0, Vec::new()),
            Op::Event { number, data } => ("event".to_owned(), number.into(), 0, 0, ops.bytes(data).to_vec()),
            Op::Feed { data } => ("feed".to_owned(), 0, 0, 0, ops.bytes(data).to_vec()),
        };
        ops.list().iter().map(plain).collect()
    }

    /// An input that is these operations.
    fn encode<'py>(&self, py: Python<'py>, operations: Vec<Plain>) -> PyResult<Bound<'py, PyBytes>> {
        let mut ops = Ops::default();
        for (what, at, size, value, data) in operations {
            let data = ops.keep(&data);
            let size = u8::try_from(size).unwrap_or(0);
            let op = match what.as_str() {
                "read" => Op::Read { offset: at, size },
                "write" => Op::Write { offset: at, size, value },
                "step" => Op::Step { ns: at },
                "reset" => Op::Reset,
                "event" => Op::Event { number: u32::try_from(at).unwrap_or(u32::MAX), data },
                "feed" => Op::Feed { data },
                other => {
                    return Err(PyValueError::new_err(format!(
                        "no such operation: {other}\n\nhint: read, write, step, reset, event or feed"
                    )));
                }
            };
            ops.push(op);
        }
        let mut bytes = Vec::new();
        self.shape.encode(&ops, &mut bytes);
        Ok(PyBytes::new(py, &bytes))
    }
}

impl DeviceFuzzer {
    fn lock(&self) -> PyResult<std::sync::MutexGuard<'_, DeviceLoop>> {
        self.inner.try_lock().map_err(|_| {
            PyRuntimeError::new_err(
                "fuzzer is running\n\nhint: one thread at a time uses it, and not from inside the device",
            )
        })
    }
}

/// Executes inputs; what ended it, if it was neither their number nor the time.
fn turns(
    inner: &mut DeviceLoop,
    subject: &mut dyn Subject,
    executions: u64,
    until: Option<Instant>,
) -> PyResult<Option<(usize, Trouble)>> {
    let mut looked = Instant::now();
    for _ in 0..executions {
        inner.prepare();
        let (execution, _) = inner.run(subject);
        if let Some(trouble) = execution.trouble {
            return Ok(Some((execution.operations, trouble)));
        }
        let now = Instant::now();
        if until.is_some_and(|until| now >= until) {
            return Ok(None);
        }
        if now.duration_since(looked) >= LOOK_EVERY {
            looked = now;
            Python::attach(|py| py.check_signals())?;
        }
    }
    Ok(None)
}

/// A device and what is around it.
enum Device {
    /// In Rust, and nobody in Python wants to know.
    Plain(Py<Bench>, Option<Arc<BenchState>>, Option<PyErr>),
    Host(Box<OnHost>),
}

impl Device {
    fn of(host: &Bound<'_, PyAny>, base: &OnceLock<Option<Arc<BenchState>>>) -> PyResult<Self> {
        let py = host.py();
        let bench: Py<Bench> = host.getattr(intern!(py, "bench"))?.extract()?;
        if host.getattr(intern!(py, "is_plain"))?.is_truthy()? {
            let base = base.get_or_init(|| bench.get().core.save().ok().and_then(Result::ok).map(Arc::new)).clone();
            return Ok(Self::Plain(bench, base, None));
        }
        let trail = host.getattr(intern!(py, "trail"))?.extract()?;
        let memory = host.getattr(intern!(py, "memory"))?.extract()?;
        let checks_each = host.getattr(intern!(py, "checks_each"))?.is_truthy()?;
        let growth = Growth::new(host.getattr(intern!(py, "max_growth"))?.extract()?);
        Ok(Self::Host(Box::new(OnHost::new(host.clone().unbind(), bench, trail, memory, checks_each, growth))))
    }

    fn with<T>(&mut self, f: impl FnOnce(&mut (dyn Subject + Send)) -> T) -> T {
        match self {
            Self::Plain(bench, base, error) => {
                let mut subject = OnBench::new(&bench.get().core, base.as_deref());
                (subject.covered, subject.compared) = (COVERED, COMPARED);
                subject.around = bench.get().around.as_deref();
                let done = f(&mut subject);
                *error = subject.error.map(|error| errors::run(&error));
                done
            }
            Self::Host(subject) => f(&mut **subject),
        }
    }

    /// Why it ended.
    fn error(&mut self) -> PyErr {
        let kept = match self {
            Self::Plain(_, _, error) => error.take(),
            Self::Host(subject) => subject.error.take(),
        };
        kept.unwrap_or_else(|| {
            PyRuntimeError::new_err(
                "a timer of a stock device failed\n\nhint: a stock device with timers cannot be fuzzed",
            )
        })
    }

    fn execute(&mut self, py: Python<'_>, shape: &Shape, ops: &Ops) -> (Vec<u64>, Execution) {
        let (mut counters, mut reads) = (Counters::default(), Vec::new());
        let mut note = |answer: &Answer| {
            if let Answer::Value(value) = answer {
                reads.push(*value);
            }
        };
        let execution = self.with(|subject| py.detach(|| execute(shape, ops, subject, &mut counters, &mut note)));
        (reads, execution)
    }
}
