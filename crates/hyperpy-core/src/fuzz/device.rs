//! The loop over a device: an input's operations are done to it, and what they cover is counted.
//!
//! Whose device it is says [`Subject`]: a `Bench` with a stock device here (`OnBench`), with one of Python's in the bindings. Features are made of
//! what the declaration tells: which register after which, and what the fields of each held when it was read and written.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::coverage::{Counters, coarse, coarsest};
use super::engine::{Engine, Evolve, Outcome, Statistics};
use super::havoc::Words;
use super::ops::{Op, Ops};
use super::reshape::Reshape;
use super::shape::Shape;
use super::slot::Noted;
use crate::bench::{Answer, Bench, BenchState, Play};
use crate::error::RunError;

/// Why an execution ended before its end. Whoever has the device keeps the reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// It is a finding.
    Found,
    /// It is none, and the campaign is to end: somebody wants the thread back.
    Ended,
}

/// Numbers that an input may want to have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Operands {
    /// What the device has.
    pub held: Vec<u64>,
    /// What its code has compared: what was there, and what was wanted.
    pub compared: Vec<(u64, u64)>,
}

/// A device to be fuzzed, and all that is around it.
pub trait Subject {
    /// Puts all back to what it was before every input.
    ///
    /// # Errors
    /// It could not.
    fn begin(&mut self) -> Result<(), Trouble>;
    /// Makes an access in the device's range.
    ///
    /// # Errors
    /// The device failed.
    fn access(&mut self, play: Play) -> Result<Answer, Trouble>;
    /// Lets time go by.
    ///
    /// # Errors
    /// A timer failed.
    fn step(&mut self, ns: u64) -> Result<(), Trouble>;
    /// Resets the machine, as far as the device sees it.
    ///
    /// # Errors
    /// The device failed.
    fn reset(&mut self) -> Result<(), Trouble>;
    /// Does one of the host's events.
    ///
    /// # Errors
    /// The device failed.
    fn event(&mut self, number: u32, data: &[u8]) -> Result<(), Trouble>;
    /// Leaves bytes where the device will look.
    fn feed(&mut self, data: &[u8]);
    /// All operations were done: what else is covered, and what does not hold.
    ///
    /// # Errors
    /// Something does not hold.
    fn end(&mut self, counters: &mut Counters) -> Result<(), Trouble>;
    /// The input that has just ended covers something new: what it could have been compared with.
    fn operands(&mut self) -> Operands {
        Operands::default()
    }
}

/// What came of one input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Execution {
    /// Operations that were begun: the last one of them is where it ended.
    pub operations: usize,
    /// What ended it.
    pub trouble: Option<Trouble>,
}

/// Does operations to a device that was put back.
pub fn execute(
    shape: &Shape,
    ops: &Ops,
    subject: &mut dyn Subject,
    counters: &mut Counters,
    answered: impl FnMut(&Answer),
) -> Execution {
    let begun = subject.begin();
    execute_begun(begun, shape, ops, subject, counters, answered)
}

fn execute_begun(
    begun: Result<(), Trouble>,
    shape: &Shape,
    ops: &Ops,
    subject: &mut dyn Subject,
    counters: &mut Counters,
    mut answered: impl FnMut(&Answer),
) -> Execution {
    let (mut last, mut operations) = (0, 0);
    let trouble = begun.and_then(|()| {
        for op in ops.list() {
            operations += 1;
            let what = match *op {
                Op::Read { offset, size } => {
                    let play = Play { offset, size, written: None };
                    let answer = subject.access(play)?;
                    answered(&answer);
                    let value = if let Answer::Value(value) = answer { value } else { 0 };
                    tell(shape, play, value, counters)
                }
                Op::Write { offset, size, value } => {
                    let play = Play { offset, size, written: Some(value) };
                    // Counted first: what the device makes of it may be its end.
                    let what = tell(shape, play, value, counters);
                    subject.access(play)?;
                    what
                }
                Op::Step { ns } => {
                    subject.step(ns)?;
                    1 << 48
                }
                Op::Reset => {
                    subject.reset()?;
                    5 << 48
                }
                Op::Event { number, data } => {
                    subject.event(number, ops.bytes(data))?;
                    2 << 48 | u64::from(number)
                }
                Op::Feed { data } => {
                    subject.feed(ops.bytes(data));
                    continue;
                }
            };
            counters.hit(what);
            counters.mark(what.rotate_left(20) ^ last);
            last = what;
        }
        subject.end(counters)
    });
    Execution { operations, trouble: trouble.err() }
}

/// Counts what an access tells, and says which register it was of and how.
#[inline]
fn tell(shape: &Shape, play: Play, value: u64, counters: &mut Counters) -> u64 {
    let is_write = u64::from(play.written.is_some());
    let number = shape.at(play.offset);
    let target = number.and_then(|number| shape.target(number));
    let is_whole = target.is_some_and(|it| it.offset == play.offset && it.width() == play.size && !it.is_window);
    // What is of no register as a whole is told apart by where it is alone: there are too many ways to do it.
    let place = number.map_or(play.offset | 1 << 40, u64::from);
    let what = place << 2 | is_write << 1 | u64::from(is_whole);
    match target.filter(|_| is_whole) {
        Some(target) if !target.fields.is_empty() => {
            for (field, at) in target.fields.iter().zip(1_u64..) {
                let held = (value & field) >> field.trailing_zeros().min(63);
                counters.mark(3 << 56 | what << 16 | at << 8 | coarse(held));
            }
        }
        Some(_) => counters.mark(4 << 56 | what << 16 | coarsest(value)),
        None => {}
    }
    what
}

/// Adds what was covered since the last time, or forgets it: what came before an input is not the input's.
pub type Covered = fn(Option<&mut Counters>);
/// Tells what was compared since an input began: what was there, and what was wanted.
pub type Compared = fn() -> Vec<(u64, u64)>;

/// What is around a device in Rust, and is not it: the host's end of a line, a button.
pub trait Around {
    /// Puts it back to what it was before every input.
    fn begin(&self);
    /// Does one of the host's events.
    fn event(&self, number: u32, data: &[u8]);
}

/// A device in Rust on a bench, put back by its state, or by its reset where it cannot be saved.
pub struct OnBench<'a> {
    bench: &'a Bench,
    base: Option<&'a BenchState>,
    /// What else was covered, by counters in the devices' code, where it has some.
    pub covered: Option<Covered>,
    /// What was compared since an input began, in devices' code that tells it.
    pub compared: Option<Compared>,
    /// Who does the host's events.
    pub around: Option<&'a (dyn Around + Send + Sync)>,
    /// What it panicked with.
    pub error: Option<RunError>,
}

impl<'a> OnBench<'a> {
    /// `base` is what every input begins with; none, where the device cannot be saved.
    #[must_use]
    pub fn new(bench: &'a Bench, base: Option<&'a BenchState>) -> Self {
        Self { bench, base, covered: None, compared: None, around: None, error: None }
    }

    fn kept<T>(&mut self, done: Result<T, RunError>) -> Result<T, Trouble> {
        done.map_err(|error| {
            self.error = Some(error);
            Trouble::Found
        })
    }
}

impl Subject for OnBench<'_> {
    fn begin(&mut self) -> Result<(), Trouble> {
        if let Some(around) = self.around {
            around.begin();
        }
        let done = match self.base {
            Some(base) => {
                self.bench.clock().load(&base.kept);
                self.bench.load(base).map(drop)
            }
            None => self.bench.reset(),
        };
        if let Some(covered) = self.covered {
            covered(None);
        }
        self.kept(done)
    }

    fn access(&mut self, play: Play) -> Result<Answer, Trouble> {
        if let Some(answer) = self.bench.quick(play) {
            return Ok(answer);
        }
        let answer = self.bench.call(play);
        self.kept(answer)
    }

    fn step(&mut self, ns: u64) -> Result<(), Trouble> {
        self.bench.clock().step(ns).map_err(|_| Trouble::Found)
    }

    fn reset(&mut self) -> Result<(), Trouble> {
        let done = self.bench.reset();
        self.kept(done)
    }

    fn event(&mut self, number: u32, data: &[u8]) -> Result<(), Trouble> {
        let Some(around) = self.around else { return Ok(()) };
        let done = self.bench.guarded(|| around.event(number, data));
        self.kept(done)
    }

    fn feed(&mut self, _: &[u8]) {}

    fn end(&mut self, counters: &mut Counters) -> Result<(), Trouble> {
        if let Some(covered) = self.covered {
            covered(Some(counters));
        }
        Ok(())
    }

    fn operands(&mut self) -> Operands {
        Operands { held: Vec::new(), compared: self.compared.map(|compared| compared()).unwrap_or_default() }
    }
}

/// A campaign on one device, execution by execution.
///
/// A device of somebody's own is fuzzed so: it stands on a bench, is put back by its reset (or by its state, where it can be saved),
/// and an input that makes it panic is found. Coverage is what it answers and where it was accessed; a build with counters in its code
/// gives these by [`OnBench::covered`].
///
/// ```
/// use std::sync::Arc;
///
/// use hyperpy_core::bench::Bench;
/// use hyperpy_core::bus::{Access, Action, DeviceMut, Exclusive};
/// use hyperpy_core::clock::Clock;
/// use hyperpy_core::fuzz::device::{DeviceLoop, OnBench};
/// use hyperpy_core::fuzz::havoc::Words;
/// use hyperpy_core::fuzz::shape::{Shape, undeclared};
///
/// /// A table with an index in front of it, which nobody checks.
/// #[derive(Default)]
/// struct Table {
///     index: usize,
///     places: [u64; 8],
/// }
///
/// impl DeviceMut for Table {
///     fn read(&mut self, at: Access) -> u64 {
///         if at.offset == 0 { self.index as u64 } else { self.places[self.index] }
///     }
///     fn write(&mut self, at: Access, value: u64) -> Action {
///         if at.offset == 0 { self.index = value as usize } else { self.places[self.index] = value }
///         Action::Continue
///     }
///     fn reset(&mut self) {
///         *self = Self::default();
///     }
/// }
///
/// let size = 16;
/// let bench = Bench::new(Arc::new(Exclusive::new(Table::default())), "table", size, Arc::new(Clock::manual()));
/// let mut subject = OnBench::new(&bench, None);
/// let mut campaign = DeviceLoop::new(Arc::new(Shape::new(size, undeclared(size))), 1, Words::default());
/// let found = (0..10_000).find_map(|_| {
///     campaign.prepare();
///     campaign.run(&mut subject).0.trouble.map(|_| campaign.input().to_vec())
/// });
/// assert!(!found.unwrap().is_empty());
/// assert!(subject.error.unwrap().to_string().contains("table panicked"));
/// ```
#[derive(Debug)]
pub struct DeviceLoop {
    shape: Arc<Shape>,
    engine: Evolve<Reshape>,
    counters: Counters,
    ops: Ops,
    input: Vec<u8>,
    /// What putting the device back took, and how often it was measured.
    resets: (Duration, u32),
}

/// Of the inputs one in so many is measured.
const MEASURED: u64 = 16;

impl DeviceLoop {
    /// A campaign of a seed.
    #[must_use]
    pub fn new(shape: Arc<Shape>, seed: u64, words: Words) -> Self {
        let engine = Evolve::new(seed, Reshape::new(shape.clone()), words);
        let (counters, ops, input, resets) = (Counters::default(), Ops::default(), Vec::new(), (Duration::ZERO, 0));
        Self { shape, engine, counters, ops, input, resets }
    }

    /// What inputs are read by.
    #[must_use]
    pub fn shape(&self) -> &Arc<Shape> {
        &self.shape
    }

    /// The engine.
    pub fn engine(&mut self) -> &mut Evolve<Reshape> {
        &mut self.engine
    }

    /// The input that was executed last.
    #[must_use]
    pub fn input(&self) -> &[u8] {
        &self.input
    }

    /// How far it has come.
    #[must_use]
    pub fn statistics(&self) -> Statistics {
        self.engine.statistics()
    }

    /// What it takes to put the device back, on average.
    #[must_use]
    pub fn reset(&self) -> Option<Duration> {
        self.resets.0.checked_div(self.resets.1)
    }

    /// Thinks up the next input.
    pub fn prepare(&mut self) {
        self.engine.next(&mut self.input);
        self.shape.decode(&self.input, &mut self.ops);
        self.counters.clear();
    }

    /// Executes it, and says what came of it and whether it is kept. One that the host ended counts for nothing.
    pub fn run(&mut self, subject: &mut dyn Subject) -> (Execution, bool) {
        let _noted = Noted::new(&self.input);
        let since = self.engine.statistics().executions.is_multiple_of(MEASURED).then(Instant::now);
        let begun = subject.begin();
        if let Some(since) = since {
            self.resets = (self.resets.0.saturating_add(since.elapsed()), self.resets.1.saturating_add(1));
        }
        let words = self.engine.words();
        let mut answered = 0;
        let execution = execute_begun(begun, &self.shape, &self.ops, subject, &mut self.counters, |answer| {
            // Some are enough: the last answers are what a device may want back.
            if let Answer::Value(value) = answer
                && answered < 16
            {
                answered += 1;
                words.saw(*value);
            }
        });
        if execution.trouble == Some(Trouble::Ended) {
            return (execution, false);
        }
        let outcome = Outcome {
            counters: &self.counters,
            operations: execution.operations as u64,
            comparisons: &[],
            is_finding: execution.trouble.is_some(),
        };
        let is_kept = self.engine.report(&self.input, &outcome);
        if is_kept {
            let operands = subject.operands();
            let words = self.engine.words();
            operands.held.into_iter().for_each(|number| words.holds(number));
            operands.compared.into_iter().for_each(|(there, wanted)| words.compared(there, wanted));
        }
        (execution, is_kept)
    }
}

#[cfg(test)]
#[path = "device_test.rs"]
mod tests;
