//! Whether a signal has come that Python handles, told without the interpreter.
//!
//! Python's own handler in C writes a byte to a descriptor (`signal.set_wakeup_fd`), whichever thread it ran on. While a
//! verb waits on the main thread that descriptor is the end of a socket pair of ours, and a look is a read that does not
//! block. Whoever had one before gets every byte, and has it in place again whenever Python code runs on this thread, be it a
//! device's or a signal's handler: the next look puts ours there again.

use std::cell::RefCell;
use std::io::{self, Read};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hyperpy_core::kvm::thread::fork_generation;
use pyo3::exceptions::PyValueError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict};

thread_local! {
    /// There while Python's handler writes to the pair: a verb on this thread has seen to that, and no Python code has run.
    static CLAIM: RefCell<Option<Claim>> = const { RefCell::new(None) };
}

/// What `signal.set_wakeup_fd` takes and gives for no descriptor.
const NOBODY: i32 = -1;

struct Claim {
    pair: Arc<Pair>,
    /// Whose descriptor it was.
    before: i32,
}

/// Runs Python code inside a verb.
pub(crate) fn attach<T>(f: impl for<'py> FnOnce(Python<'py>) -> T) -> T {
    Python::attach(|py| {
        if CLAIM.with_borrow(Option::is_some) {
            give_back(py, &[]);
        }
        f(py)
    })
}

/// Makes the pair and imports what is asked later, so that no verb needs a descriptor for that. Without a pair, it is tried
/// again at the first look.
pub(crate) fn prepare(py: Python<'_>) -> PyResult<()> {
    drop(Pair::get());
    py.import(intern!(py, "signal")).map(drop)
}

/// Both ends; one pair for the process, and another after a fork.
struct Pair {
    ours: UnixStream,
    pythons: UnixStream,
    forks: u64,
}

impl Pair {
    /// Made when the module is imported, and again after a fork. Kept for good: Python's handler may be about to write to it.
    fn get() -> io::Result<Arc<Self>> {
        static PAIR: Mutex<Option<Arc<Pair>>> = Mutex::new(None);
        let mut pair = PAIR.lock().unwrap_or_else(PoisonError::into_inner);
        let forks = fork_generation();
        if let Some(pair) = pair.as_ref().filter(|pair| pair.forks == forks) {
            return Ok(pair.clone());
        }
        let (ours, pythons) = UnixStream::pair()?;
        ours.set_nonblocking(true)?;
        pythons.set_nonblocking(true)?;
        let made = Arc::new(Self { ours, pythons, forks });
        *pair = Some(made.clone());
        Ok(made)
    }

    /// What Python's handler has written since the last time.
    fn take(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut some = [0; 64];
        while let Ok(read @ 1..) = (&self.ours).read(&mut some) {
            bytes.extend_from_slice(some.get(..read).unwrap_or_default());
        }
        bytes
    }
}

/// One verb's watch over Python's signals.
#[derive(Default)]
pub(crate) struct Signals {
    /// Python handles signals on another thread: there is nothing to look for.
    elsewhere: AtomicBool,
}

impl Signals {
    /// Runs Python's handlers if a signal has come; what they raise.
    pub(crate) fn look(&self) -> PyResult<()> {
        if self.elsewhere.load(Ordering::Relaxed) {
            return Ok(());
        }
        let bytes = CLAIM.with_borrow(|claim| claim.as_ref().map(|claim| claim.pair.take()));
        if bytes.as_ref().is_some_and(Vec::is_empty) {
            return Ok(());
        }
        Python::attach(|py| {
            give_back(py, &bytes.unwrap_or_default());
            loop {
                py.check_signals()?;
                // What came before the descriptor was ours has left no byte, and a handler may have set another.
                if !self.claim(py)? {
                    return Ok(());
                }
            }
        })
    }

    /// Has Python's handler write to the pair; whether it did not before. Without a pair the next look asks again.
    fn claim(&self, py: Python<'_>) -> PyResult<bool> {
        let Ok(pair) = Pair::get() else { return Ok(false) };
        let signal = py.import(intern!(py, "signal"))?; // code, in which a signal's handler may raise
        let ours = pair.pythons.as_raw_fd();
        let before = match set(&signal, ours, false) {
            Ok(before) => before,
            Err(error) if error.is_instance_of::<PyValueError>(py) => {
                self.elsewhere.store(true, Ordering::Relaxed);
                return Ok(false);
            }
            Err(error) => return Err(error),
        };
        let is_new = before != ours;
        if is_new || CLAIM.with_borrow(Option::is_none) {
            CLAIM.set(Some(Claim { pair, before: if is_new { before } else { NOBODY } }));
        }
        Ok(is_new)
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        // The verb has ended. At the interpreter's end nobody is left to give it back to.
        if CLAIM.with_borrow(Option::is_some) {
            let _ = Python::try_attach(|py| give_back(py, &[]));
        }
    }
}

/// How often work that asks all the time has a look at the signals.
const LOOK: Duration = Duration::from_millis(50);

/// [`Signals`] for a file that is written or read, which asks at each page: has Ctrl-C end that.
pub(crate) struct Watch {
    signals: Signals,
    last: Mutex<Instant>,
    raised: Mutex<Option<PyErr>>,
}

impl Default for Watch {
    fn default() -> Self {
        Self { signals: Signals::default(), last: Mutex::new(Instant::now()), raised: Mutex::default() }
    }
}

impl Watch {
    /// An error once a handler has raised, which is kept.
    pub(crate) fn goes_on(&self) -> io::Result<()> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if last.elapsed() < LOOK {
            return Ok(());
        }
        *last = Instant::now();
        self.signals.look().map_err(|error| {
            *self.raised.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
            io::ErrorKind::Interrupted.into()
        })
    }

    /// What was raised.
    pub(crate) fn raised(&self) -> Option<PyErr> {
        self.raised.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// Puts back the descriptor that was there before ours, and gives its owner what was written to ours.
fn give_back(py: Python<'_>, bytes: &[u8]) {
    // Taken before Python is entered.
    let Some(Claim { pair, before }) = CLAIM.take() else { return };
    let Ok(signal) = py.import(intern!(py, "signal")) else { return };
    // A descriptor that is closed by now is refused: then nobody has one.
    match set(&signal, before, true).or_else(|_| set(&signal, NOBODY, true)) {
        // A handler has set another since: it stays.
        Ok(seen) if seen != pair.pythons.as_raw_fd() => drop(set(&signal, seen, true)),
        _ => {}
    }
    let bytes = [bytes, &pair.take()].concat();
    if before != NOBODY && !bytes.is_empty() {
        // A full pipe has told its reader already.
        let written =
            py.import(intern!(py, "os")).and_then(|os| os.call_method1("write", (before, PyBytes::new(py, &bytes))));
        drop(written);
    }
}

/// `signal.set_wakeup_fd`; the descriptor before.
fn set(signal: &Bound<'_, PyModule>, descriptor: i32, warn: bool) -> PyResult<i32> {
    let py = signal.py();
    let options = PyDict::new(py);
    options.set_item(intern!(py, "warn_on_full_buffer"), warn)?;
    signal.call_method(intern!(py, "set_wakeup_fd"), (descriptor,), Some(&options))?.extract()
}
