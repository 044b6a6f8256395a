//! The lines of a device's own code that were run, one after the other: what `sys.settrace` and `sys.monitoring` call.
//!
//! A feature is a line after another one. `sys.monitoring` tells of a line only where another one was before, so that a loop of one line
//! is told by its jumps; and by branches, which way a condition within a line went. Code of other files is not looked at: it is told so when
//! its frame begins.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hyperpy_core::fuzz::coverage::Counters;
use hyperpy_core::fuzz::rng::mixed;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyString;

/// Code objects that are remembered: a device may make new ones without end.
const MOST: usize = 1 << 14;

#[derive(Default)]
struct Lines {
    counters: Counters,
    last: u64,
    /// Lines since the operation began.
    count: u64,
    most: u64,
}

impl Lines {
    fn at(&mut self, place: u64) -> bool {
        let place = mixed(place);
        self.counters.hit(place ^ self.last);
        self.last = place >> 1;
        self.count += 1;
        self.count <= self.most
    }
}

/// What tells places of jumps and of branches from lines.
const JUMP: u64 = 1 << 62;
const BRANCH: u64 = 1 << 63;

/// `sys.monitoring.DISABLE`: this place is not to be told of any more.
fn never_again(py: Python<'_>) -> PyResult<Option<Py<PyAny>>> {
    static DISABLE: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let disable = DISABLE.get_or_try_init(py, || {
        Ok::<_, PyErr>(py.import("sys")?.getattr("monitoring")?.getattr("DISABLE")?.unbind())
    })?;
    Ok(Some(disable.clone_ref(py)))
}

type Shared = Arc<Mutex<Lines>>;

fn locked(lines: &Shared) -> MutexGuard<'_, Lines> {
    lines.lock().unwrap_or_else(PoisonError::into_inner)
}

/// An operation ran more lines than it may.
fn hang(py: Python<'_>, most: u64) -> PyErr {
    let made = py.import(intern!(py, "hyperpy._fuzz_findings")).and_then(|module| {
        module.getattr(intern!(py, "Hang"))?.call1((format!("one operation ran more than {most} lines of the device"),))
    });
    made.map_or_else(|error| error, PyErr::from_value)
}

/// By the address of a code object, which is kept: what follows its frames, and a number for it.
type Codes = HashMap<usize, (Py<PyAny>, Option<(Py<PyAny>, u64)>)>;

/// Who is told of a device's lines.
#[pyclass(frozen, module = "hyperpy._hyperpy")]
pub struct Trail {
    lines: Shared,
    files: HashSet<String>,
    codes: Mutex<Codes>,
    /// Inputs and operations that were begun: whoever watches sees whether it goes on.
    begun: AtomicU64,
}

#[pymethods]
impl Trail {
    /// Of code of these files; an operation may run so many lines.
    #[new]
    fn new(files: HashSet<String>, most: u64) -> Self {
        let lines = Lines { most, ..Lines::default() };
        Self { lines: Arc::new(Mutex::new(lines)), files, codes: Mutex::default(), begun: AtomicU64::new(0) }
    }

    /// What `sys.settrace` takes: it is told of each frame that begins.
    fn frame(
        &self,
        py: Python<'_>,
        frame: &Bound<'_, PyAny>,
        event: &str,
        argument: &Bound<'_, PyAny>,
    ) -> PyResult<Option<Py<PyAny>>> {
        let _ = (event, argument);
        let code = frame.getattr(intern!(py, "f_code"))?;
        Ok(self.of(&code)?.map(|(follower, _)| follower))
    }

    /// What `sys.monitoring` calls for a line.
    fn line(&self, py: Python<'_>, code: &Bound<'_, PyAny>, line: u64) -> PyResult<Option<Py<PyAny>>> {
        let Some((_, base)) = self.of(code)? else { return never_again(py) };
        follow(py, &self.lines, base, line)?;
        Ok(None)
    }

    /// What it calls for a jump: one that goes back is as a line.
    fn jump(&self, py: Python<'_>, code: &Bound<'_, PyAny>, start: u64, to: u64) -> PyResult<Option<Py<PyAny>>> {
        match self.of(code)? {
            Some((_, base)) if to <= start => {
                follow(py, &self.lines, base, JUMP | to)?;
                Ok(None)
            }
            _ => never_again(py),
        }
    }

    /// What it calls for a branch: which way it went.
    fn branch(&self, py: Python<'_>, code: &Bound<'_, PyAny>, start: u64, to: u64) -> PyResult<Option<Py<PyAny>>> {
        let Some((_, base)) = self.of(code)? else { return never_again(py) };
        locked(&self.lines).counters.hit(base ^ mixed(BRANCH | start << 24 | to));
        Ok(None)
    }

    /// Inputs and operations that were begun: a number that goes up while none hangs.
    fn begun(&self) -> u64 {
        self.begun.load(Ordering::Relaxed)
    }

    /// An operation begins.
    fn mark(&self) {
        self.operation();
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        let Ok(codes) = self.codes.try_lock() else { return Ok(()) };
        codes.values().try_for_each(|(code, follower)| {
            visit.call(code)?;
            follower.as_ref().map_or(Ok(()), |(follower, _)| visit.call(follower))
        })
    }

    fn __clear__(&self) {
        drop(std::mem::take(&mut *self.codes()));
    }
}

impl Trail {
    fn codes(&self) -> MutexGuard<'_, Codes> {
        self.codes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn of(&self, code: &Bound<'_, PyAny>) -> PyResult<Option<(Py<PyAny>, u64)>> {
        let (py, key) = (code.py(), code.as_ptr() as usize);
        let copy = |it: &Option<(Py<PyAny>, u64)>| it.as_ref().map(|(follower, base)| (follower.clone_ref(py), *base));
        if let Some((_, found)) = self.codes().get(&key) {
            return Ok(copy(found));
        }
        let file = code.getattr(intern!(py, "co_filename"))?.cast_into::<PyString>()?;
        let made = if self.files.contains(&*file.to_cow()?) {
            let name = code.getattr(intern!(py, "co_qualname"))?.cast_into::<PyString>()?;
            let first: u64 = code.getattr(intern!(py, "co_firstlineno"))?.extract()?;
            // By what is the same in every process.
            let base = name.to_cow()?.bytes().fold(first, |all, byte| mixed(all ^ u64::from(byte)));
            let follower = Bound::new(py, TrailOfCode { lines: self.lines.clone(), base })?;
            Some((follower.getattr(intern!(py, "event"))?.unbind(), base))
        } else {
            None
        };
        let mut codes = self.codes();
        if codes.len() >= MOST {
            let old = std::mem::take(&mut *codes);
            drop(codes);
            drop(old); // unlocked: it may run any code
            codes = self.codes();
        }
        codes.insert(key, (code.clone().unbind(), made.as_ref().map(|(it, base)| (it.clone_ref(py), *base))));
        Ok(made)
    }

    /// An input begins.
    pub(super) fn begin(&self) {
        let mut lines = locked(&self.lines);
        lines.counters.clear();
        (lines.last, lines.count) = (0, 0);
        self.begun.fetch_add(1, Ordering::Relaxed);
    }

    /// An operation begins.
    pub(super) fn operation(&self) {
        let mut lines = locked(&self.lines);
        (lines.last, lines.count) = (0, 0);
        self.begun.fetch_add(1, Ordering::Relaxed);
    }

    /// Adds what was counted.
    pub(super) fn merge_into(&self, counters: &mut Counters) {
        counters.merge(&locked(&self.lines).counters);
    }
}

fn follow(py: Python<'_>, lines: &Shared, base: u64, line: u64) -> PyResult<()> {
    let mut lines = locked(lines);
    if lines.at(base ^ line) {
        return Ok(());
    }
    let most = lines.most;
    lines.count = 0;
    drop(lines);
    Err(hang(py, most))
}

/// What follows the frames of one code object.
#[pyclass(frozen, module = "hyperpy._hyperpy")]
pub struct TrailOfCode {
    lines: Shared,
    base: u64,
}

#[pymethods]
impl TrailOfCode {
    /// A line is about to run, or the frame ends.
    fn event(
        &self,
        py: Python<'_>,
        frame: &Bound<'_, PyAny>,
        event: &Bound<'_, PyAny>,
        argument: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        let _ = (event, argument);
        let line: Option<u64> = frame.getattr(intern!(py, "f_lineno"))?.extract()?;
        follow(py, &self.lines, self.base, line.unwrap_or_default())
    }
}
