//! A device with Python around it, as the core's loop sees it.

use std::fs::File;
use std::os::unix::fs::FileExt;

use hyperpy_core::bench::{Answer, Play};
use hyperpy_core::fuzz::coverage::{Counters, coarse};
use hyperpy_core::fuzz::device::{Operands, Subject, Trouble};
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
    growth: Growth,
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
        growth: Growth,
    ) -> Self {
        Self { host, bench, clock: None, trail, memory, checks_each, growth, error: None }
    }

    fn kept<T>(&mut self, done: PyResult<T>) -> Result<T, Trouble> {
        done.map_err(|error| {
            let is_finding = attach(|py| is_finding(py, &error));
            self.error = Some(error);
            if is_finding { Trouble::Found } else { Trouble::Ended }
        })
    }

    /// Memory that is the fuzzer's, in bytes.
    fn own(&self) -> u64 {
        self.memory.as_ref().map_or(0, |memory| memory.get().footprint())
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

/// Whether it is about the device: an exception, a hang, or a panic of Rust code that it calls; and nothing that is to end the program.
fn is_finding(py: Python<'_>, error: &PyErr) -> bool {
    static HANG: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    error.is_instance_of::<PyException>(py)
        || HANG.import(py, "hyperpy._fuzz_findings", "Hang").is_ok_and(|hang| error.is_instance(py, hang))
        // Each extension module has a class of its own of this name.
        || error.get_type(py).name().is_ok_and(|name| name == "PanicException")
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
        if let Some(covered) = super::COVERED {
            covered(None);
        }
        self.growth.begin(self.own());
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
        if let Some(covered) = super::COVERED {
            covered(Some(counters));
        }
        let grown = self.growth.end(self.own());
        self.kept(grown)?;
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

    fn operands(&mut self) -> Operands {
        // What it cannot tell it does not hold.
        let held = attach(|py| self.host.call_method0(py, intern!(py, "held"))?.extract::<Vec<u64>>(py));
        let mut held = held.unwrap_or_default();
        if let Some(file) = self.bench.get().registers() {
            held.extend((0..SHOWN).map_while(|cell| file.get(cell)));
        }
        Operands { held, compared: super::COMPARED.map(|compared| compared()).unwrap_or_default() }
    }
}

/// How much memory the process has for its data, as one input after the other changes it; less what is the fuzzer's own.
pub(super) struct Growth {
    /// `/proc/self/statm`; none where there is no such file.
    statm: Option<File>,
    /// More than so many bytes of one input are a finding; 0: nothing is.
    most: u64,
    before: u64,
    own: u64,
}

impl Growth {
    pub(super) fn new(most: u64) -> Self {
        let statm = if most == 0 { None } else { File::open("/proc/self/statm").ok() };
        Self { statm, most, before: 0, own: 0 }
    }

    fn begin(&mut self, own: u64) {
        (self.before, self.own) = (self.bytes(), own);
    }

    fn end(&self, own: u64) -> PyResult<()> {
        let grown = self.bytes().saturating_sub(self.before).saturating_sub(own.saturating_sub(self.own));
        if self.statm.is_none() || grown <= self.most {
            return Ok(());
        }
        let message = format!("one input makes the process grow by {} MiB", grown >> 20);
        Err(attach(|py| {
            let class =
                py.import(intern!(py, "hyperpy._fuzz_findings")).and_then(|it| it.getattr(intern!(py, "Growth")));
            class.and_then(|class| class.call1((message,))).map_or_else(|error| error, PyErr::from_value)
        }))
    }

    /// Pages of data and stack (proc(5), statm): what is private and can be written, touched or not.
    fn bytes(&self) -> u64 {
        let mut text = [0; 128];
        let read = self.statm.as_ref().and_then(|file| file.read_at(&mut text, 0).ok()).unwrap_or_default();
        let text = std::str::from_utf8(text.get(..read).unwrap_or_default()).unwrap_or_default();
        let pages: u64 = text.split_ascii_whitespace().nth(5).and_then(|it| it.parse().ok()).unwrap_or_default();
        pages.saturating_mul(PAGE)
    }
}

/// Bytes of a page, on every processor that has KVM for this.
const PAGE: u64 = 4096;
