//! Fuzzing: inputs of plain bytes, what each of them covers, and the search for those that break something.
//!
//! A *campaign* is a loop: an [`Engine`] gives the next input, somebody executes it and collects [`Counters`], and
//! the engine is told what came of it. Here an input is a list of operations on a device (`ops`), executed by `device`; a guest's
//! is bytes in its memory, and the loop is the same. All that is chosen is chosen by one generator of numbers (`rng`), never by
//! the time of day: one seed gives the same executions, corpus and findings, byte for byte.
//!
//! [`Evolve`] is the engine that there is: a corpus (`corpus`) of inputs that cover something new (`coverage`), changed byte by byte
//! (`havoc`) or by whoever knows their structure (`reshape`). What was found is made small in `minimize`. What is executed is noted where
//! another process finds it (`slot`). Not here: files, processes, Python.

pub mod corpus;
pub mod coverage;
pub mod device;
mod encode;
pub mod engine;
pub mod guest;
pub mod havoc;
pub mod memory;
pub mod minimize;
pub mod ops;
pub mod reshape;
pub mod rng;
pub mod shape;
pub mod slot;

pub use self::corpus::Corpus;
pub use self::coverage::{Counters, Seen};
pub use self::engine::{Engine, Evolve, Outcome, Statistics};
pub use self::rng::Rng;

/// Most bytes of an input: what is beyond them nobody reads.
pub const LONGEST: usize = 1 << 16;
