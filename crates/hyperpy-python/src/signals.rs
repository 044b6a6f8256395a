//! Whether a signal has come that Python handles, told without the interpreter.
//!
//! Python's own handler in C writes a byte to a descriptor (`signal.set_wakeup_fd`). While a verb waits on the main thread
//! that descriptor is the end of a socket pair of ours, and a look is a read that does not block. The interpreter is asked
//! only when a byte has come, or when Python code has run on this thread meanwhile, which may have put a descriptor of
//! its own there. Whoever had one before gets it back, with every byte.

use std::cell::Cell;
use std::io::{self, Read};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hyperpy_core::kvm::thread::fork_generation;
use pyo3::exceptions::PyValueError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict};

thread_local! {
    /// How often Python code has run on this thread inside a verb.
    static ENTERED: Cell<u64> = const { Cell::new(0) };
}

/// Runs Python code inside a verb.
pub(crate) fn attach<T>(f: impl for<'py> FnOnce(Python<'py>) -> T) -> T {
    let result = Python::attach(f);
    ENTERED.set(ENTERED.get().wrapping_add(1));
    result
}

/// Makes the pair, so that no verb needs a descriptor of its own later. Without one, it is tried again at the first look.
pub(crate) fn prepare() {
    drop(Pair::get());
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

    fn take(&self) -> Vec<u8> {
        let mut bytes = [0; 64];
        let read = (&self.ours).read(&mut bytes).unwrap_or(0);
        bytes.get(..read).unwrap_or_default().to_vec()
    }
}

/// How a verb learns of signals.
#[derive(Default)]
enum State {
    /// It has not looked yet.
    #[default]
    Unknown,
    /// Python handles signals on another thread: there is nothing to look for.
    Elsewhere,
    /// There is no descriptor to be had: the interpreter is asked each time.
    Blind,
    /// By the pair.
    Watching {
        pair: Arc<Pair>,
        /// Whose descriptor it was before, if that was not ours, of a verb around this one; -1 for nobody's.
        before: Option<i32>,
        /// [`ENTERED`] when the descriptor was last seen to be ours.
        entered: u64,
    },
}

/// One verb's watch over Python's signals.
#[derive(Default)]
pub(crate) struct Signals(Mutex<State>);

impl Signals {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs Python's handlers if a signal has come; what they raise.
    pub(crate) fn look(&self) -> PyResult<()> {
        let (mut bytes, mut to) = (Vec::new(), None);
        match &*self.state() {
            State::Elsewhere => return Ok(()),
            State::Unknown | State::Blind => {}
            State::Watching { pair, before, entered } => {
                (bytes, to) = (pair.take(), *before);
                if bytes.is_empty() && *entered == ENTERED.get() {
                    return Ok(());
                }
            }
        }
        Python::attach(|py| {
            hand_on(py, to, &bytes);
            loop {
                let was_ours = self.state().watch(py)?;
                // Nothing is locked here: a handler may call any verb.
                let result = py.check_signals();
                if !bytes.is_empty() {
                    ENTERED.set(ENTERED.get().wrapping_add(1));
                }
                // What came before the descriptor was ours has left no byte.
                if was_ours || result.is_err() {
                    return result;
                }
            }
        })
    }
}

impl State {
    /// Makes sure that Python's handler writes to the pair; whether it did so already, or cannot.
    fn watch(&mut self, py: Python<'_>) -> PyResult<bool> {
        let Ok(pair) = Pair::get() else {
            *self = Self::Blind;
            return Ok(true);
        };
        let ours = pair.pythons.as_raw_fd();
        let seen = match set(py, ours, false) {
            Ok(seen) => seen,
            Err(error) if error.is_instance_of::<PyValueError>(py) => {
                *self = Self::Elsewhere;
                return Ok(true);
            }
            Err(error) => return Err(error),
        };
        let known = if let Self::Watching { before, .. } = self { *before } else { None };
        let before = if seen == ours { known } else { Some(seen) };
        *self = Self::Watching { pair, before, entered: ENTERED.get() };
        Ok(seen == ours)
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        let state = std::mem::take(self.0.get_mut().unwrap_or_else(PoisonError::into_inner));
        let State::Watching { pair, before: Some(before), .. } = state else { return };
        // At the interpreter's end nobody is left to give it back to.
        let _ = Python::try_attach(|py| {
            let ours = pair.pythons.as_raw_fd();
            // A descriptor that is closed by now is refused: then nobody has one.
            match set(py, before, true).or_else(|_| set(py, -1, true)) {
                Ok(seen) if seen != ours => drop(set(py, seen, true)), // someone else's since: left as it was
                _ => {}
            }
            hand_on(py, Some(before), &pair.take());
        });
    }
}

/// `signal.set_wakeup_fd`; the descriptor before.
fn set(py: Python<'_>, descriptor: i32, warn: bool) -> PyResult<i32> {
    let options = PyDict::new(py);
    options.set_item(intern!(py, "warn_on_full_buffer"), warn)?;
    let signal = py.import(intern!(py, "signal"))?;
    signal.call_method(intern!(py, "set_wakeup_fd"), (descriptor,), Some(&options))?.extract()
}

/// Gives bytes to whoever waits for them. A full pipe has told its reader already.
fn hand_on(py: Python<'_>, to: Option<i32>, bytes: &[u8]) {
    if let (Some(to @ 0..), false) = (to, bytes.is_empty()) {
        let _ = py.import(intern!(py, "os")).and_then(|os| os.call_method1("write", (to, PyBytes::new(py, bytes))));
    }
}
