//! A device with Python around it, as the core's loop sees it.

use hyperpy_core::bench::{Answer, Play};
use hyperpy_core::fuzz::coverage::{Counters, coarse};
use hyperpy_core::fuzz::device::{Subject, Trouble};
use pyo3::exceptions::PyException;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBytes, PyType};

use super::dma::FuzzMemory;
use super::trail::Trail;
use crate::bench::Bench;
use crate::clock::Clock;
use crate::errors;
use crate::signals::attach;

/// So many registers count by what they hold at an input's end.
const SHOWN: u32 = 256;

/// A device whose host is asked to put it back.
pub(super) struct OnHost {
    host: Py<PyAny>,
    bench: Py<Bench>,
    clock: Option<Py<Clock>>,
    trail: Py<Trail>,
    memory: Option<Py<FuzzMemory>>,
    checks_each: bool,
    /// What was raised.
    pub(super) error: Option<PyErr>,
}

impl OnHost {
    pub(super) fn new(
        host: Py<PyAny>,
        bench: Py<Bench>,
        trail: Py<Trail>,
        memory: Option<Py<FuzzMemory>>,
        checks_each: bool,
    ) -> Self {
        Self { host, bench, clock: None, trail, memory, checks_each, error: None }
    }

    fn kept<T>(&mut self, done: PyResult<T>) -> Result<T, Trouble> {
        done.map_err(|error| {
            let is_finding = attach(|py| is_finding(py, &error));
            self.error = Some(error);
            if is_finding { Trouble::Found } else { Trouble::Ended }
        })
    }

    /// After each operation that may have called a method.
    fn checked(&mut self) -> Result<(), Trouble> {
        if !self.checks_each {
            return Ok(());
        }
        let done = attach(|py| self.host.call_method0(py, intern!(py, "check")).map(drop));
        self.kept(done)
    }
}

/// Whether it is about the device: an exception, or a hang; and nothing that is to end the program.
fn is_finding(py: Python<'_>, error: &PyErr) -> bool {
    static HANG: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    error.is_instance_of::<PyException>(py)
        || HANG.import(py, "hyperpy._fuzz_findings", "Hang").is_ok_and(|hang| error.is_instance(py, hang))
}

impl Subject for OnHost {
    fn begin(&mut self) -> Result<(), Trouble> {
        self.trail.get().begin();
        if let Some(memory) = &self.memory {
            memory.get().begin();
        }
        let made = attach(|py| {
            let made = self.host.call_method0(py, intern!(py, "begin"))?;
            made.extract::<(Py<Bench>, Py<Clock>)>(py)
        });
        let (bench, clock) = self.kept(made)?;
        let before = (std::mem::replace(&mut self.bench, bench), self.clock.replace(clock));
        attach(|_| drop(before));
        Ok(())
    }

    fn access(&mut self, play: Play) -> Result<Answer, Trouble> {
        let bench = self.bench.get();
        if let Some(answer) = bench.core.quick(play) {
            self.checked()?;
            return Ok(answer);
        }
        self.trail.get().operation();
        let answer = bench.core.call(play);
        let done = if bench.has_raised() { attach(|py| bench.raise(py)) } else { Ok(()) };
        let done = done.and_then(|()| answer.map_err(|error| errors::run(&error)));
        let answer = self.kept(done)?;
        self.checked()?;
        Ok(answer)
    }

    fn step(&mut self, ns: u64) -> Result<(), Trouble> {
        self.trail.get().operation();
        let done = self.clock.as_ref().map_or(Ok(()), |clock| {
            let clock = clock.get();
            clock.core().step(ns).map_err(|failed| clock.failed(failed))
        });
        self.kept(done)?;
        self.checked()
    }

    fn reset(&mut self) -> Result<(), Trouble> {
        self.trail.get().operation();
        let done = attach(|py| self.host.call_method0(py, intern!(py, "reset")).map(drop));
        self.kept(done)?;
        self.checked()
    }

    fn event(&mut self, number: u32, data: &[u8]) -> Result<(), Trouble> {
        self.trail.get().operation();
        let done =
            attach(|py| self.host.call_method1(py, intern!(py, "event"), (number, PyBytes::new(py, data))).map(drop));
        self.kept(done)?;
        self.checked()
    }

    fn feed(&mut self, data: &[u8]) {
        if let Some(memory) = &self.memory {
            memory.get().feed(data);
        }
    }

    fn end(&mut self, counters: &mut Counters) -> Result<(), Trouble> {
        self.trail.get().merge_into(counters);
        let told = attach(|py| self.host.call_method0(py, intern!(py, "end"))?.extract::<Vec<u64>>(py));
        for feature in self.kept(told)? {
            counters.mark(feature);
        }
        if let Some(file) = self.bench.get().registers() {
            for cell in 0..SHOWN {
                let Some(value) = file.get(cell) else { break };
                counters.mark(6 << 56 | u64::from(cell) << 16 | coarse(value));
            }
        }
        Ok(())
    }
}
