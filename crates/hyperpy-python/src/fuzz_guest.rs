//! The guest fuzzer for Python: the core's loop, detached, and what it is told and tells.
//!
//! Python is not entered while inputs are executed, but for signals, and for the methods of a device in Python that the guest uses.

use std::fs::File;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use hyperpy_core::error::RunError;
use hyperpy_core::fuzz::guest::input::{FuzzInput as CoreInput, InputDevice};
use hyperpy_core::fuzz::guest::patch::{Trap, Wanted};
use hyperpy_core::fuzz::guest::place::{Place, Register};
use hyperpy_core::fuzz::guest::triage::{ExitKind, Finding, What};
use hyperpy_core::fuzz::guest::window::Layout;
use hyperpy_core::fuzz::guest::{GuestError, GuestLoop, News, Plan};
use hyperpy_core::fuzz::havoc::Words;
use hyperpy_core::fuzz::slot;
use hyperpy_core::snapshot::{SnapshotError, StateFault};
use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList};

use crate::errors;
use crate::host::PyHost;
use crate::machine::Machine;
use crate::snapshot::Snapshot;
use crate::stock_device::StockDevice;

/// What of an input devices get.
#[pyclass(frozen, module = "hyperpy._hyperpy")]
pub struct FuzzInput {
    inner: Arc<CoreInput>,
}

#[pymethods]
impl FuzzInput {
    #[new]
    fn new() -> Self {
        Self { inner: Arc::default() }
    }

    /// The next bytes, as many as there are.
    fn read<'py>(&self, py: Python<'py>, most: usize) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &self.inner.take(most))
    }

    /// The next bytes as a little-endian number; those after the end are `after`.
    fn number(&self, size: u8, after: u8) -> u64 {
        self.inner.number(size, after)
    }

    /// How many bytes are left.
    #[getter]
    fn left(&self) -> usize {
        self.inner.left()
    }

    /// A device whose reads are answered by it.
    fn device(&self, size: u64, after: u8) -> StockDevice {
        StockDevice::of(Arc::new(InputDevice { input: self.inner.clone(), after }), "fuzz input", size)
    }

    /// Has the bytes of another one from now on.
    fn follow(&self, other: &Self) {
        self.inner.follow(&other.inner);
    }
}

/// Notes each input that this process executes in a file, for whoever finds the process dead.
#[pyfunction]
pub fn note_inputs(path: PathBuf) -> PyResult<()> {
    slot::open(File::options().read(true).write(true).open(path)?)?;
    Ok(())
}

/// A place as Python describes it: its kind, an address, most bytes, a register or "".
type Described = (String, u64, u64, String);

/// What was found: how, which exceptions, further detail, rip, error code, cr2, hash of the stack, callers, vcpu.
type Told = (String, Vec<u8>, u64, u64, Option<u64>, u64, u64, Vec<u64>, u32);

fn told(finding: &Finding) -> Told {
    let (what, vectors) = match &finding.what {
        What::Exception(vectors) => ("exception", vectors.to_vec()),
        What::Address => ("address", Vec::new()),
        What::Hang => ("hang", Vec::new()),
        What::Exit(kind) => (kind.name(), Vec::new()),
    };
    let Finding { vcpu, detail, rip, error_code, cr2, ref callers, .. } = *finding;
    (what.to_owned(), vectors, detail, rip, error_code, cr2, finding.stack_hash(), callers.clone(), vcpu)
}

/// A campaign on one guest.
#[pyclass(frozen, module = "hyperpy._hyperpy")]
pub struct GuestFuzzer {
    machine: Py<Machine>,
    inner: Mutex<GuestLoop>,
}

#[pymethods]
impl GuestFuzzer {
    /// `places` in their order; `stopped` are addresses: blocks, stops, crashes; `options` are what is left of a plan.
    #[new]
    #[allow(clippy::too_many_arguments, reason = "called once, from Python")]
    fn new(
        py: Python<'_>,
        machine: Py<Machine>,
        base: &Snapshot,
        seed: u64,
        texts: Vec<Vec<u8>>,
        numbers: Vec<u64>,
        input: &FuzzInput,
        places: Vec<Described>,
        stopped: (Vec<u64>, Vec<u64>, Vec<u64>),
        vectors: Vec<u8>,
        exits: Vec<String>,
        window: Option<(u64, u64, bool)>,
        limits: (f64, Option<u64>),
        flags: (bool, bool, bool, Option<String>),
    ) -> PyResult<Self> {
        let (blocks, stops, crashes) = stopped;
        let (hangs, steps, comparisons, trap) = flags;
        let plan = Plan {
            places: places.into_iter().map(place).collect::<PyResult<_>>()?,
            devices: input.inner.clone(),
            wanted: Wanted { crashes, vectors, stops, blocks },
            trap: trap.map(|it| if it == "int3" { Trap::Int3 } else { Trap::Halt }),
            exits: exits.iter().map(|name| kind(name)).collect::<PyResult<_>>()?,
            hangs,
            time: Duration::try_from_secs_f64(limits.0).unwrap_or(Duration::MAX),
            instructions: limits.1,
            window: window.map(|(gpa, len, is_kcov)| (gpa, len, if is_kcov { Layout::Kcov } else { Layout::Counters })),
            steps,
            comparisons,
        };
        let of = machine.get();
        of.ours("fuzz")?;
        let core = of.core().clone();
        let host = PyHost::new(&core);
        let words = Words::new(texts, numbers);
        let made = py.detach(|| GuestLoop::new(core, &base.inner, plan, seed, words, &host));
        let inner = made.map_err(|error| raised(of, &host, &error))?;
        Ok(Self { machine, inner: Mutex::new(inner) })
    }

    /// Executes inputs until so many were, the time is up, or something new is found: that and its input.
    fn run<'py>(
        &self,
        py: Python<'py>,
        executions: u64,
        seconds: f64,
    ) -> PyResult<Option<(Bound<'py, PyBytes>, Told)>> {
        let mut guard = self.lock()?;
        let inner = &mut *guard;
        let until = Duration::try_from_secs_f64(seconds).ok().and_then(|it| Instant::now().checked_add(it));
        let host = PyHost::new(inner.machine());
        let found = py.detach(|| {
            let found = turns(inner, &host, executions, until);
            inner.take_patches_out()?;
            found
        });
        let found = found.map_err(|error| raised(self.machine.get(), &host, &error))?;
        Ok(found.map(|finding| (PyBytes::new(py, inner.input()), told(&finding))))
    }

    /// Executes one input, and tells the engine nothing: what is found. The machine stands where it ended, without patches.
    fn replay(&self, py: Python<'_>, input: &[u8]) -> PyResult<Option<Told>> {
        let mut guard = self.lock()?;
        let inner = &mut *guard;
        let host = PyHost::new(inner.machine());
        let found = py.detach(|| {
            let found = inner.replay(input, &host);
            inner.take_patches_out()?;
            found
        });
        let found = found.map_err(|error| raised(self.machine.get(), &host, &error))?;
        Ok(found.as_ref().map(told))
    }

    /// Fewer and simpler bytes that end in the same way, as far as one comes in so many executions and seconds.
    fn minimize<'py>(
        &self,
        py: Python<'py>,
        input: &[u8],
        budget: usize,
        seconds: f64,
    ) -> PyResult<Bound<'py, PyBytes>> {
        let most = Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX);
        let mut guard = self.lock()?;
        let inner = &mut *guard;
        let host = PyHost::new(inner.machine());
        let small = py.detach(|| {
            let small = inner.minimized(input, budget, most, &host);
            inner.take_patches_out()?;
            small
        });
        let small = small.map_err(|error| raised(self.machine.get(), &host, &error))?;
        Ok(PyBytes::new(py, &small))
    }

    /// Has inputs tried as they are, in order.
    fn give(&self, mut inputs: Vec<Vec<u8>>) -> PyResult<()> {
        inputs.reverse();
        self.lock()?.give(inputs);
        Ok(())
    }

    /// Inputs that have hit blocks since it was asked last, with these blocks.
    fn news<'py>(&self, py: Python<'py>) -> PyResult<Vec<(Bound<'py, PyBytes>, Vec<u64>)>> {
        let news = self.lock()?.news();
        Ok(news.into_iter().map(|(input, gvas)| (PyBytes::new(py, &input), gvas)).collect())
    }

    /// Takes over what others tell so.
    fn learn(&self, py: Python<'_>, news: Vec<News>) -> PyResult<()> {
        let mut guard = self.lock()?;
        let inner = &mut *guard;
        let host = PyHost::new(inner.machine());
        let done = py.detach(|| {
            let done = inner.learn(&news, &host);
            inner.take_patches_out()?;
            done
        });
        done.map_err(|error| raised(self.machine.get(), &host, &error))
    }

    /// How often a block has stopped the guest.
    fn stops(&self) -> PyResult<u64> {
        Ok(self.lock()?.stops())
    }

    /// Executions, counters that were counted, inputs in the corpus; blocks that were not covered, and all; what a reset takes, in µs.
    fn statistics(&self) -> PyResult<(u64, usize, usize, usize, usize, Option<f64>)> {
        let inner = self.lock()?;
        let (it, (open, all)) = (inner.statistics(), inner.blocks());
        Ok((it.executions, it.coverage, it.corpus, open, all, inner.reset().map(|it| it.as_secs_f64() * 1e6)))
    }

    /// The inputs of the corpus from one on.
    fn corpus<'py>(&self, py: Python<'py>, start: usize) -> PyResult<Bound<'py, PyList>> {
        let inner = self.lock()?;
        let entries: Vec<_> = inner.corpus(start).map(|entry| PyBytes::new(py, entry)).collect();
        PyList::new(py, entries)
    }

    /// How many of them stay as they are.
    fn settled(&self) -> PyResult<usize> {
        Ok(self.lock()?.settled())
    }

    /// Keeps only what covers all that is covered.
    fn minimize_corpus(&self) -> PyResult<()> {
        self.lock()?.minimize_corpus();
        Ok(())
    }
}

impl GuestFuzzer {
    fn lock(&self) -> PyResult<MutexGuard<'_, GuestLoop>> {
        self.inner.try_lock().map_err(|_| {
            PyRuntimeError::new_err(
                "fuzzer is running\n\nhint: one thread at a time uses it, and not from inside a device",
            )
        })
    }
}

fn place((what, at, most, register): Described) -> PyResult<Place> {
    let named = || {
        Register::named(&register).ok_or_else(|| {
            let hint = "rax, rbx, ... r15, by the names of 64-bit code";
            PyValueError::new_err(format!("no such general register: {register:.40}\n\nhint: {hint}"))
        })
    };
    Ok(match what.as_str() {
        "register" => Place::Register(named()?),
        "devices" => Place::Devices,
        kind => {
            let length = if register.is_empty() { None } else { Some(named()?) };
            Place::Memory { at, is_linear: kind == "gva", most, length }
        }
    })
}

fn kind(name: &str) -> PyResult<ExitKind> {
    ExitKind::named(name)
        .ok_or_else(|| PyValueError::new_err(format!("no such exit: {name:.40}\n\nhint: a class of hyperpy.Exit")))
}

/// Signals are looked for by the host, each time that a guest begins to run and at its ticks.
fn turns(
    inner: &mut GuestLoop,
    host: &PyHost,
    executions: u64,
    until: Option<Instant>,
) -> Result<Option<Finding>, GuestError> {
    for _ in 0..executions {
        let turn = inner.turn(host)?;
        if turn.finding.is_some() {
            return Ok(turn.finding);
        }
        if until.is_some_and(|until| Instant::now() >= until) {
            break;
        }
    }
    Ok(None)
}

/// The exception for it: what a device or a signal raised, as it is.
fn raised(machine: &Machine, host: &PyHost, error: &GuestError) -> PyErr {
    let own = |it: Option<Py<pyo3::exceptions::PyBaseException>>| {
        it.map(|it| Python::attach(|py| PyErr::from_value(it.into_bound(py).into_any())))
    };
    match error {
        GuestError::Run(RunError::Host) | GuestError::Snapshot(SnapshotError::Run(RunError::Host)) => {
            host.take().unwrap_or_else(|| errors::run(&RunError::Host))
        }
        GuestError::Run(RunError::Device)
        | GuestError::Snapshot(SnapshotError::Device { fault: StateFault::Raised, .. }) => {
            own(machine.raised_last()).unwrap_or_else(|| errors::run(&RunError::Device))
        }
        GuestError::Run(error) => errors::run(error),
        GuestError::Snapshot(error) => errors::snapshot(error),
        GuestError::Memory(error) => errors::memory(error),
        GuestError::NoBreakpoints { .. } => errors::Raise::new("KvmUnavailable", error, error.hint()).into(),
        _ => PyValueError::new_err(format!("{error}\n\nhint: {}", error.hint())),
    }
}
