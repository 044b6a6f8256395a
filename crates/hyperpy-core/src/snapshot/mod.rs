//! Snapshots: what a machine was at one moment, as a value.
//!
//! Plain data is in [`value`]. Pages of memory are kept by `memory`, what the accelerator knows of vCPUs and interrupt
//! controllers by [`accel::state`](crate::accel::state), what a device keeps by the device; the verbs that put
//! them together are the machine's (`machine/snapshot.rs`).

pub mod value;

pub use self::value::{Saved, State, StateFault, Value};
