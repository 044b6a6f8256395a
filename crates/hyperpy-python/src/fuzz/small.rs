//! Making a finding small: operations are left out and made simpler, as long as what is raised is the same.
//!
//! How parts are left out is the core's (`fuzz/minimize.rs`); here a device is tried with them, until the time is up or somebody interrupts. What was
//! the shortest until then is what comes of it.

use std::time::{Duration, Instant};

use hyperpy_core::bus::ones;
use hyperpy_core::fuzz::device::Trouble;
use hyperpy_core::fuzz::minimize;
use hyperpy_core::fuzz::ops::{Op, Ops, Span};
use hyperpy_core::fuzz::shape::Shape;
use pyo3::prelude::*;

use super::{Device, LOOK_EVERY};

/// So often it is told how far it is.
const TELL_EVERY: Duration = Duration::from_millis(250);

/// Whether fewer operations still fail.
pub(super) struct Trial<'a, 'py> {
    py: Python<'py>,
    shape: &'a Shape,
    device: Device,
    same: &'a Bound<'py, PyAny>,
    progress: &'a Bound<'py, PyAny>,
    until: Option<Instant>,
    looked: Instant,
    told: Instant,
    executions: usize,
    /// What is tried.
    ops: Ops,
    /// The last that still failed.
    shortest: Vec<Op>,
    is_over: bool,
    /// What ended it before.
    ended: Option<PyErr>,
}

impl<'a, 'py> Trial<'a, 'py> {
    pub(super) fn new(
        py: Python<'py>,
        shape: &'a Shape,
        device: Device,
        same: &'a Bound<'py, PyAny>,
        progress: &'a Bound<'py, PyAny>,
        until: Option<Instant>,
    ) -> Self {
        let now = Instant::now();
        let (executions, ops, shortest) = (0, Ops::default(), Vec::new());
        let (looked, told, is_over, ended) = (now, now, false, None);
        Self { py, shape, device, same, progress, until, looked, told, executions, ops, shortest, is_over, ended }
    }

    /// The shortest that still fails, and what ended the search before its end; it is begun with operations that do.
    pub(super) fn minimized(mut self, ops: Ops, mut budget: usize) -> (Ops, Option<PyErr>) {
        self.shortest = ops.list().to_vec();
        self.ops = ops;
        let list = self.shortest.clone();
        let mut list = minimize::fewest(&list, &mut budget, |list| self.fails(list));
        let shape = self.shape;
        minimize::simplest(&mut list, &mut budget, |op| simpler(shape, op), |list| self.fails(list));
        if self.ended.is_none() {
            self.ended = self.tell().err();
        }
        *self.ops.list_mut() = self.shortest;
        (self.ops, self.ended)
    }

    fn fails(&mut self, list: &[Op]) -> bool {
        if self.is_over {
            return false;
        }
        let told = self.looks().and_then(|()| if self.is_over { Ok(false) } else { self.tried(list) });
        match told {
            Ok(fails) => {
                if fails {
                    self.shortest = list.to_vec();
                }
                fails
            }
            Err(error) => {
                (self.is_over, self.ended) = (true, Some(error));
                false
            }
        }
    }

    /// Sees whether it is to end, and tells how far it is.
    fn looks(&mut self) -> PyResult<()> {
        let now = Instant::now();
        self.is_over = self.until.is_some_and(|until| now >= until);
        if now.duration_since(self.looked) >= LOOK_EVERY {
            self.looked = now;
            self.py.check_signals()?;
        }
        if now.duration_since(self.told) >= TELL_EVERY {
            self.told = now;
            self.tell()?;
        }
        Ok(())
    }

    fn tell(&self) -> PyResult<()> {
        self.progress.call1((self.executions, self.shortest.len())).map(drop)
    }

    fn tried(&mut self, list: &[Op]) -> PyResult<bool> {
        self.executions += 1;
        self.ops.list_mut().clear();
        self.ops.list_mut().extend_from_slice(list);
        let (_, execution) = self.device.execute(self.py, self.shape, &self.ops);
        match execution.trouble {
            None => Ok(false),
            Some(Trouble::Ended) => Err(self.device.error()),
            Some(Trouble::Found) => self.same.call1((self.device.error(),))?.is_truthy(),
        }
    }
}

/// Of a step, a value or bytes, what would be simpler to read.
fn simpler(shape: &Shape, op: &Op) -> Vec<Op> {
    match *op {
        Op::Write { offset, size, value } => {
            let fewer = (0..64).map(|bit| value & !(1 << bit)).filter(|&less| less != value).rev();
            let lower = [0, 1, value >> 1, value.wrapping_sub(1)].into_iter().filter(|&less| less < value);
            let values = lower.chain(fewer).map(|value| Op::Write { offset, size, value });
            // As a driver does it.
            let whole =
                shape.at(offset).and_then(|number| shape.target(number)).filter(|it| it.writes && !it.is_window);
            let whole =
                whole.map(|it| Op::Write { offset: it.offset, size: it.width(), value: value & ones(it.width()) });
            whole.into_iter().filter(|it| *it != Op::Write { offset, size, value }).chain(values).collect()
        }
        Op::Step { ns } => {
            [0, ns / 1000 * 1000, ns / 2].into_iter().filter(|&less| less < ns).map(|ns| Op::Step { ns }).collect()
        }
        Op::Read { offset, size } => {
            let whole = shape.at(offset).and_then(|number| shape.target(number)).filter(|it| it.reads && !it.is_window);
            let whole = whole.map(|it| Op::Read { offset: it.offset, size: it.width() });
            whole.into_iter().filter(|it| *it != Op::Read { offset, size }).collect()
        }
        Op::Event { number, data } => shorter(data).map(|data| Op::Event { number, data }).collect(),
        Op::Feed { data } => shorter(data).map(|data| Op::Feed { data }).collect(),
        Op::Reset => Vec::new(),
    }
}

fn shorter(data: Span) -> impl Iterator<Item = Span> {
    let lengths = [0, data.len() / 2, data.len() * 3 / 4, data.len().saturating_sub(1)];
    lengths.into_iter().filter(move |&length| length < data.len()).map(move |length| data.first(length))
}
