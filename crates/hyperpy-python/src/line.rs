//! Interrupt lines and messages, as Python devices hold them: `hyperpy.line`.

use std::sync::Arc;

use hyperpy_core::error::RunError;
use hyperpy_core::irq::{Line, LineHub};
use hyperpy_core::kvm::thread::fork_generation;
use hyperpy_core::record::Deed;
use pyo3::prelude::*;

use crate::errors;
use crate::machine::Machine;
use crate::record::{Recorder, Tap};

/// Refuses in the child of a fork: the controllers are the parent's, and a thread that is not there may hold the lock.
fn ours(forks: u64) -> PyResult<()> {
    let mine = forks == fork_generation();
    if mine { Ok(()) } else { Err(errors::run(&RunError::Forked { verb: "drive an interrupt line" })) }
}

/// An interrupt line of a machine: to a gsi, or one that sends a message.
#[pyclass(frozen, module = "hyperpy._hyperpy")]
pub struct IrqLine {
    line: Arc<dyn Line>,
    /// Its number, or None for one that sends a message.
    #[pyo3(get)]
    gsi: Option<u32>,
    /// (address, data) of the message.
    #[pyo3(get, name = "_message")]
    message: Option<(u64, u32)>,
    /// The process that it belongs to.
    forks: u64,
    /// Who wants to know where it is driven to.
    tap: Tap,
}

impl IrqLine {
    fn new(line: Arc<dyn Line>, gsi: Option<u32>, message: Option<(u64, u32)>) -> Self {
        Self { line, gsi, message, forks: fork_generation(), tap: Tap::default() }
    }

    /// To be told before it is driven: what comes of it, on another thread, is recorded after it.
    fn tell(&self, levels: &[bool]) {
        self.tap.tell(|recorder, number| levels.iter().for_each(|&high| recorder.line(number, high)));
    }
}

#[pymethods]
impl IrqLine {
    /// Asserts the line: a level-triggered one until it is lowered.
    #[pyo3(name = "raise_")]
    fn raise(&self, py: Python<'_>) -> PyResult<()> {
        self.set(py, true)
    }

    /// Takes the line down.
    fn lower(&self, py: Python<'_>) -> PyResult<()> {
        self.set(py, false)
    }

    /// One rising edge.
    fn pulse(&self, py: Python<'_>) -> PyResult<()> {
        ours(self.forks)?;
        self.tell(&[true, false]);
        py.detach(|| self.line.pulse());
        Ok(())
    }

    /// Drives the line: True is asserted.
    fn set(&self, py: Python<'_>, level: bool) -> PyResult<()> {
        ours(self.forks)?;
        self.tell(&[level]);
        py.detach(|| self.line.set(level));
        Ok(())
    }

    /// Whether this line is asserted now; others may share its gsi.
    #[getter]
    fn level(&self, py: Python<'_>) -> PyResult<bool> {
        ours(self.forks)?;
        Ok(py.detach(|| self.line.is_high()))
    }

    /// Tells a recorder from now on, under this number, or nobody.
    #[pyo3(name = "_record")]
    fn record(&self, recorder: Option<&Recorder>, number: usize) {
        if ours(self.forks).is_ok() {
            self.tap.set(recorder, number);
        }
    }

    fn __repr__(&self) -> String {
        match (self.gsi, self.message) {
            (Some(gsi), _) => format!("IrqLine(gsi={gsi})"),
            (None, Some((address, data))) => format!("IrqLine(message {data:#x} to {address:#x})"),
            (None, None) => "IrqLine()".to_owned(),
        }
    }
}

/// What sends messages to a machine's local APICs.
#[pyclass(frozen, module = "hyperpy._hyperpy")]
pub struct MessageSender {
    lines: Arc<LineHub>,
    forks: u64,
    /// Who wants to know what is sent.
    tap: Tap,
}

#[pymethods]
impl MessageSender {
    /// Sends a message; whether a local APIC took it.
    fn send(&self, py: Python<'_>, address: u64, data: u64) -> PyResult<bool> {
        ours(self.forks)?;
        // More than 32 bits of data no message has.
        let is_taken = u32::try_from(data).is_ok_and(|data| py.detach(|| self.lines.send(address, data)));
        self.tap.tell(|recorder, wire| recorder.did(Deed::Message { wire, address, data, is_taken }));
        Ok(is_taken)
    }

    /// Tells a recorder from now on, under this number, or nobody.
    #[pyo3(name = "_record")]
    fn record(&self, recorder: Option<&Recorder>, number: usize) {
        if ours(self.forks).is_ok() {
            self.tap.set(recorder, number);
        }
    }
}

/// The interrupt line of a gsi.
#[pyfunction]
pub(crate) fn line(py: Python<'_>, machine: &Machine, gsi: u32) -> PyResult<IrqLine> {
    machine.ours("use an interrupt line")?;
    // It may wait for who makes KVM's objects.
    let line = py.detach(|| machine.core().line(gsi)).map_err(|error| errors::run(&error))?;
    Ok(IrqLine::new(line, Some(gsi), None))
}

/// A line that sends a message whenever it is asserted.
#[pyfunction]
pub(crate) fn message_line(py: Python<'_>, machine: &Machine, address: u64, data: u32) -> PyResult<IrqLine> {
    machine.ours("use an interrupt line")?;
    let line = py.detach(|| machine.core().message_line(address, data)).map_err(|error| errors::route(&error))?;
    Ok(IrqLine::new(line, None, Some((address, data))))
}

/// What sends messages to this machine.
#[pyfunction]
pub(crate) fn message_sender(py: Python<'_>, machine: &Machine) -> PyResult<MessageSender> {
    machine.ours("use an interrupt line")?;
    py.detach(|| machine.core().want_irqchip()).map_err(|error| errors::run(&error))?;
    Ok(MessageSender { lines: machine.core().lines.clone(), forks: fork_generation(), tap: Tap::default() })
}
